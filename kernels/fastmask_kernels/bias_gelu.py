"""``activation(x * scale + bias)`` of packed rows in one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .compiled import TRITON_NAMES, Case, fit, run_kernel

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ACTIVATIONS = ("gelu", "gelu_tanh", "relu")
ROWS = 8
COLUMNS = 512
"""Tile of a program: a thread holds 32 elements, as four (16-bit) or eight (float32) 16-byte loads."""
NUM_WARPS = 4


@triton.jit
def _gelu_of_halves(x):
    """Return x * Phi(x) for 16-bit results: relative error below 4e-6 to |x| = 4.2, 2e-4 to 5.5, absolute below 6e-7.

    It is max(x, 0) - |x| * Phi(-|x|), with a minimax polynomial for log2 Phi(-a) whose leading term takes it to 0. The
    exact erf costs twice the instructions, and would take longer than the memory traffic.
    """
    a = tl.minimum(tl.abs(x), 32.0)
    e = -1.68910333e-06 * a + 5.89890551e-05
    e = e * a - 9.12867836e-04
    e = e * a + 8.4505463e-03
    e = e * a - 5.38671389e-02
    e = e * a - 4.58534598e-01
    e = e * a - 1.15123105
    e = e * a - 9.99996483e-01
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) - a * tl.exp2(e)


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr, HALVES: tl.constexpr):
    """Return the activation of float32 x; HALVES says that the result is rounded to 16 bits."""
    if ACTIVATION == "relu":
        return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "gelu_tanh":
        # 0.5 * (1 + tanh(u)) = 1 / (1 + exp(-2 * u)), u = sqrt(2 / pi) * (x + 0.044715 * x^3), in powers of two.
        return x / (1.0 + tl.exp2(x * (-2.302208198 - 0.1029432397 * x * x)))
    elif HALVES:
        return _gelu_of_halves(x)
    else:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit(do_not_specialize=["tokens", "scale"])
def _bias_gelu(
    x_ptr,
    bias_ptr,
    out_ptr,
    tokens,
    scale,
    WIDTH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute a tile of ROWS x COLUMNS a program: x, out [tokens, WIDTH], bias [WIDTH]."""
    blocks: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    halves: tl.constexpr = out_ptr.dtype.element_ty.primitive_bitwidth == 16
    rows = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < WIDTH
    mask = (rows < tokens)[:, None] & inside[None, :]
    offsets = rows[:, None] * WIDTH + columns[None, :]
    x = tl.load(x_ptr + offsets, mask).to(tl.float32) * scale
    x += tl.load(bias_ptr + columns, inside).to(tl.float32)[None, :]
    tl.store(out_ptr + offsets, _activate(x, ACTIVATION, halves).to(out_ptr.dtype.element_ty), mask)


def _constants(width: int, activation: str) -> dict[str, object]:
    return {"WIDTH": width, "ACTIVATION": activation, "ROWS": ROWS, "COLUMNS": COLUMNS}


def bias_gelu(x, bias, activation, scale=1.0, out=None):
    """Return ``activation(x * scale + bias)``.

    x [T, F], bias [F] of x's dtype or fp32, activation gelu (by erf), gelu_tanh or relu -> [T, F] of x's dtype.
    """
    tokens, width = x.shape
    if x.dtype not in DTYPES or not x.is_contiguous():
        raise ValueError(f"bias_gelu: x has to be contiguous and of one of {DTYPES}, not {x.dtype}")
    if bias.dtype not in (x.dtype, torch.float32) or bias.shape != (width,) or not bias.is_contiguous():
        raise ValueError(f"bias_gelu: bias {tuple(bias.shape)} of {bias.dtype} for {width} columns of {x.dtype}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"bias_gelu: activation {activation!r} is not one of {ACTIVATIONS}")
    out = torch.empty_like(x) if out is None else out
    if tokens:
        programs, constants = fit(tokens, ROWS) * fit(width, COLUMNS), _constants(width, activation)
        run_kernel(_bias_gelu, programs, (x, bias, out, tokens, scale), constants, num_warps=NUM_WARPS)
    return out


def cases() -> list[Case]:
    """Return what to compile: MiniLM, BERT-base and BERT-large feed-forward rows in each dtype."""
    found = []
    for dtype in DTYPES:
        rows = "*" + TRITON_NAMES[dtype]
        signature = {"x_ptr": rows, "bias_ptr": rows, "out_ptr": rows, "tokens": "i32", "scale": "fp32"}
        for width, activation in ((1536, "gelu"), (3072, "gelu"), (4096, "gelu"), (3072, "gelu_tanh"), (3072, "relu")):
            name = f"bias_gelu/{TRITON_NAMES[dtype]}/{activation} {width}"
            found.append(Case(name, _bias_gelu, signature, _constants(width, activation), num_warps=NUM_WARPS))
    return found
