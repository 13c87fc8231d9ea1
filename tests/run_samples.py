"""Reports of a recipe's run for the tests of verdicts and pages: arms that are right on so many of 200 test rows."""

import numpy as np

from fastmask.experiment.choices import Choice
from fastmask.experiment.curve import curve_of
from fastmask.experiment.questions import Asked, control_of
from fastmask.report.run_page import Curve, RunTold
from fastmask.train.evaluate import compare

ROWS = 200


def run_report(choices, right: dict[str, list[int]], work: dict | None = None) -> dict:
    """The report of arms that are right on so many rows, seed by seed."""
    asked = Asked.by([Choice(name) for name in choices])
    labels = np.zeros(ROWS, int)
    arms = {name: [np.arange(ROWS) >= n for n in runs] for name, runs in right.items()}
    report = compare(arms, labels, pairs=[(one.arm, one.baseline) for one in asked.questions], resamples=300)
    asked.note(report)
    for entry in report["differences"]:
        entry["work"] = work
    return report


def some_run(name="run", **change) -> RunTold:
    """A run of three ways to mask with a curve, of which ``masker`` is better than its control and ``greedy`` not."""
    right = {"none": [100, 102, 101, 103], "random-15": [130, 131, 133, 130],
             "masker-control": [120, 122, 121, 124], "masker": [150, 151, 152, 152],
             "greedy-control": [140, 142, 141, 144], "greedy": [141, 141, 142, 143]}  # fmt: skip
    report = run_report(["random-15", "masker", "greedy"], right, {"equal": "every step", "tokens": 1.0, "masked": 1.0})
    report["work"] = {arm: {"steps": 9, "tokens": 12_345, "masked": 678} for arm in right if arm != "none"}
    half = {"arms": {arm: {"accuracy": {"values": [n / 400 for n in runs]}} for arm, runs in right.items()}}
    report["curve"] = curve_of(
        {0.5: half, 1.0: report}, "none", [(one, control_of(one)) for one in ("masker", "greedy")]
    )
    losses = [Curve("masker", [("masker", [(1.0, 3.0), (2.0, 2.0)]), ("control", [(1.0, 2.5), (2.0, 2.25)])])]
    told = {"pages": {arm: f"{arm}.html" for arm in report["work"]}, "seeds": [13, 43, 83, 181], "losses": losses,
            "lines": ["masker and its control: 9 steps"], "facts": [("recipe", "r.toml")]}  # fmt: skip
    return RunTold(name, report, **(told | change))
