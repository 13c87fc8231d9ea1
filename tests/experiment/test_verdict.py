"""What a comparison says in words: who was better, whether that can be told, and what could have been seen."""

import pytest
from run_samples import run_report

from fastmask.experiment.choices import Choice
from fastmask.experiment.questions import Asked
from fastmask.report.verdict import verdict


def said(choices, work=None, **right) -> list[str]:
    """The verdict on arms that are right on so many of the 200 rows, seed by seed."""
    return list(verdict(run_report(choices, {name.replace("_", "-"): runs for name, runs in right.items()}, work)))


NONE, MASKER = [100, 102, 101, 103], ["masker"]


def test_better_and_worse():
    low, high = [120, 122, 121, 124], [150, 151, 152, 152]
    better, power = said(MASKER, none=NONE, masker_control=low, masker=high)
    assert better.startswith("masker did better than as many random masks: +14.75 points of accuracy, 95 % interval +")
    worse, _ = said(MASKER, none=NONE, masker_control=high, masker=low)
    assert worse.startswith("masker did worse than as many random masks: -14.75 points of accuracy, 95 % interval -")
    # differences of 15, 14.5, 15.5 and 14 points have an sd of 0.645; four pairs show 2.12 sd (G*Power's 2.13)
    assert power == (
        "With 4 seeds and 200 test rows, a true difference of 1.37 points would be found four times in five; "
        "the paper's gains, about 1 point, would be missed: take more seeds or test rows."
    )


def test_what_cannot_be_told():
    one, power = said(MASKER, none=NONE, masker_control=[120, 122, 121, 124], masker=[121, 121, 122, 123])
    assert one.startswith("Whether masker is better than as many random masks, this run cannot tell: +0.00 points")
    assert one.endswith(".") and "p = " not in one and "four times in five" in power


def test_an_interval_without_0_does_not_decide_alone():
    """Gains of 2, 2.5 and 3.5 points: t is 6.05, p = 1 - t / sqrt(2 + t^2), times three comparisons; two seeds."""
    control, found = [120, 121, 122], [124, 126, 129]
    (one, power) = said(MASKER, none=[118, 130, 119], masker_control=control, masker=found)
    assert "this run cannot tell: +2.67 points" in one
    assert "but p = 0.026, and 0.079 corrected for 3 comparisons." in one and power
    one, power = said(MASKER, none=NONE[:2], masker_control=control[:2], masker=found[:2])
    assert one.endswith("but 2 seeds allow no test.")
    assert power == "2 seeds cannot tell a difference from chance in training: take 3 at least, better 10."


def test_seeds_that_differ_alike_have_no_test():
    one, power = said(MASKER, none=NONE, masker_control=[120, 121, 122, 123], masker=[121, 122, 123, 124])
    assert "this run cannot tell: +0.50 points" in one
    assert (
        power
        == "All 4 seeds differ by the same, so that no test over seeds can be made; a larger test file would help."
    )


def test_random_masks_alone_are_compared_with_no_pretraining():
    one, _ = said(["random-15"], none=NONE, random_15=[140, 143, 141, 144])
    assert one.startswith("random, 15% did better than no pre-training: +20.25 points")


def test_of_several_methods_each_has_a_sentence_and_unequal_work_is_said():
    arms = {"none": NONE, "masker_control": [120, 122, 121, 124], "masker": [121, 121, 122, 123],
            "greedy_control": [120, 122, 121, 124], "greedy": [120, 122, 122, 124]}  # fmt: skip
    work = {"equal": None, "tokens": 1.0, "masked": 0.5}
    first, second, power = said(["masker", "greedy"], work, **arms)
    assert first.startswith("Whether masker is") and second.startswith("Whether greedy is")
    assert second.endswith(" The work was NOT equal: 1x tokens, 0.5x masks of the control.")
    assert (
        "of 0.53 to 1.23 points, depending on the method, would be found" in power and "the paper's gains are" in power
    )


@pytest.mark.parametrize("arm", ["none", "random-15", "masker-control", "masker"])
def test_every_arm_has_a_name(arm):
    asked = Asked.by([Choice("random-15"), Choice("masker")])
    assert asked.names[arm] == {"none": "no pre-training", "random-15": "random, 15%", "masker": "masker",
                                "masker-control": "random, as many as masker"}[arm]  # fmt: skip
