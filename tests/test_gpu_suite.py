"""The GPU suite rehearsed without a GPU, and the parts of it that a rehearsal leaves out. Nothing is timed here."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import baselines
import gpu_arms
import gpu_predict
import gpu_profile
import gpu_report
import gpu_sections
import gpu_suite
import gpu_text
import op_harness

ROOT = Path(__file__).parents[1]
TIMES = ("second", "tflops", "ratio", "times_", "share_of_matrix", "share_of_copy")
LIMITS = {"copy_gb_per_second": 2000.0, "fp16_tflops": 100.0, "fp32_tflops": 10.0}


BARE = """
import importlib.util, runpy, sys

class NoSpacy:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "spacy":
            raise ModuleNotFoundError(name)

sys.meta_path[:] = [NoSpacy(), *(finder for finder in sys.meta_path if "editable" not in repr(finder).lower())]
assert importlib.util.find_spec("fastmask") is None and importlib.util.find_spec("fastmask_kernels") is None
folder = sys.argv.pop(1)
"""
"""A machine that has neither fastmask installed nor spaCy; what follows runs there."""
RUN = """
sys.path.insert(0, folder)
sys.argv[0] = folder + "/gpu_suite.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
IMPORT_EACH = """
import torch, triton
path, known = list(sys.path), set(sys.modules)
for name in sys.argv[1:]:
    sys.path[:] = [folder, *path]
    __import__(name)
    assert "fastmask_kernels" in sys.modules
    for module in [m for m in sys.modules if m.startswith(("bench_", "op_harness", "harness", "fastmask"))]:
        del sys.modules[module]
"""


def on_a_bare_machine(code, folder, *arguments) -> subprocess.CompletedProcess:
    """Run in another working directory, ``folder``."""
    command = [sys.executable, "-P", "-c", BARE + code, str(ROOT / "benchmarks"), *map(str, arguments)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=folder)


