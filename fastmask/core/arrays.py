"""Arrays that every room makes: ragged data is one flat array and ``offsets``, one more than there are parts."""

from __future__ import annotations

import numpy as np

JIT = {"nogil": True, "cache": True, "error_model": "numpy"}
"""The options of every function that numba compiles."""


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return where parts of int [N] lengths begin, and the last one's end: int64 [N + 1]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def within(lengths: np.ndarray) -> np.ndarray:
    """Return 0, 1, ... inside each part: lengths int [N] -> int64 [sum]."""
    offsets = offsets_of(lengths)
    inside: np.ndarray = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return inside


def take_ragged(offsets: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return parts ``chosen`` int [R] of a ragged array, in that order: offsets int64 [R + 1], and values."""
    lengths = (offsets[1:] - offsets[:-1])[chosen]
    new = offsets_of(lengths)
    return new, values[np.arange(new[-1]) - np.repeat(new[:-1] - offsets[:-1][chosen], lengths)]
