"""From importances to mask positions: stop words, rate cap, ties by position; and the random control."""

from __future__ import annotations

import numba as nb
import numpy as np
from fastmask_kernels.splitmix import mix

from ..core.arrays import JIT


def cap_of(lengths: np.ndarray, mask_rate: float | None) -> np.ndarray:
    """Return int64 [S]: most masks in sentences of int [S] tokens, ``max(1, int(rate * n))``; all without a rate."""
    if mask_rate is None:
        return lengths.astype(np.int64)
    # The tiny allowance keeps 0.15 * 20 at 3, not 2: the product is a hair below in binary.
    most: np.ndarray = np.minimum(np.maximum(1, np.floor(mask_rate * lengths + 1e-9)), lengths)
    return most.astype(np.int64)


@nb.njit(**JIT)
def _select(
    offsets: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    candidate: np.ndarray,
    cap: np.ndarray,
    chosen: np.ndarray,
    ambiguous: np.ndarray,
) -> None:
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


def select(
    offsets: np.ndarray, low: np.ndarray, high: np.ndarray, candidate: np.ndarray, cap: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the tokens to mask: candidates with the smallest rank value, at most ``cap`` a sentence, ties by position.

    Args:
        offsets: int64 [S + 1] into the token arrays.
        low, high: float64 [T], bounds of the rank value (smaller is more important).
        candidate: bool [T]; cap: int64 [S].

    Returns:
        chosen bool [T], and ambiguous bool [T]: tokens whose bounds must be tightened before ``chosen`` is certain.
    """
    chosen, ambiguous = np.zeros(len(low), bool), np.zeros(len(low), bool)
    _select(offsets, low, high, candidate, cap, chosen, ambiguous)
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
def _random(
    seed: int,
    row: np.ndarray,
    sentence: np.ndarray,
    offsets: np.ndarray,
    counts: np.ndarray,
    allowed: np.ndarray,
    chosen: np.ndarray,
) -> None:
    for s in range(len(row)):
        order = offsets[s] + np.flatnonzero(allowed[offsets[s] : offsets[s + 1]])
        n = len(order)
        for k in range(min(counts[s], n)):
            pick = k + np.int64(_draw(seed, row[s], sentence[s], k) % np.uint64(n - k))
            order[k], order[pick] = order[pick], order[k]
            chosen[order[k]] = True


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
    chosen = np.zeros(offsets[-1], bool)
    _random(seed, row, sentence, offsets, counts, allowed, chosen)
    return chosen
