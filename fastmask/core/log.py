"""Lines for the user: modules log them below the logger ``fastmask``, which is silent until somebody listens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENT = logging.CRITICAL + 1
"""A level that no line has."""


class Listener(logging.Handler):
    """Gives the level and the text of each line to a function."""

    def __init__(self, hear: Callable[[int, str], None]):
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        self._hear(record.levelno, record.getMessage())


def listen(hear: Callable[[int, str], None], level: int = logging.INFO) -> Listener:
    """Give lines from a level on to a function, from now on; return what does so."""
    logger, listener = logging.getLogger("fastmask"), Listener(hear)
    logger.setLevel(level)
    logger.addHandler(listener)
    return listener


@contextmanager
def at_level(level: int) -> Iterator[None]:
    """Log only what has this level or a higher one inside a ``with``."""
    logger = logging.getLogger("fastmask")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def kept() -> Iterator[list[tuple[int, str]]]:
    """Yield a list that is given the level and the text of each line logged inside a ``with``."""
    lines: list[tuple[int, str]] = []
    with at_level(logging.INFO):
        listener = listen(lambda level, line: lines.append((level, line)))
        try:
            yield lines
        finally:
            logging.getLogger("fastmask").removeHandler(listener)
