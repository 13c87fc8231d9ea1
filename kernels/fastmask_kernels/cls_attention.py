"""Attention of one query per sequence and head over the sequence's own rows: the last layer's, for [CLS] alone."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from .compiled import TRITON_NAMES, Case, run_kernel

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
KEYS = 32
"""Rows of x per step: most scored variants are shorter, and take one step."""
CHUNK = 64
"""Columns of H that are multiplied at a time."""
NUM_STAGES = 3
LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _product(a, b):
    """Return a @ b of float32 a [M, K] and b [K, N] to float32's accuracy, on tensor cores where b is float16.

    There a is high + low / 2048 of float16 both, so that neither part leaves float16's range before a does.
    """
    if b.dtype == tl.float16:
        high = a.to(tl.float16)
        low = ((a - high.to(tl.float32)) * 2048.0).to(tl.float16)
        return tl.dot(high, b) + tl.dot(low, b) * (1.0 / 2048.0)
    else:
        return tl.dot(a, b.to(tl.float32), input_precision="ieee")


@triton.jit
def _scores(query_ptr, x_ptr, head_inside, row_inside, HIDDEN: tl.constexpr, CHUNK: tl.constexpr):
    """Return query @ x.T for [len(head_inside), HIDDEN] and [len(row_inside), HIDDEN]."""
    heads = tl.arange(0, head_inside.shape[0])[:, None]
    rows = tl.arange(0, row_inside.shape[0])[:, None]
    scores = tl.zeros([head_inside.shape[0], row_inside.shape[0]], tl.float32)
    for first in range(0, HIDDEN, CHUNK):
        columns = first + tl.arange(0, CHUNK)[None, :]
        inside = columns < HIDDEN
        query = tl.load(query_ptr + heads * HIDDEN + columns, head_inside[:, None] & inside, other=0.0)
        x = tl.load(x_ptr + rows * HIDDEN + columns, row_inside[:, None] & inside, other=0.0)
        scores += _product(query, tl.trans(x))
    return scores


@triton.jit(do_not_specialize=["sequences"])
def _cls_attention(
    query_ptr,
    x_ptr,
    cu_seqlens_ptr,
    out_ptr,
    sequences,
    HEADS: tl.constexpr,
    HIDDEN: tl.constexpr,
    HEAD_ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute a sequence a program: query, out fp32 [*, HEADS, HIDDEN], x [T, HIDDEN], cu_seqlens int32 [B + 1].

    HEAD_ROWS >= HEADS. Of a sequence longer than KEYS, ``out`` holds the attention over the rows met so far.
    """
    sequence = tl.program_id(0)
    start = tl.load(cu_seqlens_ptr + sequence, sequence < sequences, other=0)
    end = tl.load(cu_seqlens_ptr + sequence + 1, sequence < sequences, other=0)
    heads = tl.arange(0, HEAD_ROWS)
    head_inside = heads < HEADS
    query_ptr += sequence.to(tl.int64) * (HEADS * HIDDEN)
    out_ptr += sequence.to(tl.int64) * (HEADS * HIDDEN)
    # A finite start keeps a sequence of no rows, whose result is 0, from inf - inf.
    highest = tl.full([HEAD_ROWS], -1e30, tl.float32)
    total = tl.zeros([HEAD_ROWS], tl.float32)
    first_row = start
    while first_row < tl.maximum(end, start + 1):  # not a range: the interpreter takes no run-time bounds there
        row_inside = first_row + tl.arange(0, KEYS) < end
        rows_ptr = x_ptr + first_row.to(tl.int64) * HIDDEN
        scores = _scores(query_ptr, rows_ptr, head_inside, row_inside, HIDDEN, CHUNK)
        scores = tl.where(row_inside[None, :], scores, float("-inf"))
        peak = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.exp2((scores - peak[:, None]) * LOG2_E)
        kept = total * tl.exp2((highest - peak) * LOG2_E)
        total = kept + tl.sum(weights, axis=1)
        highest = peak
        inverse = 1.0 / tl.maximum(total, 1.0)  # the largest weight is 1, unless there are no rows
        weights, keep = weights * inverse[:, None], kept * inverse
        # a vector: masks of a scalar comparison are no masks to the interpreter from triton 3.9 on
        has_before = head_inside & (tl.full([HEAD_ROWS], first_row, tl.int32) > start)
        for first in range(0, HIDDEN, CHUNK):
            columns = first + tl.arange(0, CHUNK)[None, :]
            inside = columns < HIDDEN
            x_at = rows_ptr + tl.arange(0, KEYS)[:, None] * HIDDEN + columns
            out_at = out_ptr + heads[:, None] * HIDDEN + columns
            mask = head_inside[:, None] & inside
            x = tl.load(x_at, row_inside[:, None] & inside, other=0.0)
            before = tl.load(out_at, has_before[:, None] & inside, other=0.0)
            tl.store(out_at, before * keep[:, None] + _product(weights, x), mask)
        # The next step reads what other threads may have written.
        tl.debug_barrier()
        first_row += KEYS


