"""An exact histogram of float32 values whose range is not known before: in one pass, in bounded memory."""

from __future__ import annotations

import math

import numpy as np

KEYS = 2**16
MOST_EDGES = 128
"""Edges are multiples of a bin's width up to this one: with 7 bits, as keys have them, so no key is on both sides."""
OUTSIDE = 0.001
"""The share of values at either end that may be left to an open bin."""


class Histogram:
    """Counts of values by sign, exponent and 7 bits of their float32; those that are not finite are counted apart."""

    def __init__(self) -> None:
        self.counts, self.marked = np.zeros((2, KEYS), np.int64)
        self.not_finite = 0

    def add(self, values: np.ndarray, marked: np.ndarray) -> None:
        """Count values float32 [N], some of them marked, bool [N]."""
        fine = np.isfinite(values)
        self.not_finite += int(len(fine) - fine.sum())
        keys = _keys(values[fine])
        self.counts += np.bincount(keys, minlength=KEYS)
        self.marked += np.bincount(keys[marked[fine]], minlength=KEYS)

    def bins(self, most: int = 64) -> list[tuple[float | None, float | None, int, int]]:
        """Return bins of equal width, a power of two: low, high, values, marked ones; at the ends open ones if need be.

        A value on an edge is in the bin further from 0.
        """
        some = np.flatnonzero(self.counts)
        if not len(some):
            return []
        low, high = (_value(self._quantile(share)) for share in (OUTSIDE, 1 - OUTSIDE))
        width = 2.0 ** math.ceil(math.log2(max((high - low) / most, max(abs(low), abs(high)) / MOST_EDGES, 2.0**-140)))
        first, last = _bin(low, width), _bin(high, width)
        which = [min(max(_bin(_value(key), width), first - 1), last + 1) - (first - 1) for key in some.tolist()]
        sums = [np.bincount(which, counts[some], last - first + 3).astype(int) for counts in (self.counts, self.marked)]
        edges = [None, *(k * width for k in range(first, last + 2)), None]
        bins = [(edges[k], edges[k + 1], int(sums[0][k]), int(sums[1][k])) for k in range(len(edges) - 1)]
        return [one for one in bins if one[2] or None not in one[:2]]

    def _quantile(self, share: float) -> int:
        """Return the key that as large a share of the values does not exceed."""
        sums = np.cumsum(self.counts)
        return int(np.searchsorted(sums, math.ceil(share * int(sums[-1])) or 1))


def _keys(values: np.ndarray) -> np.ndarray:
    """Return int64 [N], in the order of values float32 [N]."""
    bits = (values + np.float32(0)).view(np.uint32)  # which leaves no negative zero
    return (np.where(bits >> 31, ~bits, bits | np.uint32(2**31)) >> 16).astype(np.int64)


def _value(key: int) -> float:
    """Return the value nearest to 0 that has a key."""
    bits = (key << 16) & 0x7FFFFFFF if key >> 15 else ((~key & 0xFFFF) << 16)
    return float(np.uint32(bits).view(np.float32))


def _bin(value: float, width: float) -> int:
    """Return the number of the bin, from ``k * width`` on; below 0, to ``(k + 1) * width``."""
    return math.floor(value / width) if value >= 0 else math.ceil(value / width) - 1
