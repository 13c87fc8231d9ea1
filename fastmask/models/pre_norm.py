"""Blocks of ModernBERT's kind: norms before the branches, rotary positions, local windows, a gated feed-forward."""

from __future__ import annotations

import torch
from fastmask_kernels.layouts import Rotary, Sequences, rotary_of

from .family_weights import FamilyWeights, PreNormLayer
from .post_norm import first_rows

FEWEST_POSITIONS = 128
"""Rows of the first table of angles."""


class Angles:
    """Rotary angles of one base, for as many positions as were needed so far; any thread may ask."""

    def __init__(self, theta: float, head_dim: int):
        self.theta, self.head_dim = theta, head_dim
        self._tables: dict[torch.device, Rotary] = {}

    def up_to(self, length: int, device: torch.device) -> Rotary:
        """Return the table of at least ``length`` positions."""
        found = self._tables.get(device)
        if found is None or len(found.cos) < length:
            rows = max(FEWEST_POSITIONS, 1 << (length - 1).bit_length())
            tables = rotary_of(self.theta, self.head_dim, rows)
            found = self._tables[device] = Rotary(*(table.to(device) for table in tables))
        return found


class PreNormBlock:
    """A block's ops, weights laid out once."""

    def __init__(self, ops, weights: PreNormLayer, activation: str, wide: torch.dtype, heads: int, angles: Angles):
        self.ops, self.heads, self.angles, self.window = ops, heads, angles, weights.window
        self.qkv = ops.linear(weights.qkv)
        self.attention_output = ops.linear(weights.attention_output)
        self.feed_forward_norm = weights.feed_forward_norm.to(wide)
        self.gated = ops.gated_linear(weights.gated, activation)
        self.output = ops.linear(weights.output)

    def attend(self, qkv: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        """Query, key and value rows [T, 3 * H] -> attention context [T, H]."""
        rotary = self.angles.up_to(sequences.max_seqlen, qkv.device)
        return self.ops.varlen_attention(qkv, sequences, self.heads, self.window, rotary)

    def feed_forward(self, context: torch.Tensor, stream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the feed-forward adds to the stream, and the stream so far, for context and stream [T, H]."""
        stream, normed = self.ops.add_layernorm(self.attention_output(context), stream, *self.feed_forward_norm)
        return self.output(self.gated(normed)), stream


class PreNormBlocks:
    """All blocks and the final norm.

    Between them goes the stream of ``wide`` rows that each branch is added to: rounded to bfloat16 after every block it
    would be most of that precision's error, and in float16 it could overflow.
    """

    def __init__(self, weights: FamilyWeights, ops, wide: torch.dtype):
        self.ops, self.wide, self.pooling = ops, wide, weights.pooling
        head_dim = weights.hidden // weights.heads
        angles = {layer.theta: Angles(layer.theta, head_dim) for layer in weights.layers}
        self.blocks = [
            PreNormBlock(ops, layer, weights.activation, wide, weights.heads, angles[layer.theta])
            for layer in weights.layers
        ]
        norms = [*(layer.attention_norm for layer in weights.layers[1:]), weights.final_norm]
        self.norms = [norm.to(wide) for norm in norms]  # after each block

    def first_qkv(self, x: torch.Tensor) -> torch.Tensor:
        """See ``layers.Blocks``."""
        return self.blocks[0].qkv(x)

    def __call__(self, x: torch.Tensor, sequences: Sequences, qkv: torch.Tensor | None = None) -> torch.Tensor:
        """See ``layers.Blocks``."""
        qkv = self.first_qkv(x) if qkv is None else qkv
        stream = x.to(self.wide)
        *before, last = self.blocks
        for block, following, norm in zip(before, self.blocks[1:], self.norms, strict=False):
            branch, stream = block.feed_forward(block.attend(qkv, sequences), stream)
            stream, normed = self.ops.add_layernorm(branch, stream, *norm)
            qkv = following.qkv(normed)
        context = last.attend(qkv, sequences)
        if self.pooling == "first":
            index = first_rows(sequences)
            context, stream = context[index], stream[index]
        branch, stream = last.feed_forward(context, stream)
        _, rows = self.ops.add_layernorm(branch, stream, *self.norms[-1])
        return self.ops.mean_rows(rows, sequences) if self.pooling == "mean" else rows
