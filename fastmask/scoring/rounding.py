"""What the numbers of shards, rounded to float32, tell of a classifier's answers."""

from __future__ import annotations

import numpy as np

ROUNDING = 2.0**-24
"""What float32 may change of a number, relatively."""
ROOM_FOR_ROUNDING = 0.25
"""How much of an error bound rounding may add to it before a number in a shard is no answer of its precision."""


def grown(eps: float) -> float:
    """Return e^eps eps, by which q (1 - q) is multiplied for what an error of eps in log-odds may change of q."""
    return eps * float(np.exp(eps))


def slope(q: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Return q (1 - q) of float64 [T] that were rounded to float32, a little more; 1/4 where bool [T]."""
    q = np.clip(q, 0.0, 1.0)
    return np.where(unknown, 0.25, np.minimum(q * (1 - q) + 4 * ROUNDING, 0.25))


def known_log_odds(importance: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log-odds float64 [T] of q = p - S, S and p as shards have them, and by how much rounding may move them."""
    q = p - importance
    rounding = (np.abs(importance) + 2 * p) * ROUNDING
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(q) - np.log(1 - q), rounding / np.maximum(q * (1 - q) - rounding, 0)


def of_first(values: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Return for each of T values the first one that is the same, by int64 [T]: precisions may have differed."""
    _, first, which = np.unique(same, return_index=True, return_inverse=True)
    found: np.ndarray = values[first][which]
    return found
