"""Dropout for training on a CPU, from 16 random bits a value.

torch draws one value at a time, which took 16 % of a step, and its attention with dropout multiplies in float32, which
took as much again (BERT of 4 x 256, bfloat16).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

LEVELS = 1 << 16


class Dropout(torch.nn.Dropout):
    """``torch.nn.Dropout``, on a CPU with a probability rounded to a multiple of 2**-16."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return values with some at 0 and the others scaled to the same expectation; as they are in evaluation."""
        if not self.training or values.device.type != "cpu" or not is_drawn(self.p):
            return super().forward(values)
        return values * _kept(values.shape, self.p, values.dtype) * _scale(self.p)


def use_drawn_dropout(model: torch.nn.Module) -> torch.nn.Module:
    """Make the model's dropout modules ``Dropout``; return the model."""
    for module in model.modules():
        if type(module) is torch.nn.Dropout:
            module.__class__ = Dropout
    return model


def is_drawn(dropout: float) -> bool:
    """Return whether the probability is one that is drawn: neither 0 nor 1."""
    return 0 < round(dropout * LEVELS) < LEVELS


def attention_with_dropout(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, dropout: float, scale: float
) -> torch.Tensor:
    """Return ``scaled_dot_product_attention`` with dropout on a CPU.

    Under autocast all of it is in autocast's dtype, scores and softmax too, as in transformers' own attention
    ("eager"): in bfloat16 gradients are off by about 1 % where scores have a standard deviation of 1 to 4.

    Args:
        query, key, value: [B, heads, L, D].
        mask: bool, broadcast to [B, heads, L, L]: which places see which, at least one each; None for all.
        dropout: probability that ``is_drawn``.
        scale: factor of the scores.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast("cpu", enabled=False):
        return _AttentionWithDropout.apply(query * scale, key, value, mask, dropout)


class _AttentionWithDropout(torch.autograd.Function):
    """softmax(Q K') with dropout, times V; the backward pass by the formulas of Dao et al. 2022, appendix B.4."""

    @staticmethod
    def forward(ctx: Any, query, key, value, mask, dropout):
        scores = query @ key.mT
        if mask is not None:
            scores.masked_fill_(~mask, -torch.inf)
        shares = scores.softmax(-1)
        dropped = shares * _kept(shares.shape, dropout, shares.dtype)
        out = (dropped @ value) * _scale(dropout)
        ctx.save_for_backward(query, key, value, shares, dropped, out)
        ctx.factor = _scale(dropout)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad):
        query, key, value, shares, dropped, out = ctx.saved_tensors
        # the sum over j of share_ij times its gradient is grad_i times out_i
        mean = (grad.to(torch.promote_types(grad.dtype, torch.float32)) * out).sum(-1, keepdim=True).to(grad.dtype)
        grad = grad * ctx.factor
        scores = (grad @ value.mT).mul_(dropped).addcmul_(shares, mean, value=-1)
        return scores @ key, scores.mT @ query, dropped.mT @ grad, None, None


def _kept(shape: torch.Size, dropout: float, dtype: torch.dtype) -> torch.Tensor:
    """Return 1 where a value is kept and 0 where not, of torch's random state."""
    count = shape.numel()
    # random_ gives 64 bits a draw
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    return torch.ge(bits, round(dropout * LEVELS) - LEVELS // 2, out=torch.empty(count, dtype=dtype)).view(shape)


def _scale(dropout: float) -> float:
    return LEVELS / (LEVELS - round(dropout * LEVELS))
