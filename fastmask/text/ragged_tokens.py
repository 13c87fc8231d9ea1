"""Ragged tokens as a tokenizer gives them, with the words that they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from ..core.arrays import offsets_of
from ..core.scripts import goes_with_after, goes_with_before, is_inside, unspaced

_FIRST_MARK = 0x300  # all characters that are looked at here come after it
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


class Tokens(NamedTuple):
    """Ragged tokens of N texts: offsets int64 [N + 1]; ids, start, end int32 [T], spans in each text.

    ``begins`` bool [T] tells which tokens begin a word: see ``in_words``.
    """

    offsets: np.ndarray
    ids: np.ndarray
    start: np.ndarray
    end: np.ndarray
    begins: np.ndarray


_EMPTY = np.empty(0, np.int32)
NOTHING = Tokens(np.zeros(1, np.int64), _EMPTY, _EMPTY, _EMPTY, np.empty(0, bool))


def lengths_of(texts: Sequence[str]) -> np.ndarray:
    """Return int64 [N], the characters of each text."""
    return np.fromiter(map(len, texts), np.int64, len(texts))


def collect(encodings) -> Tokens:
    """Return the tokens of what ``encode_batch`` gave for some texts; the words are the tokenizer's own word_ids."""
    offsets = offsets_of(np.fromiter(map(len, encodings), np.int64, len(encodings)))
    total = int(offsets[-1])
    ids, words = (
        np.fromiter(chain.from_iterable(getattr(e, name) for e in encodings), np.int32, total)
        for name in ("ids", "word_ids")
    )
    bounds = chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))
    spans = np.fromiter(bounds, np.int32, 2 * total).reshape(-1, 2)
    begins = np.append(True, words[1:] != words[:-1])[:total]
    begins[offsets[:-1][np.diff(offsets) > 0]] = True
    return Tokens(offsets, ids, spans[:, 0].copy(), spans[:, 1].copy(), begins)


def in_words(tokens: Tokens, texts: Sequence[str]) -> Tokens:
    """Take whitespace off the spans, and divide words where the text shows it.

    What stands after whitespace begins a word, also for tokenizers to which a whole text is one; where a script is
    written without spaces each token does, but not within a character. A mark on a letter, as a vowel sign, does not.
    """
    characters = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
    base = np.repeat(offsets_of(lengths_of(texts))[:-1], np.diff(tokens.offsets))
    return _by_script(_trimmed(tokens, characters, base), characters, base)


def _trimmed(tokens: Tokens, characters: np.ndarray, base: np.ndarray) -> Tokens:
    """Take whitespace off the spans: byte-level and sentencepiece tokenizers count it to the token after it.

    Args:
        characters: uint32, of all texts; base: int64 [T], where the text of each token begins there.
    """
    is_space = np.isin(characters, _SPACES)
    if not is_space.any():
        return tokens
    is_space = np.append(is_space, False)
    start, end = tokens.start.copy(), tokens.end.copy()
    # a token may be all spaces, as many as there are: the next other character is looked up
    others = np.flatnonzero(~is_space)
    blank = np.flatnonzero((start < end) & is_space[start + base])
    after = others[np.searchsorted(others, start[blank] + base[blank])] - base[blank]
    start[blank] = np.minimum(after, end[blank])
    blank = np.flatnonzero((start < end) & is_space[end + base - 1])
    before = others[np.searchsorted(others, end[blank] + base[blank]) - 1] + 1 - base[blank]
    end[blank] = np.maximum(before, start[blank])
    word, begins = np.cumsum(tokens.begins, dtype=np.int32), tokens.begins.copy()
    visible = np.flatnonzero(start < end)
    same = word[visible[:-1]] == word[visible[1:]]
    left, right = visible[:-1][same], visible[1:][same]
    spaces = offsets_of(is_space)  # how many there are before each character
    begins[right] |= spaces[start[right] + base[right]] > spaces[end[left] + base[left]]
    return Tokens(tokens.offsets, tokens.ids, start, end, begins)


def _by_script(tokens: Tokens, characters: np.ndarray, base: np.ndarray) -> Tokens:
    """Begin words beside characters of scripts without spaces, and none at a mark on a letter; see ``_trimmed``."""
    if characters.max(initial=0) < _FIRST_MARK:
        return tokens
    visible = np.flatnonzero(tokens.start < tokens.end)
    same_text = base[visible[:-1]] == base[visible[1:]]
    left, right = visible[:-1][same_text], visible[1:][same_text]
    before, after = characters[tokens.end[left] - 1 + base[left]], characters[tokens.start[right] + base[right]]
    word, gap = np.cumsum(tokens.begins, dtype=np.int32), tokens.start[right] - tokens.end[left]
    alone, begins = unspaced(after), tokens.begins.copy()
    as_one = _are(goes_with_before, after) | _are(goes_with_after, before)
    begins[right] |= (alone | unspaced(before)) & ~as_one & (gap >= 0) & (word[left] == word[right])
    as_one |= _are(is_inside, before) & _are(str.isalnum, after) & ~alone
    begins[right] &= ~(as_one & (gap == 0) & (right == left + 1))
    return tokens._replace(begins=begins)


def _are(kind: Callable[[str], bool], characters: np.ndarray) -> np.ndarray:
    """Return of which characters, uint32 [n], something is so: bool [n]."""
    distinct, which = np.unique(characters, return_inverse=True)
    found: np.ndarray = np.fromiter((kind(chr(code)) for code in distinct.tolist()), bool, len(distinct))[which]
    return found


def word_numbers(begins: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the word of each token, counted from 0 in its sentence: bool [T], int64 [N + 1] -> int32 [T].

    The first token of a sentence is word 0 even where the word began in the sentence before.
    """
    count = np.cumsum(begins, dtype=np.int32)
    lengths = np.diff(offsets)
    count -= np.repeat(count[offsets[:-1][lengths > 0]], lengths[lengths > 0])
    return count
