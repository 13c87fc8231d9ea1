"""What each scoring step asks the classifier: which variant of a unit's tokens scores a token.

Index i of a unit with tokens w0..wn-1 names the variant that scores token i: ``prefix`` w0..wi, ``leave-one-out``
all but wi, ``greedy`` the tokens kept before i, then wi (paper section 2.2). Index FULL is the whole sentence. A
variant longer than the unit's room is cut on the right. Because greedy keeps positions in ascending order, any of
its past variants can be packed again later.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from ..models.packing import NOTHING, Block, Variants, around, write_row

FULL = -1
# ``masker`` asks about whole sentences alone, which all methods have in common.
METHOD_CODES = {"greedy": 0, "prefix": 1, "leave-one-out": 2, "masker": 2}
_GREEDY, _PREFIX = 0, 1
_GREEDY, _PREFIX = 0, 1
_JIT = {"nogil": True, "cache": True, "error_model": "numpy"}


@nb.njit(**_JIT)
def _describe(method, block, units, indices, table, lengths):
    offsets, _, context_offsets, _, room, kept, kept_count, special = block
    for v in range(len(units)):
        unit, index = units[v], indices[v]
        start, limit = offsets[unit], room[unit]
        n = np.int32(offsets[unit + 1] - start)
        taken, position, removed, count = np.int32(0), np.int32(0), NOTHING, n
        if index >= 0 and method == _GREEDY:
            before = np.searchsorted(kept[start : start + kept_count[unit]], index)
            taken, position, count = np.int32(min(before, limit)), index, np.int32(before + 1)
        elif index >= 0 and method == _PREFIX:
            count = np.int32(index + 1)
        elif index >= 0:
            removed, count = index, np.int32(n - 1)
        write_row(table, v, unit, taken, position, removed, min(count, limit))
        lengths[v] = table[v, 4] + around(context_offsets, unit, special)


def describe(block: Block, units: np.ndarray, indices: np.ndarray) -> Variants:
    """The variants that score tokens ``indices`` of ``units`` (int32 [V] each), by greedy's buffers as they are."""
    made = Variants(np.empty((len(units), 5), np.int32), np.empty(len(units), np.int32))
    if len(units):
        _describe(METHOD_CODES[block.method], block.arrays, units, indices, made.table, made.lengths)
    return made


def seen(block: Block) -> np.ndarray:
    """bool [T]: tokens of the sentences as the classifier sees them, cut on the right.

    Of the others the formula makes the whole cut sentence, or nearly, so that S(w) is about 0: it would mask them all.
    """
    lengths = np.diff(block.offsets)
    position = np.arange(len(block.input_ids)) - np.repeat(block.offsets[:-1], lengths)
    return position < np.repeat(block.room, lengths)
