"""Words as methods compare them, whatever wrote them: tokens, a list, or a file of vectors."""

from __future__ import annotations

from ..core.scripts import is_inside


def word_form(text: str) -> str:
    """Return a word's text as it is counted and looked up: without regard to case, or to marks around it.

    Marks are what is neither letter nor digit, nor written on one; a word of marks alone keeps them. "" where there is
    no text.
    """
    if text.isalnum():
        return text.casefold()
    text = text.strip()
    inner = [at for at, character in enumerate(text) if character.isalnum() or is_inside(character)]
    return (text[inner[0] : inner[-1] + 1] if inner else text).casefold()