def _constants(hidden: int, heads: int) -> dict[str, int]:
    head_rows = max(16, triton.next_power_of_2(heads))
    return {"HEADS": heads, "HIDDEN": hidden, "HEAD_ROWS": head_rows, "KEYS": KEYS, "CHUNK": CHUNK}


def _launch(dtype: torch.dtype) -> dict[str, Any]:
    """Two warps, since each makes the query's halves anew; products off the tensor cores need the registers of four."""
    return {"num_warps": 2 if dtype == torch.float16 else 4, "num_stages": NUM_STAGES}


def _check(query, x, cu_seqlens, heads: int) -> None:
    """Raise ValueError for what the kernel cannot read."""
    if x.dtype not in DTYPES or query.dtype != torch.float32 or cu_seqlens.dtype != torch.int32:
        raise ValueError(
            f"cls_attention: query {query.dtype}, x {x.dtype}, cu_seqlens {cu_seqlens.dtype} have to be float32, "
            f"one of {DTYPES}, int32"
        )
    if query.shape[1:] != (heads, x.shape[1]) or len(query) < len(cu_seqlens) - 1:
        raise ValueError(f"cls_attention: a query of {tuple(query.shape)} for {heads} heads and x {tuple(x.shape)}")
    if not (query.is_contiguous() and x.is_contiguous() and cu_seqlens.is_contiguous()):
        raise ValueError("cls_attention: query, x and cu_seqlens have to be contiguous")


def cls_attention(query, x, cu_seqlens, heads, out=None):
    """Return the attention of one query per sequence and head over the sequence's own rows.

    Args:
        query: float32 [>= B, heads, H], already scaled and multiplied by the key matrix; of float16's range if x is.
        x: [T, H]; cu_seqlens: int32 [B + 1].
        heads: how many; out: where to write.

    Returns:
        The probability-weighted rows, float32 of query's shape, to be multiplied by the value matrix; zero beyond B.
    """
    _check(query, x, cu_seqlens, heads)
    out = torch.empty_like(query) if out is None else out
    if len(query):
        arguments = query, x, cu_seqlens, out, len(cu_seqlens) - 1
        run_kernel(_cls_attention, len(query), arguments, _constants(x.shape[1], heads), **_launch(x.dtype))
    return out


def cases() -> list[Case]:
    """Return what to compile: MiniLM, BERT-base and BERT-large in each dtype."""
    found = []
    for dtype in DTYPES:
        signature = {"query_ptr": "*fp32", "x_ptr": "*" + TRITON_NAMES[dtype], "cu_seqlens_ptr": "*i32"}
        signature |= {"out_ptr": "*fp32", "sequences": "i32"}
        for hidden, heads in ((384, 12), (768, 12), (1024, 16)):
            name = f"cls_attention/{TRITON_NAMES[dtype]}/{heads}x{hidden}"
            found.append(Case(name, _cls_attention, signature, _constants(hidden, heads), **_launch(dtype)))
    return found
