"""Vocabulary pieces as the words they write: which ids are never masked, because they are special or stop words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .tokenizer import vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

BYTE_PIECE = re.compile("<0x[0-9A-Fa-f]{2}>")


def never_masked(tokenizer: PreTrainedTokenizerBase, words: frozenset[str]) -> np.ndarray:
    """Return which ids are never masked, bool [2, V]: row 1 is for the first token of a sentence, row 0 for others.

    They are the special ids, and the pieces that are one of ``words`` (lower-cased) in decoded text, as spaCy's
    ``is_stop``. A WordPiece is looked up as it is, as the authors do: "##s" is no stop word. Elsewhere marks tell where
    words begin and end ("Ġthe", "▁the", "the</w>"), and a piece inside a word is none; a sentence begins with a word.
    What follows a piece is not known: "Ġthe" is a stop word in "Ġthe" + "sis", too, as "the" is in "the" + "##sis".
    """
    table = np.zeros((2, vocabulary(tokenizer)[0]), bool)
    read = _reader(tokenizer.backend_tokenizer)
    for piece, index in tokenizer.get_vocab().items():
        text, begins = read(piece)
        if text.lower() in words:
            table[:, index] = begins, True
    table[:, special_ids_in_text(tokenizer)] = True
    return table


def special_ids_in_text(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that special tokens standing in a text have.

    The id of unknown words is none of them unless it has another role, too: ordinary words have it.
    """
    roles = [getattr(tokenizer, f"{role}_token_id", None) for role in ("cls", "sep", "mask", "pad", "bos", "eos")]
    return [i for i in vocabulary(tokenizer)[1] if i != tokenizer.unk_token_id or i in roles]


class Finder(Protocol):
    """Finds the tokens of sentences that are never masked."""

    def among(self, input_ids: np.ndarray, offsets: np.ndarray, word: np.ndarray | None = None) -> np.ndarray:
        """Return bool [T] for tokens int [T] of sentences int64 [S + 1], and their words, int32 [T], if known."""


def not_masked(
    table: np.ndarray | Finder, input_ids: np.ndarray, offsets: np.ndarray, word: np.ndarray | None = None
) -> np.ndarray:
    """Return bool [T]: which tokens int [T], of sentences int64 [S + 1] and words int32 [T], are never masked."""
    if not isinstance(table, np.ndarray):
        return table.among(input_ids, offsets, word)
    first = np.zeros(len(input_ids), np.int64)
    first[offsets[:-1][offsets[:-1] < offsets[1:]]] = 1
    return table[first, input_ids]


def _reader(backend: Tokenizer) -> Callable[[str], tuple[str, bool]]:
    """Return the function from a piece to its text without marks, and whether it may begin a word."""
    if type(backend.model).__name__ == "WordPiece":
        return lambda piece: (piece, True)
    content = json.loads(backend.to_str())
    model = content["model"]
    parts = [part for key in ("normalizer", "pre_tokenizer", "decoder") for part in parts_of(content[key])]
    types = {part["type"] for part in parts}
    if suffix := model.get("end_of_word_suffix"):
        # only the end of a word is marked
        return lambda piece: (piece.removesuffix(suffix), piece.endswith(suffix))
    if "ByteLevel" in types:
        return _of_bytes
    if mark := next((part[key] for part in parts for key in ("replacement", "content") if part.get(key) == "▁"), None):
        return lambda piece: _marked(piece, mark)
    prefix = model.get("continuing_subword_prefix") or "\0"
    return lambda piece: (piece.removeprefix(prefix), not piece.startswith(prefix))


def parts_of(component: dict | None) -> Iterator[dict]:
    """Yield a component of a tokenizer and those that it is made of."""
    if component is not None:
        yield component
        for inner in ("normalizers", "pretokenizers", "decoders"):
            for part in component.get(inner, ()):
                yield from parts_of(part)


def _of_bytes(piece: str) -> tuple[str, bool]:
    """Read a piece in which each character stands for a byte: "ĠmÃªme" is "même" and begins a word."""
    try:
        return _marked(bytes(map(BYTES.__getitem__, piece)).decode(), " ")
    except (KeyError, UnicodeDecodeError):
        return "", False


def _marked(piece: str, mark: str) -> tuple[str, bool]:
    if BYTE_PIECE.fullmatch(piece):
        return "", False
    text = piece.lstrip(mark)
    # an apostrophe begins a word of its own: "'s"
    return text, text != piece or not text[:1].isalnum()


def _byte_of_character() -> dict[str, int]:
    """Return the bytes that characters of byte-level vocabularies stand for: GPT-2's table."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in plain)
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _byte_of_character()
