"""What the tokenizers library does where its own code fails: it prints lines of its own and raises no Exception."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ModelError, shortened


@contextmanager
def panics_told(model: str) -> Iterator[None]:
    """Make a ModelError, which names the model, of what the library raises, and print none of its own lines."""
    try:
        with _QUIET:
            yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = shortened(" ".join(str(error).split()), 160)
        raise ModelError(f"{model}: its tokenizer.json cannot take a text: {reason}") from error


class _Quiet:
    """Native code says nothing inside, from whichever thread, where Python's standard error is not descriptor 2.

    So it is in the commands (``screen.open_doors``); elsewhere what others print would be lost.
    """

    def __init__(self):
        self._lock, self._inside, self._kept = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1 and _is_apart():
                self._kept = _moved()

    def __exit__(self, *_) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._kept is not None:
                os.dup2(self._kept, 2)
                os.close(self._kept)
                self._kept = None


def _is_apart() -> bool:
    try:
        return sys.stderr.fileno() != 2
    except (AttributeError, OSError, ValueError):
        return False


def _moved() -> int | None:
    """Lead descriptor 2 to nowhere; return where it went, None where too many files are open to do it."""
    try:
        kept = os.dup(2)
    except OSError:
        return None
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        os.close(kept)
        return None
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return kept


_QUIET = _Quiet()
