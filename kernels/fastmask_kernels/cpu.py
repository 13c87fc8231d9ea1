"""The encoder's element-wise stages and attention on any processor, one core a call and without the GIL.

Activations are packed rows ``[T, H]`` of float32, or of bfloat16 as uint16 bits; arithmetic is float32. H and the head
size are multiples of 16. Callers run one batch per core, so nothing here is parallel inside.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from . import simd
from .simd import LANES
from .splitmix import mix

_JIT = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_LOWEST = np.float32(-1e30)
_SUMMED = 256
# Of 2^24 values of a random number, those below the first mean [MASK], and those below the second no change.
_MASKED, _KEPT = int(0.8 * 2**24), int(0.9 * 2**24)


@nb.njit(**_JIT)
def _normalise(row, base, hidden, weight, bias, eps, out):
    """Write the layer norm of the float32 scratch ``row`` [hidden] to ``out`` at element ``base``."""
    total = simd.splat(np.float32(0.0))
    for c in range(0, hidden, LANES):
        total = simd.add(total, simd.load(row, c))
    mean = simd.splat(np.float32(simd.sum_lanes(total) / np.float32(hidden)))
    square = simd.splat(np.float32(0.0))
    for c in range(0, hidden, LANES):
        centred = simd.sub(simd.load(row, c), mean)
        square = simd.fma(centred, centred, square)
    variance = simd.sum_lanes(square) / np.float32(hidden)
    scale = simd.splat(np.float32(1.0) / np.float32(math.sqrt(variance + eps)))
    for c in range(0, hidden, LANES):
        centred = simd.mul(simd.sub(simd.load(row, c), mean), scale)
        simd.store(out, base + c, simd.fma(centred, simd.load(weight, c), simd.load(bias, c)))


@nb.njit(**_JIT)
def residual_layernorm(x, residual, weight, bias, eps, out):
    """Compute ``out = LayerNorm(x + residual)``: all [T, H], weight and bias float32 [H]; out may be x or residual."""
    tokens, hidden = x.shape
    x_flat, residual_flat, out_flat = x.reshape(-1), residual.reshape(-1), out.reshape(-1)
    row = np.empty(hidden, np.float32)
    for t in range(tokens):
        base = t * hidden
        for c in range(0, hidden, LANES):
            simd.store(row, c, simd.add(simd.load(x_flat, base + c), simd.load(residual_flat, base + c)))
        _normalise(row, base, hidden, weight, bias, np.float32(eps), out_flat)


@nb.njit(**_JIT)
def layernorm(x, weight, bias, eps, out):
    """Compute ``out = LayerNorm(x)``: all [T, H], weight and bias float32 [H]; out may be x."""
    tokens, hidden = x.shape
    x_flat, out_flat = x.reshape(-1), out.reshape(-1)
    row = np.empty(hidden, np.float32)
    for base in range(0, tokens * hidden, hidden):
        for c in range(0, hidden, LANES):
            simd.store(row, c, simd.load(x_flat, base + c))
        _normalise(row, base, hidden, weight, bias, np.float32(eps), out_flat)


@nb.njit(**_JIT)
def add_layernorm(x, residual, weight, bias, eps, total, out):
    """Compute ``total = x + residual`` and the unrounded sum's layer norm ``out``; either may be x or residual."""
    tokens, hidden = x.shape
    x_flat, residual_flat, total_flat, out_flat = (
        x.reshape(-1),
        residual.reshape(-1),
        total.reshape(-1),
        out.reshape(-1),
    )
    row = np.empty(hidden, np.float32)
    for base in range(0, tokens * hidden, hidden):
        for c in range(0, hidden, LANES):
            both = simd.add(simd.load(x_flat, base + c), simd.load(residual_flat, base + c))
            simd.store(row, c, both)
            simd.store(total_flat, base + c, both)
        _normalise(row, base, hidden, weight, bias, np.float32(eps), out_flat)


