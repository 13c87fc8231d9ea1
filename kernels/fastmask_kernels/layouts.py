"""The inputs and outputs of ops: tuples of tensors on one device, in a module that imports neither numba nor Triton."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch


class Grid(NamedTuple):
    """B packed sequences, T rows, filled up to L rows each.

    Attributes:
        rows: int64 [B, L], the packed row of each place, any where there is none.
        inside: bool [B, L], whether there is one.
        places: int64 [T], each packed row's place in the B * L.
    """

    rows: torch.Tensor
    inside: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True)
class Sequences:
    """Where the sequences of a packed batch are.

    Attributes:
        cu_seqlens: int32 [B + 1]; max_seqlen: length of the longest.
        row_sequence: int32 [T], each row's sequence; tiles: int32 [N, 4] of ``varlen_attention.attention_tiles``.
            None where nothing runs that wants them.
    """

    cu_seqlens: torch.Tensor
    max_seqlen: int
    row_sequence: torch.Tensor | None = None
    tiles: torch.Tensor | None = None

    @cached_property
    def grid(self) -> Grid:
        """Return the sequences filled up to the longest, made on the device without waiting for it."""
        assert self.row_sequence is not None  # every batch on a device has it
        bounds, number = self.cu_seqlens.long(), self.row_sequence.long()
        ends, packed = bounds[1:, None], torch.arange(len(number), device=bounds.device)
        rows = bounds[:-1, None] + torch.arange(self.max_seqlen, device=bounds.device)
        places = number * self.max_seqlen + packed - bounds[number]
        return Grid(rows.clamp(max=len(number) - 1), rows < ends, places)


class Rotary(NamedTuple):
    """How queries and keys are turned by their position in the sequence: see ``rotary_of``.

    Attributes:
        cos, sin: float32 [P, D / 2] of P positions and heads of D columns, column c turned together with c + D / 2.
    """

    cos: torch.Tensor
    sin: torch.Tensor


def rotary_of(theta: float, head_dim: int, positions: int) -> Rotary:
    """Return the tables of a base for heads of ``head_dim``, in float32 at any precision, as transformers has them."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
    return Rotary(angles.cos(), angles.sin())


class Texts(NamedTuple):
    """The scored units' tokens, U units.

    Attributes:
        offsets: int32 [U + 1] into input_ids and kept; input_ids: int32 [N], no special tokens.
        context_offsets: int32 [U + 1]; context_ids: int32 [C], the units' aspects, may be empty.
        kept: int32 [N], greedy's buffers: positions in the unit kept so far, from the unit's offset on.
    """

    offsets: torch.Tensor
    input_ids: torch.Tensor
    context_offsets: torch.Tensor
    context_ids: torch.Tensor
    kept: torch.Tensor


class Special(NamedTuple):
    """The special tokens around a variant: ``prefix context middle content suffix``.

    Attributes:
        ids: int32 [prefix + middle + suffix], the three groups end to end.
        prefix, middle, suffix: how many tokens each has.
        content_type: token type from the content on; 0 before it.
    """

    ids: torch.Tensor
    prefix: int
    middle: int
    suffix: int
    content_type: int


class Head(NamedTuple):
    """``classifier(norm(activation(dense(row))))``, made by ``head_of``.

    Attributes:
        dense_weight: float [P, H]; dense_bias: float [P].
        activation: "tanh", "relu" or "gelu".
        weight: float [C, P]; bias: float [C].
        norm_weight, norm_bias: float [P] of a layer norm before the classifier, None without one; norm_eps: its own.
    """

    dense_weight: torch.Tensor
    dense_bias: torch.Tensor
    activation: str
    weight: torch.Tensor
    bias: torch.Tensor
    norm_weight: torch.Tensor | None = None
    norm_bias: torch.Tensor | None = None
    norm_eps: float = 0.0


def head_of(dense_weight, dense_bias, activation: str, weight, bias, norm=None) -> Head:
    """Return a head of parameters [P, H], [P], [C, P], [C]; norm is (weight [P], bias [P], eps) or None."""
    return Head(dense_weight.contiguous(), dense_bias, activation, weight.contiguous(), bias, *(norm or ()))
