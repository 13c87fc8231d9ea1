"""Documents to sentences: spaCy's rule sentencizer, exactly, at no cost where a text has one sentence."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from ..core.errors import FastmaskError, first_line
from ..core.languages import ENGLISH, PACKAGES
from .affixes import change_affixes
from .characters import BY_CHARACTER, CharacterRules

CLOSING = frozenset(
    "!.?\u0589\u061f\u06d4\u0700\u0701\u0702\u07f9\u0964\u0965\u104a\u104b\u1362\u1367\u1368\u166e\u1735\u1736"
    "\u1803\u1809\u1944\u1945\u1aa8\u1aa9\u1aaa\u1aab\u1b5a\u1b5b\u1b5e\u1b5f\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d"
    "\u2047\u2048\u2049\u2e2e\u2e3c\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9"
    "\uaa5d\uaa5e\uaa5f\uaaf0\uaaf1\uabeb\ufe52\ufe56\ufe57\uff01\uff0e\uff1f\uff61\U00010a56\U00010a57\U00011047"
    "\U00011048\U000110be\U000110bf\U000110c0\U000110c1\U00011141\U00011142\U00011143\U000111c5\U000111c6"
    "\U000111cd\U000111de\U000111df\U00011238\U00011239\U0001123b\U0001123c\U000112a9\U0001144b\U0001144c"
    "\U000115c2\U000115c3\U000115c9\U000115ca\U000115cb\U000115cc\U000115cd\U000115ce\U000115cf\U000115d0"
    "\U000115d1\U000115d2\U000115d3\U000115d4\U000115d5\U000115d6\U000115d7\U00011641\U00011642\U0001173c"
    "\U0001173d\U0001173e\U00011a42\U00011a43\U00011a9b\U00011a9c\U00011c41\U00011c42\U00016a6e\U00016a6f"
    "\U00016af5\U00016b37\U00016b38\U00016b44\U0001bc9f\U0001da88"
)
"""The characters that end a sentence: the default of spaCy's sentencizer, in 3.8."""
# spaCy remembers every distinct word it meets, some 400 bytes each: past this many it is made anew, in 0.1 s.
_MAX_STRINGS = 60_000
# spaCy's time for a run without whitespace grows with its square, and it lets no other thread in: no run is longer.
_BLOCK = 4096


class Segmenter:
    """Splits texts into sentences.

    Args:
        mode: "sentence" gives the sentences of spaCy's blank pipeline of ``language`` + ``sentencizer``; "line" takes
            each text as one sentence.
        language: its code in spaCy; Chinese and Japanese are split character by character, without spaCy.

    spaCy, which takes a second to import, is imported at the first text that may hold two sentences.

    Raises:
        FastmaskError: spaCy's tokenizer of that language needs something that is not there.
    """

    def __init__(self, mode: str = "sentence", language: str = ENGLISH):
        if mode not in ("sentence", "line"):
            raise ValueError(f"mode {mode!r}: choose sentence or line")
        self.mode, self.language = mode, language
        # what a language needs besides spaCy shows at once, not at some text
        self._rules = self._made() if mode == "sentence" and language in PACKAGES else None

    def split(self, text: str) -> np.ndarray:
        """Return half-open character spans of the sentences, int32 [N, 2], ascending, blank ones left out.

        Spans in mode "sentence" have no whitespace at their ends.
        """
        if not text or text.isspace():
            return np.empty((0, 2), np.int32)
        if self.mode == "line":
            return np.array([(0, len(text))], np.int32)
        # No sentence starts inside a final run of closing characters: spaCy's tokens in it are made of
        # punctuation alone, and only a token that is not punctuation starts a sentence.
        if (_SINGLE_ASCII if text.isascii() else _SINGLE).fullmatch(text):
            return np.array([_stripped(text, 0, len(text))], np.int32)
        self._rules = self._rules or self._made()
        return _spans(text, self._rules.starts(text))

    def _made(self) -> _SentenceRules | CharacterRules:
        by_character = self.language in BY_CHARACTER
        return CharacterRules(self.language, CLOSING) if by_character else _SentenceRules(self.language)


