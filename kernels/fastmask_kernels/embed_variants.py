"""Packed, layer-normalised embeddings straight from variant descriptors: variants are never written out.

One warp makes the rows of a program. It first finds all their token ids side by side, a row a lane, because that is a
chain of dependent loads (variant, unit, kept position, token); then it sums and normalises the rows a few at a time.
"""

from __future__ import annotations

from itertools import product

import torch
import triton
import triton.language as tl

from .compiled import TRITON_NAMES, Case, fit, run_kernel
from .layouts import Special, Texts

ROWS = 8
"""Rows of one program."""
TILE_ELEMENTS = 1024
"""Elements that one warp normalises at a time: up to 32 registers a lane."""

OUT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@triton.jit
def _tokens(
    rows, valid, row_variant, variants, cu_seqlens, offsets, input_ids, context_offsets, context_ids, kept, special,
    PREFIX: tl.constexpr, MIDDLE: tl.constexpr,
):  # fmt: skip
    """Return token id, place in its variant, and 0 or 1 (1: content or after it) of rows int32 [ROWS]."""
    variant = tl.load(row_variant + rows, mask=valid, other=0)
    descriptor = variants + 5 * variant
    unit, buffered, following = tl.load(descriptor), tl.load(descriptor + 1), tl.load(descriptor + 2)
    removed, count = tl.load(descriptor + 3), tl.load(descriptor + 4)
    place = tl.where(valid, rows - tl.load(cu_seqlens + variant), 0)
    start, context_start = tl.load(offsets + unit), tl.load(context_offsets + unit)
    context = tl.load(context_offsets + unit + 1) - context_start

    in_context = place - PREFIX
    in_content = in_context - context - MIDDLE
    is_context = (in_context >= 0) & (in_context < context)
    is_content = (in_content >= 0) & (in_content < count)
    is_buffered = in_content < buffered
    position = following + in_content - buffered
    position += (position >= removed).to(tl.int32)
    from_buffer = tl.load(kept + start + in_content, mask=is_content & is_buffered, other=0)
    position = tl.where(is_buffered, from_buffer, position)

    skipped = tl.where(in_context < 0, 0, context) + tl.where(in_content < 0, 0, count)
    special_id = tl.load(special + place - skipped, mask=~(is_context | is_content), other=0)
    context_id = tl.load(context_ids + context_start + in_context, mask=is_context, other=0)
    content_id = tl.load(input_ids + start + position, mask=is_content, other=0)
    return special_id + context_id + content_id, place, (in_content >= 0).to(tl.int32)


@triton.jit(do_not_specialize=["position_offset", "total"])
def _embed_variants(
    variants, cu_seqlens, row_variant, offsets, input_ids, context_offsets, context_ids, kept, special,
    word, position, token_type, weight, bias, out, total, position_offset, eps,
    PREFIX: tl.constexpr, MIDDLE: tl.constexpr, CONTENT_TYPE: tl.constexpr, POSITION_STRIDE: tl.constexpr,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS packed rows a program, TILE of them at a time; BLOCK >= HIDDEN. The arguments are the launcher's."""
    first = tl.program_id(0) * ROWS
    rows = first + tl.arange(0, ROWS)
    ids, places, second = _tokens(
        rows, rows < total, row_variant, variants, cu_seqlens,
        offsets, input_ids, context_offsets, context_ids, kept, special, PREFIX, MIDDLE,
    )  # fmt: skip
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < HIDDEN
    for done in range(0, ROWS, TILE):
        chosen = done + tl.arange(0, TILE)
        at_word = tl.gather(ids, chosen, 0).to(tl.int64)[:, None] * HIDDEN
        at_position = (tl.gather(places, chosen, 0) + position_offset)[:, None] * POSITION_STRIDE
        at_type = tl.gather(second, chosen, 0)[:, None] * (CONTENT_TYPE * HIDDEN)
        # positions, types and parameters are met again by every program: they are to stay in the nearest cache
        x = tl.load(word + at_word + columns, mask=inside, other=0.0)
        x += tl.load(position + at_position + columns, mask=inside, other=0.0, eviction_policy="evict_last")
        x += tl.load(token_type + at_type + columns, mask=inside, other=0.0, eviction_policy="evict_last")
        x = tl.where(inside, x - tl.sum(x, axis=1)[:, None] / HIDDEN, 0.0)
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / HIDDEN + eps)
        scaled = x * scale[:, None] * tl.load(weight + columns, mask=inside, other=0.0, eviction_policy="evict_last")
        y = scaled + tl.load(bias + columns, mask=inside, other=0.0, eviction_policy="evict_last")
        row = (first + chosen)[:, None]
        tl.store(out + row.to(tl.int64) * HIDDEN + columns, y.to(out.dtype.element_ty), mask=inside & (row < total))


