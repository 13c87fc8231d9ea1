"""From importances to mask positions: whole words, what is never masked, rate cap, ties by position; and the control.

``choose`` is the policy: threshold or decision (the method's) -> whole words -> special tokens, stop words and
punctuation out -> rate cap.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
from fastmask_kernels.splitmix import mix

from ..core.arrays import JIT


def cap_of(lengths: np.ndarray, mask_rate: float | None) -> np.ndarray:
    """Return int64 [S]: most masks in sentences of int [S] items, ``max(1, int(rate * n))``; all without a rate."""
    if mask_rate is None:
        return lengths.astype(np.int64)
    # The tiny allowance keeps 0.15 * 20 at 3, not 2: the product is a hair below in binary.
    most: np.ndarray = np.minimum(np.maximum(1, np.floor(mask_rate * lengths + 1e-9)), lengths)
    return most.astype(np.int64)


class Items(NamedTuple):
    """What is masked as one, tokens or words: I of them in S sentences of T tokens.

    Attributes:
        offsets: int64 [S + 1] into the items.
        starts: int64 [I], the first token of each.
        of_token: int64 [T], the item of each token.
    """

    offsets: np.ndarray
    starts: np.ndarray
    of_token: np.ndarray

    @classmethod
    def of(cls, offsets: np.ndarray, word: np.ndarray | None) -> Items:
        """Return the items of sentences int64 [S + 1]: their words, int32 [T], or where there is none their tokens."""
        begins = np.ones(offsets[-1], bool)
        if word is not None:
            begins[1:] = word[1:] != word[:-1]
            begins[offsets[:-1][offsets[:-1] < offsets[1:]]] = True
        starts = np.flatnonzero(begins)
        return cls(np.searchsorted(starts, offsets).astype(np.int64), starts, np.cumsum(begins) - 1)

    def any(self, flags: np.ndarray) -> np.ndarray:
        """Return bool [I]: which have a token that is flagged, bool [T]."""
        return self._together(np.logical_or, flags)

    def least(self, values: np.ndarray) -> np.ndarray:
        """Return the smallest value of each one's tokens: float64 [T] -> [I]."""
        return self._together(np.minimum, values)

    def _together(self, how: np.ufunc, values: np.ndarray) -> np.ndarray:
        found: np.ndarray = how.reduceat(values, self.starts) if len(values) else values
        return found


def choose(
    items: Items,
    important: np.ndarray,
    may_mask: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    mask_rate: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens to mask, bool [T], and those whose bounds must be tightened before that is certain, bool [T].

    A word is important if a token of it is, and ranks as its strongest token; of a word that is chosen all tokens are
    masked that may be.

    Args:
        items: what is masked as one.
        important: bool [T], by the method's decision.
        may_mask: bool [T], tokens that are not special, no stop words and so on.
        low, high: float64 [T], bounds of the rank value, smaller is more important; inf where there is none.
        mask_rate: of the items of a sentence; None is no cap.
    """
    candidate = items.any(important) & items.any(may_mask)
    highest = items.least(high)
    cap = cap_of(np.diff(items.offsets), mask_rate)
    chosen, ambiguous = select(items.offsets, items.least(low), highest, candidate, cap)
    # a token that is surely not the strongest of its word says nothing about its rank
    return chosen[items.of_token] & may_mask, ambiguous[items.of_token] & (low <= highest[items.of_token])


def agreeing(importance: np.ndarray, marked: np.ndarray, threshold: float, large_is_important: bool) -> np.ndarray:
    """Return importances float32 [T] that tell the decisions, bool [T], by themselves: S < d, or S >= d where large.

    Only rounding, or a tie, can have put one on the other side of the threshold: it is moved to the nearest number.
    """
    least = np.float32(threshold)
    least = np.nextafter(least, np.float32(np.inf)) if least < threshold else least  # the smallest that is not below d
    most = np.nextafter(least, np.float32(-np.inf))
    above = marked if large_is_important else ~marked
    found: np.ndarray = np.where(above, np.maximum(importance, least), np.minimum(importance, most))
    return found


@nb.njit(**JIT)
def select(
    offsets: np.ndarray, low: np.ndarray, high: np.ndarray, candidate: np.ndarray, cap: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the items to mask: candidates with the smallest rank value, at most ``cap`` a sentence, ties by position.

    Args:
        offsets: int64 [S + 1] into the arrays of items.
        low, high: float64 [I], bounds of the rank value (smaller is more important).
        candidate: bool [I]; cap: int64 [S].

    Returns:
        chosen bool [I], and ambiguous bool [I]: items whose bounds must be tightened before ``chosen`` is certain.
    """
    chosen, ambiguous = np.zeros(len(low), np.bool_), np.zeros(len(low), np.bool_)
    for s in range(len(offsets) - 1):
        start, end = offsets[s], offsets[s + 1]
        where = start + np.flatnonzero(candidate[start:end])
        chosen[where] = True
        if len(where) <= cap[s]:
            continue
        middle = (low[where] + high[where]) / 2
        order = where[np.argsort(np.round(middle * 1e9), kind="mergesort")]
        inside, outside = order[: cap[s]], order[cap[s] :]
        chosen[outside] = False
        top, bottom = high[inside].max(), low[outside].min()
        if top >= bottom:
            for t in inside:
                ambiguous[t] = high[t] >= bottom
            for t in outside:
                ambiguous[t] = low[t] <= top
    return chosen, ambiguous


def ragged_positions(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return chosen bool [T] as mask_offsets int64 [S + 1] and positions int32 [M], ascending in each sentence."""
    flat = np.flatnonzero(chosen)
    mask_offsets = np.searchsorted(flat, offsets).astype(np.int64)
    sentence = np.repeat(np.arange(len(offsets) - 1), np.diff(mask_offsets))
    return mask_offsets, (flat - offsets[sentence]).astype(np.int32)


@nb.njit(**JIT)
def _draw(seed: int, row: int, sentence: int, counter: int) -> np.uint64:
    """Return the random number of a key: the same on any machine, in any order."""
    drawn: np.uint64 = mix(mix(mix(np.uint64(seed), row), sentence), counter)
    return drawn


@nb.njit(**JIT)
def random_positions(
    seed: int,
    row: np.ndarray,
    sentence: np.ndarray,
    offsets: np.ndarray,
    counts: np.ndarray,
    allowed: np.ndarray,
) -> np.ndarray:
    """Draw ``counts`` int64 [S] positions a sentence, uniformly without repetition; return chosen bool [T].

    Only where ``allowed`` bool [T]; all of these, where there are fewer.

    A pure function of (seed, row, sentence), so the order and grouping of sentences do not matter.
    """
    chosen = np.zeros(offsets[-1], np.bool_)
    for s in range(len(row)):
        order = offsets[s] + np.flatnonzero(allowed[offsets[s] : offsets[s + 1]])
        n = len(order)
        for k in range(min(counts[s], n)):
            pick = k + np.int64(_draw(seed, row[s], sentence[s], k) % np.uint64(n - k))
            order[k], order[pick] = order[pick], order[k]
            chosen[order[k]] = True
    return chosen
