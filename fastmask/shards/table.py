"""The table of a shard: its columns, from decisions to an Arrow table to the bytes of a Parquet file."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ..core.arrays import offsets_of
from ..core.records import ScoredSentences
from .columns import check_offsets, column, ragged, texts

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 2
"""What is written. Version 1, which had no ``word`` and no ``mask_prob``, is read, too."""
ROW_GROUP = 16384
"""Sentences of a Parquet row group, the least that a reader holds in memory."""


@cache
def arrow_schema(version: int = FORMAT_VERSION, with_ids: bool = False) -> pa.Schema:
    """Return the columns of a shard of a format version, with or without the user's own ids.

    Nullable: ``label``, ``predicted``, ``prob``, ``id``, and whole lists of ``importance`` and ``mask_prob``.
    """
    import pyarrow as pa

    def ragged(kind: pa.DataType) -> pa.DataType:
        # "element" is the name that Parquet gives list items, so that a table read back has this very schema
        return pa.list_(pa.field("element", kind, nullable=False))

    fields = [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("sentence", pa.int32(), nullable=False),
        pa.field("input_ids", ragged(pa.int32()), nullable=False),
        pa.field("char_start", ragged(pa.int32()), nullable=False),
        pa.field("char_end", ragged(pa.int32()), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("predicted", pa.int32()),
        pa.field("prob", pa.float32()),
        pa.field("importance", ragged(pa.float32())),
        pa.field("mask_index", ragged(pa.int32()), nullable=False),
    ]
    if version > 1:
        fields.append(pa.field("word", ragged(pa.int32()), nullable=False))
        fields.append(pa.field("mask_prob", ragged(pa.float32())))
    if with_ids:
        fields.append(pa.field("id", pa.string()))
    return pa.schema(fields, metadata={"fastmask.format_version": str(version)})


def to_table(scored: ScoredSentences) -> pa.Table:
    """Return the decisions for N sentences as an Arrow table of N rows with ``arrow_schema``.

    Raises:
        ValueError: (pyarrow's ArrowInvalid is one) arrays do not fit each other, or a value its column.
    """
    import pyarrow as pa

    schema = arrow_schema(with_ids=scored.sentences.id is not None)
    sentences, counts = scored.sentences, np.diff(scored.sentences.offsets)
    check_offsets("importance", sentences.offsets, scored.importance)
    # Arrow can hide values under a null list, Parquet cannot: those of sentences not scored are taken out
    importance = scored.importance[np.repeat(scored.scored, counts)]
    importance_offsets = offsets_of(counts * scored.scored)
    no_prob = np.full(len(sentences), scored.mask_prob is None)
    mask_prob = np.empty(0, np.float32) if scored.mask_prob is None else scored.mask_prob
    columns = {
        "row": column(schema.field("row"), sentences.row),
        "sentence": column(schema.field("sentence"), sentences.sentence),
        "input_ids": ragged(schema.field("input_ids"), sentences.offsets, sentences.input_ids),
        "char_start": ragged(schema.field("char_start"), sentences.offsets, sentences.char_start),
        "char_end": ragged(schema.field("char_end"), sentences.offsets, sentences.char_end),
        "label": column(schema.field("label"), sentences.label, null=sentences.label < 0),
        "predicted": column(schema.field("predicted"), scored.predicted, null=scored.predicted < 0),
        "prob": column(schema.field("prob"), scored.prob, null=np.isnan(scored.prob)),
        "importance": ragged(schema.field("importance"), importance_offsets, importance, null=~scored.scored),
        "mask_index": ragged(schema.field("mask_index"), scored.mask_offsets, scored.mask_index),
        "word": ragged(schema.field("word"), sentences.offsets, sentences.word),
        "mask_prob": ragged(schema.field("mask_prob"), offsets_of(counts * ~no_prob), mask_prob, null=no_prob),
    }
    if sentences.id is not None:
        columns["id"] = texts(schema.field("id"), sentences.id)
    return pa.Table.from_pydict(columns, schema=schema)


def shard_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file. The same table gives the same bytes: they hold no time and no name."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()  # grows in place, and hands over what it holds without a copy
    # ids and character positions have many values: a dictionary makes the file larger and the writer slower
    options = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table, sink, row_group_size=ROW_GROUP, **options)
    return sink.getvalue()
