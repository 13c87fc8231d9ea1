"""Epochs of supervised training: each is measured, and the best one's weights are kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .loop import linear_schedule, make_optimizer, shuffled_batches, train
from .progress import SECONDS_BETWEEN_LINES

if TYPE_CHECKING:
    import torch

    from ..config_train import FinetuneConfig, MaskerConfig


class Measured(NamedTuple):
    """How good the model is after an epoch.

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
    config: FinetuneConfig | MaskerConfig,
    training: Training,
    rng: np.random.Generator,
    report: Callable[[str], None],
) -> tuple[list[dict], int]:
    """Trains every epoch and leaves the best one's weights, rounded to ``config.dtype``, in the model.

    Args:
        config: epochs, batch size, AdamW and dtype.
        rng: of the order.
        report: receives one line at a time.

    Returns:
        Each epoch's record, and the best one's number from 1.

    Raises:
        Diverged: a loss or gradient that is not finite.
    """
    run_epoch = _epoch_runner(config, training, report)
    records: list[dict] = []
    best, best_score, weights = 0, -1.0, {}
    for epoch in range(1, config.epochs + 1):
        loss = run_epoch(shuffled_batches(training.lengths, config.batch_size, rng), epoch)
        figures, score, words = training.measure()
        if score is None or score > best_score:
            best, best_score, weights = epoch, score, _rounded(training.model, torch_dtype(config.dtype))
        records.append({"epoch": epoch, "train_loss": loss, **figures})
        report(f"epoch {epoch} of {config.epochs}: loss {loss:.4f}{words}")
    training.model.load_state_dict(weights)
    return records, best


def _epoch_runner(config, training: Training, report: Callable[[str], None]):
    """A function of (batches, epoch) that trains on them and returns the mean loss of their rows."""
    steps = -(-len(training.lengths) // config.batch_size)
    schedule = linear_schedule(steps * config.epochs, config.warmup)
    optimizer = make_optimizer(training.model, config.lr, config.weight_decay)

    def run(batches: list[np.ndarray], epoch: int) -> float:
        training.model.train()
        total, seen, said = 0.0, 0, time.monotonic()
        losses = train(training.step, batches, optimizer, schedule, first_step=(epoch - 1) * steps)
        for rows, (step, loss) in zip(batches, losses, strict=True):
            total, seen = total + loss * len(rows), seen + len(rows)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                report(f"step {step + 1} of {steps * config.epochs}: loss {total / seen:.4f}")
        return total / seen

    return run


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that ``name`` names."""
    import torch

    return getattr(torch, name)


def _rounded(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A copy of the weights after a round trip through ``dtype``: the model that the saved file holds."""
    return {name: tensor.detach().to(dtype, copy=True).to(tensor.dtype) if tensor.is_floating_point()
            else tensor.clone() for name, tensor in model.state_dict().items()}  # fmt: skip
