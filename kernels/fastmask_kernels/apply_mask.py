"""Corruption, 80/10/10 unless told otherwise, of masked tokens by a counter-based generator: the same on any device.

Of 64-bit numbers that follow from a token's key alone (a chain of splitmix64 steps), the first says what becomes of the
token and the second which ordinary id replaces it. ``cpu.apply_mask`` gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .compiled import Case, fit, run_kernel

BLOCK = 128
WARPS = 4
"""A token a thread: what is read and written lies scattered in any case."""
AT_DTYPES = (torch.int32, torch.int64)

MASKED, KEPT = int(0.8 * 2**24), int(0.9 * 2**24)
"""Of 2^24 values of the first number's top bits, those below MASKED mean [MASK], and those below KEPT no change."""


@triton.jit
def _mix(state, value):
    """Fold an integer into a uint64 state: one splitmix64 step."""
    z = (state ^ value.to(tl.uint64)) + 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _draw(seed, epoch, row, sentence, position):
    """Return the two random numbers, uint64 [N] each, of the tokens with these keys."""
    state = _mix(_mix(seed.to(tl.uint64), epoch), row)
    state = _mix(_mix(state, sentence), position)
    counter = tl.zeros_like(position)
    return _mix(state, counter), _mix(state, counter + 1)


@triton.jit(do_not_specialize=["seed", "epoch", "mask_id", "choices", "masked", "kept", "total"])
def _apply_mask(
    at, row, sentence, position, ordinary, out, seed: tl.int64, epoch: tl.int64, mask_id, choices, masked, kept, total,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Corrupt a token a thread in ``out``, a copy of the ids."""
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = m < total
    first, second = _draw(
        seed, epoch, tl.load(row + m, mask=valid), tl.load(sentence + m, mask=valid), tl.load(position + m, mask=valid)
    )
    choice = (first >> 40).to(tl.int32)
    drawn = ((second >> 32) * choices.to(tl.uint64)) >> 32
    changed = valid & ((choice < masked) | (choice >= kept))
    drawn_id = tl.load(ordinary + drawn.to(tl.int64), mask=valid & (choice >= kept), other=0)
    where = tl.load(at + m, mask=valid, other=0)
    tl.store(out + where, tl.where(choice < masked, mask_id, drawn_id), mask=changed)


def apply_mask(
    input_ids, at, row, sentence, position, seed: int, epoch: int, mask_id: int, ordinary, out=None,
    masked: int = MASKED, kept: int = KEPT,
):  # fmt: skip
    """Return a copy of ``input_ids`` in which M masked tokens are corrupted: 80 % [MASK], 10 % kept, 10 % random.

    Args:
        input_ids: int32 [T].
        at: int32 or int64 [M], the masked tokens' indices in input_ids, each once.
        row: int64 [M]; sentence, position: int32 [M]; with the two integers below, a token's key.
        seed, epoch: from 0 to 2^63 - 1.
        mask_id: of [MASK].
        ordinary: int32 [K], the ids that may be drawn: the vocabulary without special tokens.
        out: int32 [T], where to write.
        masked, kept: other limits than these shares', 0 to 2^24: below ``masked`` is [MASK], below ``kept`` no change.
    """
    wanted = {torch.int32: (input_ids, sentence, position, ordinary), torch.int64: (row,)}
    if at.dtype not in AT_DTYPES or any(t.dtype != dtype for dtype, tensors in wanted.items() for t in tensors):
        raise ValueError("apply_mask: row has to be int64, at int32 or int64, and all other tensors int32")
    if not all(t.is_contiguous() for t in (at, row, sentence, position, ordinary)):
        raise ValueError("apply_mask: inputs have to be contiguous")
    if not (0 <= seed < 2**63 and 0 <= epoch < 2**63 and len(ordinary)):
        raise ValueError(f"apply_mask: seed {seed}, epoch {epoch}, {len(ordinary)} ordinary ids")
    out = input_ids.clone() if out is None else out.copy_(input_ids)
    if len(at):
        tensors = at, row, sentence, position, ordinary, out
        numbers = seed, epoch, mask_id, len(ordinary), masked, kept, len(at)
        run_kernel(_apply_mask, fit(len(at), BLOCK), (*tensors, *numbers), {"BLOCK": BLOCK}, num_warps=WARPS)
    return out


def cases() -> list[Case]:
    """Return what to compile: both widths of the indices."""
    pointers = {"row": "*i64", "sentence": "*i32", "position": "*i32", "ordinary": "*i32", "out": "*i32"}
    integers = {"seed": "i64", "epoch": "i64"}
    integers |= dict.fromkeys(("mask_id", "choices", "masked", "kept", "total"), "i32")
    return [
        Case(
            f"apply_mask/int32/{name}",
            _apply_mask,
            {"at": f"*{name}"} | pointers | integers,
            {"BLOCK": BLOCK},
            num_warps=WARPS,
        )
        for name in ("i32", "i64")
    ]
