"""Inputs as streams of bytes, and their lines, never holding more than the longest line allowed."""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from ..core.errors import Unreadable
from ..core.plain import is_special
from ..core.urls import Url, UrlReader, is_url, path_of
from .packed import PACKINGS, Stream, unpacked

STDIN = "-"
MB = 10**6
BUFFER = 1 << 20
_PACKED_BUFFER = 1 << 16
SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow")


class Stamp(NamedTuple):
    """Size, times and number of a file: they show, without reading it, whether it is still the same."""

    size: int
    modified: int
    number: int
    changed: int

    @classmethod
    def of(cls, file: io.BufferedReader | str) -> Stamp:
        """Return the stamp of an open file, or of one by its name; OSError if it is gone.

        In a store it is size and version as they are now; what is read there, too, is of the version that was opened,
        or a fault.
        """
        place = path_of(file) if isinstance(file, str) else _url_of(file)
        if isinstance(place, Url):
            place.refresh()
            size, _, version = place.stat()
            return cls(size, version, 0, 0)
        there = os.stat(place or file.fileno())  # type: ignore[union-attr]
        return cls(there.st_size, there.st_mtime_ns, there.st_ino, there.st_ctime_ns)

    @property
    def of_any_machine(self) -> list[int]:
        """Return what is the same wherever a shared file system, or a copy with its times, is looked at."""
        return [self.size, self.modified]

    def same_content(self, other: Stamp) -> bool:
        """Return whether nothing but the name, the rights or the links may be another."""
        return self[:3] == other[:3]


class Place(NamedTuple):
    """Where in the inputs a row stands, so that nothing before it need be read.

    Attributes:
        input: number of the input, from 0.
        offset: bytes of it, unpacked, before the line that the row, or one before it, begins with, 0 where that is the
            first; of Parquet the number of a row group.
        line: number of that line, or of the row group's first row, from 1.
        skip: how many rows are between.
    """

    input: int
    offset: int
    line: int
    skip: int


def source_name(path: str) -> str:
    """Return the name of an input in messages."""
    return "<stdin>" if path == STDIN else path


def format_of(path: str) -> tuple[str, str]:
    """Return the suffix that names the format, and that of a compressed file, else ""."""
    if path == STDIN:
        return ".txt", ""
    name = Path(path_of(path).name.lower())
    packing = name.suffix if name.suffix in PACKINGS else ""
    return Path(name.stem if packing else name).suffix, packing


def check_path(path: str) -> None:
    """Raise Unreadable for a path that is missing, a folder, closed to us, or of an unknown format."""
    if path == STDIN:
        if sys.stdin is None:
            raise Unreadable(source_name(path), None, None, "standard input is closed")
        return
    suffix, packing = format_of(path)
    try:
        size = _size_in_store(path) if is_url(path) else _size_on_disk(path)
    except OSError as error:
        raise Unreadable(path, None, None, f"cannot be read: {error.strerror}") from error
    if suffix not in SUFFIXES:
        raise Unreadable(path, None, None, f"unknown format, expected {', '.join(SUFFIXES)}, or their .gz or .zst")
    if packing and not size:
        raise Unreadable(path, None, None, f"{PACKINGS[packing]} stream is cut short")


def _size_on_disk(path: str) -> int:
    """Return the size of a file that can be opened; Unreadable for what is no file, OSError for one closed to us."""
    if os.path.isdir(path):
        raise Unreadable(path, None, None, "is a folder, expected a file")
    if not os.path.exists(path):
        raise Unreadable(path, None, None, "no such file")
    if is_special(path):
        raise Unreadable(path, None, None, "is not a regular file; - reads a stream from standard input")
    with open_input(path) as stream:
        return os.fstat(stream.fileno()).st_size


def _size_in_store(path: str) -> int:
    """Return the size of an object, by one request at most; Unreadable for a folder, OSError for what is not there."""
    place = Url(path)
    try:
        found = place.stat()
    except FileNotFoundError:  # a driver remembers what it has listed
        place.refresh()
        found = place.stat()
    if stat.S_ISDIR(found.st_mode):
        raise Unreadable(path, None, None, "is a folder, expected a file")
    return found.st_size


def _url_of(file: io.BufferedReader) -> Url | None:
    raw = getattr(file, "raw", None)
    return raw.url if isinstance(raw, UrlReader) else None