@nb.njit(**_JIT)
def mean_rows(x, cu_seqlens, out):
    """Write the mean of each sequence's rows to ``out`` float32 [B, H]: x [T, H]; cu_seqlens int32 [B + 1]."""
    hidden = x.shape[1]
    x_flat, out_flat = x.reshape(-1), out.reshape(-1)
    for b in range(len(cu_seqlens) - 1):
        start, end = cu_seqlens[b] * hidden, cu_seqlens[b + 1] * hidden
        scale = simd.splat(np.float32(1.0) / np.float32(cu_seqlens[b + 1] - cu_seqlens[b]))
        for c in range(0, hidden, LANES):
            total = simd.splat(np.float32(0.0))
            for base in range(start, end, hidden):
                total = simd.add(total, simd.load(x_flat, base + c))
            simd.store(out_flat, b * hidden + c, simd.mul(total, scale))


@nb.njit(**_JIT)
def embed(input_ids, position_ids, token_type_ids, word, position, token_type, weight, bias, eps, out):
    """Compute ``out = LayerNorm(word[id] + position[p] + token_type[t])``.

    input_ids, position_ids, token_type_ids int32 [T]; tables float32 [*, H]; out [T, H].
    """
    hidden = word.shape[1]
    word_flat, position_flat, type_flat = word.reshape(-1), position.reshape(-1), token_type.reshape(-1)
    out_flat = out.reshape(-1)
    row = np.empty(hidden, np.float32)
    for t in range(len(input_ids)):
        w, p, k = input_ids[t] * hidden, position_ids[t] * hidden, token_type_ids[t] * hidden
        for c in range(0, hidden, LANES):
            both = simd.add(simd.load(word_flat, w + c), simd.load(type_flat, k + c))
            simd.store(row, c, simd.add(both, simd.load(position_flat, p + c)))
        _normalise(row, t * hidden, hidden, weight, bias, np.float32(eps), out_flat)


@nb.njit(**_JIT)
def _turn(x, base, half, cos, sin, at, row):
    """Copy x from ``base`` on to ``row`` [2 * half], turned by the tables from ``at`` on unless they are empty."""
    if len(cos) == 0:
        for c in range(0, 2 * half, LANES):
            simd.store(row, c, simd.load(x, base + c))
        return
    minus = simd.splat(np.float32(-1.0))
    for c in range(0, half, LANES):
        first, second = simd.load(x, base + c), simd.load(x, base + half + c)
        one, other = simd.load(cos, at + c), simd.load(sin, at + c)
        simd.store(row, c, simd.fma(simd.mul(second, minus), other, simd.mul(first, one)))
        simd.store(row, half + c, simd.fma(first, other, simd.mul(second, one)))


