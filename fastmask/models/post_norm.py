"""Blocks of BERT's kind, with a layer norm after each sum, on packed rows."""

from __future__ import annotations

import torch
from fastmask_kernels.layouts import Sequences
from torch import nn

from .family_weights import FamilyWeights, Linear, PostNormLayer

# Rows of the last block are filled up to a multiple of this.
CLS_MULTIPLE = 16


def single(layers: list[Linear]) -> Linear:
    """Several linear layers of one input as one: [sum of N, K]."""
    return Linear(torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))


class TransformerBlock:
    """Everything of a transformer block after its attention, weights laid out once."""

    def __init__(self, ops, weights: PostNormLayer, activation: str, norm_dtype: torch.dtype):
        self.ops = ops
        self.attention_output = ops.linear(weights.attention_output)
        self.attention_norm = weights.attention_norm.to(norm_dtype)
        self.intermediate = ops.linear(weights.intermediate, activation)
        self.output = ops.linear(weights.output)
        self.output_norm = weights.output_norm.to(norm_dtype)

    def feed_forward(self, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output [T, H] for attention context and block input [T, H]."""
        x = self.ops.residual_layernorm(self.attention_output(context), x, *self.attention_norm)
        return self.ops.residual_layernorm(self.output(self.intermediate(x)), x, *self.output_norm)


class FullBlock(TransformerBlock):
    """A block that updates every row."""

    def __init__(self, ops, weights: PostNormLayer, activation: str, norm_dtype: torch.dtype, heads: int):
        super().__init__(ops, weights, activation, norm_dtype)
        self.heads = heads
        self.qkv = ops.linear(single([weights.query, weights.key, weights.value]))

    def __call__(self, x: torch.Tensor, sequences: Sequences, qkv=None) -> torch.Tensor:
        qkv = self.qkv(x) if qkv is None else qkv
        context = self.ops.varlen_attention(qkv, sequences, self.heads)
        return self.feed_forward(context, x)


class ClsBlock(TransformerBlock):
    """The last block, for the first row of each sequence only.

    With one query a sequence, q . (K x) = (K' q) . x and sum p (V x) = V (sum p x): the key and value matrices are
    applied once a sequence instead of once a token. The key bias shifts all scores alike and drops out of the softmax.
    """

    def __init__(self, ops, weights: PostNormLayer, activation: str, norm_dtype: torch.dtype, heads: int):
        super().__init__(ops, weights, activation, norm_dtype)
        self.heads, self.wide = heads, norm_dtype
        hidden = weights.query.weight.shape[1]
        self.query = ops.linear(weights.query)
        self.key = weights.key.weight.to(norm_dtype).view(heads, -1, hidden) * (hidden // heads) ** -0.5
        self.value = weights.value.weight.to(norm_dtype).view(heads, -1, hidden).transpose(1, 2).contiguous()
        self.value_bias = weights.value.bias.to(norm_dtype)

    def __call__(self, x: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        first = x[first_rows(sequences)]
        batch, hidden = first.shape
        query = self.query(first).to(self.wide).view(batch, self.heads, -1).transpose(0, 1)
        projected = torch.bmm(query, self.key).transpose(0, 1).contiguous()
        rows = self.ops.cls_attention(projected, x, sequences, self.heads)
        context = torch.bmm(rows.transpose(0, 1), self.value).transpose(0, 1).reshape(batch, hidden) + self.value_bias
        return self.feed_forward(context.to(x.dtype), first)


def first_rows(sequences: Sequences) -> torch.Tensor:
    """Return the first row's number of each sequence, int64, some repeated up to a multiple as rows of a batch are."""
    index = sequences.cu_seqlens[:-1].long()
    return nn.functional.pad(index, (0, -len(index) % CLS_MULTIPLE))


class PostNormBlocks:
    """All blocks; the last one works on the first row of each sequence alone, unless every token is classified."""

    def __init__(self, weights: FamilyWeights, ops, wide: torch.dtype):
        def built(kind, layer):
            return kind(ops, layer, weights.activation, wide, weights.heads)

        *before, last = weights.layers
        self.blocks = [built(FullBlock, layer) for layer in before]
        self.blocks.append(built(FullBlock if weights.pooling == "none" else ClsBlock, last))

    def first_qkv(self, x: torch.Tensor) -> torch.Tensor | None:
        """See ``layers.Blocks``."""
        first = self.blocks[0]
        return first.qkv(x) if isinstance(first, FullBlock) else None

    def __call__(self, x: torch.Tensor, sequences: Sequences, qkv: torch.Tensor | None = None) -> torch.Tensor:
        """See ``layers.Blocks``."""
        x = self.blocks[0](x, sequences) if qkv is None else self.blocks[0](x, sequences, qkv)
        for block in self.blocks[1:]:
            x = block(x, sequences)
        return x
