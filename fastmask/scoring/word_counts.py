"""How often each word of a corpus is there and is masked: in one pass, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..report.overview import Word
from .policy import Items
from .rows import Rows
from .word_types import word_keys

MOST_WORDS = 2**17
"""Different words that are held and counted."""


class WordCounts:
    """Counts of the words of all rows that it is given; beyond ``most`` words the rarest half is forgotten.

    Attributes:
        keys: uint64 [W], ascending, the hashes of the words.
        forgotten: whether some were.
    """

    def __init__(self, most: int = MOST_WORDS):
        self.most, self.forgotten = most, False
        self.keys = np.empty(0, np.uint64)
        self._counts = np.empty((4, 0), np.int64)
        self._ids: dict[int, bytes] = {}

    def add(self, rows: Rows) -> None:
        """Count the words of some rows; without words their tokens."""
        items = Items.of(rows.offsets, rows.word)
        ends = np.append(items.starts[1:], len(rows.input_ids))
        keys, first, which = np.unique(word_keys(rows.input_ids, items.starts, ends), True, True)
        starts, ends = items.starts[first], ends[first]
        self._insert(keys, lambda k: rows.input_ids[starts[k] : ends[k]].tobytes())
        at = np.searchsorted(self.keys, keys)
        of_token = which[items.of_token]
        for row, words in enumerate((which, which[items.any(rows.masked)], of_token, of_token[rows.masked])):
            self._counts[row, at] += np.bincount(words, minlength=len(keys))
        if len(self.keys) > self.most:
            self._forget()

    def _insert(self, keys: np.ndarray, ids_of: Callable[[int], bytes]) -> None:
        new = np.flatnonzero(~np.isin(keys, self.keys, assume_unique=True))
        self._ids.update(zip(keys[new].tolist(), map(ids_of, new.tolist()), strict=True))
        at = np.searchsorted(self.keys, keys[new])
        self.keys = np.insert(self.keys, at, keys[new])
        self._counts = np.insert(self._counts, at, 0, axis=1)

    def _forget(self) -> None:
        self.forgotten = True
        at = np.sort(np.lexsort((self.keys, -self.uses))[: self.most // 2])
        self.keys, self._counts = self.keys[at], self._counts[:, at]
        self._ids = {key: self._ids[key] for key in self.keys.tolist()}

    @property
    def uses(self) -> np.ndarray:
        """Return how often each word is there, int64 [W]."""
        uses: np.ndarray = self._counts[0]
        return uses

    def words(self, texts_of: Callable[[list[list[int]]], list[str]]) -> list[Word]:
        """Return the words; those of other tokens and the same text are one. Args: from token ids to texts."""
        texts = texts_of([np.frombuffer(self._ids[key], np.int32).tolist() for key in self.keys.tolist()])
        of = {text: k for k, text in enumerate(dict.fromkeys(text.strip() for text in texts))}
        which = [of[text.strip()] for text in texts]
        sums = np.zeros((4, len(of)), np.int64)
        for row, counts in enumerate(self._counts):
            np.add.at(sums[row], which, counts)
        return [Word(text, *counts) for text, counts in zip(of, sums.T.tolist(), strict=True)]
