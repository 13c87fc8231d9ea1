"""Dropout on the CPU from a counter-based generator: torch's own spends a tenth of a training step on its numbers.

What is dropped follows from one number of torch's generator, so a run goes on exactly from that generator's state, and
does not depend on the number of threads.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import torch
from fastmask_kernels.splitmix import mix

_ONE = {torch.bfloat16: (torch.uint16, 0x3F80), torch.float32: (torch.uint32, 0x3F800000)}
"""dtype -> the integers of its size, and 1.0 as one of them."""


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _fill(seed, below, one, out):
    """``out`` uint16 or uint32 [N]: 0 with probability ``below`` / 2^32, else ``one``."""
    for pair in range(len(out) // 2):
        bits = mix(seed, pair)
        out[2 * pair] = one if np.uint32(bits) >= below else 0
        out[2 * pair + 1] = one if np.uint32(bits >> np.uint64(32)) >= below else 0
    if len(out) % 2:
        out[-1] = one if np.uint32(mix(seed, len(out))) >= below else 0


def keep_mask(like: torch.Tensor, p: float) -> torch.Tensor:
    """Of the shape and dtype of ``like``, bfloat16 or float32: 0 with probability p, to 2^-32, and else 1."""
    integers, one = _ONE[like.dtype]
    mask = torch.empty(like.shape, dtype=integers)
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64).item()
    flat = mask.view(-1).numpy()
    _fill(np.uint64(seed), np.uint32(min(round(p * 2**32), 2**32 - 1)), flat.dtype.type(one), flat)
    return mask.view(like.dtype)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, p):
        mask = keep_mask(states, p)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - p)
        return (states * mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, gradient):
        (mask,) = ctx.saved_tensors
        return (gradient * mask).mul_(ctx.scale), None


class Dropout(torch.nn.Dropout):
    """``torch.nn.Dropout`` with the numbers made here where the input is bfloat16 or float32 on the CPU."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Any shape, the same out."""
        if not self.training or not 0 < self.p < 1 or states.device.type != "cpu" or states.dtype not in _ONE:
            return super().forward(states)
        return _Dropped.apply(states, self.p)


def replace_dropout(model: torch.nn.Module) -> None:
    """Puts ``Dropout`` in the place of every ``torch.nn.Dropout`` inside a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
