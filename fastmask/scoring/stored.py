"""Finished shards as scoring has sentences: all of one, some alone, or all with other scores for some."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..core.arrays import offsets_of, take_ragged
from ..core.plain import Json
from ..core.records import EncodedSentences, ScoredSentences
from ..shards.columns import flat, known, list_lengths, numbers, present
from .policy import ragged_positions

if TYPE_CHECKING:
    import pyarrow as pa


def scored_of(table: pa.Table, entry: Json, skipped: tuple[str, ...]) -> ScoredSentences:
    """Return a shard as the writer took it, but for the units."""
    n, lengths = len(table), list_lengths(table["input_ids"])
    scored = present(table["importance"])
    importance = np.zeros(int(lengths.sum()), np.float32)
    importance[np.repeat(scored, lengths)] = flat(table["importance"])
    mask_prob = flat(table["mask_prob"]) if n and present(table["mask_prob"]).all() else None
    sentences = EncodedSentences(
        row=numbers(table["row"]),
        sentence=numbers(table["sentence"]),
        offsets=offsets_of(lengths),
        **{name: flat(table[name]) for name in ("input_ids", "char_start", "char_end", "word")},
        label=_or(table["label"], -1),
        unit_sentence=np.empty(0, np.int32),
        unit_label=np.empty(0, np.int32),
        context_offsets=np.zeros(1, np.int64),
        context_ids=np.empty(0, np.int32),
        is_aspect=False,
        first_row=entry["first_row"],
        end_row=entry["end_row"],
        skipped=skipped,
        id=np.array(table["id"].to_pylist(), object) if "id" in table.schema.names else None,
    )
    masks = offsets_of(list_lengths(table["mask_index"])), flat(table["mask_index"])
    predicted, prob = _or(table["predicted"], -1), _or(table["prob"], np.nan)
    return ScoredSentences(sentences, predicted, prob, importance, scored, *masks, entry["certificate"], mask_prob)


def _or(values: pa.ChunkedArray, nothing: float) -> np.ndarray:
    """Return a column's numbers, with one in the place of null."""
    there = known(values)
    found = np.full(len(values), nothing, there.dtype)
    found[present(values)] = there
    return found


def plain_units(sentences: EncodedSentences) -> EncodedSentences:
    """Return sentences without aspects with the unit that each of them is, asked about its label."""
    return replace(sentences.texts_alone(), unit_label=sentences.label)


def some_of(shard: EncodedSentences, chosen: np.ndarray) -> EncodedSentences:
    """Return sentences ``chosen`` int64 [K], ascending, of a shard with its units."""
    offsets, tokens = take_ragged(shard.offsets, np.arange(len(shard.input_ids)), chosen)
    units = np.flatnonzero(np.isin(shard.unit_sentence, chosen))
    context_offsets, context_ids = take_ragged(shard.context_offsets, shard.context_ids, units)
    return replace(
        shard,
        **{name: getattr(shard, name)[chosen] for name in ("row", "sentence", "label")},
        id=None if shard.id is None else shard.id[chosen],
        **{name: getattr(shard, name)[tokens] for name in ("input_ids", "char_start", "char_end", "word")},
        offsets=offsets,
        unit_sentence=np.searchsorted(chosen, shard.unit_sentence[units]).astype(np.int32),
        unit_label=shard.unit_label[units],
        context_offsets=context_offsets,
        context_ids=context_ids,
    )


def with_some(scored: ScoredSentences, chosen: np.ndarray, other: ScoredSentences) -> ScoredSentences:
    """Return a shard's scores and masks with those of ``other`` for its sentences ``chosen`` int64 [K]."""
    offsets = scored.sentences.offsets
    _, tokens = take_ragged(offsets, np.arange(offsets[-1]), chosen)
    masked = _masked(scored)
    masked[tokens] = _masked(other)
    found = {name: getattr(scored, name).copy() for name in ("predicted", "prob", "scored", "importance")}
    for name, values in found.items():
        values[tokens if name == "importance" else chosen] = getattr(other, name)
    mask_offsets, mask_index = ragged_positions(offsets, masked)
    return replace(scored, **found, mask_offsets=mask_offsets, mask_index=mask_index)


def _masked(scored: ScoredSentences) -> np.ndarray:
    """Return bool [T]: which tokens are masked."""
    offsets = scored.sentences.offsets
    flags = np.zeros(offsets[-1], bool)
    flags[np.repeat(offsets[:-1], np.diff(scored.mask_offsets)) + scored.mask_index] = True
    return flags
