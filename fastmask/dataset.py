"""The reader of finished shard directories: rows by number, whole tables, or mask counts, a part at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .columns import list_lengths, numbers
from .errors import OutputError
from .schema import ROW_GROUP, arrow_schema, file_fault, open_parquet, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
"""Rows that are decoded at a time when a shard set is iterated."""
CACHED_GROUPS = 4
"""Runs of at most ROW_GROUP rows that a shard set keeps for access by number."""


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
    """A finished directory's shards: ``len()`` rows, as dictionaries by column, in corpus order or by number.

    Rows by number are read ROW_GROUP at a time, and the last CACHED_GROUPS of these are kept: access in any order
    works, access that stays near by is fast. Every reading method raises OutputError with the shard's name when it
    meets damage.

    Attributes:
        path: the directory.
        manifest: its manifest (schema.HEADER_KEYS and RESULT_KEYS).
    """

    def __init__(self, path: Path, manifest: dict):
        self.path, self.manifest = path, manifest
        self._ends = list(accumulate(entry["rows"] for entry in manifest["shards"]))
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return self.manifest["totals"]["rows"]

    def __iter__(self) -> Iterator[dict]:
        for batch in self.batches():
            yield from batch.to_pylist()

    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        """Row ``index``, 0 to len - 1, or from the end, IndexError outside; or a list of the rows of a slice."""
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        shard = bisect_right(self._ends, index)
        index -= self._ends[shard] - self.manifest["shards"][shard]["rows"]
        return self._group(shard, index // ROW_GROUP).slice(index % ROW_GROUP, 1).to_pylist()[0]

    def __reduce__(self):
        # a worker process gets no cached rows
        return ShardSet, (self.path, self.manifest)

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

    def read_rows(self, shard: int, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
        """Rows ``start`` to ``stop`` of a shard (by its number); only the row groups they lie in are read."""
        entry = self.manifest["shards"][shard]
        with open_parquet(self.path / entry["file"]) as file:
            metadata = file.metadata
            self._check(entry, file.schema_arrow, metadata.num_rows)
            bounds = [0, *accumulate(metadata.row_group(k).num_rows for k in range(metadata.num_row_groups))]
            groups = [k for k in range(len(bounds) - 1) if bounds[k] < stop and bounds[k + 1] > start]
            table = file.read_row_groups(groups, columns=columns, use_threads=False)
        return table.slice(start - bounds[groups[0]] if groups else 0, stop - start)

    def mask_counts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Per shard: row int64 [N], sentence int32 [N], numbers of tokens and of masks int32 [N]."""
        for table in self.tables(["row", "sentence", "input_ids", "mask_index"]):
            lengths = (list_lengths(table[name]) for name in ("input_ids", "mask_index"))
            yield numbers(table["row"]), numbers(table["sentence"]), *lengths

    def _group(self, shard: int, number: int) -> pa.Table:
        """ROW_GROUP rows of a shard, the last ones perhaps fewer."""
        key = shard, number
        if key not in self._groups:
            while len(self._groups) >= CACHED_GROUPS:
                self._groups.popitem(last=False)
            stop = min((number + 1) * ROW_GROUP, self.manifest["shards"][shard]["rows"])
            self._groups[key] = self.read_rows(shard, number * ROW_GROUP, stop)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _check(self, entry: dict, schema: pa.Schema, rows: int) -> None:
        if not schema.equals(arrow_schema(), check_metadata=True):
            raise OutputError(f"{self.path / entry['file']}: its columns are not those of the shard format")
        if rows != entry["rows"]:
            raise OutputError(f"{self.path / entry['file']}: has {rows} rows instead of {entry['rows']}")
