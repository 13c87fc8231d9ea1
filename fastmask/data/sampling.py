"""Masks drawn anew in each epoch, by the probabilities of shards and the keyed generator that corruption uses."""

from __future__ import annotations

from dataclasses import replace

import numba as nb
import numpy as np
from fastmask_kernels.splitmix import mix

from ..core.arrays import JIT
from .sequences import Example, Examples

BINS = 2**12
"""Of probabilities, in ``Rates``."""


def drawn(example: Example, *, seed: int, epoch: int, scale: float = 1.0) -> Example:
    """Return a sequence with those of its candidates masked that an epoch's draw says; maybe none.

    Whether a token is masked is a pure function of (seed, epoch, row, sentence, position) and its probability, which
    is multiplied by ``scale`` and is 1 where that is more. The tokens of a word that is masked as one share a draw.

    Args:
        example: with ``prob``.
        seed, epoch: of the draw, at least 0.
        scale: above 0.
    """
    return masked_at(example, scales(example, seed=seed, epoch=epoch) < scale)


def scales(example: Example, *, seed: int, epoch: int) -> np.ndarray:
    """Return above which scale each candidate of an example with ``prob`` is masked in an epoch, float64 [m]."""
    found = np.empty(len(example.at))
    keys = example.row, example.sentence, example.position, example.word
    _scales(*keys, example.prob, np.uint64(seed), np.int64(epoch), found)
    return found


def masked_at(example: Example, chosen: np.ndarray) -> Example:
    """Return a sequence with the candidates masked that are chosen, bool [m]."""
    names = ("at", "row", "sentence", "position", "word")
    return replace(example, **{name: getattr(example, name)[chosen] for name in names}, prob=None)


@nb.njit(**JIT)
def _scales(
    row: np.ndarray,
    sentence: np.ndarray,
    position: np.ndarray,
    word: np.ndarray,
    prob: np.ndarray,
    seed: np.uint64,
    epoch: np.int64,
    found: np.ndarray,
) -> None:
    start, number = mix(seed, epoch), 0.0
    for m in range(len(row)):
        if m == 0 or row[m] != row[m - 1] or sentence[m] != sentence[m - 1] or word[m] != word[m - 1]:
            state = mix(mix(mix(start, row[m]), sentence[m]), position[m])
            # corruption has the numbers 0 and 1 of this chain
            number = np.float64(mix(state, 2) >> np.uint64(11)) * 2.0**-53
        found[m] = number / prob[m]


class Rates:
    """How many tokens are masked at which scale, from counts of probabilities in BINS bins.

    Attributes:
        tokens: ordinary tokens of all sequences seen.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._counts, self._sums = np.zeros(BINS, np.int64), np.zeros(BINS)

    def add(self, examples: Examples) -> None:
        """Count the tokens and probabilities of sequences."""
        offsets, prob = examples.sentences.offsets, examples.sentences.mask_prob
        assert prob is not None
        self.tokens += int((offsets[examples.ends] - offsets[examples.starts]).sum())
        bins = np.minimum((prob * np.float32(BINS)).astype(np.int64), BINS - 1)
        self._counts += np.bincount(bins, minlength=BINS)
        self._sums += np.bincount(bins, weights=prob, minlength=BINS)

    @property
    def mean(self) -> float:
        """Return the share of tokens that is masked, in the mean, at scale 1."""
        return float(self._sums.sum()) / max(1, self.tokens)

    @property
    def most(self) -> float:
        """Return the share of tokens that may be masked at all."""
        return float(self._counts.sum()) / max(1, self.tokens)

    def scale(self, rate: float) -> float:
        """Return what to multiply probabilities by, so that ``rate`` of the tokens are masked in the mean.

        What would be more than 1 is 1, and the others make up for it: with p in a bin taken for its mean there, the
        sum of min(1, scale * p) is ``rate`` times the tokens. A rate above ``most`` is that.
        """
        here = np.flatnonzero(self._counts)[::-1]  # large probabilities first
        counts, sums = self._counts[here], self._sums[here]
        wanted = min(rate * self.tokens, counts.sum())
        # if the first k bins are at 1: the scale of the others, which may not bring them beyond 1
        clipped, rest = np.cumsum(counts) - counts, np.cumsum(sums[::-1])[::-1]
        found = (wanted - clipped) / rest
        k = np.flatnonzero(found * sums <= counts * (1 + 1e-12))[0]
        return float(found[k])
