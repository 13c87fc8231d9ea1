"""Accuracy along pre-training: bands and crossings by hand, and the steps of a recipe that asks for them."""

import json

import numpy as np
import pytest
from helpers import fastmask, golden, refusal, write_jsonl
from scipy import stats

from fastmask.core.errors import FastmaskError
from fastmask.experiment.curve import curve_lines, curve_of, first_crossing
from fastmask.experiment.recipe import read_recipe
from fastmask.experiment.steps import steps_of

SHARES = [0.0, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(("curve", "target", "expected"), [
    ([0.5, 0.6, 0.7, 0.8], 0.65, 0.375), ([0.5, 0.6, 0.7, 0.8], 0.8, 1.0), ([0.5, 0.6, 0.7, 0.8], 0.4, 0.0),
    ([0.5, 0.7, 0.6, 0.8], 0.7, 0.25), ([0.5, 0.7, 0.7, 0.7], 0.7, 0.25), ([0.5, 0.5, 0.5, 0.6], 0.7, np.inf),
])  # fmt: skip
def test_where_a_curve_first_is_at_its_target(curve, target, expected):
    assert first_crossing(SHARES, np.array([curve]), np.array([target])) == pytest.approx([expected])


def report(**arms) -> dict:
    return {"arms": {name: {"accuracy": {"values": values}} for name, values in arms.items()}}


def test_a_curve_by_hand():
    reports = {0.5: report(random=[0.6, 0.7], greedy=[0.7, 0.8]),
               1.0: report(none=[0.5, 0.5], random=[0.7, 0.75], greedy=[0.9, 0.9])}  # fmt: skip
    found = curve_of(reports, "none", [("greedy", "random"), ("random", "greedy")], resamples=2000)
    assert found["shares"] == [0.0, 0.5, 1.0] and set(found["arms"]) == {"random", "greedy"}
    assert found["arms"]["greedy"]["mean"] == pytest.approx([0.5, 0.75, 0.9])
    expected = stats.t.interval(0.95, 1, 0.75, stats.sem([0.7, 0.8]))
    assert found["arms"]["greedy"]["band"][1] == pytest.approx(list(expected))
    greedy, random = found["reach"]
    # 0.725 between 0.5 and 0.75; by the first seed alone 0.7, which 0.7 is at 0.5; by the second 0.75 on the way to 0.8
    assert greedy["share"] == pytest.approx(0.5 * 0.225 / 0.25) and greedy["never"] == 0
    assert greedy["interval"] == pytest.approx([0.5 * 0.25 / 0.3, 0.5])
    assert random == {"arm": "random", "control": "greedy", "share": None, "interval": [None, None], "never": 1.0}
    first, second = curve_lines({"curve": found})
    assert first == ("greedy reaches the final accuracy of random after 45% of the steps, 95 % interval 42% to 50%")
    assert second == "random does not reach the final accuracy of greedy"
    assert json.loads(json.dumps(found)) == found


def test_one_seed_has_no_band():
    found = curve_of({1: report(none=[0.5], greedy=[0.75])}, "none", [])
    assert found["arms"] == {"greedy": {"mean": [0.5, 0.75], "band": None}} and list(curve_lines({})) == []


RECIPE = """
out = "run"
init = "{model}"
methods = ["random-15"]
seeds = [1, 2]
curve = [0.25, 0.5]

[task]
train = "train.jsonl"
test = "test.jsonl"

[in-domain]
corpus = "corpus.txt"

[finetune]
epochs = 1

[score]
model = "{model}"

[pretrain]
max-steps = 4
batch-size = 8
"""


def test_the_steps_of_a_curve(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.format(model="m"), "utf-8")
    found = {step.name: step for step in steps_of(read_recipe(str(tmp_path / "r.toml")))}
    assert found["pretrained/random-15"].config.keep == "0.25,0.5"
    early = found["at-0.25/finetuned/random-15-2"]
    assert early.config.init == "run/pretrained/random-15/at-0.25" and early.needs == ("pretrained/random-15",)
    assert early.config.seed == 2
    assert found["at-0.5/report"].needs == ("at-0.5/predicted/random-15-1", "at-0.5/predicted/random-15-2")
    assert {"at-0.25/report", "at-0.5/report", "pretrained/random-15"} < set(found["report"].needs)
    (tmp_path / "r.toml").write_text(RECIPE.format(model="m").replace("[0.25, 0.5]", "[0.5, 1.0]"), "utf-8")
    with pytest.raises(FastmaskError, match="curve: shares of the steps between 0 and 1"):
        read_recipe(str(tmp_path / "r.toml"))


def test_a_run_with_a_curve(tmp_path, mr_tiny, golden_dir, monkeypatch):
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")]
    write_jsonl(tmp_path / "train.jsonl", rows[:32])
    write_jsonl(tmp_path / "test.jsonl", rows[32:72])
    (tmp_path / "corpus.txt").write_text("".join(f"{row['text']}\n" for row in rows[72:110]), "utf-8")
    (tmp_path / "r.toml").write_text(RECIPE.format(model=mr_tiny), "utf-8")
    monkeypatch.chdir(tmp_path)
    done = fastmask("run", "r.toml", "-q")
    assert done.exit_code == 0, done.stderr
    curve = json.loads((tmp_path / "run" / "report" / "report.json").read_text("utf-8"))["curve"]
    assert curve["shares"] == [0, 0.25, 0.5, 1] and len(curve["arms"]["random-15"]["mean"]) == 4
    kept = tmp_path / "run" / "pretrained" / "random-15" / "at-0.5"
    assert kept.is_dir() and "complete" in fastmask("run", "r.toml", "--dry-run").stdout
    weights = kept / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes((kept.parent / "model.safetensors").read_bytes())
    assert "its files are not those that were made" in refusal(fastmask("run", "r.toml", "-q"))
    weights.write_bytes(before)
    assert "to do" not in fastmask("run", "r.toml", "--dry-run").stdout
    kept.rename(tmp_path / "gone")
    assert "to do again" in fastmask("run", "r.toml", "--dry-run").stdout
