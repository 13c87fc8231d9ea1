"""Corruption of masked tokens at load time: 80 % [MASK], 10 % a random ordinary token, 10 % unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from fastmask_kernels.cpu import apply_mask

from ..core.config import SHARES, demand, shares_fault
from ..core.errors import FastmaskError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


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
    shares: Sequence[float] = SHARES,
) -> np.ndarray:
    """Return a corrupted copy of ``input_ids``.

    What becomes of a token is a pure function of (seed, epoch, row, sentence, position): the same in whatever batch,
    process or order it comes, and drawn anew in each epoch.

    Args:
        input_ids: int32 [T], one sequence or several end to end; not written to.
        at: int [M], places in ``input_ids`` to corrupt.
        row: int64 [M],
        sentence: int32 [M] and
        position: int32 [M], the key of each.
        seed: at least 0, and
        epoch: at least 0, the rest of the key.
        mask_id: id of [MASK].
        ordinary: int32 [K], ids that may be drawn: a stream's ``ordinary``, or ``ordinary_ids``.
        shares: of [MASK], of random tokens, of unchanged ones.

    Returns:
        int32 [T].

    Raises:
        FastmaskError: an array has another shape or is not of whole numbers, a place is outside ``input_ids``, a number
            is negative or too large, nothing may be drawn, or the shares do not add up to 1.
    """
    tokens, ordinary = whole_numbers("input_ids", input_ids, np.int32), whole_numbers("ordinary", ordinary, np.int32)
    at, row = whole_numbers("at", at, np.int64), whole_numbers("row", row, np.int64)
    sentence, position = whole_numbers("sentence", sentence, np.int32), whole_numbers("position", position, np.int32)
    _check_places(len(tokens), at, row, sentence, position)
    if not len(ordinary):
        raise FastmaskError("corrupt: no ordinary token to draw from")
    for name, value, bits in (("seed", seed, 64), ("epoch", epoch, 63), ("mask_id", mask_id, 31)):
        if value is None or not 0 <= value < 2**bits:
            raise FastmaskError(f"corrupt: {name} {value}: 0 to 2**{bits} - 1")
    out = np.empty(len(tokens), np.int32)
    numbers = np.uint64(seed), np.int64(epoch), np.int32(mask_id)
    apply_mask(tokens, at, row, sentence, position, *numbers, ordinary, out, *_limits(shares))
    return out


def _limits(shares: Sequence[float]) -> tuple[int, int]:
    """Return below which of 2^24 values a token becomes [MASK], and below which it stays as it is."""
    demand(not (fault := shares_fault(shares)), f"corrupt: {list(shares)}", fault)
    masked, drawn, kept = shares
    return int(masked * 2**24), int((masked + kept) * 2**24) if drawn else 2**24


def _check_places(tokens: int, at: np.ndarray, *key: np.ndarray) -> None:
    """Raise FastmaskError unless every place is one of the tokens and has its key."""
    if any(len(values) != len(at) for values in key):
        raise FastmaskError(
            "corrupt: {} places with {} rows, {} sentences, {} positions".format(len(at), *map(len, key))
        )
    if len(at) and at.max() >= tokens:
        raise FastmaskError(f"corrupt: places {at.min()} to {at.max()} in {tokens} tokens")


def whole_numbers(name: str, values: ArrayLike, kind: type[np.signedinteger]) -> np.ndarray:
    """Return ``values`` as an array [N] of ``kind``; FastmaskError where numbers would change or are negative."""
    array = np.asarray(values)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise FastmaskError(f"{name}: one row of whole numbers, not {array.dtype} {list(array.shape)}")
    if len(array) and not 0 <= array.min() <= array.max() <= np.iinfo(kind).max:
        raise FastmaskError(f"{name}: {array.min()} to {array.max()}, not 0 to {np.iinfo(kind).max}")
    return array.astype(kind, copy=False)


def ordinary_ids(vocab_size: int, special_ids: Mapping[str, int | None] | Iterable[int | None]) -> np.ndarray:
    """Return the ids 0..vocab_size-1 but the special ones, int32 [K] ascending.

    Args:
        vocab_size: number of ids.
        special_ids: a manifest's (by role), or just ids; None is skipped.
    """
    ids = special_ids.values() if isinstance(special_ids, Mapping) else special_ids
    ordinary = np.ones(vocab_size, bool)
    ordinary[[i for i in ids if i is not None and 0 <= i < vocab_size]] = False
    return np.flatnonzero(ordinary).astype(np.int32)
