"""What each scoring step asks the classifier: variants of a unit's tokens, as (unit, index), packed by numba.

Index i of a unit with tokens w0..wn-1 names the variant that scores token i: ``prefix`` w0..wi, ``leave-one-out``
all but wi, ``greedy`` the tokens kept before i, then wi (paper section 2.2). Index FULL is the whole sentence. A
variant longer than the unit's room is cut on the right. Because greedy keeps positions in ascending order, any of
its past variants can be packed again later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from .records import PackedBatch

FULL = -1
METHOD_CODES = {"greedy": 0, "prefix": 1, "leave-one-out": 2}
_GREEDY, _PREFIX = 0, 1
_JIT = {"nogil": True, "cache": True, "error_model": "numpy"}


@dataclass(frozen=True, slots=True)
class Template:
    """The special tokens around a variant: int32 arrays ``prefix content suffix``, or for aspect units
    ``prefix context middle content suffix`` with ``content_type`` as the second part's token type."""

    prefix: np.ndarray
    middle: np.ndarray
    suffix: np.ndarray
    content_type: int

    def room(self, context_length: np.ndarray, max_length: int) -> np.ndarray:
        """int32 [U]: content tokens that fit beside contexts of the given lengths int [U]."""
        return (self.longest_context(max_length) - context_length).astype(np.int32)

    def longest_context(self, max_length: int) -> int:
        """Tokens that fit besides the special ones; a longer context is cut on the right, as the variants are."""
        return max_length - len(self.prefix) - len(self.suffix) - len(self.middle)


@dataclass(frozen=True, slots=True)
class Block:
    """U units scored together in lockstep, T tokens.

    Attributes:
        offsets: int64 [U + 1] into the token arrays; input_ids: int32 [T].
        context_offsets, context_ids: int64 [U + 1], int32 [C].
        room: int32 [U], content tokens that fit in a variant.
        kept: int32 [T], greedy's buffer: positions kept so far, from each unit's offset on.
        kept_count, cursor: int32 [U].
        template, method: how variants look; method is a key of METHOD_CODES.
    """

    offsets: np.ndarray
    input_ids: np.ndarray
    context_offsets: np.ndarray
    context_ids: np.ndarray
    room: np.ndarray
    kept: np.ndarray
    kept_count: np.ndarray
    cursor: np.ndarray
    template: Template
    method: str

    @property
    def arrays(self) -> tuple:
        """What the numba functions below take as ``block``."""
        t = self.template
        return (
            METHOD_CODES[self.method],
            self.offsets,
            self.input_ids,
            self.context_offsets,
            self.context_ids,
            self.room,
            self.kept,
            self.kept_count,
            (t.prefix, t.middle, t.suffix, np.int32(t.content_type)),
        )


@nb.njit(**_JIT)
def _content(block, unit, index, out):
    """Write a variant's content tokens to ``out``; returns how many."""
    method, offsets, input_ids, _, _, room, kept, kept_count, _ = block
    start, limit = offsets[unit], room[unit]
    n = offsets[unit + 1] - start
    if method == _GREEDY and index >= 0:
        count = min(np.searchsorted(kept[start : start + kept_count[unit]], index), limit)
        for k in range(count):
            out[k] = input_ids[start + kept[start + k]]
        if count < limit:
            out[count] = input_ids[start + index]
            count += 1
        return count
    end, removed = n, n
    if index >= 0 and method == _PREFIX:
        end = index + 1
    elif index >= 0:
        removed = index
    count = min(end - (1 if removed < n else 0), limit)
    for k in range(count):
        out[k] = input_ids[start + k + (1 if k >= removed else 0)]
    return count


@nb.njit(**_JIT)
def _mix(state, value):
    """One splitmix64 step: folds a token into a 64-bit running hash."""
    z = (state ^ np.uint64(value)) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@nb.njit(**_JIT)
