"""From [CLS] rows to answers: the dense layer by cuBLAS, all that follows it for all questions in one launch.

The dense product is torch's, in IEEE float32: decisions are about differences that tensor cores would round away. A
program then takes a few questions through activation, norm, classifier and log-odds, their pooled rows in registers.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .compiled import TRITON_NAMES, Case, fit, run_kernel
from .layouts import Head

ROW_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ACTIVATIONS = ("tanh", "relu", "gelu")
MAX_CLASSES = 64
ELEMENTS = 2048
"""Pooled values of a program, if a question has fewer: 16 a thread."""
NUM_WARPS = 4


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    """The activation of float32 x; NaN stays NaN."""
    if ACTIVATION == "tanh":
        e = tl.exp(-2.0 * tl.abs(x))
        y = (1.0 - e) / (1.0 + e)
        return tl.where(x < 0, -y, y)
    elif ACTIVATION == "relu":
        return tl.where(x < 0, 0.0, x)
    else:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _odds(logits, target, CLASSES: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return log P(y) - log(1 - P(y)) float32 [BLOCK] for logits [BLOCK, BLOCK_C] and y = target [BLOCK]."""
    classes = tl.arange(0, BLOCK_C)[None, :]
    is_target = classes == target[:, None]
    others = tl.where(is_target | (classes >= CLASSES), float("-inf"), logits)
    top = tl.max(others, axis=1)
    rest = top + tl.log(tl.sum(tl.exp(others - top[:, None]), axis=1))
    return tl.sum(tl.where(is_target, logits, 0.0), axis=1) - rest


@triton.jit(do_not_specialize=["total"])
def _log_odds(
    dense, norm_weight, norm_bias, weight, bias, row, target, z_out, total, eps,
    ACTIVATION: tl.constexpr, POOLED: tl.constexpr, CLASSES: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """BLOCK questions a program: dense fp32 [*, POOLED] is the dense layer's output; the norm may be None."""
    v = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = v < total
    units = tl.arange(0, BLOCK_P)
    inside = units < POOLED
    at = tl.load(row + v, mask=valid, other=0).to(tl.int64)[:, None] * POOLED + units[None, :]
    x = _activate(tl.load(dense + at, mask=valid[:, None] & inside[None, :], other=0.0), ACTIVATION)
    if norm_weight is not None:
        x = tl.where(inside[None, :], x - (tl.sum(x, axis=1) / POOLED)[:, None], 0.0)
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / POOLED + eps)
        x = x * scale[:, None] * tl.load(norm_weight + units, mask=inside, other=0.0)[None, :]
        x += tl.load(norm_bias + units, mask=inside, other=0.0)[None, :]
    classes = tl.arange(0, BLOCK_C)
    logits = tl.zeros((BLOCK, BLOCK_C), tl.float32)
    for c in range(CLASSES):
        w = tl.load(weight + c * POOLED + units, mask=inside, other=0.0)
        share = tl.sum(tl.where(inside[None, :], x * w[None, :], 0.0), axis=1)
        logits += tl.where((classes == c)[None, :], share[:, None], 0.0)
    logits += tl.load(bias + classes, mask=classes < CLASSES, other=0.0)[None, :]
    z = _odds(logits, tl.load(target + v, mask=valid, other=0), CLASSES, BLOCK_C)
    tl.store(z_out + v, z.to(tl.float64), mask=valid)


def _constants(pooled: int, classes: int, activation: str) -> dict:
    block_p = triton.next_power_of_2(pooled)
    blocks = {"BLOCK": max(1, min(16, ELEMENTS // block_p)), "BLOCK_P": block_p}
    shape = {"POOLED": pooled, "CLASSES": classes, "BLOCK_C": triton.next_power_of_2(classes)}
    return {"ACTIVATION": activation} | shape | blocks


def _check(rows, head: Head, integers) -> None:
    """Raise ValueError for what the kernel cannot read."""
    if rows.dtype not in ROW_DTYPES or not rows.is_contiguous():
        raise ValueError(f"log_odds: rows have to be contiguous float16, bfloat16 or float32, not {rows.dtype}")
    if head.activation not in ACTIVATIONS or not 2 <= len(head.bias) <= MAX_CLASSES:
        raise ValueError(f"log_odds: no head of {head.activation} and {len(head.bias)} classes")
    norm = () if head.norm_weight is None else (head.norm_weight, head.norm_bias)
    parameters = (head.dense_weight, head.dense_bias, head.weight, head.bias, *norm)
    if not all(t.dtype == torch.float32 and t.is_contiguous() for t in parameters):
        raise ValueError("log_odds: the head has to be float32 and laid out by head_of")
    if not all(t.dtype == torch.int32 and t.is_contiguous() for t in integers):
        raise ValueError("log_odds: row and target have to be contiguous int32")


def log_odds(rows, head: Head, row, target, out=None) -> torch.Tensor:
    """Return log P(y) - log(1 - P(y)) for V questions: float64 [V], of float32 accuracy.

    NaN or infinite where half precision overflowed.

    Args:
        rows: [B, H] of float16, bfloat16 or float32, the [CLS] rows; head: on top of them.
        row: int32 [V], each question's [CLS] row, several may have the same; target: int32 [V], its class y.
        out: a tensor to write to.
    """
    _check(rows, head, (row, target))
    count = len(row)
    if out is None:
        out = torch.empty(count, dtype=torch.float64, device=rows.device)
    if count:
        constants = _constants(len(head.dense_bias), len(head.bias), head.activation)
        dense = F.linear(rows.float(), head.dense_weight, head.dense_bias)
        parameters = head.norm_weight, head.norm_bias, head.weight, head.bias
        arguments = dense, *parameters, row, target, out, count, head.norm_eps
        run_kernel(_log_odds, fit(count, constants["BLOCK"]), arguments, constants, num_warps=NUM_WARPS)
    return out


def cases() -> list[Case]:
    """Heads of the BERT family, and ModernBERT's, which has a norm."""
    signature = dict.fromkeys(("dense", "norm_weight", "norm_bias", "weight", "bias"), "*fp32")
    signature |= {"row": "*i32", "target": "*i32", "z_out": "*fp64", "total": "i32", "eps": "fp32"}
    shapes = ((384, 2, "tanh"), (768, 2, "tanh"), (1024, 3, "tanh"), (768, 5, "relu"), (768, 64, "gelu"))
    found = []
    for (pooled, classes, activation), normed in product(shapes, (False, True)):
        constants = _constants(pooled, classes, activation)
        constants |= {} if normed else {"norm_weight": None, "norm_bias": None}
        name = f"log_odds/{TRITON_NAMES[torch.float32]}/{pooled}-{classes}-{activation}{' normed' if normed else ''}"
        found.append(Case(name, _log_odds, signature, constants, num_warps=NUM_WARPS))
    return found
