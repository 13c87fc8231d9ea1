"""``fastmask run`` with several methods: their work as it is measured, and what is refused before the first step."""

import json
from math import isclose
from pathlib import Path

import pytest
from helpers import fastmask, refusal, rows_of, write_jsonl
from tiny_models import TEXTS, tiny_model

from fastmask.experiment.run import Run
from fastmask.experiment.work import EVERY_STEP, EXPECTED, TOTAL, Work, compared_work
from fastmask.report.terminal import work_lines

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = """
out = "run"
init = "start"
seeds = [1]

[methods.word-list]
words = "words.txt"
sample = true
mask-rate = 0.3
[methods.log-odds]
[methods.random-40]

[task]
train = "train.jsonl"
test = "train.jsonl"
label-field = "class"

[in-domain]
corpus = "corpus.txt"

[finetune]
epochs = 1

[mask]
mask-rate = 0.2

[pretrain]
epochs = 3
batch-size = 8
lr = 1e-3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "start", "bert", "MaskedLM")
    write_jsonl(tmp_path / "train.jsonl", [{"text": text, "class": n % 2} for n, text in enumerate(TEXTS)])
    (tmp_path / "corpus.txt").write_text("".join(f"{text}\n" for text in TEXTS), "utf-8")
    (tmp_path / "words.txt").write_text("good\ndull\n")
    (tmp_path / "r.toml").write_text(RECIPE, "utf-8")
    return tmp_path


def test_arms_of_several_methods(folder):
    result = fastmask("run", "r.toml")
    assert result.exit_code == 0, result.stderr
    report = json.loads((folder / "run/report/report.json").read_text())
    assert list(report["arms"]) == [
        "none",
        "word-list-control",
        "word-list",
        "log-odds-control",
        "log-odds",
        "random-40",
    ]
    work = report["work"]
    assert "none" not in work and {one["steps"] for one in work.values()} == {6}
    equal = {(entry["arm"], entry["baseline"]): entry["work"] and entry["work"]["equal"]
             for entry in report["differences"]}  # fmt: skip
    assert equal[("log-odds", "log-odds-control")] == EVERY_STEP
    assert equal[("word-list", "word-list-control")] == EXPECTED
    assert equal[("log-odds", "none")] is equal[("log-odds", "random-40")] is None
    probs = [p for row in rows_of("run/masks/random-40") for p in row["mask_prob"]]
    assert (
        work["random-40"]["expected_masked"] == pytest.approx(3 * sum(probs))
        and "expected_masked" not in work["log-odds"]
    )
    (entry,) = (one for one in report["differences"] if (one["arm"], one["baseline"]) == ("log-odds", "random-40"))
    assert entry["work"]["masked"] == pytest.approx(work["log-odds"]["masked"] / work["random-40"]["masked"])
    shown = " ".join(result.stdout.split())
    assert "word-list and its control, pre-training each" in shown and "masks are drawn" in shown
    assert list(report["pretraining"]) == ["word-list", "log-odds"]
    assert [(one["arm"], one["baseline"], one["kind"]) for one in report["differences"]] == [
        ("word-list", "word-list-control", "control"), ("log-odds", "log-odds-control", "control"),
        ("word-list", "random-40", "baseline"), ("log-odds", "random-40", "baseline"),
        *((arm, "none", "baseline") for arm in
          ("word-list", "log-odds", "random-40", "word-list-control", "log-odds-control")),
        ("log-odds", "word-list", "methods"),
    ]  # fmt: skip
    (folder / "words.txt").write_text("good\nfine\n")  # another list is another run
    assert "run/masks/word-list: was made otherwise: more[0].words.txt was" in refusal(fastmask("run", "r.toml", "-q"))


def test_a_model_that_fills_no_masks_is_refused_first(folder, monkeypatch):
    tiny_model(folder / "start", "bert", "SequenceClassification")
    (folder / "r.toml").write_text(RECIPE.replace("[methods.log-odds]", "[methods.entropy]"), "utf-8")
    line = refusal(fastmask("run", "r.toml", "-q"))
    assert "r.toml: entropy: start: is not a trained masked-language model, its weights lack" in line
    assert line.endswith("name another model in [methods.entropy]") and not list(folder.glob("run/*/*"))


def test_the_same_recipe_by_a_list_makes_nothing_anew(folder):
    """A run of a list of methods goes on with tables of the same, and with more of them."""
    listed = RECIPE[: RECIPE.index("[methods")] + RECIPE[RECIPE.index("[task]") :]
    (folder / "r.toml").write_text("methods = ['log-odds']\n" + listed, "utf-8")
    assert fastmask("run", "r.toml", "-q").exit_code == 0
    (folder / "r.toml").write_text(listed + "[methods.log-odds]\n[methods.random-40]\n", "utf-8")
    todo = [one.step.name for one in Run("r.toml").plan() if one.state != "complete"]
    assert todo == ["masks/random-40", "pretrained/random-40", "finetuned/random-40-1", "predicted/random-40-1",
                    "report"]  # fmt: skip


def run_of(path: Path, steps, expected=None) -> Path:
    path.mkdir()
    result = {"processes": 1, "device": "cpu", "products": "float32"}
    write_jsonl(path / "pretrain.json", [result if expected is None else {**result, "expected_masked": expected}])
    lines = [{"step": n, "tokens": tokens, "masked": masked} for n, (tokens, masked) in enumerate(steps, 1)]
    write_jsonl(path / "log.jsonl", lines)
    return path


@pytest.mark.parametrize(("one", "other", "equal"), [
    (([(9, 2), (8, 1)], None), ([(9, 2), (8, 1)], None), EVERY_STEP),
    (([(9, 2), (8, 1)], None), ([(8, 1), (9, 2)], None), TOTAL),
    (([(9, 2), (8, 1)], None), ([(9, 2), (8, 2)], None), None),
    (([(9, 2), (8, 1)], None), ([(9, 2)], None), None),
    (([(9, 2), (8, 1)], 4.0), ([(9, 2), (8, 3)], 4.001), EXPECTED),
    (([(9, 2), (8, 1)], 4.0), ([(9, 2), (8, 3)], 4.01), None),
    (([(9, 2), (8, 1)], 4.0), ([(9, 3), (8, 1)], None), EXPECTED),
    (([(9, 2), (8, 1)], 4.0), ([(9, 3), (9, 1)], 4.0), None),
])  # fmt: skip
def test_equal_work(one, other, equal, tmp_path):
    first, second = run_of(tmp_path / "a", *one), run_of(tmp_path / "b", *other)
    work = Work.of([first]), Work.of([second])
    assert work[0].equal(work[1]) == work[1].equal(work[0]) == equal
    against = work[0].against(work[1])
    assert isclose(against["tokens"], sum(n for n, _ in one[0]) / sum(n for n, _ in other[0]))
    (line,) = work_lines({"pretraining": {"m": compared_work([first], [second])}})
    said = {
        EVERY_STEP: "in every step",
        EXPECTED: "masks are drawn",
        TOTAL: "the same in all",
        None: "did NOT the same",
    }
    assert said[equal] in line


def test_unequal_work_is_said(tmp_path):
    lines = [{"step": 1, "tokens": 10, "masked": 2, "loss": 1.0}, {"step": 1, "held_out_loss": 1.0},
             {"step": 2, "tokens": 9, "masked": 3, "loss": 1.0}]  # fmt: skip
    for name, change in (("a", 0), ("b", 1), ("c", 0)):
        (tmp_path / name).mkdir()
        result = {"processes": 1, "device": "cuda" if change else "cpu", "products": "float32"}
        write_jsonl(tmp_path / name / "pretrain.json", [result])
        write_jsonl(tmp_path / name / "log.jsonl", [*lines[:2], {**lines[2], "masked": 3 + change}])
    a, b, c = (tmp_path / name for name in "abc")
    work = {"steps": 2, "tokens": 19, "masked": 5}
    how = ["1 x cpu, float32 matrix products"]
    assert compared_work([a], [c]) == {"runs": 1, "selective": work, "control": work, "every_step_equal": True,
                                       "equal": "every step", "made_on": how}  # fmt: skip
    assert len(compared_work([a], [b])["made_on"]) == 2
    assert not compared_work([a, c], [c, b])["every_step_equal"]
