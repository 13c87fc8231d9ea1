"""Documents to sentences: spaCy's rule sentencizer, exactly, at no cost where a text has one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

# spaCy remembers every distinct word it meets: past this many it is made anew, to keep memory bounded.
_MAX_STRINGS = 300_000


class Segmenter:
    """Splits texts into sentences.

    Args:
        mode: "sentence" gives the sentences of spaCy's ``English()`` + ``sentencizer``; "line" takes each
            text as one sentence.

    spaCy is imported at the first text that is split in mode "sentence".
    """

    def __init__(self, mode: str = "sentence"):
        if mode not in ("sentence", "line"):
            raise ValueError(f"mode {mode!r}: choose sentence or line")
        self.mode = mode
        self._rules: _SentenceRules | None = None

    def split(self, text: str) -> list[tuple[int, int]]:
        """Half-open character spans of the sentences, ascending, blank ones left out.

        Spans in mode "sentence" have no whitespace at their ends.
        """
        if not text or text.isspace():
            return []
        if self.mode == "line":
            return [(0, len(text))]
        if self._rules is None or self._rules.is_full():
            self._rules = _SentenceRules()
        return self._rules.split(text)


class _SentenceRules:
    """spaCy's tokenizer, and its sentencizer's rule as array operations."""

    def __init__(self):
        from spacy.attrs import IDX, IS_PUNCT
        from spacy.lang.en import English
        from spacy.pipeline import Sentencizer

        nlp = English()
        closing = frozenset(Sentencizer().punct_chars)
        # The tokenizer is called by itself: Language.max_length guards the memory of parsers, not of rules.
        self._tokenizer, self._strings = nlp.tokenizer, nlp.vocab.strings
        self._attributes = [nlp.vocab.add_flag(closing.__contains__), IS_PUNCT, IDX]
        self._first_strings = len(self._strings)
        # No sentence starts inside a final run of closing characters: spaCy's tokens in it are made of
        # punctuation alone, and only a token that is not punctuation starts a sentence.
        self._single = _single_sentence(closing)
        self._single_ascii = _single_sentence(filter(str.isascii, closing))  # a small set is matched faster

    def is_full(self) -> bool:
        return len(self._strings) - self._first_strings > _MAX_STRINGS

    def split(self, text: str) -> list[tuple[int, int]]:
        single = self._single_ascii if text.isascii() else self._single
        if single.fullmatch(text):
            return [_stripped(text, 0, len(text))]
        closing, punctuation, position = self._tokenizer(text).to_array(self._attributes).T
        # A sentence starts at the first other token after one that is exactly a closing character.
        others = np.flatnonzero((closing | punctuation) == 0)
        closed_before = np.cumsum(closing)[others]
        starts = others[np.diff(closed_before, prepend=0) > 0]
        # A text that opens with a closing character starts its first sentence there all the same.
        bounds = [0, *position[starts].tolist(), len(text)]
        spans = (_stripped(text, start, end) for start, end in pairwise(bounds))
        return [(start, end) for start, end in spans if start < end]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def _single_sentence(closing: Iterable[str]) -> re.Pattern[str]:
    characters = "".join(map(re.escape, sorted(closing)))
    return re.compile(rf"[^{characters}]*+[{characters}]*+\s*+")
