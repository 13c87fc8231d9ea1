"""How often each piece of texts stands there, so that it is tokenized once however often that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba as nb
import numpy as np
from fastmask_kernels.splitmix import mix

from ..core.arrays import JIT
from ..core.memo import Memo
from .cuts import is_local, splits_at_spaces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NOWHERE, _BETWEEN_WORDS, _AT_SPACES = range(3)
_MOST_AT_ONCE = 1 << 16
"""Pieces; bounds the memory of the arrays in between."""


class RepeatedPieces:
    """Counts the pieces of texts, cut where the tokens on both sides do not depend on each other.

    Under BERT's scheme that is at each space, which belongs to no piece. Elsewhere it is at spaces between two letters
    or digits of ASCII, which begin a piece; where it is not known to be anywhere, a text is one piece.

    Args:
        tokenizer: of the texts.

    Attributes:
        pieces: the different ones, in order of appearance; no empty one.
        characters: of all these.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._cut = _AT_SPACES if splits_at_spaces(tokenizer) else _BETWEEN_WORDS if is_local(tokenizer) else _NOWHERE
        self._starts, self._ends = np.empty((2, _MOST_AT_ONCE), np.int64)
        self._hashes = np.empty(_MOST_AT_ONCE, np.uint64)
        self.clear()

    def clear(self) -> None:
        """Forget all pieces."""
        self.pieces: list[str] = []
        self.characters = 0
        self._memo, self._times = Memo(), np.zeros(0, np.int64)

    @property
    def times(self) -> np.ndarray:
        """Return how often each piece was there, int64 [P]."""
        return self._times

    def add(self, texts: list[str]) -> None:
        """Count the pieces of texts without NUL."""
        encoded = "\0".join(texts).encode()
        data, at = np.frombuffer(encoded, np.uint8), 0
        while at < len(data):
            found, at = _pieces(data, at, self._cut, self._starts, self._ends, self._hashes)
            self._add(encoded, found)

    def _add(self, encoded: bytes, found: int) -> None:
        known = self._memo.used
        slots = self._memo.slots(self._hashes[:found])
        times = np.bincount(slots, minlength=self._memo.used)
        times[:known] += self._times
        fresh = np.flatnonzero(slots >= known)
        first = fresh[np.unique(slots[fresh], return_index=True)[1]]
        spans = zip(self._starts[first].tolist(), self._ends[first].tolist(), strict=True)
        new = [encoded[start:end].decode() for start, end in spans]
        self._times = times
        self.pieces += new
        self.characters += sum(map(len, new))


@nb.njit(**JIT)
def _is_plain(byte: int) -> bool:
    return 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122


@nb.njit(**JIT)
def _is_cut(data: np.ndarray, at: int, cut: int) -> bool:
    if data[at] != 32:
        return data[at] == 0
    inside = 0 < at < len(data) - 1
    return cut == _AT_SPACES or (
        cut == _BETWEEN_WORDS and inside and _is_plain(data[at - 1]) and _is_plain(data[at + 1])
    )


@nb.njit(**JIT)
def _pieces(
    data: np.ndarray, start: int, cut: int, starts: np.ndarray, ends: np.ndarray, hashes: np.ndarray
) -> tuple[int, int]:
    """Find pieces of uint8 [N] from ``start`` on, as many as there is room for; return how many, and where to go on."""
    found = 0
    while start < len(data) and found < len(hashes):
        state, at = np.uint64(0), start
        if cut == _BETWEEN_WORDS and data[at] == 32:  # the space that begins the piece
            state, at = np.uint64(1), at + 1
        while at < len(data) and not _is_cut(data, at, cut):
            state = (state ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
            at += 1
        if at > start:
            starts[found], ends[found], hashes[found] = start, at, mix(state, at - start)
            found += 1
        start = at + 1 if at < len(data) and (data[at] == 0 or cut == _AT_SPACES) else at
    return found, start
