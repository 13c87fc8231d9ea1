"""Characters of scripts that are written without spaces between words, and characters that go with a neighbour."""

from __future__ import annotations

from bisect import bisect_right
from unicodedata import category

import numpy as np

_UNSPACED = (
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u0f0b", "\u0f14"),  # the marks between Tibetan syllables
    ("\u1000", "\u109f"),  # Myanmar
    ("\u1780", "\u17ff"),  # Khmer
    ("\u1950", "\u19ff"),  # Tai Le, New Tai Lue, Khmer symbols
    ("\u1a20", "\u1aaf"),  # Tai Tham
    ("\u2e80", "\u2fdf"),  # radicals of Han
    ("\u3001", "\u312f"),  # marks of Chinese and Japanese, kana, bopomofo
    ("\u31a0", "\u31ff"),
    ("\u3400", "\u9fff"),  # Han
    ("\ua000", "\ua4cf"),  # Yi
    ("\ua9e0", "\ua9ff"),  # more of Myanmar
    ("\uaa60", "\uaadf"),  # and Tai Viet
    ("\uf900", "\ufaff"),
    ("\uff01", "\uff0f"),  # wide marks, but neither digits nor Latin letters
    ("\uff1a", "\uff20"),
    ("\uff3b", "\uff40"),
    ("\uff5b", "\uff9f"),  # and narrow kana
    ("\U0001b000", "\U0001b16f"),
    ("\U00020000", "\U0003ffff"),
)
_BOUNDS = [bound for first, last in _UNSPACED for bound in (ord(first), ord(last) + 1)]
JOINERS = "\u200c\u200d"
_WITH_BEFORE = f"{JOINERS}\u0e33\u0eb3\uff9e\uff9f"  # Thai and Lao am, voiced marks of narrow kana: letters to Unicode
_WITH_AFTER = "\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4"  # vowels that are written first
_WITH_AFTER += "\u1039\u17d2"  # what stacks the next letter, in Myanmar and Khmer


def is_unspaced(character: str) -> bool:
    """Return whether a character is of a script that is written without spaces, or a mark of such a one."""
    return bisect_right(_BOUNDS, ord(character)) % 2 == 1


def unspaced(codes: np.ndarray) -> np.ndarray:
    """Return of which characters, uint32 [n], that is so: bool [n]."""
    found: np.ndarray = np.searchsorted(_BOUNDS, codes, "right") % 2 == 1
    return found


def goes_with_before(character: str) -> bool:
    """Return whether a character is written on or into the one before it, as accents and vowel signs are."""
    return category(character)[0] == "M" or character in _WITH_BEFORE


def goes_with_after(character: str) -> bool:
    """Return whether a character of a script without spaces belongs to the one after it."""
    return character in _WITH_AFTER


def is_inside(character: str) -> bool:
    """Return whether a letter after a character continues its word, though the character is no letter."""
    return character in JOINERS or (category(character) in ("Mn", "Mc") and not "\ufe00" <= character <= "\ufe0f")
