"""Bidirectional softmax attention inside each packed sequence.

Work is cut on the host into tiles of query rows: consecutive whole short sequences that share a tile, whose scores
across sequences are masked, or a part of a longer sequence, which loops over all of that sequence's keys.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
import torch
import triton
import triton.language as tl

from .compiled import INTERPRETED, TRITON_NAMES, Case

DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
TILE = 64
"""Query rows of a tile, and keys per step: 64 x 64 scores are one tensor-core instruction group of four warps."""
TILE_FLOAT32 = 32
"""The same in float32, whose products hold their operands in registers."""
HEAD_DIMS = (16, 32, 64)
LAUNCH: dict[str, Any] = {"num_warps": 4, "num_stages": 1}


@triton.jit
def _load_rows(ptr, first, end, STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr):
    """TILE rows of one head, [TILE, HEAD_DIM] of the dtype that products take; zero from row ``end``."""
    rows = tl.arange(0, TILE)[:, None]
    # A scalar carries the offset that needs 64 bits; what is left is a constant of the thread.
    ptr += first.to(tl.int64) * STRIDE
    return tl.load(ptr + rows * STRIDE + tl.arange(0, HEAD_DIM)[None, :], first + rows < end, other=0.0).to(DOT)


@triton.jit
def _varlen_attention(
    qkv_ptr,
    cu_seqlens_ptr,
    row_sequence_ptr,
    tiles_ptr,
    out_ptr,
    scale,
    HIDDEN: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    DOT: tl.constexpr,
):
    """One tile of one head a program: qkv [T, 3 * HIDDEN], row_sequence int32 [T], tiles int32 [N, 4], out [T, HIDDEN].

    ``scale`` includes log2(e), for powers of two. Products take operands of DOT.
    """
    heads: tl.constexpr = HIDDEN // HEAD_DIM
    tile_ptr = tiles_ptr + tl.program_id(0) // heads * 4
    column = tl.program_id(0) % heads * HEAD_DIM
    first_row, end_row = tl.load(tile_ptr), tl.load(tile_ptr + 1)
    first_key, end_key = tl.load(tile_ptr + 2), tl.load(tile_ptr + 3)
    rows = first_row + tl.arange(0, TILE)
    row_sequence = tl.load(row_sequence_ptr + rows, rows < end_row, other=0)
    # A finite start keeps rows whose keys are all masked so far from inf - inf.
    highest = tl.full([TILE], -1e30, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    result = tl.zeros([TILE, HEAD_DIM], tl.float32)
    key = first_key
    while key < end_key:  # not a range: the interpreter takes no run-time bounds there
        # All loads, though the query's are the same in each step: the one step of most tiles waits for memory once.
        q = _load_rows(qkv_ptr + column, first_row, end_row, 3 * HIDDEN, HEAD_DIM, TILE, DOT)
        k = _load_rows(qkv_ptr + HIDDEN + column, key, end_key, 3 * HIDDEN, HEAD_DIM, TILE, DOT)
        v = _load_rows(qkv_ptr + 2 * HIDDEN + column, key, end_key, 3 * HIDDEN, HEAD_DIM, TILE, DOT)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        sequence_start = tl.load(cu_seqlens_ptr + row_sequence)[:, None]
        sequence_end = tl.load(cu_seqlens_ptr + row_sequence + 1)[:, None]
        keys = key + tl.arange(0, TILE)[None, :]
        scores = tl.where((keys >= sequence_start) & (keys < sequence_end), scores, float("-inf"))
        peak = tl.maximum(highest, tl.max(scores, axis=1))
        # The difference first: large scores that are close to each other keep their accuracy.
        weights = tl.exp2((scores - peak[:, None]) * scale)
        keep = tl.exp2((highest - peak) * scale)
        total = total * keep + tl.sum(weights, axis=1)
        result = tl.dot(weights.to(DOT), v, result * keep[:, None], input_precision="ieee")
        highest = peak
        key += TILE
    # A row's largest weight is 1; rows beyond the tile have none.
    result *= (1.0 / tl.maximum(total, 1.0))[:, None]
    out_ptr += first_row.to(tl.int64) * HIDDEN + column
    offsets = tl.arange(0, TILE)[:, None] * HIDDEN + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(out_ptr + offsets, result.to(out_ptr.dtype.element_ty), (rows < end_row)[:, None])


def tile_rows(dtype: torch.dtype) -> int:
    """Query rows per tile of ``attention_tiles``, for activations of this dtype."""
    return TILE_FLOAT32 if dtype == torch.float32 else TILE


@nb.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def attention_tiles(cu_seqlens: np.ndarray, rows: int = TILE) -> np.ndarray:
    """cu_seqlens int32 [B + 1] -> tiles int32 [N, 4]: first and end query row, first and end key row.

    Consecutive sequences share a tile while all of them fit in its ``rows``; a longer sequence is split.
    """
    bounds = cu_seqlens.astype(np.int64)
    shared, total = bounds[0], bounds[-1]
    tiles = np.empty((len(bounds) + total // rows, 4), np.int32)
    count = 0
    for b in range(len(bounds) - 1):  # the sequences from row ``shared`` on are not in a tile yet
        start, end = bounds[b], bounds[b + 1]
        if end - shared > rows and start > shared:
            tiles[count] = shared, start, shared, start
            count += 1
            shared = start
        if end - start > rows:
            for row in range(start, end, rows):
                tiles[count] = row, min(row + rows, end), start, end
                count += 1
            shared = end
    if total > shared:
        tiles[count] = shared, total, shared, total
        count += 1
    return tiles[:count].copy()


def _check(qkv, integers, heads: int) -> None:
    """Raises ValueError for what the kernel cannot read."""
    if qkv.dtype not in DTYPES or not qkv.is_contiguous():
        raise ValueError(f"varlen_attention: qkv has to be contiguous and of one of {tuple(DTYPES)}, not {qkv.dtype}")
    if not all(t.dtype == torch.int32 and t.is_contiguous() for t in integers):
        raise ValueError("varlen_attention: cu_seqlens, row_sequence and tiles have to be contiguous int32")
    head_dim, rest = divmod(qkv.shape[1], 3 * heads)
    if rest or head_dim not in HEAD_DIMS:
        raise ValueError(f"varlen_attention: {qkv.shape[1]} columns are not 3 x {heads} heads of one of {HEAD_DIMS}")


def _constants(dtype: torch.dtype, hidden: int, head_dim: int) -> dict[str, object]:
    """The kernel's constants; the interpreter, which would multiply bfloat16's bits, multiplies float32."""
    dot = tl.float32 if INTERPRETED and dtype == torch.bfloat16 else DTYPES[dtype]
    return {"HIDDEN": hidden, "HEAD_DIM": head_dim, "TILE": tile_rows(dtype), "DOT": dot}


def varlen_attention(qkv, cu_seqlens, row_sequence, tiles, heads, out=None):
    """Softmax attention inside each packed sequence, of scale 1 / sqrt(head size).

    Args:
        qkv: [T, 3 * H] rows of query, key, value, the heads consecutive in each, of one of HEAD_DIMS columns.
        cu_seqlens: int32 [B + 1]; row_sequence: int32 [T], the sequence of each row.
        tiles: int32 [N, 4], ``attention_tiles(cu_seqlens, tile_rows(qkv.dtype))``, on qkv's device.
        heads: how many; out: where to write.

    Returns:
        [T, H] of qkv's dtype.
    """
    hidden = qkv.shape[1] // 3
    _check(qkv, (cu_seqlens, row_sequence, tiles), heads)
    out = qkv.new_empty(len(qkv), hidden) if out is None else out
    if len(tiles):
        constants = _constants(qkv.dtype, hidden, hidden // heads)
        scale = math.log2(math.e) * (hidden // heads) ** -0.5
        grid = (len(tiles) * heads,)
        _varlen_attention[grid](qkv, cu_seqlens, row_sequence, tiles, out, scale, **constants, **LAUNCH)
    return out


def cases() -> list[Case]:
    """MiniLM, BERT-base and BERT-large heads in each dtype."""
    found = []
    for dtype in DTYPES:
        rows = "*" + TRITON_NAMES[dtype]
        signature = {
            "qkv_ptr": rows,
            "cu_seqlens_ptr": "*i32",
            "row_sequence_ptr": "*i32",
            "tiles_ptr": "*i32",
            "out_ptr": rows,
            "scale": "fp32",
        }
        for hidden, head_dim in ((256, 16), (384, 32), (768, 64), (1024, 64)):
            name = f"varlen_attention/{TRITON_NAMES[dtype]}/{hidden // head_dim}x{head_dim}"
            constants = _constants(dtype, hidden, head_dim)
            found.append(Case(name, _varlen_attention, signature, constants, **LAUNCH))
    return found
