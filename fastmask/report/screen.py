"""All printing: what a text, a label or a name holds can neither control the terminal nor fill it."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..core.errors import shortened
from ..core.log import SILENT, listen

MOST_OF_A_WORD = 500
MOST_OF_A_LINE = 2000
_LONG_WORD = re.compile(rf"\S{{{MOST_OF_A_WORD + 1},}}")
# how the progress bars of libraries move to the beginning of what they draw again
_MOVES = re.compile(r"(?:\r|\x1b\[A)*")


def clean(text: str) -> str:
    """Return the text with a replacement character for each control or format character, line breaks included."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def one_line(text: str, most: int = MOST_OF_A_LINE) -> str:
    """Return what is printed of a text: clean, and long words and lines cut in the middle, so that both ends stay."""
    text = _LONG_WORD.sub(lambda word: shortened(word[0], MOST_OF_A_WORD), text)
    return clean(shortened(text, most))


def lines(text: str) -> str:
    """Return what is printed of several lines."""
    return "\n".join(map(one_line, text.split("\n")))


def shown(name: object) -> str:
    """Return what is printed of a name or a value inside a line or a table."""
    return one_line(str(name), MOST_OF_A_WORD)


def say(line: str, err: bool = True) -> None:
    """Print one plain line."""
    _write(one_line(line) + "\n", sys.stderr if err else sys.stdout)


def _write(text: str, stream) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError:  # a full disk under the log must not stop the work
        if stream is sys.stdout:
            raise


def say_traceback(error: BaseException) -> None:
    """Print where an error comes from; its message, which may hold anything, is one line of it."""
    for part in traceback.format_exception(error):
        is_place = part.startswith("  File ")
        for line in part.strip("\n").split("\n") if is_place else [part.strip()]:
            say(line)


def make_console(stderr: bool = False):
    """Return a console of rich that takes strings as they are, without markup, and cleans all that it is given."""
    from rich.console import Console
    from rich.segment import Segment

    class CleanConsole(Console):
        def render_str(self, text, **options):
            return super().render_str(lines(text), **options)

        def render(self, renderable, options=None):
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else "\n".join(map(clean, text.split("\n"))), style, control)

    file = _as_it_is(sys.stderr if stderr else sys.stdout)
    return CleanConsole(file=file, highlight=False, soft_wrap=False, markup=False, emoji=False)


@contextmanager
def log_shown(quiet: bool) -> Iterator[None]:
    """Print what fastmask logs inside a ``with``; with ``quiet`` print none of it."""
    logger = logging.getLogger("fastmask")
    level, propagate = logger.level, logger.propagate
    listener = listen(_say_logged, SILENT if quiet else logging.INFO)
    logger.propagate = False  # a library may have given the root logger a handler
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate


def _say_logged(level: int, line: str) -> None:
    say(line if level < logging.WARNING else f"warning: {line}")


def console_unless(quiet: bool):
    """Return where a bar of progress is drawn; None, for nowhere, with ``quiet``."""
    return None if quiet else make_console(stderr=True)


def say_loading(quiet: bool) -> None:
    """Say on a terminal, from one of several ranks, that libraries and a model are loaded, which takes seconds."""
    if not quiet and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        say("loading libraries and model ...")


class Door(io.TextIOWrapper):
    """A standard stream through which whatever a library writes, a warning or a traceback, comes clean."""

    def write(self, text: str) -> int:
        """Write the lines as ``say`` prints them."""
        found = _MOVES.match(text)
        moves = found[0] if found else ""
        super().write(moves + lines(text[len(moves) :]))
        return len(text)


class _AsItIs:
    """A door that writes as it is what is clean already and may hold a terminal's control sequences."""

    def __init__(self, door: Door):
        self._door = door

    def __getattr__(self, name: str):
        return getattr(self._door, name)

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self._door, text)


def _as_it_is(stream):
    return _AsItIs(stream) if isinstance(stream, Door) else stream


def open_doors() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by doors, which have file descriptors of their own.

    Descriptors 1 and 2 are left to native code, which ``core.panics`` silences where we print the error ourselves.
    """
    sys.stdout.flush()
    # a character that the terminal cannot show must not raise; standard error is not buffered
    out, errors = (open(os.dup(number), "wb", buffering) for number, buffering in ((1, -1), (2, 0)))  # noqa: SIM115
    by_line = bool(sys.stdout.line_buffering)
    sys.stdout = Door(out, sys.stdout.encoding, "backslashreplace", line_buffering=by_line)
    sys.stderr = Door(errors, sys.stderr.encoding, "backslashreplace", write_through=True)
