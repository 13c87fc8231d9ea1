"""The Triton kernels as a set of ops around cuBLAS products, for a device or, interpreted, for the CPU."""

from __future__ import annotations

import math
from functools import reduce
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from . import reference
from .bias_gelu import bias_gelu
from .cls_attention import cls_attention
from .compiled import INTERPRETED
from .embed_variants import embed_variants
from .geglu import geglu
from .layouts import Sequences
from .log_odds import MAX_CLASSES, log_odds
from .residual_layernorm import WIDEST, add_layernorm, layernorm, residual_layernorm
from .split_half import split_half
from .varlen_attention import HEAD_DIMS, NARROWEST_TURNED, attention_tiles, tile_rows, varlen_attention

LONGEST_SUM = 768
"""Columns of float32 that tensor cores sum up at a time, as many as keep their error near that of a float32 sum."""


def misfit(hidden: int, head_dim: int, classes: int) -> str:
    """Return what of a model's shape some kernel does not take, in words; "" where all do."""
    if head_dim not in HEAD_DIMS:
        return f"heads of {head_dim}"
    if classes > MAX_CLASSES:
        return f"{classes} classes"
    return f"rows of {hidden}" if hidden > WIDEST else ""


class TritonOps:
    """Triton kernels for float16, bfloat16 and float32."""

    name = "triton-interpreter" if INTERPRETED else "triton"
    residual_layernorm = staticmethod(residual_layernorm)
    log_odds = staticmethod(log_odds)

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def tiles(self, cu_seqlens: np.ndarray) -> np.ndarray:
        """Return int32 [N, 4], the attention's plan for sequences cu_seqlens int32 [B + 1], made on the host."""
        return attention_tiles(cu_seqlens, tile_rows(self.dtype))

    def embed_variants(self, *args):
        """See ``embed_variants``."""
        return embed_variants(*args, self.dtype)  # type: ignore[call-arg]

    def layernorm(self, x, weight, bias, eps):
        """See ``layernorm``, to the ops' own dtype."""
        return layernorm(x, weight, bias, eps, self.dtype)

    def add_layernorm(self, x, residual, weight, bias, eps):
        """See ``add_layernorm``; the results take the arguments' place."""
        return add_layernorm(x, residual, weight, bias, eps, total=residual, out=x)

    def varlen_attention(self, qkv, sequences: Sequences, heads, window=None, rotary=None):
        """See ``varlen_attention``; plain torch where heads are turned that are too narrow for it."""
        if rotary is not None and qkv.shape[1] // 3 // heads < NARROWEST_TURNED:
            return reference.varlen_attention(qkv, sequences.cu_seqlens, sequences.max_seqlen, heads, window, rotary)
        plan = sequences.cu_seqlens, sequences.row_sequence, sequences.tiles
        return varlen_attention(qkv, *plan, heads, window, rotary)

    def mean_rows(self, x, sequences: Sequences):
        """See ``reference.mean_rows``."""
        return reference.mean_rows(x, sequences.cu_seqlens)

    def cls_attention(self, query, x, sequences: Sequences, heads):
        """See ``cls_attention``."""
        return cls_attention(query, x, sequences.cu_seqlens, heads)

    def linear(self, layer, activation: str = "none"):
        """Return a callable ``[T, K] -> [T, N]`` for an ``nn.Linear``, its weights laid out once."""
        if self.dtype == torch.float32:
            return HalfProducts(layer, activation)
        weight, bias = layer.weight.detach().to(self.dtype).contiguous(), layer.bias.detach().to(self.dtype)
        if activation == "none":
            return lambda x: F.linear(x, weight, bias)
        return lambda x: bias_gelu(F.linear(x, weight), bias, activation)

    def gated_linear(self, layer, activation: str):
        """Return a callable ``[T, K] -> [T, I]``: ``geglu`` of a linear layer of 2 * I outputs."""
        product = self.linear(layer)
        return lambda x: geglu(product(x), activation)


class HalfProducts:
    """A float32 linear layer by three products of halves, which tensor cores are an order of magnitude faster at.

    x = hi + lo, each a half, has 22 bits, and so have the weights; x @ w = lo hi + hi lo + hi hi, and lo lo is below
    float32's rounding. One product of inner size 3 K sums all three in float32, the small ones first, and every
    LONGEST_SUM columns of the last begin a new sum: tensor cores round each step towards zero, and that adds up.
    Weights are scaled by a power of two, so that their low halves are not subnormal; activations past 65504 become
    infinite, which scoring takes for a doubt. How exact this is on a device is measured at the start of a run, like
    the error of any other level.
    """

    def __init__(self, layer, activation: str):
        weight = layer.weight.detach().float()
        exponent = 10 - math.frexp(float(weight.abs().max()))[1]
        high = (weight * 2.0**exponent).half()
        low = (weight * 2.0**exponent - high.float()).half()
        self.weight = torch.cat([high, low, high], dim=1).t()
        inner = len(self.weight)
        self.bounds = [0, *range(2 * inner // 3 + LONGEST_SUM, inner, LONGEST_SUM), inner]
        self.scale, self.bias, self.activation = 2.0**-exponent, layer.bias.detach().float(), activation

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [T, K] -> [T, N]."""
        halves = split_half(x)
        first, *others = (self.product(halves[:, a:b], self.weight[a:b]) for a, b in pairwise(self.bounds))
        y = reduce(torch.Tensor.add_, others, first)
        if self.activation == "none":
            return torch.add(self.bias, y, alpha=self.scale)
        return bias_gelu(y, self.bias, self.activation, self.scale)

    @staticmethod
    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """float32 [T, N] of halves [T, K] @ [K, N], summed in float32."""
        if x.is_cuda:
            return torch.mm(x, weight, out_dtype=torch.float32)
        return x.float() @ weight.float()
