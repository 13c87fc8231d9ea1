"""From [CLS] rows to answers: dense layer, classifier and log-odds of all questions about a batch in one launch.

A program takes BLOCK questions through the whole head. The dense product runs in IEEE float32 on the ordinary cores:
decisions are about differences that tensor cores would round away.
"""

from __future__ import annotations

from itertools import product

import torch
import triton
import triton.language as tl

from .compiled import TRITON_NAMES, Case
from .layouts import Head

ROW_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ACTIVATIONS = ("tanh", "relu", "gelu")
MAX_CLASSES = 64

FEW_CLASSES = 3
BLOCKS_OF_FEW = {"BLOCK": 32, "BLOCK_P": 128, "BLOCK_H": 16}
BLOCKS_OF_MANY = {"BLOCK": 32, "BLOCK_P": 64, "BLOCK_H": 16}
"""Questions of a program, and the slices of pooled units and hidden columns it goes by: a thread holds 32 sums, or
half as many beside the logits of many classes."""
WARPS, STAGES = 4, 3


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    """Return the activation of float32 x; NaN stays NaN."""
    if ACTIVATION == "tanh":
        e = tl.exp(-2.0 * tl.abs(x))
        y = (1.0 - e) / (1.0 + e)
        return tl.where(x < 0, -y, y)
    elif ACTIVATION == "relu":
        return tl.where(x < 0, 0.0, x)
    else:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _logits(
    rows, source, valid, dense_weight, dense_bias, weight, bias,
    ACTIVATION: tl.constexpr, HIDDEN: tl.constexpr, POOLED: tl.constexpr, CLASSES: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return class logits float32 [BLOCK, BLOCK_C] of rows ``source`` int32 [BLOCK]; 0 in columns from CLASSES on."""
    base = rows + source.to(tl.int64)[:, None] * HIDDEN
    classes = tl.arange(0, BLOCK_C)
    logits = tl.zeros((BLOCK, BLOCK_C), tl.float32)
    for p in range(0, POOLED, BLOCK_P):
        units = p + tl.arange(0, BLOCK_P)
        inside = units < POOLED
        total = tl.zeros((BLOCK, BLOCK_P), tl.float32)
        for h in range(0, HIDDEN, BLOCK_H):
            columns = h + tl.arange(0, BLOCK_H)
            x = tl.load(base + columns[None, :], mask=valid[:, None] & (columns < HIDDEN)[None, :], other=0.0)
            at = columns[:, None] * POOLED + units[None, :]
            w = tl.load(dense_weight + at, mask=(columns < HIDDEN)[:, None] & inside[None, :], other=0.0)
            total = tl.dot(x.to(tl.float32), w, total, input_precision="ieee")
        total += tl.load(dense_bias + units, mask=inside, other=0.0)[None, :]
        pooled = _activate(total, ACTIVATION)
        for c in range(CLASSES):
            w = tl.load(weight + c * POOLED + units, mask=inside, other=0.0)
            share = tl.sum(tl.where(inside[None, :], pooled * w[None, :], 0.0), axis=1)
            logits += tl.where((classes == c)[None, :], share[:, None], 0.0)
    return logits + tl.load(bias + classes, mask=classes < CLASSES, other=0.0)[None, :]


@triton.jit
def _odds(logits, target, CLASSES: tl.constexpr, BLOCK_C: tl.constexpr):
    """log P(y) - log(1 - P(y)) float32 [BLOCK] for logits [BLOCK, BLOCK_C] and y = target [BLOCK]."""
    classes = tl.arange(0, BLOCK_C)[None, :]
    is_target = classes == target[:, None]
    others = tl.where(is_target | (classes >= CLASSES), float("-inf"), logits)
    top = tl.max(others, axis=1)
    rest = top + tl.log(tl.sum(tl.exp(others - top[:, None]), axis=1))
    return tl.sum(tl.where(is_target, logits, 0.0), axis=1) - rest


@triton.jit(do_not_specialize=["total"])
def _log_odds(
    rows, dense_weight, dense_bias, weight, bias, row, target, z_out, total,
    ACTIVATION: tl.constexpr, HIDDEN: tl.constexpr, POOLED: tl.constexpr, CLASSES: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """BLOCK questions a program; the arguments are the launcher's."""
    v = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = v < total
    logits = _logits(
        rows, tl.load(row + v, mask=valid, other=0), valid, dense_weight, dense_bias, weight, bias,
        ACTIVATION, HIDDEN, POOLED, CLASSES, BLOCK, BLOCK_P, BLOCK_H, BLOCK_C,
    )  # fmt: skip
    z = _odds(logits, tl.load(target + v, mask=valid, other=0), CLASSES, BLOCK_C)
    tl.store(z_out + v, z.to(tl.float64), mask=valid)


def _blocks(classes: int) -> dict[str, int]:
    """Return the kernel's block sizes for a number of classes."""
    return BLOCKS_OF_FEW if classes <= FEW_CLASSES else BLOCKS_OF_MANY


def _constants(hidden: int, pooled: int, classes: int, activation: str) -> dict:
    block_c = triton.next_power_of_2(classes)
    shape = {"HIDDEN": hidden, "POOLED": pooled, "CLASSES": classes, "BLOCK_C": block_c}
    return {"ACTIVATION": activation} | shape | _blocks(classes)


def _check(rows, head: Head, integers) -> None:
    """Raise ValueError for what the kernel cannot read."""
    if rows.dtype not in ROW_DTYPES or not rows.is_contiguous():
        raise ValueError(f"log_odds: rows have to be contiguous float16, bfloat16 or float32, not {rows.dtype}")
    if head.activation not in ACTIVATIONS or not 2 <= len(head.bias) <= MAX_CLASSES:
        raise ValueError(f"log_odds: no head of {head.activation} and {len(head.bias)} classes")
    parameters = (head.dense_weight.t(), head.dense_bias, head.weight, head.bias)
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
        pooled, hidden = head.dense_weight.shape
        _log_odds[(triton.cdiv(count, _blocks(len(head.bias))["BLOCK"]),)](
            rows, head.dense_weight, head.dense_bias, head.weight, head.bias, row, target, out, count,
            **_constants(hidden, pooled, len(head.bias), head.activation), num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
    return out


def cases() -> list[Case]:
    """Return what to compile: heads of the BERT family."""
    signature = dict.fromkeys(("rows", "dense_weight", "dense_bias", "weight", "bias"), "*fp32")
    signature |= {"row": "*i32", "target": "*i32", "z_out": "*fp64", "total": "i32"}
    shapes = ((384, 2, "tanh"), (768, 2, "tanh"), (1024, 3, "tanh"), (768, 5, "relu"), (768, 64, "gelu"))
    return [
        Case(
            f"log_odds/{TRITON_NAMES[dtype]}/{hidden}-{classes}-{activation}", _log_odds,
            signature | {"rows": f"*{TRITON_NAMES[dtype]}"}, _constants(hidden, hidden, classes, activation),
            num_warps=WARPS, num_stages=STAGES,
        )
        for dtype, (hidden, classes, activation) in product(ROW_DTYPES, shapes)
    ]  # fmt: skip
