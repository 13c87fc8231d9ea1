"""Delimited text: .csv, whose fields may be quoted, and .tsv, whose fields are not. A bad row costs no other row."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from typing import NamedTuple

from ..core.errors import InputError, Unreadable

_FIELD_CHARS = 1 << 28  # csv's own limit, 131,072, is below the length of real documents
_QUOTED_CHARS = 1 << 24  # a quoted field longer than this was left open
_QUOTED = r'"[^"]*(?:""[^"]*)*"'
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
CHOOSE = " (--text-field names another)"
"""What to do where a file has no column of the text."""

Decode = Callable[[int, bytes], str]
"""A line's number and bytes -> its text; InputError for bytes that are not in the encoding."""


def simple_records(delimiter: str) -> re.Pattern[bytes]:
    """Return the pattern of records of one line each, as many as follow each other, that nothing is wrong with."""
    quoted, plain = r'"[^"\n]*+(?:""[^"\n]*+)*+"', rf'[^"{delimiter}\r\n][^{delimiter}\r\n]*+'
    field = f"(?:{quoted}|{plain})?+"
    return re.compile(rf"(?:{field}(?:{delimiter}{field})*+\r?\n)*+".encode())


def strip_newline(text: str) -> str:
    """Return a line without the newline, or carriage return and newline, at its end."""
    return text.removesuffix("\n").removesuffix("\r")


class _Line(NamedTuple):
    number: int
    text: str
    fault: InputError | None


class _OpenTooLong(Exception):
    """A record of several lines has grown past _QUOTED_CHARS."""


class _Lines:
    """The lines that csv.reader takes; those of the record in work are kept, to be read again."""

    def __init__(self, numbered: Iterator[tuple[int, bytes]], decode: Decode):
        self._numbered, self._decode = numbered, decode
        self._again: deque[_Line] = deque()
        self.begin()

    def begin(self) -> None:
        """Forget the last record."""
        self.record: list[_Line] = []
        self._chars = 0

    def next_again(self) -> int:
        """Return the number of the next line if it has been read before; else 0."""
        return self._again[0].number if self._again else 0

    def read_again(self, after: int) -> None:
        """Hand out the record's lines that follow line number ``after`` once more."""
        self._again.extendleft(line for line in reversed(self.record) if line.number > after)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._chars > _QUOTED_CHARS and len(self.record) > 1:
            raise _OpenTooLong
        line = self._again.popleft() if self._again else self._line(*next(self._numbered))
        self.record.append(line)
        self._chars += len(line.text)
        return line.text

    def _line(self, number: int, raw: bytes) -> _Line:
        try:
            return _Line(number, self._decode(number, raw), None)
        except InputError as fault:
            # the record is read to its end, and refused as a whole
            return _Line(number, raw.decode("latin-1"), fault)


class CsvRecords:
    """Records of a CSV file: (line where it starts, its fields; none for a blank line).

    The iterator can be continued after it has raised InputError for a row. After a quotation mark that is not closed as
    it should be, it continues at the line after the one where the mark was opened.
    """

    def __init__(
        self, lines: Iterator[tuple[int, bytes]], decode: Decode, source: str, delimiter: str, columns: Sequence[str]
    ):
        self.source, self.delimiter = source, delimiter
        self._lines, self._lost = _Lines(lines, decode), deque[InputError]()
        csv.field_size_limit(max(csv.field_size_limit(), _FIELD_CHARS))
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)
        self._names: list[str] = []
        try:
            self._names = [name.strip() for name in self._record() or []]
        except InputError as fault:
            raise Unreadable(fault.source, fault.line, fault.field, f"broken header: {fault.reason}") from None
        self._columns = _places(self._names, columns, source, delimiter)

    def __iter__(self) -> CsvRecords:
        return self

    def __next__(self) -> tuple[int, list[str]]:
        if self._lost:
            raise self._lost.popleft()
        fields = self._record()
        if fields is None:
            raise StopIteration
        start, *others = (line.number for line in self._lines.record)
        if fields and len(fields) != len(self._names):
            # a record of several lines may be one that an open quotation mark made of several rows
            self._lost.extend(InputError(self.source, line, None, f"lost with line {start}") for line in others)
            extent = f", in the record of lines {start} to {others[-1]}" if others else ""
            raise InputError(self.source, start, None, _width(fields, self._names) + extent)
        return start, fields

    def next_line(self) -> int | None:
        """Return the number of the line that the next row begins with, 0 where it has not been read; None where the
        next row is one that was lost with the last record.

        Reading can begin at a line that a row begins with.
        """
        return None if self._lost else self._lines.next_again()

    def fields(self, record: tuple[int, list[str]]) -> tuple[int, dict | None]:
        """Return the line and the columns that are used, None for a blank line."""
        line, values = record
        return line, {name: values[place] for name, place in self._columns.items()} if values else None

    def _record(self) -> list[str] | None:
        """Return the next record, None at the end."""
        self._lines.begin()
        try:
            fields = next(self._reader, None)
        except (csv.Error, _OpenTooLong) as error:
            fault = self._fault(error)
            raise self._lines.record[0].fault or fault from None
        for line in self._lines.record:
            if line.fault is not None:
                raise line.fault
        return fields

    def _fault(self, error: Exception) -> InputError:
        """Return what is wrong with the record that csv.reader gave up, whose good lines are then read again."""
        start, text = self._lines.record[0].number, "".join(line.text for line in self._lines.record)
        if (opened := _open_quote(text, self.delimiter)) is None:
            reason = "carriage return in a field that is not quoted" if "new-line" in str(error) else str(error)
            return InputError(self.source, start, None, f"broken CSV: {reason}")
        column, at = opened
        line = start + text.count("\n", 0, at)
        self._lines.read_again(line)
        name = self._names[column] if column < len(self._names) else None
        reason = "a quotation mark opens here and is not closed"
        if closed := re.compile(_QUOTED).match(text, at):
            last = start + text.count("\n", 0, closed.end())
            reason = f"a quotation mark opens here and closes on line {last} before the end of a field"
        return InputError(self.source, line, name, reason)


