"""Learning from a teacher: soft labels on texts and on random spans of them.

A small model sees few sentences; what a larger classifier says about their parts tells it which words matter
(Hinton et al. 2015, section 2; Tang et al. 2019, arXiv 1903.12136, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from ..models import load_classifier, load_tokenizer, resolve_model
from .examples import Row, encode_rows
from .packed import enable_packing, longest_input
from .predict import logits_of

if TYPE_CHECKING:
    import torch

TEMPERATURE = 2.0
SHORTEST_SPAN = 2


def soft_rows(rows: Sequence[Row], spans: int, rng: np.random.Generator) -> list[Row]:
    """The rows' texts without labels, and ``spans`` random runs of two or more words of each; no text twice."""
    texts = {row.text: row for row in rows}
    for row in rows:
        words = row.text.split()
        for _ in range(spans if len(words) > SHORTEST_SPAN else 0):
            length = int(rng.integers(SHORTEST_SPAN, len(words) + 1))
            start = int(rng.integers(0, len(words) - length + 1))
            texts.setdefault(" ".join(words[start : start + length]), row)
    return [Row(text, row.aspect, None, row.source, row.line) for text, row in texts.items()]


def teacher_logits(
    teacher: str, rows: Sequence[Row], class_names: Sequence[str], max_length: int, device: str,
    report: Callable[[str], None],
) -> np.ndarray:  # fmt: skip
    """What the teacher says: logits float32 [N, classes], in the order of ``class_names``.

    Raises:
        ModelError: the teacher cannot be loaded, or has other classes.
    """
    import torch

    files = resolve_model(teacher)
    if sorted(files.class_names) != sorted(class_names):
        theirs, ours = ", ".join(files.class_names), ", ".join(class_names)
        raise ModelError(f"--teacher {teacher}: its classes are {theirs}, here they are {ours}")
    model = enable_packing(load_classifier(files, torch.float32)).to(device)
    examples = encode_rows(load_tokenizer(files), rows, class_names, min(max_length, longest_input(model)))
    report(f"{files.name} labels {len(rows)} texts and spans, {examples.lengths.sum()} tokens")
    return logits_of(model, examples, device)[:, [files.class_names.index(name) for name in class_names]]


def mixed_loss(logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over rows of cross-entropy where there is a label, of T^2 KL(teacher || model) where there is none.

    Args:
        logits, teacher: float [B, classes]; the teacher's rows beside a label are not looked at.
        labels: int64 [B], -1 where there is none.
    """
    from torch.nn import functional

    hard = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    wanted, got = ((z / TEMPERATURE).log_softmax(-1) for z in (teacher, logits))
    divergence = functional.kl_div(got, wanted, log_target=True, reduction="none").sum(-1)
    soft = TEMPERATURE**2 * divergence.masked_fill(labels >= 0, 0.0).sum()
    return (hard + soft) / len(labels)
