"""Settings of where a run is made: they leave its result as it is, and are not in its manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from .config import at_least, check_fields, demand, option

SEVERAL = "Several machines"
_PART = re.compile(r"(\d{1,9})/(\d{1,9})")


class Part(NamedTuple):
    """One of several parts of a run, counted from 1."""

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> Part:
        """Return the part that an option names."""
        found = _PART.fullmatch(text)
        assert found  # the option's check
        return cls(int(found[1]), int(found[2]))

    def shards(self, number: int) -> range:
        """Return which of so many shards are this part's: neighbours, so that it reads one piece of the corpus."""
        return range(number * (self.number - 1) // self.of, number * self.number // self.of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def _part_fault(text: str) -> str:
    found = _PART.fullmatch(text)
    fine = found is not None and 1 <= int(found[1]) <= int(found[2])
    return "" if fine else "give K/N, part K of N, K from 1 to N"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Where ``fastmask score`` makes shards."""

    engine: str = option("local", "What makes shards: this process, or workers on a Ray cluster.",
                         choices=("local", "ray"), group=SEVERAL)  # fmt: skip
    address: str | None = option(None, "The Ray cluster: auto, or HOST:PORT. Default: one is started on this machine.",
                                 group=SEVERAL)  # fmt: skip
    workers: int | None = option(None, "Ray workers. Default: one for each GPU, or without GPUs for each machine.",
                                 check=at_least(1), group=SEVERAL)  # fmt: skip
    part: str | None = option(None, "Make part K of N of the shards, K/N, on this machine; fastmask finish completes "
                              "OUT when all parts are done.", check=_part_fault, group=SEVERAL)  # fmt: skip
    mixed: bool = option(False, "Let machines differ in processor, device and library versions: masks are the same, "
                         "last digits of importances may differ.", group=SEVERAL)  # fmt: skip

    def __post_init__(self) -> None:
        check_fields(self)
        is_ray = self.engine == "ray"
        demand(
            not self.mixed or is_ray or self.part is not None, "--mixed", "means nothing without --engine ray or --part"
        )
        for name in ("address", "workers"):
            demand(is_ray or getattr(self, name) is None, f"--{name}", "means nothing without --engine ray")
        demand(not is_ray or self.part is None, "--part", "not together with --engine ray, which has workers instead")

    def check(self, **others: object) -> None:
        """Raise FastmaskError for one of the command's other options that is given and does not go with a part."""
        for name, given in others.items():
            demand(self.part is None or not given, f"--{name}", "not together with --part; run it when all is finished")
