"""Trying a model of a family that is not known here, before it is trusted with a corpus."""

from __future__ import annotations

import numpy as np

from ..core.errors import first_line
from ..core.records import PackedBatch
from .packing import Template

# Answers that differ by more of their size than this are two answers, not one with float32's noise.
NOISE = 1e-4
FLOOR = 1e-5
MIDDLE = 5


def fault_of(encoder, template: Template) -> str | None:
    """Return what keeps an encoder from running at its precision; None where it runs."""
    try:
        encoder.logits(_packed([variant(template, 1, 0)]))
    except Exception as error:  # each family's own: no such kernel, types that do not match, ...
        return f"the model cannot run in {encoder.precision}: {first_line(error)}"
    return None


def unsteady(encoder, template: Template, longest: int) -> str | None:
    """Return what shows that an answer depends on what else is asked, or was asked before; None where nothing does.

    The same inputs, short, long and alike, are asked alone, together, and alone again in the other order.
    """
    most = longest - len(template.prefix) - len(template.suffix)
    middle = min(MIDDLE, most)
    inputs = [variant(template, count, n) for n, count in enumerate((most, 1, middle, middle, middle))]
    try:
        each = [encoder.logits(_packed([one])) for one in inputs]
        together = encoder.logits(_packed(inputs))
        again = [encoder.logits(_packed([one])) for one in reversed(inputs)][::-1]
    except Exception as error:
        return first_line(error)
    first, last = np.concatenate(each), np.concatenate(again)
    if not np.isfinite(first).all():
        return "it gives no finite numbers"
    if differ(first, last):
        return "asked the same again it gives another answer"
    return "a text's answer depends on the texts beside it" if differ(first, together) else None


def differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two arrays of one shape are two answers."""
    return bool(np.abs(first - second).max() > FLOOR + NOISE * np.abs(first).max())


def variant(template: Template, count: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and token types, int32 each, of the template around ``count`` words, others for each ``number``."""
    return template.around(np.resize(np.roll(template.words, number), count))


def _packed(inputs: list[tuple[np.ndarray, np.ndarray]]) -> PackedBatch:
    lengths = [len(ids) for ids, _ in inputs]
    ids, types = (np.concatenate(part) for part in zip(*inputs, strict=True))
    return PackedBatch(ids, types, np.cumsum([0, *lengths]).astype(np.int32), max(lengths))
