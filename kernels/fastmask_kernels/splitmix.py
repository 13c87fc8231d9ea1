"""One step of splitmix64 for numba: what hashes and counter-based random numbers on the host are made of."""

from __future__ import annotations

import numba as nb
import numpy as np


@nb.njit(nogil=True, cache=True, error_model="numpy")
def mix(state, value):
    """Fold an integer into a 64-bit state: uint64 -> uint64, the same on any machine."""
    z = (state ^ np.uint64(value)) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
