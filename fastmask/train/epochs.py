"""Epochs of supervised training: each is measured, and the best one's weights are kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..core.memory import freed_memory_kept
from ..report.progress import Progress
from .loop import linear_schedule, make_optimizer, set_rate, shuffled_batches, take_step

if TYPE_CHECKING:
    import torch

    from ..core.config_train import FinetuneConfig, MaskerConfig

log = logging.getLogger(__name__)


class Measured(NamedTuple):
    """A measurement of the model after an epoch.

    Attributes:
        figures: for the epoch's record, JSON-ready.
        score: of two epochs the one with the larger is the better; None: the later one is.
        words: for the epoch's line.
    """

    figures: dict
    score: float | None
    words: str


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained on N rows.

    Attributes:
        model: with its weights in float32.
        lengths: int64 [N], tokens of each row.
        step: rows int64 [B] -> scalar loss with a graph.
        measure: how good ``model`` is now.
    """

    model: torch.nn.Module
    lengths: np.ndarray
    step: Callable[[np.ndarray], torch.Tensor]
    measure: Callable[[], Measured]


def train_epochs(
    config: FinetuneConfig | MaskerConfig, training: Training, rng: np.random.Generator
) -> tuple[list[dict], int]:
    """Train every epoch and leave the best one's weights, rounded to ``config.dtype``, in the model.

    Args:
        config: epochs, batch size, AdamW and dtype.
        rng: of the order.

    Returns:
        Each epoch's record, and the best one's number from 1.

    Raises:
        Diverged: a loss or gradient that is not finite.
    """
    from ..models.dropout import use_drawn_dropout  # torch with it

    model, lengths, step = use_drawn_dropout(training.model), training.lengths, 0
    steps = -(-len(lengths) // config.batch_size) * config.epochs
    factor = linear_schedule(steps, config.warmup)
    optimizer = make_optimizer(model, config.lr, config.weight_decay)
    progress, records = Progress("steps", steps), list[dict]()
    best, best_score, weights = 0, -1.0, {}
    for epoch in range(1, config.epochs + 1):
        model.train()
        total = 0.0
        with freed_memory_kept():
            for rows in shuffled_batches(lengths, config.batch_size, rng):  # int64 [B]
                set_rate(optimizer, config.lr * factor(step))
                loss = training.step(rows)  # []
                loss.backward()
                value = take_step(optimizer, loss.detach(), step)
                total, step = total + value * len(rows), step + 1
                progress.update(step, int(lengths[rows].sum()), value)
        figures, score, words = training.measure()
        if score is None or score > best_score:
            best, best_score, weights = epoch, score or 0.0, _rounded(model, torch_dtype(config.dtype))
        records.append({"epoch": epoch, "train_loss": total / len(lengths), **figures})
        log.info(f"epoch {epoch} of {config.epochs}: loss {total / len(lengths):.4f}{words}")
    model.load_state_dict(weights)
    return records, best


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype that ``name`` names."""
    import torch

    return getattr(torch, name)


def _rounded(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return a copy of the weights after a round trip through ``dtype``: the model that the saved file holds."""
    return {name: tensor.detach().to(dtype, copy=True).to(tensor.dtype) if tensor.is_floating_point()
            else tensor.clone() for name, tensor in model.state_dict().items()}  # fmt: skip
