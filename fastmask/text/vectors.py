"""Word vectors in the text formats of word2vec and GloVe, read as a stream: what is not asked for is not kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from ..core.errors import InputError, Unreadable
from ..core.plain import check_regular
from .streams import Stamp, open_input, open_stream, raw_lines
from .words import word_form

MOST_NUMBERS = 1 << 16
MOST_BYTES = 1 << 22
"""Of a line; a longer one is cut."""
BATCH = 4096
"""Vectors that are yielded at a time."""


class WordVectors:
    """A file of word vectors, also gzipped: a word and its numbers a line, after a line of two numbers or none.

    Attributes:
        sha256: of the file.

    Raises:
        Unreadable: it cannot be read.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            check_regular(path)
            with open_input(path) as file:
                self._stamp = Stamp.of(file)
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Unreadable(path, None, None, f"cannot read vectors: {error.strerror or error}") from error

    def of(self, words: Mapping[str, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers int64 [n] of words that have a vector, and these, float64 [n, D], in the file's order.

        Of several lines for one word the first counts.

        Args:
            words: as ``word_form`` has them, and the number of each.

        Raises:
            InputError: a line cannot be read; lines of other words are not looked at.
        """
        seen: set[int] = set()
        at: list[int] = []
        rows: list[np.ndarray] = []
        for line, text, width in self._lines():
            head = text.split(None, 1)[0] if not text.isspace() else b""
            number = words.get(word_form(head.decode("utf-8", "replace")), -1)
            if number < 0 or number in seen:
                continue
            fields = text.split()
            if len(fields) > width + 1:  # a word with spaces in it
                continue
            seen.add(number)
            at.append(number)
            rows.append(self._numbers(line, fields[1:], width))
            if len(at) == BATCH:
                yield np.array(at), np.array(rows)
                at, rows = [], []
        if at:
            yield np.array(at), np.array(rows)

    def _numbers(self, line: int, fields: list[bytes], width: int) -> np.ndarray:
        if len(fields) != width:
            raise InputError(self.path, line, None, f"expected a word and {width} numbers, found {len(fields)}")
        try:
            numbers = np.array(fields, np.float64)
        except ValueError:
            raise InputError(self.path, line, None, "expected a word and its numbers") from None
        if not np.isfinite(numbers).all():
            raise InputError(self.path, line, None, "a number is not finite")
        return numbers

    def _lines(self) -> Iterator[tuple[int, bytes, int]]:
        """Yield (line, its bytes, how many numbers a vector has)."""
        line = width = 0
        with open_stream(self.path, {self.path: self._stamp}) as file:
            for line, (_, text) in enumerate(raw_lines(file, self.path, b"\n", MOST_BYTES), 1):
                if line > 1:
                    yield line, text, width
                    continue
                width, is_header = self._first(text)
                if not is_header:
                    yield line, text, width
        if not line:
            raise Unreadable(self.path, None, None, "has no word vectors in it")

    def _first(self, text: bytes) -> tuple[int, bool]:
        """Return how many numbers a vector has, by the first line, and whether that is a header: two whole numbers."""
        fields = text.split()
        is_header = len(fields) == 2 and all(field.isdigit() for field in fields)
        width = int(fields[1][:9]) if is_header else len(fields) - 1
        if not 0 < width <= MOST_NUMBERS:
            raise InputError(self.path, 1, None, "expected word vectors as text: a word and its numbers a line")
        return width, is_header
