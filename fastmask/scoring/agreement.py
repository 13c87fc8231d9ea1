"""How far two runs over the same sentences agree: their masks, their importances, and the words that they mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import FastmaskError
from ..core.words import counted
from ..shards.reader import ShardSet, open_shards, setting
from .method import method_named
from .policy import Items
from .rows import Rows, rows_of, sentence_keys

if TYPE_CHECKING:
    import pyarrow as pa

MOST_RANKED = 2**20
"""Importances of each run that are held to be ranked."""
MOST_WORDS = 2**17
"""Different words that are held and counted."""
Words = list[tuple[tuple[int, ...], int]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two runs, first and second, have in common.

    Attributes:
        sentences: of the corpus; masked_sentences: those with a mask of either.
        masks: of the first, of the second, and of both at the same token.
        jaccard: masks of both / masks of either, over the corpus; None where there is none.
        sentence_jaccard: its mean over the sentences with a mask of either.
        rank_correlation: Spearman's, of the importances of tokens that both have scored, so turned that important
            tokens are large; None where there are fewer than two, or no differences.
        ranked: tokens that it is of: all, or those of a sample of sentences where these are more than MOST_RANKED.
        scored: tokens that both have scored.
        only: for the first and for the second the words that it alone masks, as token ids, with how often; most
            frequent first.
    """

    sentences: int
    masked_sentences: int
    masks: tuple[int, int, int]
    jaccard: float | None
    sentence_jaccard: float | None
    rank_correlation: float | None
    ranked: int
    scored: int
    only: tuple[Words, Words]


def compare_shards(
    first: str, second: str, *, most_ranked: int = MOST_RANKED, most_words: int = MOST_WORDS
) -> Agreement:
    """Return how far two finished directories agree; they are read once, side by side.

    Args:
        first, second: of the same sentences in the same tokens; methods and settings may differ.
        most_ranked: importances to hold of each.
        most_words: different words to hold; beyond that the rarest half is forgotten, and counts are too low by what
            it had.

    Raises:
        OutputError: one is not finished or is damaged.
        FastmaskError: they have other tokenizers, or other sentences.
    """
    sets = open_shards(first), open_shards(second)
    _check_same_tokens(*sets)
    totals, ranks = _Totals(most_words), _Ranks(most_ranked)
    for one, other in _side_by_side(*sets):
        totals.add(one, other)
        ranks.add(one, other)
    return totals.agreement(ranks, [_sign(each) for each in sets])


def _sign(shards: ShardSet) -> int:
    """Return what makes an important token's importance a large one: 1 or -1."""
    return 1 if method_named(setting(shards.manifest, "method")).large_is_important else -1


def _check_same_tokens(first: ShardSet, second: ShardSet) -> None:
    for key in ("vocabulary_sha256", "special_ids"):
        if first.manifest["tokenizer"].get(key) != second.manifest["tokenizer"].get(key):
            raise FastmaskError(f"{second.path}: made with another tokenizer than {first.path} ({key}); "
                                "fastmask remap makes masks for one")  # fmt: skip
    if len(first) != len(second):
        raise FastmaskError(f"{second.path}: has {counted(len(second), 'sentence')}, {first.path} has {len(first):,}")


def _batches(shards: ShardSet) -> Iterator[pa.RecordBatch]:
    columns = ["row", "sentence", "input_ids", "importance", "mask_index"]
    return shards.batches(columns + (["word"] if shards.version > 1 else []))


def _side_by_side(*sets: ShardSet) -> Iterator[tuple[Rows, Rows]]:
    """Yield the same sentences of both, some at a time; FastmaskError where they are not the same."""
    batches = [_batches(each) for each in sets]
    left: list[pa.RecordBatch | None] = [None, None]
    for _ in iter(int, 1):
        left = [one if one else next(more, None) for one, more in zip(left, batches, strict=True)]
        if left[0] is None or left[1] is None:
            return
        size = min(len(left[0]), len(left[1]))
        first, second = (rows_of(one.slice(0, size)) for one in left if one is not None)
        _check_same_sentences(first, second, sets)
        yield first, second
        left = [one.slice(size) if one is not None and len(one) > size else None for one in left]


