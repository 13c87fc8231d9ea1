"""The benchmarks' baselines give the golden masks, and every report can be made. Nothing is timed here."""

import json
import math
import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import agreement
import baselines
import bench_cluster
import bench_encoder
import bench_front_to_shards
import bench_methods
import bench_score
import harness
from helpers import fastmask

from fastmask.core.config import METHODS
from fastmask.shards.writer import RunDirectory

SENTENCES = 16


@pytest.fixture(scope="module")
def golden(golden_dir):
    lines = (golden_dir / "mr_tiny_0.05.jsonl").read_text(encoding="utf-8").splitlines()
    return [sentence for line in lines for sentence in json.loads(line)["sentences"]]


@pytest.fixture(scope="module")
def task(golden_dir, mr_tiny):
    return bench_score.load_task(Path(mr_tiny), golden_dir / "mr_tiny_0.05.jsonl", SENTENCES, threads=1)


@pytest.mark.parametrize(("count", "batch", "at_once", "pad_to"), [(6, 4, 4, 128), (SENTENCES, 5, SENTENCES, None)])
def test_padded_baselines_give_the_golden_masks(task, golden, count, batch, at_once, pad_to):
    found = baselines.padded_arm(task.first(count), batch, at_once, pad_to)
    assert found["masks"] == [one["masked"] for one in golden[:count]]
    assert any(found["masks"])


def test_fastmask_arm_gives_the_same_masks_and_the_same_count_of_work(task, golden):
    found = bench_score.fastmask_arm(task, "float32", "greedy")
    assert found["masks"] == [one["masked"] for one in golden[:SENTENCES]]
    assert found["real_tokens"] == baselines.padded_arm(task, 32, SENTENCES, None)["real_tokens"]
    assert 0 < found["distinct_tokens"] <= found["real_tokens"]


def test_score_report(task, tmp_path, capsys):
    arms = ["fastmask-fp32", "hf-32", "fastmask-loo"]
    options = bench_score.options_of(["--arms", *arms, "--loo-sentences", "4", "--repeats", "1"])
    found = {name: arm(on) for name, (on, arm, _) in bench_score.arms_of(task, options).items() if name in arms}
    linear = {"float32": {"per_core": 1.0, "together": 2.0, "best": 2.0}}
    report = {"arms": {n: bench_score.summary(SENTENCES, [run], linear) for n, run in found.items()}, "linear": linear}
    bench_score.compare(report["arms"])
    assert all(bench_score.identical_masks(arm) for arm in report["arms"].values())
    bench_score.show(report | {"config": {"model": "m", "data": "d"}})
    harness.write_json(tmp_path / "deep/report.json", report)
    assert json.loads((tmp_path / "deep/report.json").read_text())["arms"].keys() == set(arms)
    assert f"{SENTENCES}/{SENTENCES}" in capsys.readouterr().out


def test_an_arm_with_other_masks_gets_no_ratio():
    def arm(masks):
        return {"real_tokens": 2, "real_tokens_per_second": 2.0, "masks": masks, "same_in_all_runs": True}

    arms = {"padded": arm([[1], [2]]), "fastmask": arm([[1], [2]]), "hf-32": arm([[1], [3]])}
    bench_score.compare(arms)
    assert arms["fastmask"]["ratio"] == 1.0 and arms["hf-32"]["ratio"] is None
    assert not bench_score.identical_masks(arms["hf-32"])


def test_the_faster_way_of_using_cores_gives_the_same_answers():
    each, name = baselines.faster_way(abs, [-1, 2], threads=2)
    assert list(each(abs, [-3, 4])) == [3, 4] and name in ("all cores on one", "one a core")


def test_captum_arm_runs(task):
    pytest.importorskip("captum", reason="captum comes with the bench extra only")
    assert baselines.captum_arm(task.first(1, labelled=False))["seconds"] > 0


def test_useful_operations_by_hand():
    shape = bench_encoder.Shape(hidden=2, intermediate=8, layers=3)
    row = 2 * (4 * 2 * 2 + 2 * 2 * 8)
    assert shape.row_flops() == row and shape.flops(tokens=10, sequences=3) == row * (2 * 10 + 3)


def test_encoder_report(golden_dir, mr_tiny, tmp_path, monkeypatch, capsys):
    for name in ("rate_per_core", "rate_together"):
        monkeypatch.setattr(harness, name, partial(getattr(harness, name), at_least=0.01))
    data = str(golden_dir / "mr_tiny_0.05.jsonl")
    out = tmp_path / "encoder.json"
    words = ["--model", mr_tiny, "--data", data, "--sentences", "12", "--tokens", "512", "--repeats", "1"]
    bench_encoder.main([*words, "--out", str(out)])
    report = json.loads(out.read_text())
    assert [row["precision"] for row in report["rows"]] == ["float32", "bfloat16"]
    assert all(480 < row["tokens"] <= 512 for row in report["rows"])
    for row in report["rows"]:
        assert sum(row["stages_single_thread"].values()) == pytest.approx(1.0)
    assert "head and other" in capsys.readouterr().out


