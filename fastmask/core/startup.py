"""What makes the commands start quickly, and safely."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from typing import Any

BLAS = "scipy.linalg.cython_blas"


def start_numba() -> None:
    """Start numba in a process of fastmask's own, without scipy, and let it do without its cache where it has to.

    At the first kernel numba imports ``scipy.linalg`` wherever scipy is installed, a quarter of a second, for products
    inside of kernels, of which ours have none. While a module's entry is None Python takes it for missing.
    """
    from numba.core.caching import Cache

    if not hasattr(Cache, "save_or_fail"):
        Cache.save_or_fail, Cache.save_overload = Cache.save_overload, _save
    if "scipy.linalg" in sys.modules:
        return
    import numpy as np

    from .memo import Memo

    sys.modules[BLAS] = None  # type: ignore[assignment]
    try:
        Memo().slots(np.empty(0, np.uint64))
    finally:
        del sys.modules[BLAS]


def _save(cache: Any, signature: Any, compiled: Any) -> None:
    """Keep what numba has compiled for the next process; on a full disk it works without."""
    with suppress(OSError):
        cache.save_or_fail(signature, compiled)


def open_closed_streams() -> None:
    """Open closed standard streams, so that no file that is written gets descriptor 1 or 2."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def set_waiting() -> None:
    """Set how OpenMP's threads wait, before torch loads it, unless the user has set it.

    Threads that spin while they wait take the cores from those that they wait for where other work shares the machine
    (training takes several times as long); threads that sleep at once lose 40 % on cores of their own. A thousand turns
    of GNU's OpenMP, some microseconds, then sleep, loses little on either; other OpenMPs know the policy alone.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="1000")


def set_ray(address: str | None) -> None:
    """Set what Ray reads from the environment, once, when it is imported, unless the user has set it.

    It tells nobody of its use. A cluster on this machine alone gets a token of its own, instead of one in a file in the
    user's home.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
