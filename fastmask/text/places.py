"""Where each shard's rows begin, found in the pass that hashes the inputs, so that nobody reads what is before it."""

from __future__ import annotations

import codecs
import io
import re
import zlib
from functools import partial

import numpy as np

from ..core.errors import InputError, Unreadable
from .delimited import CsvRecords, simple_records
from .files import Reading, line_records
from .packed import unpacked
from .streams import BUFFER, NumberedLines, Place, Stream, format_of, open_input
from .tables import TABLES, open_table

_PLAIN = re.compile(r"utf-8|ascii$|iso8859-\d+$|cp125\d$|koi8-")


class Places:
    """Where each shard's rows begin, in inputs that ``add`` is called for in order.

    Args:
        reading: how they are read.
        shard_rows: rows of a shard.

    Attributes:
        rows: how many rows there are so far. What cannot be read counts as a row, the last one.
        found: the place of each shard.
    """

    def __init__(self, reading: Reading, shard_rows: int):
        self._reading, self._shard_rows = reading, shard_rows
        self._input, self._is_cut = -1, False
        self.rows = 0
        self.found: list[Place] = []

    def add(self, path: str, stream: io.BufferedReader) -> None:
        """Take the next input, whose bytes as they are on disk a stream gives; it need not be read to its end."""
        self._input += 1
        if self._is_cut:
            return
        suffix, packing = format_of(path)
        try:
            content = unpacked(stream, packing)
            if suffix in TABLES:
                self._add_table(path, content, bool(packing))
            else:
                self._add_lines(path, content)
        except Unreadable:
            self._is_cut = True  # whoever reads as far as that will say so

    def _row(self, offset: int, line: int, skip: int = 0) -> None:
        if self.rows % self._shard_rows == 0:
            self.found.append(Place(self._input, offset, line, skip))
        self.rows += 1

    def _firsts(self, number: int) -> range:
        """Return which of the next rows, so many, are the first of a shard."""
        return range(-self.rows % self._shard_rows, number, self._shard_rows)

    def _add_table(self, path: str, stream: Stream, is_packed: bool) -> None:
        group, line = 0, 1
        try:
            # a table is read from its end, or twice; a stream that is hashed is read forward, once
            with (
                open_input(path) as file,
                open_table(path, stream if is_packed else file, self._reading.longest) as table,
            ):
                for number in table.group_rows():
                    self.found += [Place(self._input, group, line, row) for row in self._firsts(number)]
                    self.rows, group, line = self.rows + number, group + 1, line + number
        except Unreadable:
            self._row(group, line)
            raise

    def _add_lines(self, path: str, stream: Stream) -> None:
        """Add the rows of a format by lines."""
        try:
            lines, (records, _) = line_records(path, stream, self._reading)
        except Unreadable:
            self._row(0, 1)
            raise
        if isinstance(records, CsvRecords):
            self._add_records(stream, lines, records)
        elif lines.newline == b"\n":
            self._count_lines(stream, lines.number + 1)
        else:
            for number, _ in lines:
                self._row(lines.offset, number)

    def _count_lines(self, stream: Stream, line: int) -> None:
        """Add the lines that follow as rows, the first of them with that number; no line is cut out."""
        offset, at_start = stream.tell(), True
        try:
            for block in iter(partial(stream.read1, BUFFER), b""):
                line += self._count_block(block, offset, line, at_start)
                offset, at_start = offset + len(block), block.endswith(b"\n")
        except (EOFError, zlib.error, OSError) as error:
            if at_start:
                self._row(offset, line)
            raise Unreadable("", line, None, "cut") from error

    def _count_block(self, block: bytes, offset: int, line: int, at_start: bool = True) -> int:
        """Add the lines that begin in a block; return how many they are."""
        ends = np.frombuffer(block, np.uint8) == ord("\n")
        number = int(np.count_nonzero(ends)) + at_start - block.endswith(b"\n")
        if firsts := self._firsts(number):
            begin = offset + 1 + np.flatnonzero(ends)
            begin = np.concatenate([[offset], begin]) if at_start else begin
            self.found += [Place(self._input, int(begin[row]), line + row, 0) for row in firsts]
        self.rows += number
        return number

    def _add_records(self, stream: Stream, lines: NumberedLines, table: CsvRecords) -> None:
        """Add records that may be of several lines, as they are read; those of one line are counted if all is well."""
        starts, simple = lines.remember(), simple_records(table.delimiter) if self._is_plain(lines) else None
        offset, first, skip = 0, 1, -1
        while True:
            again = table.next_line()
            begins = (again or lines.number + 1) if again is not None else None
            if again == 0:
                starts.clear()
                if simple and (block := self._simple(stream, lines, simple)):
                    line, offset = lines.number + 1, lines.end
                    number = self._count_block(block, offset, line)
                    offset, first, skip = offset + block[:-1].rfind(b"\n") + 1, line + number - 1, 0
                    lines.passed(number, len(block))
                    continue
            try:
                next(table)
            except StopIteration:
                return
            except Unreadable:
                self._row(offset, first, skip + 1)
                raise
            except InputError:
                pass
            offset, first, skip = (offset, first, skip + 1) if begins is None else (starts[begins], begins, 0)
            self._row(offset, first, skip)

    def _is_plain(self, lines: NumberedLines) -> bool:
        """Return whether bytes of ASCII in an input are always characters of it."""
        return lines.newline == b"\n" and bool(_PLAIN.match(codecs.lookup(self._reading.encoding).name))

    def _simple(self, stream: Stream, lines: NumberedLines, simple: re.Pattern[bytes]) -> bytes:
        """Read what of the next block are records of a line each."""
        if not lines.line.endswith(b"\n"):  # one that is too long, or the last
            return b""
        try:
            run = simple.match(stream.peek(1)[: self._reading.longest or None])
        except (EOFError, zlib.error, OSError):  # which reading meets, too
            return b""
        return stream.read(run.end()) if run else b""
