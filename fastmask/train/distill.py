"""Learning from a teacher: soft labels on texts and on random spans of them.

A small model sees few sentences; what a larger classifier says about their parts tells it which words matter
(Hinton et al. 2015, section 2; Tang et al. 2019, arXiv 1903.12136, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError, panics_told
from ..family_rules import FAST_FAMILIES
from ..models import ModelFiles, load_tokenizer, resolve_model
from ..weights import load_classifier
from .examples import Row, encode_rows
from .packed import enable_packing
from .predict import logits_of
from .reading import reading_of
from .vocabulary import PREFIX

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

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


@dataclass(frozen=True, slots=True)
class Teacher:
    """A trained classifier on ``device``, packing enabled, what belongs to it, and how it reads."""

    files: ModelFiles
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    is_typed: bool
    device: str


def load_teacher(name: str, device: str, max_length: int, is_pair: bool) -> Teacher:
    """Raises ModelError when it cannot be loaded. bfloat16 where that is fast: soft labels need no more.

    Other families than the fast ones may not run in it.
    """
    import torch
    from fastmask_kernels import processor

    files = resolve_model(name)
    fast = files.config["model_type"] in FAST_FAMILIES and (device == "cuda" or processor.has_fast_bfloat16())
    model, tokenizer = load_classifier(files, torch.bfloat16 if fast else torch.float32), load_tokenizer(files)
    longest, is_typed = reading_of(model, tokenizer, files.name, max_length, is_pair)
    return Teacher(files, enable_packing(model).to(device), tokenizer, longest, is_typed, device)


def teacher_logits(teacher: Teacher, rows: Sequence[Row], class_names: Sequence[str]) -> np.ndarray:
    """What the teacher says: logits float32 [N, classes], in the order of ``class_names``.

    Raises:
        ModelError: the teacher has other classes.
    """
    given = teacher.files.class_names
    if sorted(given) != sorted(class_names):
        theirs, ours = ", ".join(given), ", ".join(class_names)
        raise ModelError(f"--teacher {teacher.files.name}: its classes are {theirs}, here they are {ours}")
    examples = encode_rows(teacher.tokenizer, rows, teacher.files.classes, teacher.max_length, teacher.is_typed)
    return logits_of(teacher.model, examples, teacher.device)[:, [given.index(name) for name in class_names]]


def teacher_embeddings(teacher: Teacher, tokenizer: PreTrainedTokenizerBase, width: int) -> torch.Tensor:
    """A start for another vocabulary's word embeddings: the teacher's, cut to their first principal components.

    A piece that the teacher does not have gets the mean over the pieces it would split it into.

    Returns:
        float32 [len(tokenizer), width] on the CPU; columns past the teacher's own width are 0.
    """
    import torch

    table = teacher.model.get_input_embeddings().weight.detach().float().cpu()
    known = teacher.tokenizer.get_vocab()
    rows = torch.zeros(len(tokenizer), table.shape[1])
    with panics_told():
        for piece, index in tokenizer.get_vocab().items():
            if piece in known:
                rows[index] = table[known[piece]]
            elif parts := teacher.tokenizer(piece.removeprefix(PREFIX), add_special_tokens=False)["input_ids"]:
                rows[index] = table[parts].mean(0)
    rows -= rows.mean(0)
    directions = torch.linalg.svd(rows, full_matrices=False).Vh[:width]
    start = rows @ directions.T
    return torch.nn.functional.pad(start, (0, width - start.shape[1]))


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
