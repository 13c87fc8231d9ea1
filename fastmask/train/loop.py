"""The training loop in nanoGPT's order, as functions: set the rate, forward, backward, clip, step, clear.

Nothing here knows what is trained: a *model step* is any callable from a batch, or a part of one, to a scalar loss
tensor. The gradients of a batch's parts, and of the ranks that train together, add up to one step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..errors import FastmaskError
from .ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

Batch = TypeVar("Batch")

CLIP_NORM = 1.0
SORT_WINDOW = 50
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h
_LARGE = 32 << 20  # bytes


class Diverged(FastmaskError):
    """A loss or gradient that is not finite."""


def seed_everything(seed: int) -> np.random.Generator:
    """Seeds torch (initial weights, dropout) and returns the generator that orders the data."""
    import torch

    torch.manual_seed(seed)
    return np.random.default_rng(seed)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, this process uses large buffers again instead of asking the system for fresh, zeroed pages in every step.

    Afterwards what is free goes back to the system. Without effect where the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        # glibc's own, but for a threshold that it would have raised to this by itself
        for option, value in ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, 2 * _LARGE), (_MMAP_THRESHOLD, _LARGE)):
            library.mallopt(option, value)
        library.malloc_trim(0)


def linear_schedule(total_steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the peak learning rate at step 0..total_steps-1: linearly up, then down (BERT, appendix A.2).

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
    """Fused AdamW; biases and layer norms (one-dimensional parameters) are not decayed."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def shuffled_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch of batches: rows shuffled, sorted by length in windows of 50 batches, batches shuffled again.

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


def whole(batch: Batch) -> Sequence[Batch]:
    """A batch as the only part of itself."""
    return (batch,)


def train(
    model_step: Callable[[Batch], torch.Tensor],
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    first_step: int = 0,
    parts: Callable[[Batch], Sequence[Batch]] = whole,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[int, float]]:
    """Trains on every batch and yields ``(step, loss)`` after each; the caller decides what happens between.

    Args:
        model_step: part of a batch -> scalar loss with a graph. The step's loss is the sum over the batch's parts,
            averaged over ranks.
        batches: consumed lazily, one a step.
        optimizer: its groups' ``lr`` at the call is the peak rate that the schedule scales.
        schedule: step -> factor of the peak rate.
        first_step: number of the first batch's step, for later epochs and resumed runs.
        parts: batch -> what goes through the model at a time; gradients are accumulated over them.
        ranks: the processes that take each step together.

    Raises:
        Diverged: the loss or the gradient is not finite; the weights are those before the step.
    """
    peaks = [group.setdefault("peak_lr", group["lr"]) for group in optimizer.param_groups]
    with freed_memory_kept():
        for step, batch in enumerate(batches, first_step):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule(step)
            yield step, train_step(model_step, parts(batch), optimizer, step, ranks)


def train_step(
    model_step: Callable[[Batch], torch.Tensor],
    parts: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    step: int,
    ranks: Ranks = ALONE,
) -> float:
    """Forward and backward of each part, clip to norm 1, step, clear: one update, returning the loss before it."""
    import torch

    losses = []
    for number, part in enumerate(parts, 1):
        with ranks.exchanging(number == len(parts)):
            loss = model_step(part)
            loss.backward()
        losses.append(loss.detach())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    # looked at once a step, so that a device is not waited for in between
    value, norm = ranks.mean(torch.stack([torch.stack(losses).sum(), norm])).tolist()
    if not np.isfinite([value, norm]).all():
        optimizer.zero_grad(set_to_none=True)
        what = "gradient's norm" if np.isfinite(value) else "loss"
        bad = norm if np.isfinite(value) else value
        raise Diverged(f"training diverged: the {what} is {bad} at step {step}; try a lower --lr")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value
