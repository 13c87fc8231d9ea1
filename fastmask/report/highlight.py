"""Sentences with their masked tokens marked, as HTML: on a page, and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..core.errors import shortened
from .screen import clean

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_TOKENS = 100
"""Tokens of a sentence that are shown."""
MOST_CHARS = 1200
"""Characters of a sentence that are shown."""
MOST_OF_A_TOKEN = 60
SHADES = 6
Numbers = Sequence[float] | np.ndarray
Places = Sequence[int] | np.ndarray


class Token(NamedTuple):
    """What is shown of a token.

    Attributes:
        text: its text, clean, "·" for a part of a character; space: whether one stands before it.
        shade: from 0 for a sentence's least important tokens to SHADES for its most important ones.
        masked: whether it is; importance: None where the sentence was not scored.
    """

    text: str
    space: bool
    shade: int
    masked: bool
    importance: float | None


class Sentence(NamedTuple):
    """What is shown of a sentence.

    Attributes:
        row, sentence: its numbers; tokens: its first ones; left_out: how many are not shown.
        length, masks: tokens and masked ones of all of it.
        scored: whether it has importances.
        label, predicted: names or numbers of classes, or None; prob: P(y|s) or None.
    """

    row: int
    sentence: int
    tokens: list[Token]
    left_out: int
    length: int
    masks: int
    scored: bool
    label: str | None
    predicted: str | None
    prob: float | None

    def to_html(self) -> str:
        """Return the sentence for a notebook, with its style."""
        return environment().get_template("notebook.html").render(title="", sentences=[self])


def surfaces(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Return what each token of a sentence adds to the text, the whitespace before it included; maybe nothing."""
    out, end = [], spans[0][0] if spans else 0
    for _, stop in spans:
        out.append(text[end:stop])
        end = max(end, stop)
    return out


def tokens_of(
    words: Sequence[str], importance: Numbers | None, mask_index: Places, *, large_is_important: bool
) -> list[Token]:
    """Return a sentence's tokens, as many as are shown. Args: see ``terminal.sentence_text``."""
    masked, tokens, chars = {int(at) for at in mask_index}, [], 0
    strengths = strengths_of(words, importance, large_is_important)
    for at, (word, strength) in enumerate(zip(words, strengths, strict=True)):
        text = shortened(clean(word.strip()), MOST_OF_A_TOKEN)
        chars += len(text) + 1
        if at >= MOST_TOKENS or chars > MOST_CHARS:
            break
        value = None if importance is None else float(importance[at])
        space = at > 0 and word[:1].isspace()
        tokens.append(Token(text or "·" * (at in masked), space, round(strength * SHADES), at in masked, value))
    return tokens


def strengths_of(tokens: Sequence[str], importance: Numbers | None, large_is_important: bool) -> np.ndarray:
    """Return float [n], from 0 for a sentence's least important token to 1 for its most important one."""
    if importance is None or len(tokens) == 0:
        return np.zeros(len(tokens))
    score = np.asarray(importance, dtype=np.float64)
    score = np.nan_to_num(score if large_is_important else -score)
    span = score.max() - score.min()
    return (score - score.min()) / span if span > 0 else np.zeros(len(tokens))


@cache
def environment() -> Environment:
    """Return the templates, which escape every value."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": _number, "share": _share, "signed": _signed,
                     "word": lambda text: clean(shortened(text, MOST_OF_A_TOKEN)),
                     "points": lambda value: f"{100 * value:+.2f}".replace("-", "−"),
                     "p": lambda value: "–" if value is None else f"{value:.2g}",
                     "plain": lambda text: clean(shortened(str(text), 300))}  # fmt: skip
    return made


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}".replace("-", "−")


def _signed(value: float) -> str:
    """Return an importance in few characters, a tiny one with its power of ten."""
    text = f"{value:+.3f}" if abs(value) >= 0.0005 else f"{value:+.0e}" if value else "0"
    return text.replace("-", "−")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"
