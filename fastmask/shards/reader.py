"""The reader of finished shard directories: rows by number, whole tables, or mask counts, a part at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from ..core.arrays import offsets_of
from ..core.errors import OutputError
from ..core.plain import Json
from ..core.urls import Url, path_of, prefetch
from .columns import flat, list_lengths, numbers, present
from .schema import file_content_fault, file_fault, has_ids, open_parquet, read_manifest
from .sound import ends, value_fault
from .table import ROW_GROUP, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 1024
"""Rows that are decoded at a time when a shard set is iterated."""
CACHED_GROUPS = 4
"""Runs of at most ROW_GROUP rows that a shard set keeps for access by number."""
UNTOLD = "skipped; the shards that these were made from do not say why"
_DISORDER = "rows are out of order"


def open_shards(out: str | Path | Url, *, check_hashes: bool = False) -> ShardSet:
    """Open the finished shard directory ``out`` for reading.

    Args:
        check_hashes: read every shard once to compare its SHA-256; otherwise its size alone is looked at.

    Raises:
        OutputError: not finished, of another format version, or a shard (named) is missing or damaged.
    """
    return ShardSet.open(out, check_hashes)


def setting(manifest: Json, name: str) -> Any:
    """Return a setting of the run that made some shards; OutputError where their manifest lacks it."""
    if name not in manifest["config"]:
        raise OutputError(f'the manifest of the shards: field "config": lacks {name}')
    return manifest["config"][name]


class ShardSet:
    """A finished directory's shards: ``len()`` rows, as dictionaries by column, in corpus order or by number.

    Rows by number are read ROW_GROUP at a time, and the last CACHED_GROUPS groups are kept: access in any order
    works, access to nearby rows is fast. Every reading method raises OutputError with the shard's name when it
    meets damage, or values that no shard can have (``sound.value_fault``).

    Attributes:
        path: the directory.
        manifest: its manifest (schema.HEADER_KEYS and RESULT_KEYS).
        version: the version of its format; 1 has no ``word`` and no ``mask_prob``.
        has_ids: whether there is a column ``id``, of the user's own ids.
    """

    def __init__(self, path: Path | Url, manifest: Json):
        self.path, self.manifest = path, manifest
        self.version: int = manifest["format_version"]
        self.has_ids = has_ids(manifest)
        self._ends = list(accumulate(entry["rows"] for entry in manifest["shards"]))
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._vocab_size = manifest["tokenizer"].get("vocab_size")
        # (shard, row of it) -> (row, sentence) of what was read from there on, and up to there
        self._firsts: dict[tuple[int, int], tuple[int, int]] = {}
        self._lasts: dict[tuple[int, int], tuple[int, int]] = {}

    @classmethod
    def open(cls, out: str | Path | Url, check_hashes: bool = False) -> Self:
        """Open a finished directory; see ``open_shards``."""
        place = path_of(out)
        shards = cls(place, read_manifest(place))
        prefetch(place)
        for entry in shards.manifest["shards"]:
            path = shards.path / entry["file"]
            if fault := file_fault(path, entry, check_hashes):
                raise OutputError(f"{path}: {fault}")
            if not entry["rows"] <= entry["tokens"] <= entry["bytes"] or not entry["rows"]:
                # such counts are rarely true: who goes by them before any row is read would never end, or read nothing
                with shards.opened(entry):
                    pass
        return shards

    def __len__(self) -> int:
        rows: int = self.manifest["totals"]["rows"]
        return rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches():
            yield from batch.to_pylist()

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Return row ``index``, 0 to len - 1, or from the end, IndexError outside; or a list of the rows of a slice."""
        if isinstance(index, slice):
            return [self._row(k) for k in range(*index.indices(len(self)))]
        return self._row(index)

    def _row(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        shard = bisect_right(self._ends, index)
        index -= self._ends[shard] - self.manifest["shards"][shard]["rows"]
        row: dict[str, Any] = self._group(shard, index // ROW_GROUP).slice(index % ROW_GROUP, 1).to_pylist()[0]
        return row

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker process gets no cached rows
        return ShardSet, (self.path, self.manifest)

    def entries(self) -> Iterator[tuple[Json, tuple[str, ...]]]:
        """Yield each shard's entry and its messages about skipped documents, of which a manifest keeps the first."""
        messages = chain(self.manifest["skipped"]["messages"], repeat(UNTOLD))
        for entry in self.manifest["shards"]:
            yield entry, tuple(islice(messages, entry["skipped"]))

    def head(self, rows: int) -> Iterator[dict[str, Any]]:
        """Return the first rows as dictionaries."""
        return islice(iter(self), rows)

    def batches(self, columns: list[str] | None = None, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield record batches of at most ``rows`` rows; no more than one row group is held in memory."""
        for entry in self.manifest["shards"]:
            with self.opened(entry) as file:
                last = None
                for batch in file.iter_batches(rows, columns=columns, use_threads=False):
                    self._check(entry, batch)
                    bounds = ends(batch)
                    if last and bounds and bounds[0] <= last:
                        self._refuse(entry, _DISORDER)
                    last = bounds and bounds[1]
                    yield batch

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield one table a shard, with all columns or those named."""
        for index in range(len(self.manifest["shards"])):
            yield self.table(index, columns)

    def table(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """Return shard ``index``, with all columns or those named."""
        entry = self.manifest["shards"][index]
        with self.opened(entry) as file:
            table = file.read(columns)
        self._check(entry, table)
        return table

    def to_table(self, columns: list[str] | None = None) -> pa.Table:
        """Return all shards as one table in memory."""
        import pyarrow as pa

        empty = arrow_schema(self.version, self.has_ids).empty_table()
        return pa.concat_tables([empty if columns is None else empty.select(columns), *self.tables(columns)])

    def read_rows(self, shard: int, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
        """Return rows ``start`` to ``stop`` of a shard (by its number); only the row groups they lie in are read."""
        entry = self.manifest["shards"][shard]
        with self.opened(entry) as file:
            metadata = file.metadata
            bounds = [0, *accumulate(metadata.row_group(k).num_rows for k in range(metadata.num_row_groups))]
            groups = [k for k in range(len(bounds) - 1) if bounds[k] < stop and bounds[k + 1] > start]
            table = file.read_row_groups(groups, columns=columns, use_threads=False)
        found = table.slice(start - bounds[groups[0]] if groups else 0, stop - start)
        self._check(entry, found)
        self._check_neighbours(entry, found, start)
        return found

    def mask_counts(self, index: int, by_word: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return row int64 [N], sentence int32 [N], numbers of tokens and of masks int32 [N] of shard ``index``.

        Args:
            index: the shard's number.
            by_word: count the words that have a mask instead of masks.

        Raises:
            OutputError: the shards do not tell words.
        """
        if by_word:
            self.check_words()
        table = self.table(index, ["row", "sentence", "input_ids", "mask_index", *(["word"] if by_word else [])])
        tokens, masks = (list_lengths(table[name]) for name in ("input_ids", "mask_index"))
        if by_word:
            word = masked_words(flat(table["word"]), tokens, flat(table["mask_index"]), masks)
            sentence = np.repeat(np.arange(len(masks)), masks)
            again = (word[1:] == word[:-1]) & (sentence[1:] == sentence[:-1])
            masks = masks - np.bincount(sentence[1:][again], minlength=len(masks)).astype(np.int32)
        return numbers(table["row"]), numbers(table["sentence"]), tokens, masks

    def expected_masks(self, index: int) -> np.ndarray:
        """Return the sum of ``mask_prob`` of each sentence of shard ``index``, float64 [N]; NaN where it is null."""
        if self.version == 1:
            return np.full(self.manifest["shards"][index]["rows"], np.nan)
        prob = self.table(index, ["input_ids", "mask_prob"])["mask_prob"]
        owner = np.repeat(np.arange(len(prob)), list_lengths(prob))
        sums = np.bincount(owner, weights=flat(prob), minlength=len(prob))
        found: np.ndarray = np.where(present(prob), sums, np.nan)
        return found

    def check_words(self) -> None:
        """Raise OutputError unless the shards tell which word each token belongs to."""
        if self.version == 1:
            raise OutputError(f"{self.path}: its shards are of format 1, which does not tell words; score again")

    def _group(self, shard: int, number: int) -> pa.Table:
        """Return a group of ROW_GROUP rows of a shard; the last group may have fewer."""
        key = shard, number
        if key not in self._groups:
            while len(self._groups) >= CACHED_GROUPS:
                self._groups.popitem(last=False)
            stop = min((number + 1) * ROW_GROUP, self.manifest["shards"][shard]["rows"])
            self._groups[key] = self.read_rows(shard, number * ROW_GROUP, stop)
        self._groups.move_to_end(key)
        return self._groups[key]

    @contextmanager
    def opened(self, entry: Json) -> Iterator[pq.ParquetFile]:
        """Open a shard's file by its entry in the manifest; its footer is compared with the entry."""
        with open_parquet(self.path / entry["file"]) as file:
            if fault := file_content_fault(file, entry, self.version, self.has_ids):
                self._refuse(entry, fault)
            yield file

    def _check(self, entry: Json, part: pa.Table | pa.RecordBatch) -> None:
        if fault := value_fault(part, entry, self._vocab_size):
            self._refuse(entry, fault)

    def _check_neighbours(self, entry: Json, part: pa.Table, start: int) -> None:
        """Compare what was read with what stands before and after it, if that was read, too, in whatever order."""
        if (bounds := ends(part)) is None:
            return
        here, there = (entry["index"], start), (entry["index"], start + len(part))
        self._firsts[here], self._lasts[there] = first, last = bounds
        before, after = self._lasts.get(here), self._firsts.get(there)
        if (before and before >= first) or (after and after <= last):
            self._refuse(entry, _DISORDER)

    def _refuse(self, entry: Json, fault: str) -> NoReturn:
        raise OutputError(f"{self.path / entry['file']}: {fault}")


def masked_words(word: np.ndarray, tokens: np.ndarray, mask_index: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return int32 [M], the word of each mask.

    Args:
        word: int32 [T], of sentences of ``tokens`` int [N] tokens.
        mask_index: int32 [M], ``masks`` int [N] of each sentence.
    """
    found: np.ndarray = word[np.repeat(offsets_of(tokens)[:-1], masks) + mask_index]
    return found
