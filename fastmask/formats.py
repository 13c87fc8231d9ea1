"""File formats: each input row as (line, fields), lazily and resumably, so that a bad row can be passed over.

Only ``\\n`` ends a line. Every fault is an InputError that names file and line.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from .delimited import CsvRecords, strip_newline, tsv_records
from .errors import InputError, Unreadable
from .labels import NO_LABEL

STDIN = "-"
_SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_BUFFER = 1 << 20
_PARQUET_BATCH = 1024

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

Stream = io.BufferedReader | gzip.GzipFile
Record = tuple[int, object]
Fields = tuple[int, dict | None]  # (line, the row's fields; None for a blank line)
Records = tuple[Iterator[Record], Callable[[Record], Fields]]


def source_name(path: str) -> str:
    """The name of an input in messages."""
    return "<stdin>" if path == STDIN else path


def open_records(path: str, encoding: str, columns: Sequence[str]) -> AbstractContextManager[Records]:
    """Open an input: the iterator of its raw records, and the function that turns one into its fields.

    Both go on after an InputError, which is the fault of a single row, and end with an Unreadable.

    Args:
        columns: names that are used: the text's, which a table must have, the label's, and others.
    """
    opener = _open_parquet if _format(path)[0] == ".parquet" else _open_lines
    return opener(path, encoding, columns)


def type_name(value) -> str:
    """The JSON type of a value, for messages."""
    other = "a number" if isinstance(value, int | float) else type(value).__name__
    return _TYPE_NAMES.get(type(value), other)


def has_fields(path: str) -> bool:
    """Whether the rows of an input are more than a text each."""
    return _format(path)[0] != ".txt"


def _format(path: str) -> tuple[str, bool]:
    """Suffix that names the format, and whether the file is gzipped."""
    if path == STDIN:
        return ".txt", False
    name = Path(path.lower())
    gzipped = name.suffix == ".gz"
    return Path(name.stem if gzipped else name).suffix, gzipped


def base_name(path: str) -> str:
    """The name of a file without folder, .gz and format."""
    suffix, gzipped = _format(path)
    name = Path(path).name
    return name[: len(name) - len(suffix) - len(".gz") * gzipped] or name


def check_path(path: str) -> None:
    """Raise Unreadable for a path that is missing, a folder, closed to us, or of an unknown format."""
    if path == STDIN:
        return
    suffix, gzipped = _format(path)
    if os.path.isdir(path):
        raise Unreadable(path, None, None, "is a folder, expected a file")
    if not os.path.exists(path):
        raise Unreadable(path, None, None, "no such file")
    if suffix not in _SUFFIXES:
        raise Unreadable(path, None, None, f"unknown format, expected {', '.join(_SUFFIXES)} or their .gz")
    try:
        with open(path, "rb") as stream:
            if gzipped and not stream.read(1):
                raise Unreadable(path, None, None, "gzip stream is cut short")
    except OSError as error:
        raise Unreadable(path, None, None, f"cannot be read: {error.strerror}") from error


def standard_input_is_file() -> bool:
    """Whether standard input can be read more than once."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False


def open_input(path: str) -> io.BufferedReader:
    """The bytes of an input as they are."""
    if path == STDIN:
        try:
            # A reader of our own: a thread that waits in sys.stdin's would hold its lock when Python exits.
            return open(sys.stdin.fileno(), "rb", closefd=False)
        except (OSError, ValueError):
            return io.BufferedReader(sys.stdin.buffer)
    return open(path, "rb", _BUFFER)


def _open_stream(path: str) -> Stream:
    if _format(path)[1]:
        return gzip.open(path, "rb")  # no larger buffer around it: that would lose the data before a cut
    return open_input(path)


@contextmanager
def _open_lines(path: str, encoding: str, columns: Sequence[str]) -> Iterator[Records]:
    source = source_name(path)
    with _open_stream(path) as stream:
        try:
            codec = _line_codec(stream, encoding)
        except (EOFError, zlib.error, OSError) as error:
            raise Unreadable(source, 1, None, _stream_fault(error)) from error
        lines = zip(count(1), _raw_lines(stream, source, "\n".encode(codec)))
        decode = partial(_decode, source=source, codec=codec)
        suffix = _format(path)[0]
        if suffix == ".csv":
            table = CsvRecords(lines, decode, source, ",", columns[:2])
            yield table, table.fields
        elif suffix == ".tsv":
            yield tsv_records(lines, decode, source, columns[:2])
        elif suffix == ".jsonl":
            yield lines, lambda record: _json_fields(*record, source, codec)
        else:
            yield lines, lambda record: _text_fields(*record, source, codec, columns[0])


def _line_codec(stream: Stream, encoding: str) -> str:
    """The codec for single lines; takes a byte order mark off the stream."""
    name = codecs.lookup(encoding).name.replace("utf-8-sig", "utf-8")
    head = stream.peek(4)
    for mark, codec in _MARKS.get(name, ()):
        if head.startswith(mark):
            stream.read(len(mark))
            return codec
    return _WITHOUT_MARK.get(name, name)


def _raw_lines(stream: Stream, source: str, newline: bytes) -> Iterator[bytes]:
    line = 0
    try:
        for line, raw in enumerate(stream if newline == b"\n" else _split_wide(stream, newline), 1):  # noqa: B007
            yield raw
    except (EOFError, zlib.error, OSError) as error:
        raise Unreadable(source, line + 1, None, _stream_fault(error)) from error