def _check_same_sentences(first: Rows, second: Rows, sets: tuple[ShardSet, ...]) -> None:
    same = np.diff(first.offsets) == np.diff(second.offsets)
    for name in ("row", "sentence"):
        same &= getattr(first, name) == getattr(second, name)
    if same.all():
        other = np.repeat(np.arange(len(same)), np.diff(first.offsets))[first.input_ids != second.input_ids]
        same[other] = False
    if not same.all():
        at = int(np.argmin(same))
        raise FastmaskError(f"{sets[1].path}: its sentences are not those of {sets[0].path}: "
                            f"row {first.row[at]}, sentence {first.sentence[at]}")  # fmt: skip


@dataclass(slots=True)
class _Totals:
    """Counts of sentences, masks and words so far."""

    most_words: int
    sentences: int = 0
    masked_sentences: int = 0
    masks: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    shares: float = 0.0
    words: tuple[Counter[bytes], Counter[bytes]] = field(default_factory=lambda: (Counter(), Counter()))

    def add(self, first: Rows, second: Rows) -> None:
        """Count some sentences."""
        n = len(first.row)
        owner = np.repeat(np.arange(n), np.diff(first.offsets))
        both, either = (np.bincount(owner[flags], minlength=n)
                        for flags in (first.masked & second.masked, first.masked | second.masked))  # fmt: skip
        some = either > 0
        self.sentences += n
        self.masked_sentences += int(some.sum())
        self.masks += [first.masked.sum(), second.masked.sum(), both.sum()]
        self.shares += float((both[some] / either[some]).sum())
        word = first.word if first.word is not None else second.word
        items = Items.of(first.offsets, word)
        here, there = items.any(first.masked), items.any(second.masked)
        ends = np.append(items.starts[1:], len(first.input_ids))
        for counts, only in zip(self.words, (here & ~there, there & ~here), strict=True):
            spans = zip(items.starts[only].tolist(), ends[only].tolist(), strict=True)
            counts.update(first.input_ids[start:end].tobytes() for start, end in spans)
            if len(counts) > self.most_words:
                kept = _by_count(counts)[: self.most_words // 2]
                counts.clear()
                counts.update(dict(kept))

    def agreement(self, ranks: _Ranks, signs: list[int]) -> Agreement:
        """Return the whole."""
        first, second, both = self.masks.tolist()
        either = first + second - both
        only = [[(tuple(np.frombuffer(ids, np.int32).tolist()), count) for ids, count in _by_count(counts)]
                for counts in self.words]  # fmt: skip
        return Agreement(
            self.sentences,
            self.masked_sentences,
            (first, second, both),
            both / either if either else None,
            self.shares / self.masked_sentences if self.masked_sentences else None,
            ranks.correlation(*signs),
            ranks.held,
            ranks.scored,
            (only[0], only[1]),
        )


def _by_count(counts: Counter[bytes]) -> list[tuple[bytes, int]]:
    """Return words and counts, the most frequent first, in an order that does not depend on the corpus's."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


class _Ranks:
    """Importances of both runs, of all sentences, or of a sample that depends on their numbers alone."""

    def __init__(self, most: int):
        self.most, self.held, self.scored = most, 0, 0
        self._limit = 2**64
        self._parts = [(np.empty(0, np.uint64), *np.empty((2, 0), np.float32))]

    def add(self, first: Rows, second: Rows) -> None:
        """Take what both have scored; half of all sentences leave when there are too many tokens."""
        lengths = np.diff(first.offsets)
        both = first.scored & second.scored
        keys = np.repeat(sentence_keys(first.row[both], first.sentence[both]), lengths[both])
        left, right = (one.importance[np.repeat(both[one.scored], lengths[one.scored])] for one in (first, second))
        seen = ~(np.isnan(left) | np.isnan(right))
        self.scored += int(seen.sum())
        self._keep(keys[seen], left[seen], right[seen])
        while self.held > self.most:
            self._limit //= 2
            parts = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
            self._parts, self.held = [], 0
            self._keep(*parts)

    def _keep(self, keys: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
        inside = keys <= np.uint64(self._limit - 1)
        self._parts.append((keys[inside], first[inside], second[inside]))
        self.held += int(inside.sum())

    def correlation(self, first_sign: int, second_sign: int) -> float | None:
        """Return Spearman's rank correlation, ties at their mean rank."""
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)][1:]
        first, second = (mean_ranks(sign * one) for sign, one in zip((first_sign, second_sign), columns, strict=True))
        if len(first) < 2 or first.std() == 0 or second.std() == 0:
            return None
        return float(np.corrcoef(first, second)[0, 1])


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks from 1 on of values [N], equal ones at the mean of theirs: float64 [N]."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks
