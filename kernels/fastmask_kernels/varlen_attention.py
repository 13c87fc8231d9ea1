"""Bidirectional softmax attention inside each packed sequence.

Work is cut on the host into tiles of query rows: consecutive whole short sequences that share a tile, whose scores
across sequences are masked, or a part of a longer sequence, which loops over all of that sequence's keys.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba as nb
import numpy as np
import torch
import triton
import triton.language as tl

from .compiled import INTERPRETED, TRITON_NAMES, Case, run_kernel
from .layouts import Rotary

DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
TILE = 64
"""Query rows of a tile, and keys per step: 64 x 64 scores are one tensor-core instruction group of four warps."""
TILE_FLOAT32 = 32
"""The same in float32, whose products hold their operands in registers."""
KEYS_TURNED = 32
"""Keys per step where they are turned, which takes registers."""
HEAD_DIMS = (16, 32, 64)
NARROWEST_TURNED = 32
"""Heads are turned by products of their halves, which have to have 16 columns at least."""
LAUNCH: dict[str, Any] = {"num_warps": 4, "num_stages": 1}


@triton.jit
def _load_rows(ptr, first, end, STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr):
    """TILE rows of one head, [TILE, HEAD_DIM] of the dtype that products take; zero from row ``end``."""
    rows = tl.arange(0, TILE)[:, None]
    # A scalar carries the offset that needs 64 bits; what is left is a constant of the thread.
    ptr += first.to(tl.int64) * STRIDE
    return tl.load(ptr + rows * STRIDE + tl.arange(0, HEAD_DIM)[None, :], first + rows < end, other=0.0).to(DOT)


@triton.jit
def _load_turned(
    ptr, first, end, positions, cos_ptr, sin_ptr,
    STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Both halves of TILE rows of one head, turned by their ``positions`` int32 [TILE], each [TILE, HEAD_DIM / 2]."""
    half: tl.constexpr = HEAD_DIM // 2
    one = _load_rows(ptr, first, end, STRIDE, half, TILE, tl.float32)
    other = _load_rows(ptr + half, first, end, STRIDE, half, TILE, tl.float32)
    at = positions[:, None] * half + tl.arange(0, half)[None, :]
    inside = first + tl.arange(0, TILE)[:, None] < end
    cos = tl.load(cos_ptr + at, inside, other=0.0)
    sin = tl.load(sin_ptr + at, inside, other=0.0)
    return (one * cos - other * sin).to(DOT), (other * cos + one * sin).to(DOT)


@triton.jit
def _scores(
    q_ptr, k_ptr, cu_seqlens_ptr, row_sequence_ptr, row_sequence, cos_ptr, sin_ptr, first_row, end_row, key, end_key,
    STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, TILE: tl.constexpr, KEYS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Products of TILE queries of one head with the KEYS keys from row ``key``, [TILE, KEYS]."""
    if cos_ptr is None:
        q = _load_rows(q_ptr, first_row, end_row, STRIDE, HEAD_DIM, TILE, DOT)
        k = _load_rows(k_ptr, key, end_key, STRIDE, HEAD_DIM, KEYS, DOT)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    else:
        # Products of the halves: no lane needs another's values to turn its own.
        at = first_row + tl.arange(0, TILE) - tl.load(cu_seqlens_ptr + row_sequence)
        q, q2 = _load_turned(q_ptr, first_row, end_row, at, cos_ptr, sin_ptr, STRIDE, HEAD_DIM, TILE, DOT)
        at = key + tl.arange(0, KEYS)
        at -= tl.load(cu_seqlens_ptr + tl.load(row_sequence_ptr + at, at < end_key, other=0))
        k, k2 = _load_turned(k_ptr, key, end_key, at, cos_ptr, sin_ptr, STRIDE, HEAD_DIM, KEYS, DOT)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.dot(q2, tl.trans(k2), scores, input_precision="ieee")
    return scores


@triton.jit
def _is_seen(rows, keys, row_sequence, cu_seqlens_ptr, WINDOW: tl.constexpr):
    """Whether each of int32 [TILE] rows sees each of int32 [KEYS] rows: in its sequence, and in its window."""
    keys = keys[None, :]
    sequence_start = tl.load(cu_seqlens_ptr + row_sequence)[:, None]
    sequence_end = tl.load(cu_seqlens_ptr + row_sequence + 1)[:, None]
    seen = (keys >= sequence_start) & (keys < sequence_end)
    if WINDOW >= 0:
        seen = seen & (keys >= rows[:, None] - WINDOW) & (keys <= rows[:, None] + WINDOW)
    return seen


@triton.jit
def _varlen_attention(
    qkv_ptr,
    cu_seqlens_ptr,
    row_sequence_ptr,
    tiles_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    scale,
    HIDDEN: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    KEYS: tl.constexpr,
    DOT: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Compute a tile of a head a program: qkv [T, 3 * HIDDEN], row_sequence int32 [T], tiles int32 [N, 4], out.

    ``scale`` includes log2(e), for powers of two. Products take operands of DOT. A row sees WINDOW rows to either side,
    all if that is -1. cos and sin turn queries and keys, unless they are None.
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
    if WINDOW >= 0:
        first_key = tl.maximum(first_key, first_row - WINDOW)
        end_key = tl.minimum(end_key, end_row + WINDOW)
    q_ptr, k_ptr = qkv_ptr + column, qkv_ptr + HIDDEN + column
    key = first_key
    while key < end_key:  # not a range: the interpreter takes no run-time bounds there
        # All loads, though the query's are the same in each step: the one step of most tiles waits for memory once.
        v = _load_rows(k_ptr + HIDDEN, key, end_key, 3 * HIDDEN, HEAD_DIM, KEYS, DOT)
        scores = _scores(
            q_ptr, k_ptr, cu_seqlens_ptr, row_sequence_ptr, row_sequence, cos_ptr, sin_ptr,
            first_row, end_row, key, end_key, 3 * HIDDEN, HEAD_DIM, TILE, KEYS, DOT,
        )  # fmt: skip
        seen = _is_seen(rows, key + tl.arange(0, KEYS), row_sequence, cu_seqlens_ptr, WINDOW)
        scores = tl.where(seen, scores, float("-inf"))
        peak = tl.maximum(highest, tl.max(scores, axis=1))
        # The difference first: large scores that are close to each other keep their accuracy.
        weights = tl.exp2((scores - peak[:, None]) * scale)
        keep = tl.exp2((highest - peak) * scale)
        total = total * keep + tl.sum(weights, axis=1)
        result = tl.dot(weights.to(DOT), v, result * keep[:, None], input_precision="ieee")
        highest = peak
        key += KEYS
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
    """Return tiles int32 [N, 4] of cu_seqlens int32 [B + 1]: first and end query row, first and end key row.

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
    """Raise ValueError for what the kernel cannot read."""
    if qkv.dtype not in DTYPES or not qkv.is_contiguous():
        raise ValueError(f"varlen_attention: qkv has to be contiguous and of one of {tuple(DTYPES)}, not {qkv.dtype}")
    if not all(t.dtype == torch.int32 and t.is_contiguous() for t in integers):
        raise ValueError("varlen_attention: cu_seqlens, row_sequence and tiles have to be contiguous int32")
    head_dim, rest = divmod(qkv.shape[1], 3 * heads)
    if rest or head_dim not in HEAD_DIMS:
        raise ValueError(f"varlen_attention: {qkv.shape[1]} columns are not 3 x {heads} heads of one of {HEAD_DIMS}")


@cache
def _constants(dtype: torch.dtype, hidden: int, head_dim: int, window: int | None, turned: bool) -> dict[str, object]:
    """Return the kernel's constants; the interpreter, which would multiply bfloat16's bits, multiplies float32."""
    dot = tl.float32 if INTERPRETED and dtype == torch.bfloat16 else DTYPES[dtype]
    tile = tile_rows(dtype)
    shape = {"HIDDEN": hidden, "HEAD_DIM": head_dim, "TILE": tile, "KEYS": min(tile, KEYS_TURNED) if turned else tile}
    return shape | {"DOT": dot, "WINDOW": -1 if window is None else window}


def _check_rotary(rotary: Rotary, head_dim: int) -> None:
    """Raise ValueError for tables that the kernel cannot read."""
    if head_dim < NARROWEST_TURNED:
        raise ValueError(f"varlen_attention: heads of {head_dim} columns are too narrow to be turned")
    if not all(t.dtype == torch.float32 and t.is_contiguous() and t.shape[1:] == (head_dim // 2,) for t in rotary):
        raise ValueError(f"varlen_attention: cos and sin have to be contiguous float32 of {head_dim // 2} columns")


def varlen_attention(
    qkv, cu_seqlens, row_sequence, tiles, heads, window: int | None = None, rotary: Rotary | None = None, out=None
):
    """Return softmax attention inside each packed sequence, of scale 1 / sqrt(head size).

    Args:
        qkv: [T, 3 * H] rows of query, key, value, the heads consecutive in each, of one of HEAD_DIMS columns.
        cu_seqlens: int32 [B + 1]; row_sequence: int32 [T], the sequence of each row.
        tiles: int32 [N, 4], ``attention_tiles(cu_seqlens, tile_rows(qkv.dtype))``, on qkv's device.
        heads: how many; out: where to write.
        window: how many rows a row sees to either side, None for all.
        rotary: turns queries and keys by their position in the sequence; at least as many positions as the longest has.

    Returns:
        [T, H] of qkv's dtype.
    """
    hidden = qkv.shape[1] // 3
    _check(qkv, (cu_seqlens, row_sequence, tiles), heads)
    if rotary is not None:
        _check_rotary(rotary, hidden // heads)
    out = qkv.new_empty(len(qkv), hidden) if out is None else out
    if len(tiles):
        constants = _constants(qkv.dtype, hidden, hidden // heads, window, rotary is not None)
        scale = math.log2(math.e) * (hidden // heads) ** -0.5
        cos, sin = (None, None) if rotary is None else rotary
        arguments = qkv, cu_seqlens, row_sequence, tiles, cos, sin, out, scale
        run_kernel(_varlen_attention, len(tiles) * heads, arguments, constants, **LAUNCH)
    return out


def _case(dtype: torch.dtype, hidden: int, head_dim: int, window: int | None, turned: bool) -> Case:
    """Return the case of one head shape in one dtype."""
    rows = "*" + TRITON_NAMES[dtype]
    signature = dict.fromkeys(("cu_seqlens_ptr", "row_sequence_ptr", "tiles_ptr"), "*i32")
    signature |= {"qkv_ptr": rows, "out_ptr": rows, "scale": "fp32", "cos_ptr": "*fp32", "sin_ptr": "*fp32"}
    absent = {} if turned else {"cos_ptr": None, "sin_ptr": None}
    constants = _constants(dtype, hidden, head_dim, window, turned) | absent
    name = f"varlen_attention/{TRITON_NAMES[dtype]}/{hidden // head_dim}x{head_dim}"
    name += (" turned" if turned else "") + ("" if window is None else f" window {window}")
    return Case(name, _varlen_attention, signature, constants, **LAUNCH)


def cases() -> list[Case]:
    """MiniLM, BERT-base and BERT-large heads in each dtype, and ModernBERT's, global and local."""
    shapes = ((256, 16), (384, 32), (768, 64), (1024, 64))
    found = [_case(dtype, *shape, None, False) for dtype in DTYPES for shape in shapes]
    return found + [_case(dtype, 768, 64, window, True) for dtype in DTYPES for window in (None, 64)]