def _open_quote(text: str, delimiter: str) -> tuple[int, int] | None:
    """Return (column, place) of the quotation mark that opens a field and does not close it, None if all do."""
    field = re.compile(rf'{_QUOTED}(?=[{delimiter}\r\n]|\Z)|(?!")[^{delimiter}\r\n]*')
    at = 0
    for column in count():
        found = field.match(text, at)
        if found is None:
            return column, at
        at = found.end() + 1
        if text[found.end() : at] != delimiter:
            break
    return None


def tsv_records(lines: Iterator[tuple[int, bytes]], decode: Decode, source: str, columns: Sequence[str]):
    """Return the records of a .tsv and the function from one to its fields, as ``formats.open_records`` does.

    A row is a line and a quotation mark is a character like others, as in GLUE's files. Two things tell that a field
    was quoted after all: its own quotation marks are all doubled, or the header is quoted; then the whole file is read
    as .csv is.
    """
    first = next(lines, (1, b""))
    try:
        names = strip_newline(decode(*first)).split("\t")
    except InputError as fault:
        raise Unreadable(fault.source, fault.line, fault.field, fault.reason) from None
    if any(len(name) > 1 and name[0] == name[-1] == '"' for name in names):
        table = CsvRecords(chain([first], lines), decode, source, "\t", columns)
        return table, table.fields
    names = [name.strip() for name in names]
    places = _places(names, columns, source, "\t")

    def fields(record: tuple[int, bytes]) -> tuple[int, dict | None]:
        line, text = record[0], strip_newline(decode(*record))
        values = text.split("\t")
        if text and len(values) != len(names):
            quoted = "; a .tsv has no quoted fields, a row is a line" if '"' in text else ""
            raise InputError(source, line, None, _width(values, names) + quoted)
        return line, {name: _unquoted(values[place]) for name, place in places.items()} if text else None

    return lines, fields


def _unquoted(field: str) -> str:
    """Return what was quoted, if the field cannot be anything else: "He said ""no"" to it." """
    inner = field[1:-1]
    if not (field[:1] == field[-1:] == '"' and '""' in inner) or '"' in inner.replace('""', ""):
        return field
    return inner.replace('""', '"')


def _places(names: list[str], columns: Sequence[str], source: str, delimiter: str) -> dict[str, int]:
    """Return the place of each of ``columns`` (the text's first) that the header has.

    Raises:
        Unreadable: the text's is not there, or one is there twice.
    """
    if any("\r" in name for name in names):
        raise Unreadable(source, 1, None, "lines end in a carriage return alone, expected newlines")
    if columns[0] not in names:
        header = ", ".join(names)
        others = [word for mark, word in _SEPARATORS.items() if mark != delimiter and mark in header]
        hint = f"; are its fields separated by {others[0]}?" if len(names) == 1 and others else ""
        raise Unreadable(source, 1, columns[0], f"no such column, the header has: {header}{hint or CHOOSE}")
    for name in columns:
        if names.count(name) > 1:
            raise Unreadable(source, 1, name, "the header has this column twice")
    return {name: names.index(name) for name in columns if name in names}


def _width(fields: list[str], names: list[str]) -> str:
    return f"{len(fields)} fields where the header has {len(names)}"
