"""Parquet and Arrow files: their columns, and batches of rows from any group of rows on."""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedIOBase
from typing import Any, Protocol

from ..core.errors import Unreadable, first_line
from ..core.urls import path_of
from .streams import BUFFER, Stream, format_of, stream_fault

TABLES = {".parquet": "Parquet", ".arrow": "Arrow"}
"""Formats of tables."""
MOST_TIMES = 200
"""The most that a compressed Parquet file, which is compressed already, may grow when it is unpacked."""


class Table(Protocol):
    """A file's rows by column, in groups."""

    @property
    def schema(self) -> Any:
        """Return Arrow's schema of it."""
        ...

    def group_rows(self) -> Iterator[int]:
        """Yield how many rows each group has; Unreadable where the file is damaged."""
        ...

    def batches(self, rows: int, first_group: int, columns: Sequence[str]) -> Iterator[Any]:
        """Yield record batches of at most so many rows."""
        ...


class _Parquet:
    def __init__(self, stream: Stream):
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(stream)
        self.schema = self._file.schema_arrow

    def group_rows(self) -> Iterator[int]:
        return (self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups))

    def batches(self, rows: int, first_group: int, columns: Sequence[str]) -> Iterator[Any]:
        groups = range(first_group, self._file.num_row_groups)
        return self._file.iter_batches(rows, row_groups=groups, columns=columns)


class _Arrow:
    """Both of Arrow's own formats; what is before a group has to be read, too, but is not looked at."""

    def __init__(self, stream: Stream, path: str):
        import pyarrow as pa

        self._path = path
        self._is_file = stream.peek(6)[:6] == b"ARROW1"
        self._reader = pa.ipc.open_file(stream) if self._is_file else pa.ipc.open_stream(stream)
        self.schema = self._reader.schema

    def _groups(self) -> Iterator[Any]:
        if self._is_file:
            return (self._reader.get_batch(group) for group in range(self._reader.num_record_batches))
        return iter(self._reader)

    def group_rows(self) -> Iterator[int]:
        import pyarrow as pa

        try:
            yield from (group.num_rows for group in self._groups())
        except (pa.ArrowException, OSError) as error:
            raise Unreadable(self._path, None, None, f"damaged Arrow file: {first_line(error)}") from None

    def batches(self, rows: int, first_group: int, columns: Sequence[str]) -> Iterator[Any]:
        for number, group in enumerate(self._groups()):
            if number >= first_group:
                chosen = group.select(columns)
                chosen.validate(full=True)
                yield from (chosen.slice(start, rows) for start in range(0, len(chosen), rows))


@contextmanager
def open_table(path: str, stream: Stream, longest: int) -> Iterator[Table]:
    """Open a table whose bytes, unpacked, are a stream's."""
    import pyarrow as pa

    suffix, packing = format_of(path)
    with ExitStack() as stack:
        if packing:  # Parquet is read from its end, which a compressed one does not show
            stream = stack.enter_context(_unpacked(stream, path, longest))
        try:
            table = _Parquet(stream) if suffix == ".parquet" else _Arrow(stream, path)
            table.schema.names  # noqa: B018 (each name is decoded)
        except UnicodeDecodeError:
            raise Unreadable(path, None, None, "the name of a column is not UTF-8") from None
        except (pa.ArrowException, OSError) as error:
            raise Unreadable(path, None, None, f"not a readable {TABLES[suffix]} file: {first_line(error)}") from None
        yield table


def _unpacked(stream: BufferedIOBase, path: str, longest: int) -> Any:
    """Return a temporary file with what a table unpacks to: no more than real ones do where there is a limit."""
    copy = tempfile.TemporaryFile(buffering=BUFFER)  # noqa: SIM115 (handed to the caller's stack)
    most = longest + MOST_TIMES * path_of(path).stat().st_size if longest else math.inf
    try:
        while block := stream.read(BUFFER):
            copy.write(block)
            if copy.tell() > most:
                copy.close()
                reason = f"unpacks to more than {MOST_TIMES} times its size (--max-text-mb 0 lets it)"
                raise Unreadable(path, None, None, reason)
    except (EOFError, zlib.error, OSError) as error:
        copy.close()
        raise Unreadable(path, None, None, stream_fault(error)) from error
    copy.seek(0)
    return copy
