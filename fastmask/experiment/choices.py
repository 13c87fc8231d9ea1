"""The ways to mask that a recipe names, each with the options of its own table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.config import CONTROL, METHODS
from ..core.errors import FastmaskError
from ..scoring.method import Method, method_named

RATE_IN_NAME = re.compile(r"random-([1-9]\d?)")
"""Random masks, drawn anew in each epoch, at so many percent: ``random-15`` is plain task-adaptive pre-training."""
TRAINING = frozenset({"sample", "mask_schedule", "corrupt"})
"""Fields of PretrainConfig that a method's table may set; its control is trained in the same way."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to mask: an arm of the comparison, and one for its control if it has one.

    Attributes:
        name: as the recipe has it.
        scoring, training: options of its own, fields of ScoreConfig and of PretrainConfig.
    """

    name: str
    scoring: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_random(self) -> bool:
        """Return whether it masks at a rate, at random, so that it has no control."""
        return RATE_IN_NAME.fullmatch(self.name) is not None

    @property
    def method_name(self) -> str:
        """Return the name of its method."""
        return CONTROL if self.is_random else self.name

    @property
    def method(self) -> Method:
        """Return its method."""
        return method_named(self.method_name)

    @property
    def rate(self) -> dict[str, float]:
        """Return the rate that its name tells, as an option; nothing where it tells none."""
        found = RATE_IN_NAME.fullmatch(self.name)
        return {"mask_rate": int(found[1]) / 100} if found else {}


def check_name(where: str, name: str) -> None:
    """Raise FastmaskError unless a recipe may name this way to mask."""
    known = [one for one in METHODS if not method_named(one).is_control]
    if name not in known and not RATE_IN_NAME.fullmatch(name):
        raise FastmaskError(f"{where}: {name}: choose among {', '.join(known)}, random-15 (or another percentage)")
