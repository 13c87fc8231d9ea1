"""A hash table from 64-bit keys to slot numbers, by open addressing: what was seen before."""

from __future__ import annotations

import numba as nb
import numpy as np

from .arrays import JIT


@nb.njit(**JIT)
def _find_or_add(table: np.ndarray, used: int, hashes: np.ndarray, slots: np.ndarray) -> int:
    mask = np.uint64(len(table) - 1)
    for v in range(len(hashes)):
        at = hashes[v] & mask
        while table[at]["slot"] >= 0 and table[at]["hash"] != hashes[v]:
            at = (at + np.uint64(1)) & mask
        if table[at]["slot"] < 0:
            table[at]["hash"], table[at]["slot"] = hashes[v], used
            used += 1
        slots[v] = table[at]["slot"]
    return used


class Memo:
    """Slot numbers, counted from 0, of distinct 64-bit hashes in order of appearance."""

    _ENTRY = np.dtype([("hash", np.uint64), ("slot", np.int64)])

    def __init__(self) -> None:
        self.used = 0
        self._table = self._empty(1024)

    def _empty(self, size: int) -> np.ndarray:
        table = np.zeros(size, self._ENTRY)
        table["slot"] = -1
        return table

    def slots(self, hashes: np.ndarray) -> np.ndarray:
        """Return the slot int64 [V] of each hash uint64 [V]; new hashes get new slots in order of appearance."""
        while 2 * (self.used + len(hashes)) > len(self._table):
            old = self._table[self._table["slot"] >= 0]
            self._table = self._empty(4 * len(self._table))
            self._reinsert(old[np.argsort(old["slot"])]["hash"])
        slots = np.empty(len(hashes), np.int64)
        self.used = _find_or_add(self._table, self.used, hashes, slots)
        return slots

    def _reinsert(self, hashes: np.ndarray) -> None:
        _find_or_add(self._table, 0, np.ascontiguousarray(hashes), np.empty(len(hashes), np.int64))
