"""What is asked of the C library about memory. Without effect where it is not glibc."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h
_MEGABYTE = 1 << 20


def give_back_what_is_free() -> None:
    """Give free memory back to the system: what is free now, and from now on each large buffer as soon as it is.

    glibc by itself keeps up to 64 MB, and buffers of up to 32 MB among small things, which leaves gaps.
    """
    _ask({_TRIM_THRESHOLD: _MEGABYTE, _MMAP_THRESHOLD: _MEGABYTE}, trim=True)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let this process reuse large buffers inside, instead of getting fresh, zeroed pages from the system every step.

    Afterwards free memory goes back to the system.
    """
    _ask({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1})
    try:
        yield
    finally:
        # glibc's defaults, but for a threshold that it raises to this by itself
        _ask({_MMAP_MAX: 65536, _TRIM_THRESHOLD: 64 * _MEGABYTE, _MMAP_THRESHOLD: 32 * _MEGABYTE}, trim=True)


def _ask(options: dict[int, int], trim: bool = False) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for option, value in options.items():
            library.mallopt(option, value)
        if trim:
            library.malloc_trim(0)