def _hash_variants(block, units, indices, hashes, lengths):
    _, _, _, context_offsets, context_ids, room, _, _, special = block
    scratch = np.empty(max(1, room.max()), np.int32)
    for v in range(len(units)):
        unit = units[v]
        begin, end = context_offsets[unit], context_offsets[unit + 1]
        count = _content(block, unit, indices[v], scratch)
        state = np.uint64(end - begin)
        for k in range(begin, end):
            state = _mix(state, context_ids[k] + 1)
        for k in range(count):
            state = _mix(state, scratch[k] + 1)
        hashes[v] = _mix(state, count)
        lengths[v] = count + (end - begin) + len(special[0]) + len(special[1]) + len(special[2])


def hash_variants(block: Block, units: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Identity and size of variants: units, indices int32 [V] -> hash uint64 [V], length in tokens int32 [V]."""
    hashes, lengths = np.empty(len(units), np.uint64), np.empty(len(units), np.int32)
    if len(units):
        _hash_variants(block.arrays, units, indices, hashes, lengths)
    return hashes, lengths


@nb.njit(**_JIT)
def _copy(source, target, at):
    target[at : at + len(source)] = source
    return at + len(source)


@nb.njit(**_JIT)
def _pack(block, units, indices, cu_seqlens, ids, types):
    _, _, _, context_offsets, context_ids, room, _, _, special = block
    prefix, middle, suffix, content_type = special
    scratch = np.empty(max(1, room.max()), np.int32)
    for v in range(len(units)):
        unit = units[v]
        at = _copy(prefix, ids, cu_seqlens[v])
        at = _copy(context_ids[context_offsets[unit] : context_offsets[unit + 1]], ids, at)
        second = _copy(middle, ids, at)
        count = _content(block, unit, indices[v], scratch)
        at = _copy(scratch[:count], ids, second)
        at = _copy(suffix, ids, at)
        types[cu_seqlens[v] : second] = 0
        types[second:at] = content_type


def pack_variants(block: Block, units: np.ndarray, indices: np.ndarray, lengths: np.ndarray) -> PackedBatch:
    """Lay variants end to end: units, indices, lengths int32 [V] (lengths from ``hash_variants``)."""
    cu_seqlens = np.zeros(len(units) + 1, np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    ids, types = np.empty(cu_seqlens[-1], np.int32), np.empty(cu_seqlens[-1], np.int32)
    _pack(block.arrays, units, indices, cu_seqlens, ids, types)
    return PackedBatch(ids, types, cu_seqlens, int(lengths.max()))


@nb.njit(**_JIT)
def batch_starts(lengths, budget):
    """Where batches of at most ``budget`` tokens start: lengths int32 [V] -> int64 [N]; longer ones stand alone."""
    starts = np.empty(len(lengths), np.int64)
    count = total = 0
    for v in range(len(lengths)):
        total += lengths[v]
        if v == 0 or total > budget:
            starts[count], total = v, lengths[v]
            count += 1
    return starts[:count]


@nb.njit(**_JIT)
def _advance(offsets, room, kept, kept_count, cursor, active, z, level, important):
    """Greedy's step after decisions: append or leave out, move on; a full buffer settles all later tokens at once."""
    remaining = 0
    for a in range(len(active)):
        unit = active[a]
        start, n, i = offsets[unit], offsets[unit + 1] - offsets[unit], cursor[unit]
        at = start + i
        if kept_count[unit] >= room[unit]:
            z[at : start + n] = z[at]
            level[at : start + n] = level[at]
            important[at : start + n] = important[at]
            cursor[unit] = n
            continue
        if not important[at]:
            kept[start + kept_count[unit]] = i
            kept_count[unit] += 1
        cursor[unit] = i + 1
        if i + 1 < n:
            active[remaining] = unit
            remaining += 1
    return remaining


def advance(block: Block, active: np.ndarray, z: np.ndarray, level: np.ndarray, important: np.ndarray) -> np.ndarray:
    """Apply the decisions at every active unit's cursor to greedy's buffers.

    Args:
        active: int32 [A], units whose token at ``cursor`` was just decided; overwritten.
        z, level, important: float64, uint8, bool [T], filled at the cursors; filled to the end for full buffers.

    Returns:
        int32 [<= A], the units that have tokens left.
    """
    count = _advance(block.offsets, block.room, block.kept, block.kept_count, block.cursor, active, z, level, important)
    return active[:count]
