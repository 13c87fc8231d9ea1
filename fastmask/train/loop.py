"""What the training loops share: seeds, the schedule of the learning rate, AdamW, the order of rows, and a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import FastmaskError
from .ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

CLIP_NORM = 1.0
SORT_WINDOW = 50


class Diverged(FastmaskError):
    """A loss or gradient that is not finite."""


def seed_everything(seed: int) -> np.random.Generator:
    """Seed torch (initial weights, dropout) and return the generator that orders the data."""
    import torch

    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def linear_schedule(total_steps: int, warmup: float) -> Callable[[int], float]:
    """Return step -> factor of the peak learning rate: linearly up, then down (BERT, appendix A.2).

    Args:
        total_steps: optimizer steps of the whole run.
        warmup: share of them, 0 to 1, in which the rate rises.
    """
    rising = int(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return (total_steps - step) / max(1, total_steps - rising)

    return factor


def make_optimizer(model: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return fused AdamW; biases and layer norms (one-dimensional parameters) are not decayed."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def shuffled_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return an epoch's batches: rows shuffled, sorted by length in windows of 50 batches, batches shuffled again.

    Sorting inside a window keeps attention's padding small; the windows keep the order random enough.

    Args:
        lengths: int [N], tokens of each row.
        batch_size: rows of a batch; an epoch's last batch may be smaller.
        rng: the only source of randomness.

    Returns:
        int64 index arrays, together a permutation of 0..N-1.
    """
    order = rng.permutation(len(lengths))
    window = batch_size * SORT_WINDOW
    batches: list[np.ndarray] = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def take_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, step: int, ranks: Ranks = ALONE) -> float:
    """Clip the gradients to norm 1, update the weights and clear the gradients; return the loss as a number.

    Args:
        optimizer: its learning rates are set, and its parameters have gradients.
        loss: this rank's scalar, without a graph; the step's loss is the mean over ranks.
        step: its number, for the error.
        ranks: the processes that take the step together.

    Raises:
        Diverged: the loss or the gradient is not finite; the weights are those before the step.
    """
    import torch

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    # read once a step: each read waits for the device
    value, norm = ranks.mean(torch.stack([loss, norm])).tolist()
    if not np.isfinite([value, norm]).all():
        optimizer.zero_grad(set_to_none=True)
        what, bad = ("gradient's norm", norm) if np.isfinite(value) else ("loss", value)
        raise Diverged(f"training diverged: the {what} is {bad} at step {step}; try a lower --lr")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