def test_memory_of_a_run_that_ends_after_some_shards(tmp_path, mr_tiny):
    corpus = tmp_path / "corpus.txt"
    bench_front_to_shards.write_lines(corpus, ["a fine film", "a dull one", "not bad at all"])
    lines = list(bench_front_to_shards.varied(corpus, 7))
    assert lines[:3] == ["a fine film", "a dull one", "not bad at all"] and len(set(lines)) == 7
    bench_front_to_shards.write_lines(corpus, lines)
    config = bench_front_to_shards.ScoreConfig(model=mr_tiny, method="random", shard_rows=2)
    found = bench_front_to_shards.memory(corpus, config, 2, tmp_path)
    assert (found["shards"], found["rows"]) == (2, 4)
    assert found["beyond_loaded_mb"] == found["peak_mb"] - found["loaded_mb"] >= 0


def test_every_method_is_timed(golden_dir, mr_tiny, tmp_path, monkeypatch, capsys):
    """Each command as it is given, here in this process."""
    rows = (golden_dir / "mr_tiny_0.05.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    (tmp_path / "c.jsonl").write_text(
        "".join(json.dumps({k: json.loads(row)[k] for k in ("text", "label")}) + "\n" for row in rows)
    )
    (tmp_path / "b.txt").write_text("a word of the news\n")
    options = bench_methods.options_of(["--corpus", str(tmp_path / "c.jsonl"), "--model", mr_tiny, "--lines", "8",
                                        "--background", str(tmp_path / "b.txt")])  # fmt: skip

    def run(command, work):
        done = fastmask(*command[3:])
        assert done.exit_code == 0, done.stderr
        return {"seconds": 2.0 if "random" in command else 4.0, "cpu": 1.0}

    monkeypatch.setattr("bench_startup.run", run)
    commands = bench_methods.commands(options, tmp_path)
    runs = {name: [bench_methods.run(name, command, tmp_path)] for name, command in commands.items()}
    arms = bench_methods.summary(runs)
    assert set(arms) == {*METHODS} and arms["log-odds"]["share_of_random"] == 0.5
    assert arms["greedy"]["tokens"] < arms["difference"]["tokens"] == arms["random"]["tokens"]
    some = str(tmp_path / "some.jsonl")
    gradient = bench_methods.gradient_arm(some, mr_tiny, "language", 1, tmp_path)
    assert gradient["sentences"] == 8 and gradient["tokens"] == arms["gradient"]["tokens"] + 2 * 8
    assert gradient["times_plain"] > 0
    bench_methods.show({"model": "m", "arms": arms, "gradient": gradient})
    assert "plain forward and backward" in " ".join(capsys.readouterr().out.split())


def test_the_table_of_agreement():
    pairs = {"greedy prefix": {"jaccard": 0.5, "rank_correlation": -0.25}, "greedy random": {"jaccard": 0.1}}
    head, _, first, second, *_, last = agreement.table(pairs).splitlines()
    assert head.split(" | ")[1:3] == ["greedy", "prefix"] and len(head.split("|")) == 13
    assert first.split(" | ")[:3] == ["| greedy", "", "0.50"] and second.split(" | ")[:3] == ["| prefix", "-0.25", ""]
    assert first.endswith("| 0.10 |") and last.startswith("| random | - |")


def test_isolated_runs_elsewhere_and_brings_errors_back():
    assert harness.isolated(math.hypot, 3, 4) == 5
    with pytest.raises(ValueError, match="could not"):
        harness.isolated(float, "could not")


def test_a_simulated_driver_is_fast_or_is_what_limits():
    """By hand: 10 workers, shards of 100 s; a driver that takes 1 s has a tenth to do, one of 20 s halves all."""
    fast, slow = (bench_cluster.simulate(100.0, 0.0, driver, 10, 2000) for driver in (1.0, 20.0))
    assert fast["driver_busy"] == pytest.approx(0.1, rel=0.02) and fast["of_ideal"] == pytest.approx(1, rel=0.02)
    assert slow["driver_busy"] == pytest.approx(1, rel=0.02) and slow["of_ideal"] == pytest.approx(0.5, rel=0.02)


def test_cluster_report(golden_dir, mr_tiny, tmp_path, capsys, monkeypatch):
    rows = (golden_dir / "mr_tiny_0.05.jsonl").read_text(encoding="utf-8").splitlines()[:100]
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps({"text": json.loads(row)["text"]}) + "\n" for row in rows), encoding="utf-8")
    options = bench_cluster.options_of(["--shards", "2000"])
    monkeypatch.setattr(RunDirectory, "write_shard", RunDirectory.write_shard)  # what is set in the arm goes
    local = bench_cluster.arm(str(corpus), mr_tiny, str(tmp_path / "out"), 0)
    parts = bench_cluster.parts_arm(str(corpus), mr_tiny, str(tmp_path), 40)
    times = {"local": {"best": local["seconds"], "over_local": 1.0, "start_seconds": local["start"]}}
    plan = bench_cluster.plan_arm(str(tmp_path), 1)
    assert set(plan) == {"txt", "jsonl", "csv", "txt.gz", "parquet"} and all(one["rows"] for one in plan.values())
    report = {"workers": {"runs": times}, "plan": plan, "simulation": bench_cluster.simulation(parts, 100.0, options)}
    bench_cluster.show(report)
    assert "1,000 workers, simulated" in capsys.readouterr().out
    assert all(0 < one["of_ideal"] < 1.1 and 0 < one["driver_busy"] <= 1 for one in report["simulation"])


def test_the_measured_cluster_report_is_there():
    report = json.loads((Path(bench_cluster.__file__).parent / "results/cluster.json").read_text())
    assert report["workers"]["same_bytes"] and {"plan", "parts", "simulation"} < set(report)