class _SentenceRules:
    """spaCy's tokenizer of a language, and its sentencizer's rule as array operations."""

    def __init__(self, language: str):
        self._language = language
        self._start()

    def _start(self) -> None:
        from spacy.attrs import IDX, IS_PUNCT
        from spacy.util import get_lang_class

        try:
            nlp = get_lang_class(self._language)()
            # The tokenizer is called by itself: Language.max_length guards the memory of parsers, not of rules.
            self._tokenizer, self._strings = nlp.tokenizer, nlp.vocab.strings
            self._tokenizer(".")
        except Exception as error:  # of whatever type a package of a language makes it
            reason = f"its tokenizer cannot be loaded: {first_line(error)}; --segment line does without"
            raise FastmaskError(f"--language {self._language}: {reason}") from error
        if self._language not in PACKAGES:
            change_affixes(self._tokenizer, self._language)
        self._rules_with_space = [rule for rule in getattr(self._tokenizer, "rules", ()) if " " in rule.strip()]
        self._attributes = [nlp.vocab.add_flag(CLOSING.__contains__), IS_PUNCT, IDX]
        self._first_strings = len(self._strings)

    def starts(self, text: str) -> array[int]:
        """Return where sentences start."""
        # A text that opens with a closing character starts its first sentence there all the same.
        bounds, is_closed = array("i", [0]), False  # no lists: a long text has millions of sentences
        for start, end in _blocks(text, self._rules_with_space):
            closing, punctuation, position = self._tokens(text[start:end]).T
            # A sentence starts at the first other token after one that is exactly a closing character.
            others = np.flatnonzero((closing | punctuation) == 0)
            closed = np.cumsum(closing) + is_closed
            starts = others[np.diff(closed[others], prepend=0) > 0]
            bounds.extend((position[starts] + np.uint64(start)).tolist())
            is_closed = closed[-1] > (closed[others[-1]] if len(others) else 0)
        return bounds

    def _tokens(self, block: str) -> np.ndarray:
        if len(self._strings) - self._first_strings > _MAX_STRINGS:
            self._start()
        return self._tokenizer(block).to_array(self._attributes)


def _blocks(text: str, rules: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the spans of at most _BLOCK characters to tokenize by themselves, which end after whitespace.

    spaCy's tokens lie between whitespace, so that they stay the same. A run that is longer than a block is cut.

    Args:
        rules: what spaCy knows as a whole although there are spaces in it; no block ends inside.
    """
    start = 0
    while len(text) - start > _BLOCK:
        end = _end_of_words(text, start, start + _BLOCK) or _cut(text, start)
        while any(rule in text[max(0, end - len(rule) + 1) : end + len(rule) - 1] for rule in rules):
            if not (before := _end_of_words(text, start, end - 1)):
                break
            end = before
        yield start, end
        start = end
    yield start, len(text)


def _end_of_words(text: str, start: int, last: int) -> int:
    """Return where the last whole word of text[start:last] and the whitespace after it end; 0 if no word is whole."""
    if last > start and text[last - 1].isspace():
        return last
    last_run = text[start:last].rsplit(None, 1)[-1:]
    return last - len(last_run[0]) if last_run and len(last_run[0]) < last - start else 0


def _cut(text: str, start: int) -> int:
    """Return where to cut the run that begins at start: between letters or digits, so that no mark comes to an end."""
    last, middle = start + _BLOCK, start + _BLOCK // 2
    return next((at for at in range(last, middle, -1) if text[at - 1].isalnum() and text[at].isalnum()), middle)


def _spans(text: str, starts: array[int]) -> np.ndarray:
    """Return the spans, int32 [N, 2], of what lies between the starts of sentences, the first of which is 0."""
    starts.append(len(text))
    spans = array("i")
    for start, end in pairwise(starts):
        span = _stripped(text, start, end)
        if span[0] < span[1]:
            spans.extend(span)
    return np.array(spans, np.int32).reshape(-1, 2)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def _single_sentence(closing: Iterable[str]) -> re.Pattern[str]:
    characters = "".join(map(re.escape, sorted(closing)))
    return re.compile(rf"[^{characters}]*+[{characters}]*+\s*+")


_SINGLE = _single_sentence(CLOSING)
_SINGLE_ASCII = _single_sentence(filter(str.isascii, CLOSING))  # a small set is matched faster
