"""The weights of the encoder families, whatever they call them, in one common shape."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch

Pooling = Literal["first", "mean", "none"]
"""What is classified: a sequence by its first row or by the mean of its rows, or every row by itself."""


class Linear(NamedTuple):
    """A linear layer: weight [out, in], bias [out], zeros where a family has none."""

    weight: torch.Tensor
    bias: torch.Tensor


class LayerNorm(NamedTuple):
    """A layer norm over the last dimension: weight [H], bias [H], zeros where a family has none."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def to(self, dtype: torch.dtype) -> LayerNorm:
        """Return the same norm in a dtype."""
        return LayerNorm(self.weight.to(dtype).contiguous(), self.bias.to(dtype).contiguous(), self.eps)


@dataclass(frozen=True, slots=True)
class PostNormLayer:
    """One block of BERT's kind, a layer norm after each sum. Matrices are [out, in]; H hidden, F feed-forward size."""

    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: LayerNorm
    intermediate: Linear
    output: Linear
    output_norm: LayerNorm


@dataclass(frozen=True, slots=True)
class PreNormLayer:
    """One block of ModernBERT's kind, a layer norm before each branch.

    Matrices are [out, in]; H hidden, F feed-forward size.

    Attributes:
        attention_norm: None in the first block, which reads the embeddings' rows as they are.
        qkv: queries, keys and values [3 * H, H].
        attention_output: [H, H].
        window: how far a token sees to each side; None for all of its sequence.
        theta: base of the rotary angles.
        feed_forward_norm: before the feed-forward.
        gated: [2 * F, H], the part that is activated above the part that it is multiplied with.
        output: [H, F].
    """

    attention_norm: LayerNorm | None
    qkv: Linear
    attention_output: Linear
    window: int | None
    theta: float
    feed_forward_norm: LayerNorm
    gated: Linear
    output: Linear


@dataclass(frozen=True, slots=True)
class FamilyWeights:
    """An encoder with a classification head.

    Attributes:
        word, position, token_type: float tables [*, E]; one zero row where the family has none.
        position_offset: position id of the first token; see ``family_rules.position_ids``.
        longest: most tokens of a sequence.
        embedding_norm: layer norm after the sum of the three.
        projection: E -> H, or None where E = H.
        layers: the blocks, all of them PostNormLayer or all PreNormLayer.
        final_norm: of the last block's rows, or None.
        heads: of the attention.
        activation: one of ACTIVATIONS' values.
        pooling: what is classified.
        head: the dense layer before the classifier, or None.
        head_activation: "tanh", "relu" or "gelu"; None without a dense layer.
        head_norm: layer norm after that, or None.
    """

    word: torch.Tensor
    position: torch.Tensor
    token_type: torch.Tensor
    position_offset: int
    longest: int
    embedding_norm: LayerNorm
    projection: Linear | None
    layers: tuple[Any, ...]
    final_norm: LayerNorm | None
    heads: int
    activation: str
    pooling: Pooling
    head: Linear | None
    head_activation: str | None
    head_norm: LayerNorm | None
    classifier: Linear

    @property
    def hidden(self) -> int:
        """Return the number of columns of a row."""
        return self.classifier.weight.shape[1]

    def to(self, device: str) -> FamilyWeights:
        """Return the same weights on a device."""
        return _to(self, device)


def _to(value, device: str):
    """Move every tensor in a value made of these classes."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, FamilyWeights | PostNormLayer | PreNormLayer):
        return replace(value, **{field.name: _to(getattr(value, field.name), device) for field in fields(value)})
    if isinstance(value, Linear | LayerNorm):
        return type(value)(*(_to(part, device) for part in value))
    return tuple(_to(part, device) for part in value) if isinstance(value, tuple) else value
