"""Attention inside the sequences of a packed batch: those of similar length are padded to one and taken together."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LEAST_WORK = 12_000
"""The pairs of places (n L^2 of n sequences of L places) whose attention on a CPU costs as much as a call of it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring sequences that attention takes together: n of them, the longest of L tokens, t in all.

    Attributes:
        shape: (n, L).
        tokens: t.
        real: bool [n, L], the places that hold a token; None: all do.
        places: int64 [t], the place of each token in [n, L] laid end to end; None: in order.
    """

    shape: tuple[int, int]
    tokens: int
    real: torch.Tensor | None
    places: torch.Tensor | None


def groups_of(lengths: np.ndarray, device: str) -> tuple[Group, ...]:
    """Return the groups of sequences with these lengths, int64 [B], in order; one on a GPU."""
    return tuple(_group(some, device) for some in (_alike(lengths) if device == "cpu" else [lengths]))


def _alike(lengths: np.ndarray) -> list[np.ndarray]:
    """Return lengths int64 [B] in pieces, each as long as padding it costs less than one more call of attention."""
    starts, longest, work = list[int](), 0, 0
    for number, length in enumerate(lengths.tolist()):
        longest, work = max(longest, length), work + length**2
        if not starts or longest**2 * (number + 1 - starts[-1]) - work > LEAST_WORK:
            starts, longest, work = [*starts, number], length, length**2
    return np.split(lengths, starts[1:])


def _group(lengths: np.ndarray, device: str) -> Group:
    """Return the group of sequences with these lengths, int64 [n]."""
    import torch

    longest, tokens = int(lengths.max()), int(lengths.sum())
    real = np.arange(longest) < lengths[:, None]
    shape = len(lengths), longest
    if real.all():
        return Group(shape, tokens, None, None)
    return Group(shape, tokens, *(torch.from_numpy(array).to(device) for array in (real, np.flatnonzero(real))))


def packed_attention(
    module, query, key, value, attention_mask, scaling, dropout=0.0, *, packing, sliding_window=None, **_
):
    """Return the attention inside each sequence of a packed batch, as transformers calls attention functions.

    Args:
        module: the attention module that calls; unused.
        query, key, value: [1, heads, T, D].
        attention_mask: None; the packing alone says what sees what.
        scaling: factor of the scores.
        dropout: probability, 0 outside training.
        packing: the PackedTensors.
        sliding_window: a token sees those that are less than so many places from it; None for all of its sequence.

    Returns:
        ([1, T, heads, D], None).
    """
    import torch

    sizes = [group.tokens for group in packing.groups]
    pieces = zip(*(states[0].transpose(0, 1).split(sizes) for states in (query, key, value)), strict=True)
    contexts = [
        _attention_of(group, [_padded(rows, group) for rows in piece], scaling, dropout, sliding_window)
        for group, piece in zip(packing.groups, pieces, strict=True)
    ]
    return torch.cat(contexts).unsqueeze(0), None


def _attention_of(group: Group, padded: list[torch.Tensor], scaling, dropout, sliding_window) -> torch.Tensor:
    """Return the attention [t, heads, D] inside the sequences of a group, by query, key and value [n, L, heads, D]."""
    near = _near(group.shape[1], sliding_window, padded[0].device)
    mask = near if group.real is None else group.real[:, None, None, :]
    if near is not None and group.real is not None:
        # past a sequence's end too a row has to see something: NaN times 0 is NaN
        mask = near & (mask | ~group.real[:, None, :, None])
    context = _attend([states.transpose(1, 2) for states in padded], mask, dropout, scaling)
    context = context.transpose(1, 2).flatten(0, 1)
    return context if group.places is None else context.index_select(0, group.places)


def _padded(rows: torch.Tensor, group: Group) -> torch.Tensor:
    """Return rows [t, ...] at their places in [n, L, ...], and zeros at others; a GPU is not waited for."""
    if group.places is None:
        return rows.unflatten(0, group.shape)
    empty = rows.new_zeros(group.shape[0] * group.shape[1], *rows.shape[1:])
    return empty.index_copy_(0, group.places, rows).unflatten(0, group.shape)


def _attend(states, mask, dropout, scaling) -> torch.Tensor:
    """Return the attention [n, heads, L, D] of query, key and value of that shape."""
    import torch

    from .dropout import attention_with_dropout, is_drawn

    query, key, value = states
    if query.device.type == "cpu" and is_drawn(dropout):
        return attention_with_dropout(query, key, value, mask, dropout, scaling)
    with _any_shape() if query.is_cuda else nullcontext():
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
        )


def _any_shape() -> AbstractContextManager:
    """Return a context without cuDNN's attention, which is compiled for each new shape: most batches have one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _near(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return bool [L, L], which places see which; None where all see all."""
    import torch

    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=device)
    return (place[:, None] - place).abs() < sliding_window
