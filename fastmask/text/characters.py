"""Sentences where each character is a token, as spaCy has it in Chinese: what it finds there, without it."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable

_LETTER = r"[0-9A-Za-z\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]"
# Language -> what closes no sentence there although it is a closing character. Japanese, whose tokenizer spaCy takes
# from another package, keeps numbers and names in Latin letters whole; spaCy's Chinese does not.
BY_CHARACTER = {"zh": "", "ja": rf"(?!(?<={_LETTER})[.\uff0e]{_LETTER})"}


class CharacterRules:
    """The sentencizer's rule for tokens of one character.

    Args:
        language: one of BY_CHARACTER.
        closing: the characters that end a sentence.
    """

    def __init__(self, language: str, closing: Iterable[str]):
        self._closing = re.compile(f"{BY_CHARACTER[language]}[{''.join(map(re.escape, closing))}]")

    def starts(self, text: str) -> array[int]:
        """Return where sentences start: at the first character after a closing one that is not punctuation."""
        starts, end = array("i", [0]), 0
        while found := self._closing.search(text, end):
            end = found.end()
            while end < len(text) and (_is_punctuation(text[end]) or _is_one_space(text, end)):
                end += 1
            starts.append(end)
        return starts


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def _is_one_space(text: str, at: int) -> bool:
    """Return whether there is a space that spaCy takes as part of the character before it; others are tokens."""
    return text[at] == " " and not text[at - 1].isspace()
