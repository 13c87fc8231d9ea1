"""File formats: each input row as (line, fields), lazily and resumably, so that a bad row can be passed over.

Only ``\\n`` ends a line. Every fault is an InputError that names file and line.
"""

from __future__ import annotations

import codecs
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

from ..core.errors import InputError, Unreadable, first_line
from ..core.labels import NO_LABEL
from ..core.plain import parse_json
from ..core.urls import path_of
from ..core.words import counted
from .delimited import CHOOSE, CsvRecords, strip_newline, tsv_records
from .streams import (
    MB,
    NumberedLines,
    Place,
    Stamp,
    Stream,
    format_of,
    open_stream,
    source_name,
    stream_fault,
)
from .tables import TABLES, Table, open_table

_BATCH = 1024

# A mark is taken off once per file, and settles the byte order, so that each line can be decoded by itself.
_MARKS = {
    "utf-8": ((codecs.BOM_UTF8, "utf-8"),),
    "utf-16-le": ((codecs.BOM_UTF16_LE, "utf-16-le"),),
    "utf-16-be": ((codecs.BOM_UTF16_BE, "utf-16-be"),),
    "utf-16": ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")),
    "utf-32": ((codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be")),
}
_WITHOUT_MARK = {"utf-16": f"utf-16-{sys.byteorder[0]}e", "utf-32": f"utf-32-{sys.byteorder[0]}e"}
_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}

Fields = tuple[int, dict | None]  # (line, the row's fields; None for a blank line)
Records = tuple[Iterator[Any], Callable[[Any], Fields]]


class Reading(NamedTuple):
    """How inputs are read.

    Attributes:
        encoding: of text, JSON and CSV inputs.
        columns: names that are used: the text's, which a table must have, the label's, that of aspects, and others.
        longest: bytes of the longest line or cell; 0 is no limit.
        stamps: those of the inputs that were hashed, by path.
    """

    encoding: str
    columns: Sequence[str]
    longest: int = 0
    stamps: Mapping[str, Stamp] = {}


def open_records(path: str, reading: Reading, place: Place | None = None) -> AbstractContextManager[Records]:
    """Open an input: the iterator of its raw records, and the function that turns one into its fields.

    With a ``place`` in it the records are those from the line, or row group, on that it names.

    Both can continue after an InputError, which is about a single row, but not after an Unreadable.
    """
    opener = _open_table if format_of(path)[0] in TABLES else _open_lines
    return opener(path, reading, place)


def type_name(value) -> str:
    """Return the JSON type of a value, for messages."""
    other = "a number" if isinstance(value, int | float) else type(value).__name__
    return _TYPE_NAMES.get(type(value), other)


def has_fields(path: str) -> bool:
    """Return whether the rows of an input have named fields."""
    return format_of(path)[0] != ".txt"


def base_name(path: str) -> str:
    """Return the name of a file without folder, .gz and format."""
    suffix, packing = format_of(path)
    name = path_of(path).name
    return name[: len(name) - len(suffix) - len(packing)] or name


@contextmanager
def _open_lines(path: str, reading: Reading, place: Place | None) -> Iterator[Records]:
    with open_stream(path, reading.stamps) as stream:
        lines, records = line_records(path, stream, reading)
        if place and place.offset:
            lines.go_to(place)
        yield records


def line_records(path: str, stream: Stream, reading: Reading) -> tuple[NumberedLines, Records]:
    """Return the lines of an input at its beginning, less those of a header, and its records."""
    source, columns, suffix = source_name(path), reading.columns, format_of(path)[0]
    cells = (*columns[:2], *columns[3:])  # which hold no aspects
    try:
        codec = _line_codec(stream, reading.encoding)
    except (EOFError, zlib.error, OSError) as error:
        raise Unreadable(source, 1, None, stream_fault(error)) from error
    lines = NumberedLines(stream, source, "\n".encode(codec), reading.longest)
    decode = partial(_decode, source=source, codec=codec, longest=reading.longest)
    if suffix == ".csv":
        table = CsvRecords(lines, decode, source, ",", cells)
        return lines, (table, table.fields)
    if suffix == ".tsv":
        return lines, tsv_records(lines, decode, source, cells)
    if suffix == ".jsonl":
        return lines, (lines, partial(_json_fields, source=source, decode=decode))
    return lines, (lines, partial(_text_fields, decode=decode, name=columns[0]))


def _line_codec(stream: Stream, encoding: str) -> str:
    """Return the codec for single lines; reads a byte order mark off the stream."""
    name = codecs.lookup(encoding).name.replace("utf-8-sig", "utf-8")
    head = stream.peek(4)
    for mark, codec in _MARKS.get(name, ()):
        if head.startswith(mark):
            stream.read(len(mark))
            return codec
    return _WITHOUT_MARK.get(name, name)


def _decode(line: int, raw: bytes, source: str, codec: str, longest: int) -> str:
    if longest and len(raw) > longest and len(raw.removesuffix("\n".encode(codec))) > longest:
        raise _too_long(source, line, None, "a line", longest)
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as error:
        bad = f"byte 0x{raw[error.start]:02x} at position {error.start} of the line"
        raise InputError(source, line, None, f"not {codec}: {bad} ({error.reason})") from None


def _too_long(source: str, line: int, field: str | None, what: str, longest: int) -> InputError:
    return InputError(source, line, field, f"{what} of more than {longest / MB:g} MB (--max-text-mb)")


def _text_fields(record: tuple[int, bytes], decode: Callable[[int, bytes], str], name: str) -> Fields:
    line, raw = record
    text = strip_newline(decode(line, raw))
    return line, None if not text or text.isspace() else {name: text}


class _NamedTwice(Exception):
    """A key that is twice in one JSON object."""


def _unrepeated(pairs: list[tuple[str, object]]) -> dict:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        times = Counter(name for name, _ in pairs)
        raise _NamedTwice(next(name for name in times if times[name] > 1))
    return fields


_JSON = json.JSONDecoder(object_pairs_hook=_unrepeated)


def _json_fields(record: tuple[int, bytes], source: str, decode: Callable[[int, bytes], str]) -> Fields:
    line, raw = record
    text = decode(line, raw)
    if text.isspace():
        return line, None
    try:
        fields = _JSON.decode(text)
    except _NamedTwice as twice:
        raise InputError(source, line, str(twice), "is in the row twice") from None
    except json.JSONDecodeError as error:
        raise InputError(source, line, None, f"broken JSON at column {error.pos + 1}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(source, line, None, f"unreadable JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(source, line, None, f"expected a JSON object, found {type_name(fields)}")
    return line, fields


@contextmanager
def _open_table(path: str, reading: Reading, place: Place | None) -> Iterator[Records]:
    columns = reading.columns
    with open_stream(path, reading.stamps) as stream, open_table(path, stream, reading.longest) as table:
        _check_columns(table.schema, path, columns)
        names = [name for name in table.schema.names if name in columns]
        classes = _recorded_classes(table.schema, columns)
        records = _table_records(table, names, path, reading.longest, place or Place(0, 0, 1, 0))
        yield records, partial(_table_fields, path=path, classes=classes, longest=reading.longest)


def _check_columns(schema, path: str, columns: Sequence[str]) -> None:
    import pyarrow.types as kinds

    text_field = columns[0]
    if text_field not in schema.names:
        raise Unreadable(path, None, text_field, f"no such column, the file has: {', '.join(schema.names)}{CHOOSE}")
    for name in columns:
        if schema.names.count(name) > 1:
            raise Unreadable(path, None, name, "the file has this column twice")
    kind = schema.field(text_field).type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    if not (kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)):
        raise Unreadable(path, None, text_field, f"expected a column of strings, found {kind}")


def _table_records(
    table: Table, names: list[str], path: str, longest: int, place: Place
) -> Iterator[tuple[int, tuple[dict, int, list[str]]]]:
    from pyarrow import ArrowException

    line = place.line - 1
    try:
        for batch in table.batches(_BATCH, place.offset, names):
            columns = dict(zip(names, (batch.column(name) for name in names), strict=True))
            large = [name for name in names if longest and columns[name].nbytes > longest]
            for index in range(batch.num_rows):
                line += 1
                yield line, (columns, index, large)
    except (ArrowException, OSError) as error:
        raise Unreadable(
            path, line + 1, None, f"damaged {TABLES[format_of(path)[0]]} file: {first_line(error)}"
        ) from None


def _recorded_classes(schema, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the class names that ``datasets`` wrote into the file for the label and for aspects' polarities."""
    _, label_field, aspects_field, *_ = columns
    try:
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        aspects = features.get(aspects_field, {})
        aspect = aspects[0] if isinstance(aspects, list) else aspects.get("feature", {})
        found = {label_field: features.get(label_field, {}), aspects_field: aspect.get("polarity", {})}
        names = {field: kind["names"] for field, kind in found.items() if kind.get("_type") == "ClassLabel"}
        return {field: each for field, each in names.items() if type(each) is list and set(map(type, each)) == {str}}
    except (AttributeError, LookupError, TypeError, ValueError):
        return {}  # some other program's metadata


def _table_fields(
    record: tuple[int, tuple[dict, int, list[str]]], path: str, classes: dict[str, list[str]], longest: int
) -> Fields:
    line, (columns, index, large) = record
    for name in large:
        if _cell_bytes(columns[name], index) > longest:
            raise _too_long(path, line, name, "a cell", longest)
    fields = {}
    try:
        for name, column in columns.items():
            fields[name] = column[index].as_py()
    except UnicodeDecodeError as error:
        raise InputError(path, line, name, f"not utf-8: {error.reason}") from None
    except (ArithmeticError, LookupError, ValueError) as error:  # a date that Python has not, an unknown time zone
        raise InputError(path, line, name, f"unreadable {column.type}: {first_line(error)}") from None
    for field in classes.keys() & fields.keys():
        # aspects are objects in a list, the label is a field of the row
        is_list = isinstance(fields[field], list)
        for owner, key in [(one, "polarity") for one in fields[field]] if is_list else [(fields, field)]:
            if isinstance(owner, dict) and key in owner:  # what is no aspect is said where aspects are made
                owner[key] = _class_name(owner[key], classes[field], path, line, field)
    return line, fields


def _cell_bytes(column, index: int) -> int:
    """Return about how many bytes a cell has, and of a text exactly, without copying them."""
    cell = column[index]
    if not cell.is_valid:
        return 0
    text = cell.value if hasattr(column, "dictionary") else cell
    return text.as_buffer().size if hasattr(text, "as_buffer") else column.slice(index, 1).nbytes


def _class_name(value, names: list[str], path: str, line: int, field: str):
    is_number = isinstance(value, int | float) and value == value and value != NO_LABEL
    if not is_number:
        return value
    if value not in range(len(names)):
        raise InputError(path, line, field, f"{value} is none of the file's own {counted(len(names), 'class')}")
    return names[int(value)]  # 1.0 is 1, in a column with gaps
