"""What the benchmarks of single ops share: a case, its timing on a device, and the table of shares of the ceiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpCase:
    """One op at one shape.

    Attributes:
        op: stem of the op; name: the shape in words, as printed.
        run: calls the op once; its inputs are made beforehand.
        torch: the same by plain torch operations, or None where there is no sensible one.
        bytes: least traffic: every input read once, every output written once.
        flops: floating-point operations in matrix products (0 for memory-bound ops).
    """

    op: str
    name: str
    run: Callable[[], object]
    torch: Callable[[], object] | None
    bytes: int
    flops: int = 0
