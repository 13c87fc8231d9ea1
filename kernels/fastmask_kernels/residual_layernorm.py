"""``LayerNorm(x + residual)`` of packed rows in one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .compiled import TRITON_NAMES, Case

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
    out_ptr,
    tokens,
    eps,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """ROWS rows a program: x, residual, out [tokens, HIDDEN]; weight, bias fp32 [HIDDEN]; COLUMNS >= HIDDEN."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = columns < HIDDEN
    mask = (rows < tokens)[:, None] & inside[None, :]
    offsets = rows[:, None] * HIDDEN + columns[None, :]
    x = tl.load(x_ptr + offsets, mask, other=0.0).to(tl.float32)
    total = x + tl.load(residual_ptr + offsets, mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, inside, other=0.0)
    bias = tl.load(bias_ptr + columns, inside, other=0.0)
    mean = tl.sum(total, axis=1) / HIDDEN
    centred = tl.where(inside[None, :], total - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / HIDDEN
    scale = tl.rsqrt(variance + eps)
    result = centred * scale[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ptr + offsets, result.to(out_ptr.dtype.element_ty), mask)


def _blocks(hidden: int) -> tuple[dict[str, int], int]:
    """The kernel's constants for a hidden size, and the number of warps."""
    columns = triton.next_power_of_2(hidden)
    return {"HIDDEN": hidden, "ROWS": max(1, TILE // columns), "COLUMNS": columns}, NUM_WARPS * max(1, columns // TILE)


def residual_layernorm(x, residual, weight, bias, eps, out=None):
    """x, residual [T, H] of one dtype, weight and bias fp32 [H] -> [T, H] of x's dtype, computed in float32."""
    tokens, hidden = x.shape
    if x.dtype not in DTYPES or residual.dtype != x.dtype or residual.shape != x.shape:
        raise ValueError(f"residual_layernorm: x and residual have to be alike and of one of {DTYPES}, not {x.dtype}")
    if not all(t.is_contiguous() for t in (x, residual, weight, bias)):
        raise ValueError("residual_layernorm: x, residual, weight and bias have to be contiguous")
    if hidden > WIDEST:
        raise ValueError(f"residual_layernorm: hidden size {hidden} exceeds {WIDEST}")
    out = torch.empty_like(x) if out is None else out
    if tokens:
        constants, num_warps = _blocks(hidden)
        grid = (triton.cdiv(tokens, constants["ROWS"]),)
        _residual_layernorm[grid](x, residual, weight, bias, out, tokens, eps, **constants, num_warps=num_warps)
    return out


def cases() -> list[Case]:
    """MiniLM, BERT-base and BERT-large rows in each dtype."""
    found = []
    for dtype in DTYPES:
        for hidden in (384, 768, 1024):
            rows = "*" + TRITON_NAMES[dtype]
            signature = {"x_ptr": rows, "residual_ptr": rows, "weight_ptr": "*fp32", "bias_ptr": "*fp32"}
            signature |= {"out_ptr": rows, "tokens": "i32", "eps": "fp32"}
            constants, num_warps = _blocks(hidden)
            name = f"residual_layernorm/{TRITON_NAMES[dtype]}/{hidden}"
            found.append(Case(name, _residual_layernorm, signature, constants, num_warps=num_warps))
    return found
