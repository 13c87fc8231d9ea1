"""What is asked of the C library about memory. Without effect where it is not glibc."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGE = 1 << 20  # bytes


def give_back_what_is_free() -> None:
    """Give free memory back to the system: what is free now, and from now on each large buffer as soon as it is.

    glibc by itself keeps up to 64 MB, and buffers of up to 32 MB among small things, which leaves gaps.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            library.mallopt(option, _LARGE)
        library.malloc_trim(0)
