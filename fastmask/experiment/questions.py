"""What a recipe's run asks: which pairs of arms it compares, and what arms are called where people read of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from ..report.verdict import BASELINE, CONTROL, METHODS
from .choices import Choice

NO_PRETRAINING = "none"
"""Name of the arm that is fine-tuned without pre-training."""


class Question(NamedTuple):
    """Is ``arm`` better than ``baseline``? ``kind`` is that of ``report.verdict``."""

    arm: str
    baseline: str
    kind: str


class Asked(NamedTuple):
    """What a comparison is made for: its questions, and what arms are called, arm -> words."""

    questions: list[Question]
    names: dict[str, str]

    @classmethod
    def by(cls, choices: Sequence[Choice]) -> Asked:
        """Return what a recipe of these ways to mask asks."""
        return cls(questions_of(choices), names_of(choices))

    def note(self, report: dict[str, Any]) -> None:
        """Write names and kinds of differences into the report of ``train.evaluate.compare``."""
        report["names"] = self.names
        for entry, question in zip(report["differences"], self.questions, strict=True):
            entry["kind"] = question.kind


def questions_of(choices: Sequence[Choice]) -> list[Question]:
    """Return the pairs of arms that tell something, the chief ones first.

    A control answers for its method alone: two controls, or a control and another method, differ in how much is
    masked and in what is.
    """
    random, methods = ([one.name for one in choices if one.is_random is kind] for kind in (True, False))
    found = [Question(one, control_of(one), CONTROL) for one in methods]
    found += [Question(one, other, BASELINE) for one in methods for other in random]
    found += [Question(one, NO_PRETRAINING, BASELINE) for one in (*methods, *random, *map(control_of, methods))]
    return found + [Question(later, earlier, METHODS) for names in (methods, random)
                    for earlier, later in combinations(names, 2)]  # fmt: skip


def names_of(choices: Sequence[Choice]) -> dict[str, str]:
    """Return what each arm is called: arm -> words."""
    names = {NO_PRETRAINING: "no pre-training"}
    for one in choices:
        names[one.name] = f"random, {one.rate['mask_rate']:.0%}" if one.is_random else one.name
        if not one.is_random:
            names[control_of(one.name)] = f"random, as many as {one.name}"
    return names


def control_of(method: str) -> str:
    """Return the name of a method's random control: the same sentences with as many masks each."""
    return f"{method}-control"