def numbers_in(value, path=""):
    """(path, number) of every number in a report."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_in(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from numbers_in(inner, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def test_rehearsal(tmp_path):
    done = on_a_bare_machine(RUN, tmp_path, "--rehearse", "--out", tmp_path, "--commit", "abc")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "gpu_suite.json").read_text())
    assert report["rehearsal"] and report["machine"]["commit"] == "abc"
    assert list(report["sections"]) == [name for name, *_ in gpu_sections.sections(("toy",))]
    assert not any("skipped" in section for section in report["sections"].values())
    compared = [one for one in report["sections"]["golden"]["files"].values() if "sentences" in one]
    assert len(compared) == 2 and all(one["same_masks"] == one["sentences"] > 0 for one in compared)
    assert all(one["certificate"]["pairs"]["float16"] for one in compared)
    assert report["sections"]["toy padded"]["same_masks"] == gpu_sections.REHEARSAL.sentences
    assert {row["op"] for row in report["sections"]["ops"]["rows"]} == set(gpu_sections.op_names())
    assert not [path for path, _ in numbers_in(report["sections"]) if any(word in path for word in TIMES)]
    assert "nothing was timed" in (tmp_path / "gpu_suite.txt").read_text()


def test_without_a_device(tmp_path):
    done = on_a_bare_machine(RUN, tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()


def test_every_ops_benchmark_finds_the_kernels(tmp_path):
    done = on_a_bare_machine(IMPORT_EACH, tmp_path, *(f"bench_{op}" for op in gpu_sections.op_names()))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("device", "interpreted", "rehearse", "refused"),
    [
        (True, False, False, ""),
        (True, False, True, gpu_suite.NO_REHEARSAL),
        (True, True, False, gpu_suite.IN_INTERPRETER),
        (True, True, True, ""),
        (False, True, False, gpu_suite.NO_DEVICE),
        (False, True, True, ""),
    ],
)
def test_what_is_refused(monkeypatch, capsys, tmp_path, device, interpreted, rehearse, refused):
    monkeypatch.setattr(gpu_suite.torch.cuda, "is_available", lambda: device)
    monkeypatch.setattr(gpu_suite.triton.knobs.runtime, "interpret", interpreted)
    assert gpu_suite.refusal(rehearse) == refused
    if refused:
        assert gpu_suite.main(["--out", str(tmp_path), *["--rehearse"] * rehearse]) == 2
        assert capsys.readouterr().err == refused + "\n"


@pytest.fixture
def suite(tmp_path):
    """A run on the CPU whose clock is read, as on a GPU."""
    sizes = gpu_sections.Sizes(("toy",), 5, 3, 3, 2, 2, 6, padded_seconds=0.01)
    return gpu_sections.Suite(
        gpu_arms.Place("cpu", "auto", timed=True),
        sizes,
        tmp_path,
        time.monotonic() + 600,
        {"models": {}, "sections": {}},
    )


def test_timed_jobs_and_when_a_ratio_is_told(suite, monkeypatch):
    monkeypatch.setattr(gpu_arms, "PADDED", {"padded": gpu_arms.Padded("float32", (2, 3), None, 4)})
    sections = suite.report["sections"]
    sections["ceilings"] = {"measured": LIMITS}
    sections["toy greedy"] = job = gpu_sections.job(suite, "toy", "greedy")
    assert len(job["seconds"]) == suite.sizes.repeats and job["share_of_matrix"] > 0
    assert job["real_tokens"] == pytest.approx(job["real_tokens_per_second"] * job["median_seconds"])
    found = gpu_sections.padded(suite, "toy", "padded")
    assert found["times_padded"] is None and found["no_ratio_because"] == "tests: not run"
    sections["tests"] = {"exit_code": 1, "red": ["tests/ops/test_a.py::test_b", "tests/ops/c"], "wrong": ["summary"]}
    found = gpu_sections.padded(suite, "toy", "padded")
    assert found["no_ratio_because"] == "tests: tests/ops/test_a.py::test_b is red, and 1 more"
    assert found["fastmask_real_tokens_per_second"] == job["real_tokens_per_second"]
    assert found["real_tokens_per_second"] > 0 and found["times_padded"] is None
    sections |= {"tests": {"exit_code": 0}, "golden": {"files": {}, "wrong": []}}
    found = gpu_sections.padded(suite, "toy", "padded")
    assert found["times_padded"] == job["real_tokens_per_second"] / found["real_tokens_per_second"]
    assert 1 <= found["sentences"] <= found["of_sentences"] == suite.sizes.sentences
    first = suite.scores["toy", "greedy"]
    first.importance[:] = 0.2
    first.mask_index[:] = (first.mask_index + 1) % 2
    found = gpu_sections.padded(suite, "toy", "padded")
    assert found["times_padded"] is None and found["wrong"] and found["no_ratio_because"] == "masks differ"
    gpu_report.show(suite.report | {"machine": gpu_suite.described("abc"), "rehearsal": False})


@pytest.mark.parametrize("error", [RuntimeError("no counters"), gpu_sections.OutOfTime("over")])
def test_a_profile_that_fails_loses_no_job(suite, monkeypatch, capsys, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(gpu_sections.gpu_profile, "profiled", fails)
    suite.report["sections"]["toy greedy"] = job = gpu_sections.job(suite, "toy", "greedy")
    assert job["real_tokens_per_second"] > 0 and job["profile"] == {"failed": f"{type(error).__name__}: {error}"}
    gpu_report.show(suite.report | {"machine": gpu_suite.described("abc"), "rehearsal": False})
    assert f"no profile of toy greedy: {job['profile']['failed']}" in capsys.readouterr().out


def test_a_padded_arm_beside_a_job_that_failed(suite, monkeypatch, capsys):
    monkeypatch.setattr(gpu_arms, "PADDED", {"padded": gpu_arms.Padded("float32", (2,), None, 4)})
    sections = suite.report["sections"]
    gpu_sections.job(suite, "toy", "greedy")
    sections["toy greedy"] = {"failed": "ValueError: on purpose"}
    sections["toy padded"] = found = gpu_sections.padded(suite, "toy", "padded")
    assert found["real_tokens_per_second"] > 0 and found["fastmask_real_tokens_per_second"] is None
    assert found["times_padded"] is None and found["no_ratio_because"] == "toy greedy: ValueError: on purpose"
    gpu_report.show(suite.report | {"machine": gpu_suite.described("abc"), "rehearsal": False})
    assert "toy padded: no ratio, toy greedy: ValueError" in capsys.readouterr().out


def test_a_section_that_fails_or_finds_no_time_does_not_end_the_run(suite, monkeypatch, capsys):
    def fails(_):
        raise ValueError("on purpose")

    def good(_):
        now[0] = 599.99  # so little is left to what hangs
        return {"rows": []}

    def hangs(_):
        while True:
            time.sleep(0.01)

    planned = [("fails", 0, fails), ("good", 0, good), ("hangs", 0, hangs), ("late", 5, fails)]
    monkeypatch.setattr(gpu_sections, "sections", lambda shapes: planned)
    now, suite.deadline = [0.0], 600.0
    suite.clock = lambda: now[0]
    suite.report |= {"machine": gpu_suite.described("abc"), "rehearsal": False}
    gpu_suite.run(suite)
    report = json.loads((suite.out / "gpu_suite.json").read_text())["sections"]
    assert "on purpose" in report["fails"]["traceback"] and report["good"]["rows"] == []
    assert "time" in report["hangs"]["skipped"] and "time" in report["late"]["skipped"]
    assert gpu_suite.finish(suite) == 1
    assert capsys.readouterr().err == "fails failed: ValueError: on purpose\n"


def test_red_tests_are_told(suite):
    suite.place = gpu_arms.Place("cpu", "auto", timed=False)  # one process
    suite.sizes = gpu_sections.Sizes(tests=("tests/no_such_file.py",))
    found = gpu_sections.run_tests(suite)
    assert found["exit_code"] != 0 and found["wrong"] and not gpu_sections.is_right(found)


def test_red_tests_are_named(suite, monkeypatch):
    out = (
        "F\n= FAILED =\nFAILED tests/ops/test_a.py::test_b[x y] - assert 1\nERROR tests/test_c.py\n1 failed, 1 error\n"
    )
    done = subprocess.CompletedProcess([], 1, stdout=out, stderr="")
    calls = []
    monkeypatch.setattr(gpu_sections.subprocess, "run", lambda command, **how: calls.append((command, how)) or done)
    suite.place = gpu_arms.Place("cuda", "auto", timed=True)
    assert gpu_sections.run_tests(suite)["red"] == ["tests/ops/test_a.py::test_b[x y]", "tests/test_c.py"]
    ((command, how),) = calls
    assert {"tests/ops", "tests/models/test_device.py"} <= set(command)
    assert how["env"]["FASTMASK_TEST_DEVICE"] == "cuda" and how["env"]["TRITON_INTERPRET"] == "0"


def test_stages_and_gaps():
    spans = [("nvjet_hss_128", 10.0, 20.0), ("_varlen_attention", 30.0, 40.0), ("_bias_gelu", 35.0, 50.0),
             ("void at::native::vectorized_layer_norm_kernel", 50.0, 51.0), ("elementwise", 60.0, 61.0)]  # fmt: skip
    found = gpu_profile.stages(reversed(spans))
    stages = {stage: seconds * 1e6 for stage, seconds in found["seconds_by_stage"].items()}
    expected = {"matrix products": 10, "attention": 10, "bias and GELU": 15, "layer norm": 1, "other": 1}
    assert stages == pytest.approx(expected)
    assert found["span_seconds"] * 1e6 == pytest.approx(51) and found["gap_seconds"] * 1e6 == pytest.approx(19)
    assert found["seconds_not_in_products"] * 1e6 == pytest.approx(41)
    assert gpu_profile.stages([])["busy_seconds"] == 0


def test_every_op_has_a_stage():
    assert not [
        op for op in gpu_sections.op_names() if op != "apply_mask" and gpu_profile.stage_of(f"_{op}") == "other"
    ]


def test_shares_of_the_ceilings(monkeypatch, capsys):
    class Watch:
        def __init__(self, device):
            assert device == "cuda"

        def seconds(self, work):
            work()
            return 0.001

    monkeypatch.setattr(op_harness, "Stopwatch", Watch)
    ran = []
    case = op_harness.OpCase("op", "fp32, a shape", lambda: ran.append("op"), lambda: ran.append("torch"), 10**9, 10**9)
    (row,) = rows = op_harness.measure([case], LIMITS)
    assert ran == ["op", "torch"] and row["gb_per_second"] == pytest.approx(1000) and row["times_torch"] == 1
    assert row["share_of_copy"] == pytest.approx(0.5) and row["share_of_matrix"] == pytest.approx(0.1)
    op_harness.show(rows, LIMITS)
    shown = capsys.readouterr().out
    assert "fp16, TFLOP/s 100" in shown and "equal lengths" not in shown
    op_harness.show([row | {"op": "varlen_attention"}], LIMITS)
    assert "loop over runs of equal lengths" in capsys.readouterr().out


def test_an_ops_benchmark_on_the_cpu_times_nothing(tmp_path, capsys):
    def cases(device, small=False):
        assert (device, small) == ("cpu", True)
        return [op_harness.OpCase("op", "a shape", lambda: None, None, 1)]

    op_harness.main("doc", cases, ["--device", "cpu", "--out", str(tmp_path / "report.json")])
    assert "nothing was timed" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["timed"] is False


def test_reviews_are_like_the_golden_sentences():
    reviews = gpu_text.reviews(500)
    rows = {tuple(ids.tolist()) for ids in baselines.rows_of(reviews)}
    assert len(rows) == 500 and 18 < np.diff(reviews.offsets).mean() < 26
    assert reviews.input_ids.min() >= gpu_text.FIRST_WORD and reviews.input_ids.max() < gpu_text.VOCABULARY
    assert np.array_equal(reviews.input_ids, gpu_text.reviews.__wrapped__(500).input_ids)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("greedy", [(5, 6, 7), (5,), (6,), (6, 7)]),
        ("prefix", [(5, 6, 7), (5,), (5, 6), (5, 6, 7)]),
        ("leave-one-out", [(5, 6, 7), (6, 7), (5, 7), (5, 6)]),
        ("gradient", [(5, 6, 7)]),
        ("entropy", [(5, 6, 7)] * 3),
    ],
)
def test_variants_by_hand(method, expected):
    assert gpu_arms.variants_of(method, [5, 6, 7], masked={0}) == expected


def test_roofline_of_a_case():
    case = op_harness.OpCase("op", "fp16", lambda: None, None, 43 * 10**6, 79 * 10**9)
    assert gpu_predict.op_row(case) == ("op", "fp16", 43.0, 79.0, pytest.approx(100.0), "fp16", None)


def test_predicted_launches():
    work = gpu_predict.Work(tokens=300.0, variants=23.0, whole=24.0)
    assert gpu_predict.batches(work, 8000) == (108, 36, 4)
    assert gpu_predict.Launches(4, 4, 2, 30).kernels(12) == 128
    assert gpu_predict.Launches(4, 4, 2, 30).host_seconds(12) == pytest.approx((50 * 15 + 78 * 8) / 1e6)
    rows = {what: base for what, base, *_ in gpu_predict.job_rows(8000)}
    assert rows["the longer of both, s"] == max(rows["all on the device, s"], rows["starting it on the host, s"])


def test_predicted_jobs_leave_the_measured_column_empty():
    rows = gpu_predict.job_rows(8000)
    assert all(base > 0 and minilm > 0 for _, base, _, minilm, _ in rows)
    assert {(row[2], row[4]) for row in rows} == {(None, None)}
