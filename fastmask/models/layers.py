"""What comes after the embeddings, on packed rows and by whatever ops are given: the blocks, pooling, and the head."""

from __future__ import annotations

from typing import Protocol

import torch
from fastmask_kernels import reference
from fastmask_kernels.layouts import Sequences, head_of
from torch import nn

from .family_weights import FamilyWeights, Linear
from .post_norm import PostNormBlocks, PostNormLayer
from .pre_norm import PreNormBlocks, PreNormLayer

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
KINDS: dict[type, type[PostNormBlocks | PreNormBlocks]] = {PostNormLayer: PostNormBlocks, PreNormLayer: PreNormBlocks}
"""Class of a block's weights -> that of all blocks."""


class Blocks(Protocol):
    """All transformer blocks of an encoder, weights laid out once."""

    def first_qkv(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return what the first attention reads of embedding rows [T, H]; None where that is no rows of their own.

        It depends on each row alone, so that it can be remembered.
        """
        ...

    def __call__(self, x: torch.Tensor, sequences: Sequences, qkv: torch.Tensor | None = None) -> torch.Tensor:
        """Return the rows to classify of embedding rows [T, H]: [>= B, H], one a sequence, or [T, H].

        ``qkv`` is ``first_qkv(x)`` where that is at hand.
        """
        ...


def blocks_of(weights: FamilyWeights, ops, wide: torch.dtype) -> Blocks:
    """Return the blocks of a model by the given ops; ``wide`` is the dtype of norms and sums."""
    return KINDS[type(weights.layers[0])](weights, ops, wide)


class ClassHead:
    """The dense layer, the norm and the classifier on pooled rows, in float32 or float64.

    Attributes:
        parameters: what the op ``log_odds`` takes as ``head``.
    """

    def __init__(self, weights: FamilyWeights, wide: torch.dtype):
        dense, classifier = (
            Linear(layer.weight.to(wide), layer.bias.to(wide)) for layer in (weights.head, weights.classifier) if layer
        )
        activation = weights.head_activation or ""  # there is one where there is a head
        norm = weights.head_norm and weights.head_norm.to(wide)
        self.parameters = head_of(*dense, activation, *classifier, norm)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return class logits [N, C] of rows [N, H]."""
        return reference.head_logits(rows.to(self.parameters.bias.dtype), self.parameters)


class LinearHead:
    """The classifier alone, in float32 or float64."""

    def __init__(self, weights: FamilyWeights, wide: torch.dtype):
        layer = weights.classifier
        self.weight, self.bias = (p.to(wide).contiguous() for p in (layer.weight, layer.bias))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return class logits [N, C] of rows [N, H]."""
        return nn.functional.linear(rows.to(self.bias.dtype), self.weight, self.bias)


def make_head(weights: FamilyWeights, wide: torch.dtype) -> ClassHead | LinearHead:
    """Return what gives logits from the blocks' rows."""
    return LinearHead(weights, wide) if weights.head is None else ClassHead(weights, wide)
