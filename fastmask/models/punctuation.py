"""Which tokens write punctuation and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import category

import numpy as np

from ..core.arrays import offsets_of, take_ragged
from .decoded_words import byte_reader
from .pieces import Finder, not_masked
from .tokenizer import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPACE, _MARK, _OTHER = 0, 1, 2


class Punctuation:
    """Finds the tokens that write punctuation and nothing else; a character may be of several byte-level tokens.

    Punctuation is what BERT takes for it: what Unicode calls so, and all of ASCII but letters, digits and space.
    A special token, and so that of unknown words, is none.

    Args:
        tokenizer: the model's.
        besides: what finds other tokens, which are found, too; see ``pieces.not_masked``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, besides: np.ndarray | Finder | None = None):
        size, special = vocabulary(tokenizer)
        written, read = [b""] * size, byte_reader(tokenizer.backend_tokenizer)
        for piece, index in tokenizer.get_vocab().items():
            written[index] = read(piece)[0]
        for index in special:
            written[index] = b"x"
        self._offsets = offsets_of(np.fromiter(map(len, written), np.int64, len(written)))
        self._bytes, self._besides = np.frombuffer(b"".join(written), np.uint8), besides

    def among(self, input_ids: np.ndarray, offsets: np.ndarray, word: np.ndarray | None = None) -> np.ndarray:
        """Return bool [T] for tokens int [T] of sentences int64 [S + 1], in the order of the text; see ``Finder``."""
        at, written = take_ragged(self._offsets, self._bytes, input_ids)
        text = written.tobytes().decode("utf-8", "surrogateescape")  # a byte of no character is one of its own
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        distinct, which = np.unique(codes, return_inverse=True)
        kinds = np.array([_kind(chr(code)) for code in distinct.tolist()], np.int8)[which]
        sizes = 1 + (codes >= 0x80).astype(int) + (codes >= 0x800) + (codes >= 0x10000)
        sizes[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1
        kinds = np.repeat(kinds, sizes)  # of each byte
        marks, others = (offsets_of(kinds == kind) for kind in (_MARK, _OTHER))
        found = (marks[at[1:]] > marks[at[:-1]]) & (others[at[1:]] == others[at[:-1]])
        return found if self._besides is None else found | not_masked(self._besides, input_ids, offsets, word)


def _kind(character: str) -> int:
    if character.isspace():
        return _SPACE
    is_mark = category(character)[0] == "P" or (character.isascii() and not character.isalnum())
    return _MARK if is_mark else _OTHER
