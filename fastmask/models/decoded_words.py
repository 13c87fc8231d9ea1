"""Stop words as words of the decoded text; where English tokens are masked, each piece is looked up by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING
from unicodedata import category, normalize

import numpy as np

from ..core.languages import ENGLISH
from ..core.scripts import JOINERS, is_unspaced
from .pieces import BYTE_PIECE, BYTES, never_masked, parts_of, special_ids_in_text
from .tokenizer import vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_TURKIC = ("tr", "az")
_APART, _JOINED, _PART, _ALONE = range(4)
_LONGEST = 6  # parts of a word such as vis-à-vis after the first
_CACHED = 1 << 16


def unmaskable(
    tokenizer: PreTrainedTokenizerBase, words: frozenset[str], language: str = ENGLISH, by_word: bool = False
) -> np.ndarray | DecodedWords:
    """Return what ``pieces.not_masked`` finds special tokens and stop words by: of English tokens the authors' table.

    Args:
        by_word: whether whole words are masked, so that a word is a stop word as a whole or not at all.
    """
    if not words or (language == ENGLISH and not by_word):
        return never_masked(tokenizer, words)
    return DecodedWords(tokenizer, words, language, by_word)


class DecodedWords:
    """Finds the tokens of stop words: bool [T] of sentences' tokens.

    A word is a run of letters, digits and their marks in the decoded text, of however many tokens: "the" + "##sis" is
    no stop word. In scripts without spaces each token is a word. Words with apostrophes and hyphens, as "l'" and
    "vis-à-vis", are found where they stand, too: all their tokens are a stop word's.

    By word, it is the tokenizer's words that are looked up, without marks around them ("the,"), and as two where an
    apostrophe joins these ("it's"): all tokens of a word are found or none.

    Args:
        tokenizer: the model's.
        words: as spaCy's ``is_stop`` looks them up: in small letters.
        language: Turkish and Azerbaijani have small letters of their own.
        by_word: see above.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: frozenset[str], language: str, by_word: bool = False):
        self._by_word = by_word
        size = vocabulary(tokenizer)[0]
        backend, self._turkic = tokenizer.backend_tokenizer, language in _TURKIC
        self._words = frozenset(filter(None, (form for word in words for form in _normal_forms(word, backend))))
        self._marks = {mark for word in self._words for mark in word if _kind(mark) == _APART and len(word) > 1}
        self._written = [b""] * size
        self._first, self._last = np.zeros((2, size), np.uint8)
        self._begins, self._ends, self._spaced, self._found, self._joins = np.zeros((5, size), bool)
        read = byte_reader(backend)
        for piece, index in tokenizer.get_vocab().items():
            written, self._begins[index], self._ends[index] = read(piece)
            self._spaced[index] = written[:1].isspace()
            self._written[index] = written
            text = written.decode("utf-8", "replace").strip()
            self._first[index], self._last[index] = _kind(text[:1]), _kind(text[-1:])
            self._found[index] = self._is_stop_word(text)
            # "'t" of a byte-level tokenizer is a word of its own
            self._joins[index] = _plain(text[:1] if by_word else text) in self._marks
        self._special = np.zeros(size, bool)
        self._special[special_ids_in_text(tokenizer)] = True
        self._decoded = lru_cache(_CACHED)(self._decoded_is_stop)

    def among(self, input_ids: np.ndarray, offsets: np.ndarray, word: np.ndarray | None = None) -> np.ndarray:
        """Return bool [T]: which tokens are special or a stop word's; see ``pieces.Finder``."""
        found: np.ndarray = self._special[input_ids]
        if not len(input_ids):
            return found
        begins = self._word_starts(input_ids, word)
        begins[offsets[:-1][offsets[:-1] < offsets[1:]]] = True
        bounds = np.append(np.flatnonzero(begins), len(begins))
        starts, sizes = bounds[:-1], np.diff(bounds)
        short = starts[sizes == 1]
        found[short] |= self._found[input_ids[short]]
        longer = starts[sizes > 1]
        for start, end in zip(longer.tolist(), (longer + sizes[sizes > 1]).tolist(), strict=True):
            if self._decoded(input_ids[start:end].tobytes(), True):
                found[start:end] = True
        for start, end in self._joined(input_ids, offsets, bounds):
            found[start:end] = True
        return found

    def _word_starts(self, input_ids: np.ndarray, word: np.ndarray | None) -> np.ndarray:
        """Return bool [T]: which tokens begin a word within their sentence."""
        theirs = np.zeros(len(input_ids), bool)
        if word is not None:
            theirs[1:] = word[1:] != word[:-1]
            if self._by_word:
                return theirs
        first, last = self._first[input_ids], self._last[input_ids[:-1]]
        begins: np.ndarray = self._begins[input_ids] | ~_is_joined(first) | (theirs & (first == _PART))
        begins[1:] |= self._ends[input_ids[:-1]] | ~_is_joined(last) | (theirs[1:] & (last == _PART))
        return begins

    def _joined(self, input_ids: np.ndarray, offsets: np.ndarray, bounds: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yield the tokens of stop words that have a mark such as an apostrophe in them or at their end."""
        joins, spaced = self._joins[input_ids[bounds[:-1]]], self._spaced[input_ids[bounds[:-1]]]
        sentence = np.searchsorted(offsets, bounds[:-1], side="right")
        for at in np.flatnonzero(joins & ~spaced).tolist():
            if not at or sentence[at - 1] != sentence[at]:
                continue
            for end in range(at + 1, min(at + _LONGEST, len(bounds))):
                if self._decoded(input_ids[bounds[at - 1] : bounds[end]].tobytes(), False):
                    yield int(bounds[at - 1]), int(bounds[end])
                # what follows is no part of the word: another sentence's, after a space, or a word after a word
                if end == len(joins) or sentence[end] != sentence[at] or spaced[end] or joins[end] == joins[end - 1]:
                    break

    def _decoded_is_stop(self, ids: bytes, is_word: bool) -> bool:
        text = b"".join(self._written[index] for index in np.frombuffer(ids, np.int32)).decode("utf-8", "replace")
        return self._is_stop_word(text.strip()) if is_word else self._is_stop(text.strip())

    def _is_stop_word(self, text: str) -> bool:
        """Return whether a word is a stop word; by word, a word of the tokenizer's may have marks around it."""
        inside = [at for at, character in enumerate(text) if _kind(character) != _APART] if self._by_word else []
        return self._is_stop(text) or (bool(inside) and self._is_stop(text[inside[0] : inside[-1] + 1]))

    def _is_stop(self, text: str) -> bool:
        if self._is_listed(_plain(text.lower())):
            return True
        return self._turkic and self._is_listed(_plain(text.replace("I", "ı").replace("İ", "i").lower()))

    def _is_listed(self, text: str) -> bool:
        """Return whether a text in small letters is a stop word, or by word two with an apostrophe."""
        if text in self._words or not self._by_word or "'" not in text:
            return text in self._words
        return any(self._words.issuperset((text[:at], text[at:])) for at in range(1, len(text)))


def _normal_forms(word: str, backend: Tokenizer) -> tuple[str, str]:
    """Return a word as it is looked up, and what is left of it where the tokenizer takes accents away."""
    normalized = backend.normalizer.normalize_str(word) if backend.normalizer else ""
    return _plain(word), _plain(normalized.replace("▁", " ").strip())


def _plain(text: str) -> str:
    """Return a text with one kind of apostrophe, and without the dot that Python's small İ keeps."""
    return normalize("NFC", text.replace("i\u0307", "i").replace("’", "'"))


def _is_joined(kinds: np.ndarray) -> np.ndarray:
    """Return which kinds, uint8 [n], are of characters that go on with a word: bool [n]."""
    return (kinds == _JOINED) | (kinds == _PART)


def _kind(character: str) -> int:
    """Return how a character stands in words: between them, in them, in them as a part of one, or as one of its own."""
    if character == "\ufffd":
        return _PART
    if not character or not (character in JOINERS or category(character)[0] in "LMN"):
        return _APART
    return _ALONE if is_unspaced(character) else _JOINED


def byte_reader(backend: Tokenizer) -> Callable[[str], tuple[bytes, bool, bool]]:
    """Return the function from a piece to the bytes it writes and whether it begins a word for sure, or ends one."""
    content = json.loads(backend.to_str())
    model = content["model"]
    parts = [part for key in ("normalizer", "pre_tokenizer", "decoder") for part in parts_of(content[key])]
    of_bytes = any(part["type"] == "ByteLevel" for part in parts)
    has_marks = any("▁" in (part.get("replacement"), part.get("content")) for part in parts)
    suffix, prefix = model.get("end_of_word_suffix"), model.get("continuing_subword_prefix")

    def read(piece: str) -> tuple[bytes, bool, bool]:
        if BYTE_PIECE.fullmatch(piece):
            return bytes([int(piece[1:-1], 16)]), False, False
        if of_bytes and all(map(BYTES.__contains__, piece)):
            written = bytes(map(BYTES.__getitem__, piece))
            return written, written[:1].isspace(), False
        if suffix:
            return piece.removesuffix(suffix).encode(), False, piece.endswith(suffix)
        if has_marks:
            return piece.replace("▁", " ").encode(), piece.startswith("▁"), False
        inside = bool(prefix) and piece.startswith(prefix) and piece != prefix
        return (piece.removeprefix(prefix) if inside else piece).encode(), not inside, False

    return read