def _blocks(hidden: int) -> dict[str, int]:
    """Return the kernel's block sizes for a hidden size."""
    block = triton.next_power_of_2(hidden)
    return {"HIDDEN": hidden, "BLOCK": block, "TILE": min(ROWS, max(1, TILE_ELEMENTS // block)), "ROWS": ROWS}


def _warps(hidden: int) -> int:
    """Return the number of warps: one, so that no sum leaves a warp, unless a row is too long for it."""
    return max(1, triton.next_power_of_2(hidden) // TILE_ELEMENTS)


def _check(integers, floats, dtype: torch.dtype) -> None:
    """Raise ValueError for what the kernel cannot read or write."""
    if not all(t.dtype == torch.int32 and t.is_contiguous() for t in integers):
        raise ValueError("embed_variants: ids, offsets and descriptors have to be contiguous int32")
    if not all(t.dtype == torch.float32 and t.is_contiguous() for t in floats):
        raise ValueError("embed_variants: tables, weight and bias have to be contiguous float32")
    if dtype not in OUT_DTYPES:
        raise ValueError(f"embed_variants: no output of {dtype}")


def embed_variants(
    variants, cu_seqlens, row_variant, texts: Texts, special: Special, tables, position_offset, weight, bias, eps,
    dtype: torch.dtype, out=None,
) -> torch.Tensor:  # fmt: skip
    """Return the layer norm of word, position and type embeddings of every row of V packed variants.

    Args:
        variants: int32 [V, 5], a row (unit, kept, next, removed, count) each: content token c of count is the unit's
            token at position kept_buffer[c] for c < kept, else at p = next + c - kept, one further from p = removed on
            (removed is 2^30 where nothing is).
        cu_seqlens: int32 [V + 1]; row_variant: int32 [T], the variant of each packed row.
        texts, special: what the variants are made of.
        tables: word, position and token-type table, float32 [*, E]; special.content_type is cut to the last one's rows,
            and a position table of one row is for every position.
        position_offset: position id of a variant's first token.
        weight, bias: float32 [E]; eps: of the layer norm.
        dtype: float16, bfloat16 or float32.
        out: where to write.

    Returns:
        [T, E] of ``dtype``.
    """
    word, position, token_type = tables
    _check((variants, cu_seqlens, row_variant, *texts, special.ids), (*tables, weight, bias), dtype)
    rows, hidden = len(row_variant), word.shape[1]
    out = torch.empty(rows, hidden, dtype=dtype, device=variants.device) if out is None else out
    if rows:
        integers = variants, cu_seqlens, row_variant, *texts, special.ids
        arguments = *integers, word, position, token_type, weight, bias, out, rows, position_offset, eps
        constants = {"PREFIX": special.prefix, "MIDDLE": special.middle}
        constants["CONTENT_TYPE"] = min(special.content_type, len(token_type) - 1)
        constants["POSITION_STRIDE"] = hidden if len(position) > 1 else 0
        run_kernel(_embed_variants, fit(rows, ROWS), arguments, constants | _blocks(hidden), num_warps=_warps(hidden))
    return out


def cases() -> list[Case]:
    """Return what to compile: single texts and pairs, for the hidden sizes of the BERT family."""
    pointers = ("variants", "cu_seqlens", "row_variant", *Texts._fields, "special")
    signature = dict.fromkeys(pointers, "*i32")
    signature |= dict.fromkeys(("word", "position", "token_type", "weight", "bias", "out"), "*fp32")
    signature |= {"total": "i32", "position_offset": "i32", "eps": "fp32"}
    found = []
    for dtype, (hidden, middle) in product(OUT_DTYPES, ((128, 0), (384, 0), (768, 0), (768, 2), (1024, 0))):
        name = TRITON_NAMES[dtype]
        constants = {"PREFIX": 1, "MIDDLE": middle, "CONTENT_TYPE": middle // 2, "POSITION_STRIDE": hidden}
        constants |= _blocks(hidden)
        case = f"embed_variants/{name}/{hidden}{'-pair' if middle else ''}"
        found.append(Case(case, _embed_variants, signature | {"out": f"*{name}"}, constants, num_warps=_warps(hidden)))
    return found
