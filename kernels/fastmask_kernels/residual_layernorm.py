"""Layer norm of packed rows in one pass over memory: of x, of x + residual, and with that sum itself."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

from .compiled import TRITON_NAMES, Case, fit, run_kernel

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
TILE = 4096
"""Elements per program: a thread holds 32 of each input, as four (16-bit) or eight (float32) 16-byte loads."""
WIDEST = 8192
"""The largest hidden size: one row must fit a program's registers."""
NUM_WARPS = 4


@triton.jit(do_not_specialize=["tokens"])
def _residual_layernorm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    total_ptr,
    out_ptr,
    tokens,
    eps,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """ROWS rows a program: x, residual, total, out [tokens, HIDDEN]; weight, bias fp32 [HIDDEN]; COLUMNS >= HIDDEN.

    residual and total, where their sum goes, may be None.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = columns < HIDDEN
    mask = (rows < tokens)[:, None] & inside[None, :]
    offsets = rows[:, None] * HIDDEN + columns[None, :]
    total = tl.load(x_ptr + offsets, mask, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        total += tl.load(residual_ptr + offsets, mask, other=0.0).to(tl.float32)
    if total_ptr is not None:
        tl.store(total_ptr + offsets, total.to(total_ptr.dtype.element_ty), mask)
    weight = tl.load(weight_ptr + columns, inside, other=0.0)
    bias = tl.load(bias_ptr + columns, inside, other=0.0)
    mean = tl.sum(total, axis=1) / HIDDEN
    centred = tl.where(inside[None, :], total - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / HIDDEN
    scale = tl.rsqrt(variance + eps)
    result = centred * scale[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ptr + offsets, result.to(out_ptr.dtype.element_ty), mask)


@cache
def _blocks(hidden: int) -> tuple[dict[str, int], int]:
    """Return the kernel's constants for a hidden size, and the number of warps."""
    columns = triton.next_power_of_2(hidden)
    return {"HIDDEN": hidden, "ROWS": max(1, TILE // columns), "COLUMNS": columns}, NUM_WARPS * max(1, columns // TILE)


def _check(tensors) -> None:
    """Raise ValueError for what the kernel cannot read."""
    x, *_ = tensors
    if not all(t.dtype in DTYPES and t.shape == x.shape for t in tensors):
        raise ValueError(f"residual_layernorm: x and residual have to be alike and of one of {DTYPES}, not {x.dtype}")
    if x.shape[1] > WIDEST:
        raise ValueError(f"residual_layernorm: hidden size {x.shape[1]} exceeds {WIDEST}")


def _launched(x, residual, weight, bias, eps, total, out):
    """Run the kernel, and return ``out``; residual and total may be None."""
    rows = [t for t in (x, residual, total, out) if t is not None]
    _check(rows)
    if not all(t.is_contiguous() for t in (*rows, weight, bias)):
        raise ValueError("residual_layernorm: x, residual, weight and bias have to be contiguous")
    tokens, hidden = x.shape
    if tokens:
        constants, num_warps = _blocks(hidden)
        arguments = x, residual, weight, bias, total, out, tokens, eps
        run_kernel(_residual_layernorm, fit(tokens, constants["ROWS"]), arguments, constants, num_warps=num_warps)
    return out


def layernorm(x, weight, bias, eps, dtype=None, out=None):
    """Return LayerNorm(x) [T, H] of ``dtype`` or x's, computed in float32; weight and bias are fp32 [H]."""
    out = torch.empty_like(x, dtype=dtype) if out is None else out
    return _launched(x, None, weight, bias, eps, None, out)


def residual_layernorm(x, residual, weight, bias, eps, out=None):
    """Return LayerNorm(x + residual) of x's dtype [T, H], computed in float32; weight and bias are fp32 [H]."""
    if residual.dtype != x.dtype:
        raise ValueError(f"residual_layernorm: x is of {x.dtype} and residual of {residual.dtype}")
    return _launched(x, residual, weight, bias, eps, None, torch.empty_like(x) if out is None else out)


def add_layernorm(x, residual, weight, bias, eps, total=None, out=None):
    """Return ``x + residual`` of residual's dtype, and its layer norm of x's, from the unrounded sum: two [T, H].

    ``total`` may be residual, and ``out`` x; residual may be float32 whatever x is.
    """
    total = torch.empty_like(residual) if total is None else total
    return total, _launched(x, residual, weight, bias, eps, total, torch.empty_like(x) if out is None else out)


def _case(dtype: torch.dtype, hidden: int, op: str, absent: tuple[str, ...], stream: torch.dtype | None = None) -> Case:
    """Return the case of rows of a size in a dtype, the residual of ``stream``, without pointers that an op lacks."""
    rows, wide = "*" + TRITON_NAMES[dtype], "*" + TRITON_NAMES[stream or dtype]
    signature = {"x_ptr": wide if op == "layernorm" else rows, "residual_ptr": wide, "total_ptr": wide, "out_ptr": rows}
    signature |= {"weight_ptr": "*fp32", "bias_ptr": "*fp32", "tokens": "i32", "eps": "fp32"}
    constants, num_warps = _blocks(hidden)
    name = f"{op}/{TRITON_NAMES[dtype]}/{hidden}"
    return Case(name, _residual_layernorm, signature, constants | dict.fromkeys(absent), num_warps=num_warps)


def cases() -> list[Case]:
    """Return what to compile: MiniLM, BERT-base and BERT-large rows in each dtype, and ModernBERT's."""
    found = []
    for dtype in DTYPES:
        found += [_case(dtype, hidden, "residual_layernorm", ("total_ptr",)) for hidden in (384, 768, 1024)]
        found.append(_case(dtype, 768, "layernorm", ("residual_ptr", "total_ptr"), torch.float32))
        found += [_case(dtype, hidden, "add_layernorm", (), torch.float32) for hidden in (768, 1024)]
    return found
