"""The paper's question as a benchmark: its recipe, its text and its tables. Nothing is trained here."""

import json
import sys
from pathlib import Path

import numpy as np

from fastmask.experiment.recipe import PAPER_SEEDS, read_recipe
from fastmask.experiment.steps import steps_of
from fastmask.scoring.method import load_method
from fastmask.train.evaluate import compare

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import paper_table


def test_its_recipe_has_ten_seeds_and_every_arm(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(paper_table.RECIPE.format(work="w", data="d", seeds=list(PAPER_SEEDS)), "utf-8")
    steps = {step.name: step.config for step in steps_of(read_recipe(str(path)))}
    arms = [arm.partition("=")[0] for arm in steps["report"].arms]
    assert arms == [
        name for name in ("none", "masker-control", "masker", "greedy-control", "greedy") for _ in range(10)
    ]
    rates = [load_method(steps[name]).rate(steps[name]) for name in ("masks/greedy", "masks/masker")]
    assert rates == [None, 0.15]
    assert steps["pretrained/greedy-13"].max_steps == steps["pretrained/greedy-control-13"].max_steps


def test_text_of_general_pretraining(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_table, "DATA", tmp_path)
    for name, text in (("yelp/corpus.txt", "a b\nc\n"), *((n, json.dumps({"text": "x \u2028 y"}) + "\n") for n in
                       paper_table.GENEPT_ROWS)):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    paper_table._write_text(tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text("utf-8") == "a b\nc\nx y\nx y\n"


def test_tables():
    labels = np.array([0, 1, 1, 0])
    arms = {"none": [[0, 1, 1, 1], [0, 1, 0, 1]], "greedy": [[0, 1, 1, 0], [0, 1, 0, 1]]}
    report = compare({name: [np.array(run) for run in runs] for name, runs in arms.items()}, labels, resamples=100)
    shown = paper_table.markdown(report).splitlines()
    assert shown[2] == "| none | 62.50 | 17.68 |" and shown[3] == "| greedy | 75.00 | 35.36 |"
    assert shown[7].startswith("| greedy - none | +12.50 | ") and " | - | " in shown[7]  # two runs tell no p
    report = compare({name: [np.array(run) for run in runs[1:]] for name, runs in arms.items()}, labels, resamples=100)
    assert paper_table.markdown(report).splitlines()[7] == "| greedy - none | +0.00 | +0.00 to +0.00 | - | - |"