def _stream_fault(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "gzip stream is cut short"
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return f"corrupt gzip stream: {error}"
    return f"cannot be read: {error}"


def _split_wide(stream: Stream, newline: bytes) -> Iterator[bytes]:
    """Lines in an encoding whose newline is not the byte 10, such as UTF-16; only aligned newlines count."""
    width, rest = len(newline), b""
    while block := stream.read1(_BUFFER):
        block = rest + block
        start = found = 0
        while (found := block.find(newline, found)) >= 0:
            if found % width:
                found += 1
                continue
            found += width
            yield block[start:found]
            start = found
        rest = block[start:]
    if rest:
        yield rest


def _decode(line: int, raw: bytes, source: str, codec: str) -> str:
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as error:
        bad = f"byte 0x{raw[error.start]:02x} at position {error.start} of the line"
        raise InputError(source, line, None, f"not {codec}: {bad} ({error.reason})") from None


def _text_fields(line: int, raw: bytes, source: str, codec: str, name: str) -> Fields:
    text = strip_newline(_decode(line, raw, source, codec))
    return line, None if not text or text.isspace() else {name: text}


class _NamedTwice(Exception):
    """A key that is twice in one JSON object."""


def _unrepeated(pairs: list[tuple[str, object]]) -> dict:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise _NamedTwice(next(name for name in names if names.count(name) > 1))
    return fields


_JSON = json.JSONDecoder(object_pairs_hook=_unrepeated)


def _json_fields(line: int, raw: bytes, source: str, codec: str) -> Fields:
    text = _decode(line, raw, source, codec)
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
def _open_parquet(path: str, encoding: str, columns: Sequence[str]) -> Iterator[Records]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        stream = stack.enter_context(_open_stream(path))
        if _format(path)[1]:  # Parquet is read from its end, which gzip cannot reach
            stream = stack.enter_context(_gunzip(stream, path))
        try:
            table = pq.ParquetFile(stream)
        except (pa.ArrowException, OSError) as error:
            raise Unreadable(path, None, None, f"not a readable Parquet file: {_first_line(error)}") from None
        _check_columns(table.schema_arrow, path, columns)
        names = [name for name in table.schema_arrow.names if name in columns]
        classes = _recorded_classes(table.schema_arrow, columns)
        yield _parquet_records(table, names, path), lambda record: _parquet_fields(*record, path, classes)


def _gunzip(stream: Stream, path: str):
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (handed to the caller's stack)
    try:
        shutil.copyfileobj(stream, copy, _BUFFER)
    except (EOFError, zlib.error, OSError) as error:
        copy.close()
        raise Unreadable(path, None, None, _stream_fault(error)) from error
    copy.seek(0)
    return copy


def _check_columns(schema, path: str, columns: Sequence[str]) -> None:
    import pyarrow.types as kinds

    text_field = columns[0]
    if text_field not in schema.names:
        raise Unreadable(path, None, text_field, f"no such column, the file has: {', '.join(schema.names)}")
    for name in columns:
        if schema.names.count(name) > 1:
            raise Unreadable(path, None, name, "the file has this column twice")
    kind = schema.field(text_field).type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    if not (kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)):
        raise Unreadable(path, None, text_field, f"expected a column of strings, found {kind}")


def _parquet_records(table, names: list[str], path: str) -> Iterator[Record]:
    from pyarrow import ArrowException

    line = 0
    try:
        for batch in table.iter_batches(_PARQUET_BATCH, columns=names):
            columns = dict(zip(names, (batch.column(name) for name in names), strict=True))
            for index in range(batch.num_rows):
                line += 1
                yield line, (columns, index)
    except (ArrowException, OSError) as error:
        raise Unreadable(path, line + 1, None, f"damaged Parquet file: {_first_line(error)}") from None


def _recorded_classes(schema, columns: Sequence[str]) -> dict[str, list[str]]:
    """The class names that the ``datasets`` library wrote into the file for the label and for aspects' polarities."""
    _, label_field, aspects_field = columns
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        aspects = features.get(aspects_field, {})
        aspect = aspects[0] if isinstance(aspects, list) else aspects.get("feature", {})
        found = {label_field: features.get(label_field, {}), aspects_field: aspect.get("polarity", {})}
        return {field: kind["names"] for field, kind in found.items() if kind.get("_type") == "ClassLabel"}
    except (AttributeError, LookupError, TypeError, ValueError):
        return {}  # some other program's metadata


def _parquet_fields(line: int, place: tuple[dict, int], path: str, classes: dict[str, list[str]]) -> Fields:
    columns, index = place
    try:
        fields = {name: column[index].as_py() for name, column in columns.items()}
    except UnicodeDecodeError as error:
        raise InputError(path, line, None, f"not utf-8: {error.reason}") from None
    for field in classes.keys() & fields.keys():
        # aspects are objects in a list, the label is a field of the row
        is_list = isinstance(fields[field], list)
        for owner, key in [(one, "polarity") for one in fields[field]] if is_list else [(fields, field)]:
            if isinstance(owner, dict) and key in owner:  # what is no aspect is said where aspects are made
                owner[key] = _class_name(owner[key], classes[field], path, line, field)
    return line, fields


def _class_name(value, names: list[str], path: str, line: int, field: str):
    is_number = isinstance(value, int | float) and value == value and value != NO_LABEL
    if not is_number:
        return value
    if value not in range(len(names)):
        raise InputError(path, line, field, f"{value} is none of the file's own {len(names)} classes")
    return names[int(value)]  # 1.0 is 1, in a column with gaps


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
