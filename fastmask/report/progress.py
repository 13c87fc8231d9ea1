"""Progress of scoring and training: a live bar on a terminal, a line in the log now and then otherwise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..core.words import counted
from .notebook import Notebook, NotebookBar, notebook
from .screen import make_console, shown

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)
now_and_then = log.getChild("now_and_then")
"""Logs how far work is, for who reads it at once."""
SECONDS_BETWEEN_LINES = 10.0
RECENT = 20
"""The number of updates over which the loss that is shown is averaged, about."""


class Progress:
    """How far some work is, with its tokens/s and the time left; use it in a ``with``.

    Args:
        unit: what is counted, in the plural.
        total: how many there are; None if unknown.
        done: how many were done before.
        console: a bar is drawn there if it is a terminal, or a notebook.
    """

    def __init__(self, unit: str, total: int | None, done: int = 0, console: Console | Notebook | None = None):
        self._unit, self._total, self._done, self._first = unit, total, float(done), done
        self._tokens, self._updates, self._loss = 0, 0, 0.0
        self._began = self._said = time.monotonic()
        self._bar = _bar(console)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._task = self._bar.add_task("", total=self._total, completed=self._first, unit=self._unit, figures="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: float, tokens: int, loss: float | None = None) -> None:
        """Show that ``done`` units are done by now, the last of them with so many tokens and this loss."""
        self._done, self._tokens, self._updates = done, self._tokens + tokens, self._updates + 1
        if loss is not None:
            self._loss += (loss - self._loss) / min(self._updates, RECENT)
        what = f"{self._speed} {self._unit}/s" if loss is None else f"loss {self._loss:.4f}"
        figures = f"{what}, {self.rate:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=int(done), figures=figures)
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            of = "" if self._total is None else f" of {self._total:,}"
            now_and_then.info(f"{int(done):,}{of} {self._unit}, {figures}{self._left()}")

    @property
    def _speed(self) -> str:
        """Return the units a second since the work began, with a decimal where they are few."""
        speed = (self._done - self._first) / max(time.monotonic() - self._began, 1e-9)
        return f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"

    @property
    def rate(self) -> float:
        """Return the tokens a second since the work began."""
        return self._tokens / max(time.monotonic() - self._began, 1e-9)

    def _left(self) -> str:
        """Return the time that is left, in words; nothing if it cannot be known."""
        fresh = self._done - self._first
        if self._total is None or fresh <= 0:
            return ""
        seconds = max(self._total - self._done, 0) * (time.monotonic() - self._began) / fresh
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f", {hours}:{minutes:02d}:{seconds:02d} left" if hours else f", {minutes}:{seconds:02d} left"


def _bar(console: Console | Notebook | None):
    """Return a bar where one can be drawn, else None."""
    if isinstance(console, Notebook):
        return NotebookBar()
    return _terminal_bar(console) if console is not None and console.is_terminal else None


def _terminal_bar(console: Console):
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    texts = TextColumn("{task.fields[unit]}"), TextColumn("{task.fields[figures]}")
    times = TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left")
    return Bar(BarColumn(bar_width=None), MofNCompleteColumn(), *texts, *times, console=console, transient=True)


class Meter:
    """Shows the progress of scoring; serves several runs, one after the other. Without a console it draws no bar.

    Args:
        console: as ``Progress`` has it.
        out: the directory that is written to, where the user did not name it: shown when scoring begins.
    """

    def __init__(self, console: Console | Notebook | None = None, out: str | None = None):
        self._console, self._unsaid = console, out
        self._lock = threading.Lock()
        # share done and rows of each shard by its first row
        self._shards: dict[int, tuple[float, int]] = {}
        self._rows = 0.0
        self._progress: Progress | None = None

    @classmethod
    def here(cls) -> Meter:
        """Return one that shows progress in a notebook or on a terminal, and nothing elsewhere."""
        return cls(notebook() or make_console(stderr=True))

    @contextmanager
    def running(self, total: int | None, done: int) -> Iterator[None]:
        """Run a corpus inside: so many rows (None if unknown), of which ``done`` were done before."""
        self._rows, self._shards = float(done), {}
        if self._unsaid:
            log.info(f"writing to {self._unsaid}")
            self._unsaid = None
        if done:
            log.info(f"resuming after {counted(done, 'row')}")
        with Progress("rows", total, done, self._console) as self._progress:
            yield

    def shard(self, first_row: int, end_row: int) -> None:
        """Begin the shard of these rows, for the first time or again. Several may be in work."""
        with self._lock:
            share, rows = self._shards.get(first_row, (0.0, 0))
            self._rows -= share * rows
            self._shards[first_row] = 0.0, end_row - first_row

    def advance(self, first_row: int, share: float, tokens: int) -> None:
        """Add a share of the shard from that row, with so many tokens through the encoder; from any thread."""
        with self._lock:
            before, rows = self._shards.get(first_row, (0.0, 0))
            after = min(before + share, 1.0)  # blocks that are scored again do not count twice
            self._shards[first_row] = after, rows
            self._rows += (after - before) * rows
            if self._progress is not None:
                self._progress.update(self._rows, tokens)

    @contextmanager
    def loading(self, name: str) -> Iterator[None]:
        """Show on a terminal that a model is being loaded inside, which takes seconds."""
        if self._console is None or isinstance(self._console, Notebook) or not self._console.is_terminal:
            yield
            return
        with self._console.status(f"loading model {shown(name)}"):
            yield
