"""Numbers in messages."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """Return a number of things in words: "1 sentence", "1,811 sentences"; the plural has an s, or es after an s."""
    plural = f"{thing}{'es' if thing.endswith('s') else 's'}"
    return f"{number:,} {thing if number == 1 else plural}"
