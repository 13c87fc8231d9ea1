"""float32 rows as half-precision rows of three times the width, for products of float32 accuracy on tensor cores.

With x = hi + lo and w = w_hi + w_lo, ``x @ w`` is ``lo @ w_hi + hi @ w_lo + hi @ w_hi`` to float32's rounding: one
product of inner size 3 * K of rows [lo, hi, hi] with weights laid out as [w_hi, w_lo, w_hi]. The small terms come
first: tensor cores cut their sums off after each step, and only while sums are large does that matter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .compiled import Case, fit, run_kernel

ROWS = 16
COLUMNS = 128
"""Tile of a program: 128 columns divide every usual width, so that no lane idles, and still fill whole cache lines."""
NUM_WARPS = 4


@triton.jit(do_not_specialize=["tokens"])
def _split_half(x_ptr, out_ptr, tokens, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write a tile of ROWS x COLUMNS a program: x fp32 [tokens, WIDTH], out fp16 [tokens, 3 * WIDTH]."""
    blocks: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    rows = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    mask = (rows < tokens)[:, None] & (columns < WIDTH)[None, :]
    x = tl.load(x_ptr + rows[:, None] * WIDTH + columns[None, :], mask)
    hi = x.to(tl.float16)
    lo = (x - hi.to(tl.float32)).to(tl.float16)
    out = out_ptr + rows[:, None] * (3 * WIDTH) + columns[None, :]
    tl.store(out, lo, mask)
    tl.store(out + WIDTH, hi, mask)
    tl.store(out + 2 * WIDTH, hi, mask)


def _constants(width: int) -> dict[str, int]:
    return {"WIDTH": width, "ROWS": ROWS, "COLUMNS": COLUMNS}


def split_half(x, out=None):
    """Split x fp32 [T, K] -> fp16 [T, 3 * K], rows [lo, hi, hi] with hi = half(x) and lo = half(x - hi)."""
    tokens, width = x.shape
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"split_half: x has to be contiguous float32, not {x.dtype}")
    out = torch.empty(tokens, 3 * width, dtype=torch.float16, device=x.device) if out is None else out
    if tokens:
        programs = fit(tokens, ROWS) * fit(width, COLUMNS)
        run_kernel(_split_half, programs, (x, out, tokens), _constants(width), num_warps=NUM_WARPS)
    return out


def cases() -> list[Case]:
    """Return what to compile: the inner sizes of the encoder's products in MiniLM, BERT-base and BERT-large."""
    signature = {"x_ptr": "*fp32", "out_ptr": "*fp16", "tokens": "i32"}
    return [
        Case(f"split_half/fp32/{width}", _split_half, signature, _constants(width), num_warps=NUM_WARPS)
        for width in (384, 768, 1024, 1536, 3072, 4096)
    ]
