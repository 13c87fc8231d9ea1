"""Method ``random``: as many masks as another run made, or a rate, at random positions (the paper's control).

``mask_prob`` is the rate at every token that may be masked. As the control of a run with probabilities it is the mean
of these over the sentence's tokens that may be masked: then as many masks are expected in each sentence as there,
wherever they are. (The same probabilities in another order would be one choice of words for all epochs, not a random
one in each.)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.arrays import within
from ...core.config import DEFAULT_RATE, ScoreConfig
from ...core.errors import OutputError
from ...core.records import FRAME, EncodedSentences, ScoredSentences
from ...shards.reader import open_shards, setting
from ...shards.schema import manifest_hash
from ..cascade import Bounds
from ..method import Method, Progress, Rules, never_masked
from ..policy import cap_of, ragged_positions, random_positions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Random(Method):
    """Masks at random; no model is asked, and its tokenizer alone is used."""

    asks_model = False
    keeps_other_labels = True
    is_control = True
    default_rate = DEFAULT_RATE
    gives_probabilities = True
    options = frozenset({"like"})

    def without_model(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase, progress: Progress) -> RandomMasks:
        """See ``Method.without_model``. Special tokens are never masked; a copied run has no masks on them either."""
        counts = None if config.like is None else CopiedCounts(config.like, config.unit == "word")
        never = never_masked(replace(config, stop_words="none"), tokenizer)
        rules = Rules(config.threshold, self.rate(config), never, config.certify, config.seed, config.unit == "word")
        return RandomMasks(rules, counts, progress)


class RandomMasks:
    """Masks shards at random; a ``ShardScorer``.

    Args:
        rules: the seed of the positions, what is masked as one and what never, the rate where no counts are copied.
        counts: of another run.
        progress: see ``method.Progress``.
    """

    remark = None
    levels: tuple[str, ...] = ()

    def __init__(self, rules: Rules, counts: CopiedCounts | None, progress: Progress):
        self.rules, self.counts, self.progress = rules, counts, progress

    def calibrate(self, shards: Iterator[EncodedSentences]) -> None:
        """Return None: there are no errors to bound."""

    def score(self, shard: EncodedSentences, bounds: Bounds | None) -> ScoredSentences:
        """Return random masks for the shard's sentences; nothing is scored."""
        n, items = len(shard), self.rules.items(shard.offsets, shard.word)
        rate = self.rules.mask_rate
        if self.counts:
            counts, expected = self.counts.of(shard)
        else:
            counts = cap_of(np.diff(items.offsets), rate)
        room = self.counts.room if self.counts else sys.maxsize
        may_mask = self.rules.may_mask(shard.input_ids, shard.offsets, shard.word)
        allowed = (within(np.diff(shard.offsets))[items.starts] < room) & items.any(may_mask)
        drawn = random_positions(self.rules.seed, shard.row, shard.sentence, items.offsets, counts, allowed)
        chosen = drawn[items.of_token] & may_mask
        able = allowed[items.of_token] & may_mask
        prob = _spread(expected, shard.offsets, able) if self.counts else able * np.float32(rate or 1)
        self.progress(1.0, len(shard.input_ids))
        return ScoredSentences(
            shard,
            np.full(n, -1, np.int32),
            np.full(n, np.nan, np.float32),
            np.zeros(len(shard.input_ids), np.float32),
            np.zeros(n, bool),
            *ragged_positions(shard.offsets, chosen),
            mask_prob=prob,
        )

    def identity(self) -> dict[str, Any]:
        """Return the sha256 of the copied run's manifest, which holds the hashes of its shards."""
        return {"like": self.counts and manifest_hash(self.counts.like)}

    def describe(self) -> dict[str, Any]:
        """See ``ShardScorer.describe``."""
        return {"device": "cpu", "kernels": "none"}

    def stop(self) -> None:
        """Do nothing: a shard takes a moment."""


def _spread(expected: np.ndarray, offsets: np.ndarray, able: np.ndarray) -> np.ndarray | None:
    """Return float32 [T], the same probability at all tokens of a sentence that may be masked, bool [T].

    Their sum is the sentence's in ``expected`` float64 [S], NaN where there is none; then None.
    """
    if np.isnan(expected).any():
        return None
    sentence = np.repeat(np.arange(len(expected)), np.diff(offsets))
    places = np.bincount(sentence[able], minlength=len(expected))
    mean = np.minimum(1, expected / np.maximum(1, places)).astype(np.float32)
    found: np.ndarray = mean[sentence] * able
    return found


class CopiedCounts:
    """Mask counts of another run, of which the shards about the last rows asked for are held.

    Args:
        like: the other run's directory.
        by_word: count words with a mask, not masks.

    Attributes:
        room: how many of a sentence's first tokens could be masked there.
    """

    def __init__(self, like: str, by_word: bool = False):
        self.like, self.shards, self.by_word = like, open_shards(like), by_word
        manifest = self.shards.manifest
        # what is cut off is not masked, and training may not see it
        self.room = setting(manifest, "max_length") - FRAME if manifest["model"] else sys.maxsize
        self._ends = np.array([entry["end_row"] for entry in manifest["shards"]], np.int64)
        self._held: dict[int, tuple[np.ndarray, ...]] = {}

    def of(self, shard: EncodedSentences) -> tuple[np.ndarray, np.ndarray]:
        """Return the mask counts of the shard's sentences, int64 [N], and the sums of their probabilities, float64 [N].

        Raises:
            OutputError: the other run has other sentences.
        """
        first, last = np.searchsorted(self._ends, [shard.first_row, shard.end_row - 1], side="right").tolist()
        wanted = range(first, min(last + 1, len(self._ends)))
        self._held = {index: self._held.get(index) or self._read(index) for index in wanted}
        nothing = (*np.empty((4, 0), np.int64), np.empty(0))
        row, sentence, tokens, masks, expected = map(np.concatenate, zip(nothing, *self._held.values(), strict=True))
        here = (row >= shard.first_row) & (row < shard.end_row)
        theirs = row[here], sentence[here], tokens[here]
        ours = shard.row, shard.sentence, np.diff(shard.offsets)
        if not all(np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True)):
            place = f"rows {shard.first_row} to {shard.end_row - 1}"
            raise OutputError(f"--like {self.like}: its sentences are not those of this corpus in {place}")
        return masks[here], expected[here]

    def _read(self, index: int) -> tuple[np.ndarray, ...]:
        return *self.shards.mask_counts(index, self.by_word), self.shards.expected_masks(index)


METHOD = Random()