def standard_input_is_file() -> bool:
    """Return whether standard input can be read more than once."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False


def open_input(path: str, buffer: int = BUFFER) -> io.BufferedReader:
    """Open an input without unpacking it, to be read so many bytes at a time; a store has a size of its own."""
    if path == STDIN:
        try:
            # A reader of our own: a thread that waits in sys.stdin's would hold its lock when Python exits.
            return open(sys.stdin.fileno(), "rb", closefd=False)
        except (OSError, ValueError):
            return io.BufferedReader(cast(io.RawIOBase, sys.stdin.buffer))
    place = path_of(path)
    return place.open() if isinstance(place, Url) else cast(io.BufferedReader, open(place, "rb", buffer))


def open_stream(path: str, stamps: Mapping[str, Stamp]) -> Stream:
    """Return the bytes of an input, uncompressed.

    Raises:
        Unreadable: it is another file than the one that ``stamps``, by path, is of.
    """
    try:
        packing = format_of(path)[1]
        file = open_input(path, _PACKED_BUFFER if packing else BUFFER)
        if path in stamps and not stamps[path].same_content(Stamp.of(file)):
            file.close()
            raise changed(path)
    except OSError as error:
        raise Unreadable(source_name(path), None, None, stream_fault(error)) from error
    if path == STDIN and path in stamps:  # a file, which may have been read before
        file.seek(0)
    return unpacked(file, packing)


def changed(path: str) -> Unreadable:
    """Return the fault of an input that was hashed and then written to or replaced."""
    reason = (
        "has changed since it was hashed; what is scored must be what was hashed, so run it again on what it is now"
    )
    return Unreadable(source_name(path), None, None, reason)


def raw_lines(
    stream: Stream, source: str, newline: bytes, longest: int, first: int = 1, offset: int = 0
) -> Iterator[tuple[int, bytes]]:
    """Yield where each line begins and the line with its newline; of more than ``longest`` bytes, a little more.

    Args:
        longest: 0 is no limit.
        first, offset: the number of the first line, for messages, and how many bytes stand before it.
    """
    line, is_wide = first - 1, newline != b"\n"
    lines = _split_wide(stream, newline, longest, offset) if is_wide else _split(stream, longest, offset)
    try:
        for line, item in enumerate(lines, first):  # noqa: B007
            yield item
    except (EOFError, zlib.error, OSError) as error:
        raise Unreadable(source, line + 1, None, stream_fault(error)) from error


class NumberedLines:
    """The lines of a stream as (number, line), from where the stream is; arguments as in ``raw_lines``.

    Attributes:
        newline: as given.
        number, offset, line: number of the last line, where it begins, its bytes.
    """

    def __init__(self, stream: Stream, source: str, newline: bytes, longest: int):
        self._how, self.newline = (stream, source, newline, longest), newline
        self.number, self.offset, self.line = 0, stream.tell() if stream.seekable() else 0, b""
        self._lines = raw_lines(*self._how, offset=self.offset)
        self._starts: dict[int, int] | None = None

    def remember(self) -> dict[int, int]:
        """Return what gets, from now on, the offset of each line by its number."""
        self._starts = {}
        return self._starts

    def go_to(self, place: Place) -> None:
        """Continue at a place; Unreadable if the stream cannot be read up to it."""
        stream, source, *_ = self._how
        try:
            stream.seek(place.offset)
        except (EOFError, zlib.error, OSError) as error:
            raise Unreadable(source, place.line, None, stream_fault(error)) from error
        self.number = place.line - 1
        self._lines = raw_lines(*self._how, place.line, place.offset)

    @property
    def end(self) -> int:
        """Return where the last line, of which nothing is cut, ends."""
        return self.offset + len(self.line)

    def passed(self, number: int, size: int) -> None:
        """Take note of lines, so many, of that size, that somebody else has read after the last one."""
        self.number, self.offset = self.number + number, self.end + size
        self.line = b""
        self._lines = raw_lines(*self._how, self.number + 1, self.offset)

    def __iter__(self) -> NumberedLines:
        return self

    def __next__(self) -> tuple[int, bytes]:
        self.offset, self.line = next(self._lines)
        self.number += 1
        if self._starts is not None:
            self._starts[self.number] = self.offset
        return self.number, self.line


def _split(stream: Stream, longest: int, offset: int) -> Iterator[tuple[int, bytes]]:
    room = longest + 1 if longest else -1
    for raw in iter(partial(stream.readline, room), b""):
        yield offset, raw
        offset += len(raw)
        if len(raw) == room:
            offset += _finish_line(stream, raw)


def _finish_line(stream: Stream, piece: bytes) -> int:
    """Skip the rest of a line after a piece of it; return its length."""
    skipped = 0
    while piece and not piece.endswith(b"\n"):
        piece = stream.readline(BUFFER)
        skipped += len(piece)
    return skipped


def stream_fault(error: Exception) -> str:
    """Return the message for an error while a stream is read."""
    if isinstance(error, EOFError):
        return "gzip stream is cut short"
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return f"corrupt gzip stream: {error}"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _split_wide(stream: Stream, newline: bytes, longest: int, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield lines in an encoding whose newline is not the byte 10, such as UTF-16; only aligned newlines count."""
    width, rest = len(newline), b""
    lost = 0  # bytes taken out of the line in work
    while block := stream.read1(BUFFER):
        # of the rest only the last bytes may belong to a newline
        start, found = 0, max(0, len(rest) - width)
        block = rest + block
        while (found := block.find(newline, found)) >= 0:
            if found % width:
                found += 1
                continue
            found += width
            yield offset, block[start:found]
            offset += found - start + lost
            start, lost = found, 0
        rest = block[start:]
        if longest and len(rest) > longest + 2 * width:
            kept = (longest // width + 1) * width
            cut = rest[:kept] + rest[len(rest) - (len(rest) - kept) % width - width :]
            lost += len(rest) - len(cut)
            rest = cut
    if rest:
        yield offset, rest
