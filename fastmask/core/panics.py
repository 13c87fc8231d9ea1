"""Errors inside the tokenizers library: it prints lines of its own and raises no Exception."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from .errors import ModelError, shortened


@contextmanager
def panics_told(model: str, *, loading: bool = False) -> Iterator[None]:
    """Turn what the library raises into a ModelError that names the model, and print none of its own lines.

    Besides panics it raises bare Exceptions; with ``loading`` these are passed on.
    """
    try:
        with _QUIET:
            yield
    except BaseException as error:
        if type(error).__name__ != "PanicException" and (loading or type(error) is not Exception):
            raise
        reason = shortened(" ".join(str(error).split()), 160)
        raise ModelError(f"{model}: its tokenizer.json cannot take a text: {reason}") from error


class _Quiet:
    """Silence native code inside a ``with``, in all threads, where Python's streams are not descriptors 1 and 2.

    In the commands they are not (``screen.open_doors``); elsewhere what others print would be lost.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._kept: dict[int, int] = {}

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                streams = {1: sys.stdout, 2: sys.stderr}
                moved = {number: _moved(number) for number, stream in streams.items() if _is_apart(stream, number)}
                self._kept = {number: kept for number, kept in moved.items() if kept is not None}

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            while self._inside == 0 and self._kept:
                number, kept = self._kept.popitem()
                os.dup2(kept, number)
                os.close(kept)


def _is_apart(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() != number
    except (AttributeError, OSError, ValueError):
        return False


def _moved(number: int) -> int | None:
    """Send a descriptor to /dev/null; return a copy of the old one, None where too many files are open."""
    try:
        kept = os.dup(number)
    except OSError:
        return None
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        os.close(kept)
        return None
    os.dup2(nowhere, number)
    os.close(nowhere)
    return kept


_QUIET = _Quiet()
