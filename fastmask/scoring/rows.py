"""Rows of finished shards as flat arrays, for what reads whole directories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba as nb
import numpy as np
from fastmask_kernels.splitmix import mix

from ..core.arrays import JIT, offsets_of, take_ragged
from ..shards.columns import flat, list_lengths, numbers, present

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Rows:
    """S sentences of T tokens of one run.

    Attributes:
        row: int64 [S]; sentence: int32 [S].
        offsets: int64 [S + 1] into input_ids int32 [T].
        word: int32 [T]; None in format 1.
        masked: bool [T].
        scored: bool [S]; importance: float32, of their tokens.
    """

    row: np.ndarray
    sentence: np.ndarray
    offsets: np.ndarray
    input_ids: np.ndarray
    word: np.ndarray | None
    masked: np.ndarray
    scored: np.ndarray
    importance: np.ndarray


def rows_of(batch: pa.RecordBatch) -> Rows:
    """Return the rows of a batch that has the columns of ``Rows``."""
    offsets = offsets_of(list_lengths(batch["input_ids"]))
    masked, masks = np.zeros(offsets[-1], bool), list_lengths(batch["mask_index"])
    masked[np.repeat(offsets[:-1], masks) + flat(batch["mask_index"])] = True
    word = flat(batch["word"]) if "word" in batch.schema.names else None
    ids, importance = flat(batch["input_ids"]), flat(batch["importance"])
    place = numbers(batch["row"]), numbers(batch["sentence"])
    return Rows(*place, offsets, ids, word, masked, present(batch["importance"]), importance)


def some_rows(rows: Rows, chosen: np.ndarray) -> Rows:
    """Return sentences ``chosen`` int64 [K] of some rows."""
    offsets, tokens = take_ragged(rows.offsets, np.arange(rows.offsets[-1]), chosen)
    with_importance = offsets_of(np.diff(rows.offsets) * rows.scored)
    _, importance = take_ragged(with_importance, rows.importance, chosen)
    word = None if rows.word is None else rows.word[tokens]
    place = rows.row[chosen], rows.sentence[chosen]
    return Rows(*place, offsets, rows.input_ids[tokens], word, rows.masked[tokens], rows.scored[chosen], importance)


@nb.njit(**JIT)
def sentence_keys(row: np.ndarray, sentence: np.ndarray) -> np.ndarray:
    """Return a random number for each sentence, uint64 [S], that depends on its numbers alone."""
    keys = np.empty(len(row), np.uint64)
    for s in range(len(row)):
        keys[s] = mix(mix(np.uint64(0), row[s]), sentence[s])
    return keys
