"""Descriptions of variants; which one scores a token is the method's business.

A unit's tokens are w0..wn-1. A variant is cut on the right at the unit's room, as the authors do.
"""

from __future__ import annotations

import numpy as np

from ..models.packing import NOTHING, Block, Variants


def describe(
    block: Block,
    units: np.ndarray,
    count: np.ndarray,
    *,
    kept: np.ndarray | int = 0,
    following: np.ndarray | int = 0,
    removed: np.ndarray | np.int32 = NOTHING,
) -> Variants:
    """Return variants of ``units`` int32 [V]: ``kept`` tokens of the buffer, then those from ``following`` on.

    Args:
        count: int [V], content tokens before the cut.
        kept: int [V], how many of the unit's buffer, which only greedy fills, come first.
        following: int [V], the position of the token after these.
        removed: int [V], a position that is left out.
    """
    room = block.room[units]
    table = np.empty((len(units), 5), np.int32)
    table[:, 0] = units
    table[:, 1], table[:, 4] = np.minimum(kept, room), np.minimum(count, room)
    table[:, 2], table[:, 3] = following, removed
    return Variants(table, table[:, 4] + block.around[units])


def whole(block: Block, units: np.ndarray) -> Variants:
    """Return each unit's whole sentence: units int32 [V]."""
    return describe(block, units, np.diff(block.offsets)[units])


def joined(first: Variants, second: Variants) -> Variants:
    """Return both, one after the other."""
    return Variants(np.concatenate([first.table, second.table]), np.concatenate([first.lengths, second.lengths]))


def seen(block: Block) -> np.ndarray:
    """Return bool [T]: tokens of the sentences as the classifier sees them, cut on the right.

    For the others the formula compares the cut sentence, or nearly, with itself: S(w) is about 0, all would be masked.
    """
    lengths = np.diff(block.offsets)
    position = np.arange(len(block.input_ids)) - np.repeat(block.offsets[:-1], lengths)
    found: np.ndarray = position < np.repeat(block.room, lengths)
    return found
