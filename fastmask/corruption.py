"""Corruption of masked tokens at load time: 80 % [MASK], 10 % unchanged, 10 % a random ordinary token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from fastmask_kernels.cpu import apply_mask


def corrupt(
    input_ids: np.ndarray,
    at: np.ndarray,
    row: np.ndarray,
    sentence: np.ndarray,
    position: np.ndarray,
    *,
    seed: int,
    epoch: int,
    mask_id: int,
    ordinary: np.ndarray,
) -> np.ndarray:
    """A corrupted copy of ``input_ids``.

    What becomes of a token is a pure function of (seed, epoch, row, sentence, position): the same in whatever batch,
    process or order it comes, and drawn anew in each epoch.

    Args:
        input_ids: int32 [T], one sequence or several end to end; not written to.
        at: int [M], places in ``input_ids`` to corrupt.
        row, sentence, position: int64 [M], int32 [M], int32 [M], the key of each.
        seed, epoch: the rest of the key, at least 0.
        mask_id: id of [MASK].
        ordinary: int32 [K], ids that may be drawn (``ordinary_ids``).

    Returns:
        int32 [T].

    Raises:
        ValueError: arrays do not fit each other, a place is outside ``input_ids``, or nothing may be drawn.
    """
    at = np.asarray(at, np.int64)
    if not len(at) == len(row) == len(sentence) == len(position):
        raise ValueError(f"{len(at)} places with {len(row)} rows, {len(sentence)} sentences, {len(position)} positions")
    if len(at) and not 0 <= at.min() <= at.max() < len(input_ids):
        raise ValueError(f"places {at.min()} to {at.max()} in {len(input_ids)} tokens")
    if not len(ordinary):
        raise ValueError("no ordinary token to draw from")
    out = np.empty(len(input_ids), np.int32)
    keys = np.asarray(row, np.int64), np.asarray(sentence, np.int32), np.asarray(position, np.int32)
    tokens, ordinary = np.asarray(input_ids, np.int32), np.asarray(ordinary, np.int32)
    apply_mask(tokens, at, *keys, np.uint64(seed), np.int64(epoch), np.int32(mask_id), ordinary, out)
    return out


def ordinary_ids(vocab_size: int, special_ids: Mapping[str, int | None] | Iterable[int | None]) -> np.ndarray:
    """int32 [K], the ids 0..vocab_size-1 but the special ones, ascending.

    Args:
        vocab_size: number of ids.
        special_ids: a manifest's (by role), or just ids; None is skipped.
    """
    ids = special_ids.values() if isinstance(special_ids, Mapping) else special_ids
    ordinary = np.ones(vocab_size, bool)
    ordinary[[i for i in ids if i is not None and 0 <= i < vocab_size]] = False
    return np.flatnonzero(ordinary).astype(np.int32)
