"""The reader of finished shard directories: whole tables, rows, or mask counts, a shard at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import OutputError
from .schema import arrow_schema, file_fault, list_lengths, open_parquet, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
"""Rows that are decoded at a time when a shard set is iterated."""


def open_shards(out: str | Path, *, check_hashes: bool = False) -> ShardSet:
    """The finished shard directory ``out`` for reading.

    Args:
        check_hashes: read every shard once to compare its SHA-256; otherwise its size alone is looked at.

    Raises:
        OutputError: not finished, of another format version, or a shard (named) is missing or damaged.
    """
    manifest = read_manifest(out)
    for entry in manifest["shards"]:
        path = Path(out) / entry["file"]
        if fault := file_fault(path, entry, check_hashes):
            raise OutputError(f"{path}: {fault}")
    return ShardSet(Path(out), manifest)


class ShardSet:
    """A finished directory's shards: ``len()`` rows, iterated in corpus order as dictionaries by column.

    Every reading method raises OutputError with the shard's name when it meets damage.

    Attributes:
        path: the directory.
        manifest: its manifest (schema.HEADER_KEYS and RESULT_KEYS).
    """

    def __init__(self, path: Path, manifest: dict):
        self.path, self.manifest = path, manifest

    def __len__(self) -> int:
        return self.manifest["totals"]["rows"]

    def __iter__(self) -> Iterator[dict]:
        for batch in self.batches():
            yield from batch.to_pylist()

    def head(self, rows: int) -> Iterator[dict]:
        """The first rows as dictionaries."""
        return islice(iter(self), rows)

    def batches(self, columns: list[str] | None = None, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Record batches of at most ``rows`` rows; no more than one row group is held in memory."""
        for entry in self.manifest["shards"]:
            with open_parquet(self.path / entry["file"]) as file:
                self._check(entry, file.schema_arrow, file.metadata.num_rows)
                yield from file.iter_batches(rows, columns=columns, use_threads=False)

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """One table a shard, with all columns or those named."""
        for entry in self.manifest["shards"]:
            with open_parquet(self.path / entry["file"]) as file:
                self._check(entry, file.schema_arrow, file.metadata.num_rows)
                table = file.read(columns)
            yield table

    def to_table(self, columns: list[str] | None = None) -> pa.Table:
        """All shards as one table in memory."""
        import pyarrow as pa

        empty = arrow_schema().empty_table()
        return pa.concat_tables([empty if columns is None else empty.select(columns), *self.tables(columns)])

    def mask_counts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Per shard: row int64 [N], sentence int32 [N], numbers of tokens and of masks int32 [N]."""
        for table in self.tables(["row", "sentence", "input_ids", "mask_index"]):
            lengths = (list_lengths(table[name]) for name in ("input_ids", "mask_index"))
            yield table["row"].to_numpy(), table["sentence"].to_numpy(), *lengths

    def _check(self, entry: dict, schema: pa.Schema, rows: int) -> None:
        if not schema.equals(arrow_schema(), check_metadata=True):
            raise OutputError(f"{self.path / entry['file']}: its columns are not those of the shard format")
        if rows != entry["rows"]:
            raise OutputError(f"{self.path / entry['file']}: has {rows} rows instead of {entry['rows']}")
