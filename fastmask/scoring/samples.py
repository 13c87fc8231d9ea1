"""Sentences to show of a corpus: drawn by their numbers in one pass, so that the same corpus gives the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..report.highlight import MOST_TOKENS, Sentence, tokens_of
from .rows import Rows, sentence_keys

KINDS = {"any": 40, "most": 10, "none": 10, "uncertain": 10}
"""What is drawn, and how many: any; with the largest share of masks; without one; with the smallest P(y|s)."""
SHORT = 8
"""Sentences of fewer tokens come last among those with the largest share."""


class _Kept(NamedTuple):
    """A sentence as far as it is shown: its numbers, its first token ids and what is known of it."""

    row: int
    sentence: int
    ids: list[int]
    length: int
    masks: int
    mask_index: list[int]
    importance: list[float] | None
    label: int
    predicted: int
    prob: float


class Samples:
    """The sentences to show of all rows that it is given."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[tuple[float, ...], _Kept]]] = {kind: [] for kind in KINDS}

    def add(self, rows: Rows, label: np.ndarray, predicted: np.ndarray, prob: np.ndarray) -> None:
        """Draw from some rows, with classes int64 [S], negative for none, and P(y|s) float64 [S] or NaN."""
        lengths, starts = np.diff(rows.offsets), rows.offsets[:-1]
        owner = np.repeat(np.arange(len(lengths)), lengths)
        masks = np.bincount(owner[rows.masked], minlength=len(lengths))
        key = sentence_keys(rows.row, rows.sentence)
        some, share = lengths > 0, masks / np.maximum(lengths, 1)
        ranks = {
            "any": (some, (key,)),
            "most": (masks > 0, (lengths < SHORT, -share, key)),
            "none": (some & (masks == 0), (key,)),
            "uncertain": (some & rows.scored & ~np.isnan(prob), (prob, key)),
        }
        scores = np.cumsum(rows.scored * lengths) - lengths  # where those of a scored sentence begin

        def kept(at: int) -> _Kept:
            part = slice(starts[at], starts[at] + min(lengths[at], MOST_TOKENS))
            values = rows.importance[scores[at] : scores[at] + part.stop - part.start].tolist()
            return _Kept(
                int(rows.row[at]),
                int(rows.sentence[at]),
                rows.input_ids[part].tolist(),
                int(lengths[at]),
                int(masks[at]),
                np.flatnonzero(rows.masked[part]).tolist(),
                values if rows.scored[at] else None,
                int(label[at]),
                int(predicted[at]),
                float(prob[at]),
            )

        for kind, (may, rank) in ranks.items():
            self._draw(kind, np.flatnonzero(may), rank, kept)

    def _draw(self, kind: str, may: np.ndarray, rank: tuple[np.ndarray, ...], kept: Callable[[int], _Kept]) -> None:
        held, most = self._kept[kind], KINDS[kind]
        first = may[np.lexsort([column[may] for column in reversed(rank)])][:most]
        for at in first.tolist():
            place = tuple(column[at].item() for column in rank)
            if len(held) < most or place < held[-1][0]:
                held.append((place, kept(at)))
                held.sort(key=lambda one: one[0])
                del held[most:]

    def sentences(
        self, words_of: Callable[[list[int]], list[str]], name_of: Callable[[int], str], *, large_is_important: bool
    ) -> dict[str, list[Sentence]]:
        """Return what is shown of each kind of sentences."""
        return {kind: [_shown(one, words_of, name_of, large_is_important) for _, one in held]
                for kind, held in self._kept.items()}  # fmt: skip


def _shown(
    one: _Kept, words_of: Callable[[list[int]], list[str]], name_of: Callable[[int], str], large: bool
) -> Sentence:
    tokens = tokens_of(words_of(one.ids), one.importance, one.mask_index, large_is_important=large)
    label, predicted = (None if index < 0 else name_of(index) for index in (one.label, one.predicted))
    prob = None if np.isnan(one.prob) else one.prob
    return Sentence(one.row, one.sentence, tokens, one.length - len(tokens), one.length, one.masks,
                    one.importance is not None, label, predicted, prob)  # fmt: skip
