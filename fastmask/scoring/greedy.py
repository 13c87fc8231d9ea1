"""Greedy's walk: what is asked next, some tokens ahead where the encoder has room, and how answers move it on.

*Verified speculation*: a unit's decisions depend on each other, but as long as a guess about them is right, its next
variants are known beforehand. So several may be asked at once; answers count up to the first wrong guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from ..models.packing import NOTHING, Block, Variants, around, write_row
from .cascade import ABOVE, DOUBT

_JIT = {"nogil": True, "cache": True, "error_model": "numpy"}


@dataclass(frozen=True, slots=True)
class Questions:
    """What a round asks about A active units, V >= A variants.

    Attributes:
        units: int32 [A]; starts: int64 [A + 1], each unit's variants, for consecutive tokens from its cursor on.
        keeps: bool [A], the guess: that all these tokens are kept, or that all are left out.
        variants: the V variants; indices: int32 [V], the tokens they score.
    """

    units: np.ndarray
    starts: np.ndarray
    keeps: np.ndarray
    variants: Variants
    indices: np.ndarray


@nb.njit(**_JIT)
def _plan(offsets, room, kept_count, cursor, context_offsets, special, active, budget, starts, keeps):
    """How many tokens ahead each active unit is asked: as many as fit in its share of the budget, at least one."""
    share = budget // len(active)
    starts[0] = 0
    for a in range(len(active)):
        unit = active[a]
        left = offsets[unit + 1] - offsets[unit] - cursor[unit]
        taken = kept_count[unit]
        keeps[a] = 2 * taken >= cursor[unit]
        # a full buffer makes all later variants the same
        most = min(left, max(1, room[unit] - taken))
        length = around(context_offsets, unit, special) + min(taken + 1, room[unit])
        depth, spent = 1, length
        while depth < most:
            length += keeps[a]
            spent += length
            if spent > share:
                break
            depth += 1
        starts[a + 1] = starts[a] + depth


@nb.njit(**_JIT)
def _fill(room, kept_count, cursor, context_offsets, special, active, starts, keeps, table, lengths, indices):
    for a in range(len(active)):
        unit = active[a]
        taken, limit = kept_count[unit], room[unit]
        for v in range(starts[a], starts[a + 1]):
            ahead = v - starts[a]
            indices[v] = cursor[unit] + ahead
            first = cursor[unit] if keeps[a] else indices[v]
            count = min(taken + 1 + (ahead if keeps[a] else 0), limit)
            write_row(table, v, unit, min(taken, limit), first, NOTHING, count)
            lengths[v] = count + around(context_offsets, unit, special)


def look_ahead(block: Block, active: np.ndarray, budget: int) -> Questions:
    """The next variant of every active unit int32 [A], and more of them as far as ``budget`` tokens go.

    The guess for a unit is what most of its tokens were decided to be so far.
    """
    special = block.arrays[-1]
    starts, keeps = np.empty(len(active) + 1, np.int64), np.empty(len(active), bool)
    state = block.room, block.kept_count, block.cursor, block.context_offsets, special, active
    _plan(block.offsets, *state, budget, starts, keeps)
    total = int(starts[-1])
    indices = np.empty(total, np.int32)
    variants = Variants(np.empty((total, 5), np.int32), np.empty(total, np.int32))
    _fill(*state, starts, keeps, variants.table, variants.lengths, indices)
    return Questions(active, starts, keeps, variants, indices)


@nb.njit(**_JIT)
def _step(offsets, room, kept, kept_count, cursor, unit, z, level, important):
    """Take the decision at a unit's cursor: append or leave out, move on; a full buffer settles all later tokens."""
    start, n, i = offsets[unit], offsets[unit + 1] - offsets[unit], cursor[unit]
    at = start + i
    if kept_count[unit] >= room[unit]:
        z[at : start + n] = z[at]
        level[at : start + n] = level[at]
        important[at : start + n] = important[at]
        cursor[unit] = n
        return
    if not important[at]:
        kept[start + kept_count[unit]] = i
        kept_count[unit] += 1
    cursor[unit] = i + 1


@nb.njit(**_JIT)
def _advance(offsets, room, kept, kept_count, cursor, units, z, level, important):
    for unit in units:
        _step(offsets, room, kept, kept_count, cursor, unit, z, level, important)


def advance(block: Block, units: np.ndarray, z: np.ndarray, level: np.ndarray, important: np.ndarray) -> None:
    """Apply the decisions at the cursors of ``units`` int32 [A] to greedy's buffers.

    z, level, important float64, uint8, bool [T] are filled at the cursors; they are filled to the end for full buffers.
    """
    _advance(*block.walk, units, z, level, important)


@nb.njit(**_JIT)
def _accept(walk, units, starts, keeps, answer, code, z, level, important, open_):
    offsets, room, kept, kept_count, cursor = walk
    decided = blocked = 0
    for a in range(len(units)):
        unit = units[a]
        for v in range(starts[a], starts[a + 1]):
            if code[v] & DOUBT:
                open_[blocked] = v
                blocked += 1
                break
            at = offsets[unit] + cursor[unit]
            above = (code[v] & ABOVE) != 0
            z[at], level[at], important[at] = answer[v], 0, above
            decided += 1
            _step(offsets, room, kept, kept_count, cursor, unit, z, level, important)
            if above == keeps[a]:
                break
    return decided, blocked


def accept(block: Block, asked: Questions, answer, code, z, level, important) -> tuple[int, np.ndarray]:
    """Move units on by a round's answers: certain ones count, up to the first wrong guess.

    Args:
        answer, code: float64, uint8 [V], log-odds and decision of each variant asked.
        z, level, important: float64, uint8, bool [T], filled where decided.

    Returns:
        how many tokens were decided, and int64 [<= A]: the doubtful answers that units have stopped at.
    """
    open_ = np.empty(len(asked.units), np.int64)
    decided, blocked = _accept(
        block.walk, asked.units, asked.starts, asked.keeps, answer, code, z, level, important, open_
    )
    return decided, open_[:blocked]
