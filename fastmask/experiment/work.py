"""What arms were pre-trained on, measured from their runs, and which of them had equal work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

from ..report.comparison import ENDS

EVERY_STEP, TOTAL, EXPECTED = "every step", "total", "expected"
SAME_EXPECTED = 1e-3
"""Expected numbers of masks are equal up to this share: they are sums of probabilities in float32."""
MEANING = (
    "equal: each step of pre-training had as many tokens and as many masked ones; in total: all steps together have; "
    "expected: masks are drawn, steps and tokens are equal in total, and so is the number of masks "
    f"that the probabilities give in the mean, to a share of {SAME_EXPECTED:g}; else how many times the baseline's "
    "tokens and masks there were"
)


class Work(NamedTuple):
    """The pre-training of an arm.

    Attributes:
        steps: (tokens, masked tokens) of each step, over all its runs.
        expected: how many masks the probabilities give in the mean; None where masks are not drawn, or it is not known.
    """

    steps: list[tuple[int, int]]
    expected: float | None

    @classmethod
    def of(cls, runs: Sequence[Path]) -> Work:
        """Return the work of an arm's finished runs.

        Raises:
            OutputError: one cannot be read.
        """
        from ..train.finished import expected_masks, work_of

        expected = [expected_masks(run) for run in runs]
        known = [one for one in expected if one is not None]
        return cls([step for run in runs for step in work_of(run)], sum(known) if len(known) == len(runs) else None)

    @property
    def tokens(self) -> int:
        """Return the tokens of all steps."""
        return sum(tokens for tokens, _ in self.steps)

    @property
    def masked(self) -> int:
        """Return the masked tokens of all steps."""
        return sum(masked for _, masked in self.steps)

    def sums(self) -> dict[str, Any]:
        """Return the numbers, JSON-ready."""
        found = {"steps": len(self.steps), "tokens": self.tokens, "masked": self.masked}
        return found if self.expected is None else {**found, "expected_masked": self.expected}

    def equal(self, other: Work) -> str | None:
        """Return how far another arm's work is equal: one of the three above, None where it is not."""
        if self.steps == other.steps:
            return EVERY_STEP
        if len(self.steps) != len(other.steps) or self.tokens != other.tokens:
            return None
        if self.expected is None and other.expected is None:
            return TOTAL if self.masked == other.masked else None
        ours, theirs = (one.masked if one.expected is None else one.expected for one in (self, other))
        return EXPECTED if isclose(ours, theirs, rel_tol=SAME_EXPECTED) else None

    def against(self, baseline: Work) -> dict[str, Any]:
        """Return whether work is equal to a baseline's, and how many times its tokens and masks this has."""
        pairs = (("tokens", self.tokens, baseline.tokens), ("masked", self.masked, baseline.masked))
        return {"equal": self.equal(baseline), **{name: one / max(1, other) for name, one, other in pairs}}


def compared_work(selective: Sequence[Path], control: Sequence[Path]) -> dict:
    """Compare the work of a method's pre-training runs with that of its control's.

    Returns:
        ``runs``: of each; ``selective`` and ``control``: ``Work.sums``; ``every_step_equal``: whether each step had as
        many tokens and masks in one as in the other; ``equal``: see ``Work.equal``; ``made_on``: the devices and
        precisions, more than one where the runs were not alike.
    """
    from ..train.finished import made_on

    ours, theirs = Work.of(selective), Work.of(control)
    return {"runs": len(selective), "selective": ours.sums(), "control": theirs.sums(),
            "every_step_equal": ours.steps == theirs.steps, "equal": ours.equal(theirs),
            "made_on": sorted({made_on(path) for path in (*selective, *control)})}  # fmt: skip


def add_work(report: dict, runs: Mapping[str, Sequence[Path]]) -> None:
    """Say in the report of a comparison what each arm was pre-trained on, and of each difference how equal that was.

    Args:
        runs: arm -> the directories of its pre-training; an arm without is left out.
    """
    work = {arm: Work.of(paths) for arm, paths in runs.items()}
    report["method"] = {**report["method"], "work": MEANING}
    report["work"] = {arm: one.sums() for arm, one in work.items()}
    for entry in report["differences"]:
        pair = [work.get(entry[end]) for end in ENDS]
        entry["work"] = pair[0].against(pair[1]) if pair[0] and pair[1] else None
