"""Variants of texts, described by a few numbers each, laid end to end by numba as a model reads them.

A variant is a text with some of its tokens left out, cut on the right, between special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numba as nb
import numpy as np
from fastmask_kernels.splitmix import mix

from ..core.arrays import JIT, offsets_of
from ..core.records import PackedBatch

# As the ``removed`` position of a variant: none.
NOTHING = np.int32(1 << 30)


@dataclass(frozen=True, slots=True)
class Template:
    """The special tokens around a variant: ``prefix content suffix``, or ``prefix context middle content suffix``.

    Attributes:
        prefix, middle, suffix: int32, each may be empty; the second form is that of aspect units.
        content_type: token type of the content; that of a context is 0.
        special_types: int32, of the special tokens in order; None for 0 before the content and its type after it.
        typed: whether the model is to be given token types.
        words: int32, a few ordinary tokens to try a model with.
        mask: the token that stands for a hidden one; -1 where the tokenizer has none.
    """

    prefix: np.ndarray
    middle: np.ndarray
    suffix: np.ndarray
    content_type: int
    special_types: np.ndarray | None = None
    typed: bool = True
    words: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    mask: int = -1

    @property
    def types(self) -> np.ndarray:
        """Return the token types of the special tokens in order, int32."""
        if self.special_types is not None:
            return self.special_types
        before = len(self.prefix) + len(self.middle)
        return np.repeat(np.array([0, self.content_type], np.int32), [before, len(self.suffix)])

    def without_types(self) -> Template:
        """Return the same tokens for a model that is not given token types."""
        return replace(self, content_type=0, special_types=np.zeros_like(self.types), typed=False)

    def around(self, content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and token types, int32 each, of a text alone, ids int32, between its special tokens."""
        before, after = len(self.prefix), len(self.types) - len(self.suffix)
        types = np.full(len(content), self.content_type, np.int32)
        return (
            np.concatenate([self.prefix, content, self.suffix]),
            np.concatenate([self.types[:before], types, self.types[after:]]),
        )

    def room(self, context_length: np.ndarray, max_length: int) -> np.ndarray:
        """Return how many content tokens fit beside contexts of the given lengths int [U]: int32 [U]."""
        return (self.longest_context(max_length) - context_length).astype(np.int32)

    def longest_context(self, max_length: int) -> int:
        """Return how many tokens fit besides the special ones; a longer context is cut on the right."""
        return max_length - len(self.prefix) - len(self.suffix) - len(self.middle)


class Block(NamedTuple):
    """U units that are asked about together, T tokens; as Python and numba read it.

    Attributes:
        offsets: int64 [U + 1] into the token arrays; input_ids: int32 [T].
        context_offsets, context_ids: int64 [U + 1], int32 [C].
        room: int32 [U], content tokens that fit in a variant.
        kept: int32 [T], a buffer of positions in each unit, from its offset on, that variants may begin with.
        prefix, middle, suffix, content_type, special_types: of the ``Template``.
    """

    offsets: np.ndarray
    input_ids: np.ndarray
    context_offsets: np.ndarray
    context_ids: np.ndarray
    room: np.ndarray
    kept: np.ndarray
    prefix: np.ndarray
    middle: np.ndarray
    suffix: np.ndarray
    content_type: np.int32
    special_types: np.ndarray

    @property
    def around(self) -> np.ndarray:
        """Return how many tokens each unit's variants have besides the content, int32 [U]."""
        special = len(self.prefix) + len(self.middle) + len(self.suffix)
        return (np.diff(self.context_offsets) + special).astype(np.int32)

    @property
    def units(self) -> np.ndarray:
        """Return the numbers of all units, int32 [U]."""
        return np.arange(len(self.room), dtype=np.int32)


def make_block(offsets, input_ids, context_offsets, context_ids, room, template: Template) -> Block:
    """Return the block of some units, with an empty buffer; see ``Block`` for the arrays."""
    t = template
    special = t.prefix, t.middle, t.suffix, np.int32(t.content_type), t.types
    return Block(offsets, input_ids, context_offsets, context_ids, room, np.zeros(len(input_ids), np.int32), *special)


