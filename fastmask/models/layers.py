"""The transformer blocks of the BERT family on packed rows, by whatever ops they are given."""

from __future__ import annotations

from types import MappingProxyType

import torch
from fastmask_kernels.layouts import Sequences, head_of
from torch import nn

from .family_weights import FamilyWeights, LayerNorm, LayerWeights, Linear

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
# Rows of the last block are filled up to a multiple of this.
CLS_MULTIPLE = 16


def single(layers: list[Linear]) -> Linear:
    """Several linear layers of one input as one: [sum of N, K]."""
    return Linear(torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))


class Norm:
    """A layer norm's parameters, float32 for the numba kernels and the working dtype otherwise."""

    def __init__(self, norm: LayerNorm, dtype: torch.dtype):
        self.weight, self.bias = (p.to(dtype).contiguous() for p in (norm.weight, norm.bias))
        self.eps = norm.eps


class TransformerBlock:
    """Everything of a transformer block after its attention, weights laid out once."""

    def __init__(self, ops, weights: LayerWeights, activation: str, norm_dtype: torch.dtype):
        self.ops = ops
        self.attention_output = ops.linear(weights.attention_output)
        self.attention_norm = Norm(weights.attention_norm, norm_dtype)
        self.intermediate = ops.linear(weights.intermediate, activation)
        self.output = ops.linear(weights.output)
        self.output_norm = Norm(weights.output_norm, norm_dtype)

    def feed_forward(self, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Attention context and block input [T, H] -> block output [T, H]."""
        norm = self.attention_norm
        x = self.ops.residual_layernorm(self.attention_output(context), x, norm.weight, norm.bias, norm.eps)
        norm = self.output_norm
        return self.ops.residual_layernorm(self.output(self.intermediate(x)), x, norm.weight, norm.bias, norm.eps)


class FullBlock(TransformerBlock):
    """A block that updates every row."""

    def __init__(self, ops, weights: LayerWeights, activation: str, norm_dtype: torch.dtype, heads: int):
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

    def __init__(self, ops, weights: LayerWeights, activation: str, norm_dtype: torch.dtype, heads: int):
        super().__init__(ops, weights, activation, norm_dtype)
        self.heads, self.wide = heads, norm_dtype
        hidden = weights.query.weight.shape[1]
        self.query = ops.linear(weights.query)
        self.key = weights.key.weight.to(norm_dtype).view(heads, -1, hidden) * (hidden // heads) ** -0.5
        self.value = weights.value.weight.to(norm_dtype).view(heads, -1, hidden).transpose(1, 2).contiguous()
        self.value_bias = weights.value.bias.to(norm_dtype)

    def __call__(self, x: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        index = sequences.cu_seqlens[:-1].long()
        # repeated up to a multiple, for the same reason as the rows of a batch
        first = x[nn.functional.pad(index, (0, -len(index) % CLS_MULTIPLE))]
        batch, hidden = first.shape
        query = self.query(first).to(self.wide).view(batch, self.heads, -1).transpose(0, 1)
        projected = torch.bmm(query, self.key).transpose(0, 1).contiguous()
        rows = self.ops.cls_attention(projected, x, sequences, self.heads)
        context = torch.bmm(rows.transpose(0, 1), self.value).transpose(0, 1).reshape(batch, hidden) + self.value_bias
        return self.feed_forward(context.to(x.dtype), first)


def blocks_of(weights: FamilyWeights, ops, wide: torch.dtype) -> list[TransformerBlock]:
    """All blocks: the last one works on the first row of each sequence alone, unless every token is classified."""
    kinds = [FullBlock] * (len(weights.layers) - 1) + [FullBlock if weights.head is None else ClsBlock]
    return [
        kind(ops, layer, weights.activation, wide, weights.heads)
        for kind, layer in zip(kinds, weights.layers, strict=True)
    ]


class ClassHead:
    """The dense layer and the classifier on first rows, in float32 or float64.

    Attributes:
        parameters: what the op ``log_odds`` takes as ``head``.
    """

    _ACTIVATIONS = MappingProxyType({"tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu})

    def __init__(self, weights: FamilyWeights, wide: torch.dtype):
        dense, classifier = (
            Linear(layer.weight.to(wide), layer.bias.to(wide)) for layer in (weights.head, weights.classifier) if layer
        )
        activation = weights.head_activation or ""  # there is one where there is a head
        self.parameters = head_of(dense.weight, dense.bias, activation, classifier.weight, classifier.bias)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return class logits [B, C] of first rows [B, H]."""
        head = self.parameters
        pooled = nn.functional.linear(rows.to(head.bias.dtype), head.dense_weight, head.dense_bias)
        return nn.functional.linear(self._ACTIVATIONS[head.activation](pooled), head.weight, head.bias)


class TokenHead:
    """The classifier of every row, in float32 or float64."""

    def __init__(self, weights: FamilyWeights, wide: torch.dtype):
        layer = weights.classifier
        self.weight, self.bias = (p.to(wide).contiguous() for p in (layer.weight, layer.bias))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return class logits [T, C] of rows [T, H]."""
        return nn.functional.linear(rows.to(self.bias.dtype), self.weight, self.bias)


def make_head(weights: FamilyWeights, wide: torch.dtype) -> ClassHead | TokenHead:
    """Return what gives logits from the last block's rows."""
    return TokenHead(weights, wide) if weights.head is None else ClassHead(weights, wide)