@nb.njit(**_JIT)
def _gather_head(qkv, base, hidden, length, head_dim, cos, sin, q, keys, values, row):
    """Copy one head of one sequence to float32 scratch: q and values row by row, keys in transposed blocks of 16.

    ``base`` is the element where the head's first query begins.
    """
    scale = simd.splat(np.float32(1.0 / math.sqrt(head_dim)))
    half = head_dim // 2
    for t in range(length):
        block = (t // LANES) * LANES * head_dim + t % LANES
        at = base + t * 3 * hidden
        _turn(qkv, at, half, cos, sin, t * half, row)
        for c in range(0, head_dim, LANES):
            simd.store(q, t * head_dim + c, simd.mul(simd.load(row, c), scale))
            simd.store(values, t * head_dim + c, simd.load(qkv, at + 2 * hidden + c))
        _turn(qkv, at + hidden, half, cos, sin, t * half, row)
        for c in range(head_dim):
            keys[block + c * LANES] = row[c]


@nb.njit(**_JIT)
def _scores4(q, first, keys, block_from, block_to, head_dim, scores, stride):
    """Compute q . k for four queries against some key blocks: one load of keys serves four products."""
    for block in range(block_from, block_to):
        s0 = simd.splat(np.float32(0.0))
        s1 = s0
        s2 = s0
        s3 = s0
        base = block * LANES * head_dim
        for d in range(head_dim):
            k = simd.load(keys, base + d * LANES)
            s0 = simd.fma(simd.splat(q[first + d]), k, s0)
            s1 = simd.fma(simd.splat(q[first + head_dim + d]), k, s1)
            s2 = simd.fma(simd.splat(q[first + 2 * head_dim + d]), k, s2)
            s3 = simd.fma(simd.splat(q[first + 3 * head_dim + d]), k, s3)
        at = block * LANES
        simd.store(scores, at, s0)
        simd.store(scores, stride + at, s1)
        simd.store(scores, 2 * stride + at, s2)
        simd.store(scores, 3 * stride + at, s3)


@nb.njit(**_JIT)
def _softmax(scores, base, length, blocks):
    """Compute the unnormalised softmax of one score row in place, zero beyond ``length``; return 1 / sum."""
    last = (blocks - 1) * LANES
    tail = simd.first_lanes(simd.load(scores, base + last), length - last, _LOWEST)
    simd.store(scores, base + last, tail)
    top = tail
    for at in range(0, last, LANES):
        top = simd.maximum(top, simd.load(scores, base + at))
    peak = simd.splat(simd.max_lanes(top))
    total = simd.splat(np.float32(0.0))
    for at in range(0, blocks * LANES, LANES):
        e = simd.exp(simd.sub(simd.load(scores, base + at), peak))
        simd.store(scores, base + at, e)
        total = simd.add(total, e)
    return np.float32(1.0) / simd.sum_lanes(total)


@nb.njit(**_JIT)
def _weighted4(scores, stride, scale, values, first, end, head_dim, c, result):
    """Write columns c..c+16 of p @ values of the keys ``first`` to ``end`` for four queries to ``result`` [4 * 16].

    Sums of _SUMMED keys each are added up: one sum of thousands would lose digits.
    """
    zero = simd.splat(np.float32(0.0))
    t0, t1, t2, t3 = zero, zero, zero, zero
    for start in range(first, end, _SUMMED):
        o0, o1, o2, o3 = zero, zero, zero, zero
        for j in range(start, min(end, start + _SUMMED)):
            v = simd.load(values, j * head_dim + c)
            o0 = simd.fma(simd.splat(scores[j]), v, o0)
            o1 = simd.fma(simd.splat(scores[stride + j]), v, o1)
            o2 = simd.fma(simd.splat(scores[2 * stride + j]), v, o2)
            o3 = simd.fma(simd.splat(scores[3 * stride + j]), v, o3)
        t0, t1, t2, t3 = simd.add(t0, o0), simd.add(t1, o1), simd.add(t2, o2), simd.add(t3, o3)
    simd.store(result, 0, simd.mul(t0, simd.splat(scale[0])))
    simd.store(result, LANES, simd.mul(t1, simd.splat(scale[1])))
    simd.store(result, 2 * LANES, simd.mul(t2, simd.splat(scale[2])))
    simd.store(result, 3 * LANES, simd.mul(t3, simd.splat(scale[3])))


@nb.njit(**_JIT)
def _hide(scores, base, first, end, low, high):
    """Give no weight to the keys from ``first`` to ``end`` of one score row that are not in ``low`` to ``high``."""
    for j in range(first, min(low, end)):
        scores[base + j] = _LOWEST
    for j in range(max(high, first), end):
        scores[base + j] = _LOWEST


@nb.njit(**_JIT)
def _attend4(q, keys, values, i, length, head_dim, window, scores, stride, inverse):
    """Compute the weights of queries i..i+4 in ``scores`` and their sums' inverses; return the first and end key."""
    first, end = max(0, i - window), min(length, i + 4 + window)
    block_from, block_to = first // LANES, (end + LANES - 1) // LANES
    start = block_from * LANES
    _scores4(q, i * head_dim, keys, block_from, block_to, head_dim, scores, stride)
    for r in range(4):
        _hide(scores, r * stride, start, end, i + r - window, i + r + window + 1)
        inverse[r] = _softmax(scores, r * stride + start, end - start, block_to - block_from)
    return first, end


@nb.njit(**_JIT)
def varlen_attention(qkv, cu_seqlens, max_seqlen, heads, window, cos, sin, out):
    """Compute bidirectional softmax attention over packed sequences.

    qkv [T, 3 * H] rows of query, key, value; cu_seqlens int32 [B + 1]; out [T, H]; scale 1 / sqrt(H / heads). A row
    sees ``window`` rows to either side. cos, sin float32 [P, H / heads / 2] turn queries and keys; nothing does if they
    are empty.
    """
    hidden = out.shape[1]
    head_dim = hidden // heads
    stride = (max_seqlen + LANES - 1) // LANES * LANES
    q = np.zeros((stride + 4) * head_dim, np.float32)
    keys, values = np.zeros(stride * head_dim, np.float32), np.empty(stride * head_dim, np.float32)
    scores, inverse = np.zeros(4 * stride, np.float32), np.zeros(4, np.float32)
    row, result = np.empty(head_dim, np.float32), np.empty(4 * LANES, np.float32)
    qkv_flat, out_flat, cos_flat, sin_flat = qkv.reshape(-1), out.reshape(-1), cos.reshape(-1), sin.reshape(-1)
    for b in range(len(cu_seqlens) - 1):
        start = cu_seqlens[b]
        length = cu_seqlens[b + 1] - start
        for h in range(heads):
            base = start * 3 * hidden + h * head_dim
            _gather_head(qkv_flat, base, hidden, length, head_dim, cos_flat, sin_flat, q, keys, values, row)
            for i in range(0, length, 4):
                first, end = _attend4(q, keys, values, i, length, head_dim, window, scores, stride, inverse)
                for c in range(0, head_dim, LANES):
                    _weighted4(scores, stride, inverse, values, first, end, head_dim, c, result)
                    for r in range(min(4, length - i)):
                        at = (start + i + r) * hidden + h * head_dim + c
                        simd.store(out_flat, at, simd.load(result, r * LANES))


@nb.njit(**_JIT)
def _cls_scores(query, q_base, x, x_base, length, hidden, scores):
    """Compute the dot products of one query [hidden] with ``length`` rows of x."""
    for j in range(length):
        total = simd.splat(np.float32(0.0))
        row = x_base + j * hidden
        for c in range(0, hidden, LANES):
            total = simd.fma(simd.load(query, q_base + c), simd.load(x, row + c), total)
        scores[j] = simd.sum_lanes(total)


@nb.njit(**_JIT)
def cls_attention(query, x, cu_seqlens, max_seqlen, heads, out):
    """Compute the attention of one query per sequence and head; see ``reference.cls_attention``.

    query, out float32 [B, heads * H]; x [T, H]; cu_seqlens int32 [B + 1].
    """
    hidden = x.shape[1]
    stride = (max_seqlen + LANES - 1) // LANES * LANES
    scores = np.zeros(stride, np.float32)
    query_flat, x_flat, out_flat = query.reshape(-1), x.reshape(-1), out.reshape(-1)
    for b in range(len(cu_seqlens) - 1):
        start = cu_seqlens[b] * hidden
        length = cu_seqlens[b + 1] - cu_seqlens[b]
        blocks = (length + LANES - 1) // LANES
        for h in range(heads):
            base = (b * heads + h) * hidden
            _cls_scores(query_flat, base, x_flat, start, length, hidden, scores)
            inverse = simd.splat(_softmax(scores, 0, length, blocks))
            for c in range(0, hidden, LANES):
                total = simd.splat(np.float32(0.0))
                for j in range(length):
                    total = simd.fma(simd.splat(scores[j]), simd.load(x_flat, start + j * hidden + c), total)
                simd.store(out_flat, base + c, simd.mul(total, inverse))


@nb.njit(**_JIT)
def apply_mask(input_ids, at, row, sentence, position, seed, epoch, mask_id, ordinary, out, masked=_MASKED, kept=_KEPT):
    """Write ``input_ids`` int32 [T] to ``out`` with the M tokens ``at`` corrupted; see ``apply_mask.apply_mask``.

    at int32 or int64 [M]; row int64 [M]; sentence, position int32 [M]; ordinary int32 [K], the ids that may be drawn.
    masked, kept: limits of 0 to 2^24.
    """
    out[:] = input_ids
    start = mix(np.uint64(seed), epoch)
    for m in range(len(at)):
        state = mix(mix(mix(start, row[m]), sentence[m]), position[m])
        choice = mix(state, 0) >> np.uint64(40)
        if choice < np.uint64(masked):
            out[at[m]] = mask_id
        elif choice >= np.uint64(kept):
            drawn = (mix(state, 1) >> np.uint64(32)) * np.uint64(len(ordinary)) >> np.uint64(32)
            out[at[m]] = ordinary[drawn]
