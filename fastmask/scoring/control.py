"""Method ``random``: as many masks as another run made, or a rate, at random positions (the paper's control)."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence

import numpy as np

from ..core.config import DEFAULT_RATE, ScoreConfig
from ..core.errors import OutputError
from ..core.plain import read_regular
from ..core.records import FRAME, EncodedSentences, ScoredSentences
from ..shards.reader import open_shards, setting
from ..shards.schema import manifest_path
from .policy import cap_of, ragged_positions, random_positions


class RandomControl:
    """Masks shards at random, in sequence where counts are copied; no classifier is involved.

    Args:
        special: ids that are never masked. The copied run has no masks on them either, so that counts stay the same.
    """

    def __init__(self, config: ScoreConfig, special: Sequence[int]):
        self.config, self.special = config, np.array(special, np.int32)
        self._counts = None if config.like is None else _Counts(config.like)

    def identity(self) -> str | None:
        """sha256 of the copied run's manifest, which holds the hashes of its shards."""
        if self.config.like is None:
            return None
        return hashlib.sha256(read_regular(manifest_path(self.config.like))).hexdigest()

    def mask_shard(self, shard: EncodedSentences) -> ScoredSentences:
        """Random masks for the shard's sentences; nothing is scored."""
        n, config = len(shard), self.config
        lengths = np.diff(shard.offsets)
        counts = self._counts.of(shard) if self._counts else cap_of(lengths, config.mask_rate or DEFAULT_RATE)
        room = self._counts.room if self._counts else sys.maxsize
        position = np.arange(len(shard.input_ids)) - np.repeat(shard.offsets[:-1], lengths)
        allowed = (position < room) & ~np.isin(shard.input_ids, self.special)
        chosen = random_positions(config.seed, shard.row, shard.sentence, shard.offsets, counts, allowed)
        return ScoredSentences(
            sentences=shard,
            predicted=np.full(n, -1, np.int32),
            prob=np.full(n, np.nan, np.float32),
            importance=np.zeros(len(shard.input_ids), np.float32),
            scored=np.zeros(n, bool),
            mask_offsets=(masks := ragged_positions(shard.offsets, chosen))[0],
            mask_index=masks[1],
        )


class _Counts:
    """Mask counts of another run, read along in corpus order with bounded memory.

    Attributes:
        room: how many of a sentence's first tokens could be masked there.
    """

    def __init__(self, like: str):
        shards = open_shards(like)
        self.like, manifest = like, shards.manifest
        # what is cut off is not masked, and training may not see it
        self.room = sys.maxsize if setting(manifest, "method") == "random" else setting(manifest, "max_length") - FRAME
        self._pieces = shards.mask_counts()
        self._held = (np.empty(0, np.int64), *[np.empty(0, np.int32)] * 3)

    def of(self, shard: EncodedSentences) -> np.ndarray:
        """int64 [N]: the counts of the shard's sentences; shards come in ascending order.

        Raises:
            OutputError: the other run has other sentences.
        """
        while not len(self._held[0]) or self._held[0][-1] < shard.end_row:
            piece = next(self._pieces, None)
            if piece is None:
                break
            recent = piece[0] >= shard.first_row
            fresh = tuple(column[recent] for column in piece)
            self._held = tuple(np.concatenate(pair) for pair in zip(self._held, fresh, strict=True))
        rows = self._held[0]
        here = (rows >= shard.first_row) & (rows < shard.end_row)
        *theirs, counts = (column[here] for column in self._held)
        ours = (shard.row, shard.sentence, np.diff(shard.offsets))
        if not all(np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True)):
            place = f"rows {shard.first_row} to {shard.end_row - 1}"
            raise OutputError(f"--like {self.like}: its sentences are not those of this corpus in {place}")
        self._held = tuple(column[rows >= shard.end_row] for column in self._held)
        return counts.astype(np.int64)
