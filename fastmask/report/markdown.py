"""Cards of models and data sets, as the Hugging Face hub reads them: Markdown in which text from data stays text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.errors import shortened
from .screen import clean

CARD = "README.md"
LICENSE = "Not stated here: whoever publishes this adds `license:` to the header, having looked at the licenses of " \
          "what it was made from."  # fmt: skip
MOST = 300
"""Characters of a name or a value that are shown."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escaped(value: object) -> str:
    """Return a value as one line of Markdown that is shown as it is: no markup, no HTML, no link, no table's cell."""
    return re.sub(r"[!-/:-@\[-`{-~]", _shown, shortened(clean(str(value)), MOST))


def _shown(found: re.Match[str]) -> str:
    char = found[0]
    return char if char in ".,;%/-" else _ENTITIES.get(char, f"\\{char}")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; nothing of the rows is markup."""
    lines = [heads, ["---"] * len(heads), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(line: str) -> str:
    """Return a block of code of one line, which nothing in it can end."""
    return f"```sh\n{clean(line)}\n```"


def card(header: Mapping[str, Any], title: str, sections: Mapping[str, str]) -> str:
    """Return a card: the header in YAML, which JSON is a part of, a title, and text under headings; "" has none."""
    fields = "".join(f"{name}: {json.dumps(value)}\n" for name, value in header.items())
    parts = [f"# {title}", *(f"## {head}\n\n{text}" if head else text for head, text in sections.items())]
    return f"---\n{fields}---\n\n" + "\n\n".join(parts) + "\n"


def figures(values: Mapping[str, Any], within: str = "") -> list[tuple[str, str]]:
    """Return (name, value) of every number and text in a JSON document; of a list of objects the last one's."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{within}{key}"
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            name, value = f"{name}, last", value[-1]
        if isinstance(value, dict):
            found += figures(value, f"{name}: ")
        elif value not in (None, []):
            found.append((name, in_words(value)))
    return found


def in_words(value: object) -> str:
    """Return a number, a text or a list of these, readable."""
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 0.01 else f"{value:.4f}"
    return f"{value:,}" if type(value) is int else str(value)