@dataclass(frozen=True, slots=True)
class Variants:
    """V variants of a block's units: described, not written out.

    Attributes:
        table: int32 [V, 5], rows (unit, kept, next, removed, count). Content token c < count of a variant is at the
            unit's position ``buffer[c]`` of greedy's buffer where c < kept, else at next + (c - kept), one further
            from position ``removed`` on.
        lengths: int32 [V], in tokens, context and special tokens included.
    """

    table: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    def take(self, chosen: np.ndarray) -> Variants:
        """Return the variants at ``chosen`` int [R]."""
        return Variants(self.table[chosen], self.lengths[chosen])

    @property
    def units(self) -> np.ndarray:
        """Return the unit of each variant, int32 [V]."""
        return self.table[:, 0]


@nb.njit(**JIT)
def write_row(table, v, unit, kept, position, removed, count):
    table[v, 0], table[v, 1], table[v, 2], table[v, 3], table[v, 4] = unit, kept, position, removed, count


@nb.njit(**JIT)
def around(block, unit):
    """Return how many tokens a unit's variants have besides the content."""
    context = block.context_offsets[unit + 1] - block.context_offsets[unit]
    return context + len(block.prefix) + len(block.middle) + len(block.suffix)


@nb.njit(**JIT)
def _content(block, row, out):
    """Write a variant's content tokens to ``out``; return how many."""
    start, count = block.offsets[row[0]], row[4]
    for c in range(count):
        if c < row[1]:
            position = block.kept[start + c]
        else:
            position = row[2] + c - row[1]
            position += position >= row[3]
        out[c] = block.input_ids[start + position]
    return count


@nb.njit(**JIT)
def _hash_variants(block, table, hashes):
    scratch = np.empty(max(1, table[:, 4].max()), np.int32)
    for v in range(len(table)):
        begin, end = block.context_offsets[table[v, 0]], block.context_offsets[table[v, 0] + 1]
        count = _content(block, table[v], scratch)
        state = np.uint64(end - begin)
        for k in range(begin, end):
            state = mix(state, block.context_ids[k] + 1)
        for k in range(count):
            state = mix(state, scratch[k] + 1)
        hashes[v] = mix(state, count)


def hash_variants(block: Block, variants: Variants) -> np.ndarray:
    """Return a hash of each variant's tokens, uint64 [V]: equal for equal tokens, whatever their units."""
    hashes = np.empty(len(variants), np.uint64)
    if len(variants):
        _hash_variants(block, variants.table, hashes)
    return hashes


@nb.njit(**JIT)
def _copy(source, target, at):
    target[at : at + len(source)] = source
    return at + len(source)


@nb.njit(**JIT)
def _pack(block, table, cu_seqlens, ids, types):
    first, second = len(block.prefix), len(block.prefix) + len(block.middle)
    scratch = np.empty(max(1, table[:, 4].max()), np.int32)
    for v in range(len(table)):
        unit = table[v, 0]
        at = cu_seqlens[v]
        _copy(block.special_types[:first], types, at)
        start = _copy(block.prefix, ids, at)
        at = _copy(block.context_ids[block.context_offsets[unit] : block.context_offsets[unit + 1]], ids, start)
        types[start:at] = 0
        _copy(block.special_types[first:second], types, at)
        start = _copy(block.middle, ids, at)
        count = _content(block, table[v], scratch)
        at = _copy(scratch[:count], ids, start)
        types[start:at] = block.content_type
        _copy(block.special_types[second:], types, at)
        _copy(block.suffix, ids, at)


def bounds_of(variants: Variants) -> np.ndarray:
    """Return the cu_seqlens, int32 [V + 1], of variants laid end to end."""
    return offsets_of(variants.lengths).astype(np.int32)


def pack_variants(block: Block, variants: Variants) -> PackedBatch:
    """Lay at least one variant end to end."""
    cu_seqlens = bounds_of(variants)
    ids, types = np.empty(cu_seqlens[-1], np.int32), np.empty(cu_seqlens[-1], np.int32)
    _pack(block, variants.table, cu_seqlens, ids, types)
    return PackedBatch(ids, types, cu_seqlens, int(variants.lengths.max()))


@nb.njit(**JIT)
def batch_starts(lengths, budget):
    """Return where batches of at most ``budget`` tokens start, a longer item alone: lengths int32 [V] -> int64 [N]."""
    starts = np.empty(len(lengths), np.int64)
    count = total = 0
    for v in range(len(lengths)):
        total += lengths[v]
        if v == 0 or total > budget:
            starts[count], total = v, lengths[v]
            count += 1
    return starts[:count]
