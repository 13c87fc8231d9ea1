"""Ragged mask positions: the candidates of each sentence with the best ranks, up to its cap.

A program takes a sentence. A candidate is chosen when fewer candidates than the cap come before it; that is counted
tile by tile, so nothing is sorted, and sentences of any length need no more than a tile of registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .compiled import Case

CANDIDATE_DTYPES = (torch.int8, torch.bool)
TILE = 64
"""Tokens that are compared with as many others at a time: one tile holds most sentences."""
WARPS = 2


@triton.jit
def _keys(candidate, rank, start, at, n, LARGEST: tl.constexpr):
    """Return the order of tokens ``at`` int32 [TILE] of a sentence as int64: by rank, then position; the rest last."""
    inside = at < n
    value = tl.load(rank + start + at, mask=inside, other=0.0)
    value = -value if LARGEST else value
    bits = tl.where(value == 0, 0.0, value).to(tl.int32, bitcast=True)
    # IEEE's bits order as integers once negative ones are turned round; every NaN comes after infinity
    bits = tl.where(value == value, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)
    is_candidate = tl.load(candidate + start + at, mask=inside, other=0) != 0
    return tl.where(is_candidate, (bits.to(tl.int64) << 32) | at, 0x7FFFFFFFFFFFFFFF), is_candidate


@triton.jit
def _mask_indices(
    candidate, rank, offsets, cap, mask_offsets, mask_index, LARGEST: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Choose in one sentence a program. The interpreter has no ``range`` of loaded bounds, so loops are ``while``."""
    sentence = tl.program_id(0)
    start = tl.load(offsets + sentence)
    n = (tl.load(offsets + sentence + 1) - start).to(tl.int32)
    limit = tl.load(cap + sentence)
    target = mask_index + tl.load(mask_offsets + sentence)
    # with a cap that excludes nothing there is nothing to count
    compared = tl.where(limit < n, n, 0)
    first = 0
    while first < n:
        at = first + tl.arange(0, TILE)
        key, chosen = _keys(candidate, rank, start, at, n, LARGEST)
        before = tl.zeros((TILE,), tl.int32)
        other = 0
        while other < compared:
            others, _ = _keys(candidate, rank, start, other + tl.arange(0, TILE), n, LARGEST)
            before += tl.sum((others[:, None] < key[None, :]).to(tl.int32), axis=0)
            other += TILE
        chosen = (chosen & (before < limit)).to(tl.int32)
        tl.store(target + tl.cumsum(chosen, 0) - 1, at, mask=chosen != 0)
        target += tl.sum(chosen, 0)
        first += TILE


def mask_indices(candidate, rank, offsets, cap, largest: bool, out=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens to mask in S sentences: candidates with the best ranks, ties by position.

    Args:
        candidate: int8 or bool [T].
        rank: float32 [T], smaller is better, or larger if ``largest``; NaN is the worst.
        offsets: int64 [S + 1] into the tokens.
        cap: int32 [S], the most masks of each sentence, not negative.
        largest: which end of the ranks is best.
        out: int32 [T], where to write the positions.

    Returns:
        mask_offsets int64 [S + 1], and int32 [T] of which the first mask_offsets[S] entries are the chosen positions,
        counted from their sentence's start, ascending; what follows them is left as it was.
    """
    if candidate.dtype not in CANDIDATE_DTYPES or rank.dtype != torch.float32:
        raise ValueError(f"mask_indices: no candidates of {candidate.dtype} with ranks of {rank.dtype}")
    if offsets.dtype != torch.int64 or cap.dtype != torch.int32:
        raise ValueError(f"mask_indices: offsets have to be int64 and cap int32, not {offsets.dtype} and {cap.dtype}")
    if not all(t.is_contiguous() for t in (candidate, rank, offsets, cap)):
        raise ValueError("mask_indices: inputs have to be contiguous")
    candidates = torch.zeros(len(candidate) + 1, dtype=torch.int64, device=candidate.device)
    torch.cumsum(candidate != 0, 0, out=candidates[1:])
    mask_offsets = torch.zeros_like(offsets)
    torch.cumsum(torch.minimum(candidates[offsets].diff(), cap), 0, out=mask_offsets[1:])
    out = torch.empty(len(candidate), dtype=torch.int32, device=candidate.device) if out is None else out
    if len(cap) and len(candidate):
        _mask_indices[(len(cap),)](
            candidate.view(torch.int8), rank, offsets, cap, mask_offsets, out, LARGEST=largest, TILE=TILE,
            num_warps=WARPS,
        )  # fmt: skip
    return mask_offsets, out


def cases() -> list[Case]:
    """Return what to compile: both ends of the ranks."""
    signature = {"candidate": "*i8", "rank": "*fp32", "offsets": "*i64", "cap": "*i32", "mask_offsets": "*i64"}
    signature |= {"mask_index": "*i32"}
    return [
        Case(f"mask_indices/fp32/{name}", _mask_indices, signature, {"LARGEST": largest, "TILE": TILE}, num_warps=WARPS)
        for name, largest in (("smallest", False), ("largest", True))
    ]
