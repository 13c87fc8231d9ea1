"""Progress: a live bar with rows, tokens/s and time left on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds between plain lines.
_INTERVAL = 10.0


class NoMeter:
    """Says nothing."""

    @contextmanager
    def running(self, rows: Callable[[], int | None], done: int) -> Iterator[None]:
        """Around the work: ``rows()`` in the corpus (None if unknown), of which ``done`` are there already."""
        yield

    def shard(self, first_row: int, end_row: int) -> None:
        """The shard of these rows begins, or begins again. Several may be in work."""

    def advance(self, first_row: int, share: float, tokens: int) -> None:
        """A share of the shard from that row is done, with so many tokens through the encoder; from any thread."""

    def note(self, line: str) -> None:
        """Something that the user should know, in one line."""

    def nothing_to_do(self, out: str) -> None:
        """The run was finished before."""


class Meter(NoMeter):
    """Shows progress through a rich console, or as plain lines.

    Args:
        console: a ``rich.console.Console``; a bar is drawn where it is a terminal.
        say: prints one plain line.
        out: the directory that is written to, where the user did not name it: said once something is.
    """

    def __init__(self, console, say: Callable[[str], None], out: str | None = None):
        self.console, self.say, self._unsaid = console, say, out
        self._lock = threading.Lock()

    @contextmanager
    def running(self, rows: Callable[[], int | None], done: int) -> Iterator[None]:
        """See ``NoMeter.running``."""
        # share done and rows of each shard by its first row; a meter may serve several runs, one after the other
        self._shards: dict[int, tuple[float, int]] = {}
        self._tokens, self._bar = 0.0, None
        self._total, self._rows, self._first = rows(), float(done), float(done)
        self._began = self._said = time.monotonic()
        if self._unsaid:
            self.say(f"writing to {self._unsaid}")
            self._unsaid = None
        if done:
            self.say(f"resuming after {done:,} rows")
        if not self.console.is_terminal:
            yield
            return
        with self._progress() as bar:
            self._bar, self._task = bar, bar.add_task("scoring", total=self._total, completed=done, rate="")
            yield

    def _progress(self):
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        return Progress(*columns, console=self.console, transient=True)

    def shard(self, first_row: int, end_row: int) -> None:
        """See ``NoMeter.shard``."""
        with self._lock:
            share, rows = self._shards.get(first_row, (0.0, 0))
            self._rows -= share * rows
            self._shards[first_row] = 0.0, end_row - first_row

    def advance(self, first_row: int, share: float, tokens: int) -> None:
        """See ``NoMeter.advance``."""
        with self._lock:
            before, rows = self._shards[first_row]
            # blocks that are scored again do not count twice
            after = min(before + share, 1.0)
            self._shards[first_row] = after, rows
            self._rows += (after - before) * rows
            self._tokens += tokens
            now = time.monotonic()
            if self._bar is not None:
                self._bar.update(self._task, completed=int(self._rows), rate=f"{self._rate(now):,.0f} tokens/s")
            elif now - self._said >= _INTERVAL:
                self._said = now
                self.say(self._line(now))

    def _rate(self, now: float) -> float:
        return self._tokens / max(now - self._began, 1e-9)

    def _line(self, now: float) -> str:
        of = "" if self._total is None else f" of {self._total:,}"
        line = f"{int(self._rows):,}{of} rows, {self._rate(now):,.0f} tokens/s"
        fresh = self._rows - self._first
        if self._total is None or fresh <= 0:
            return line
        left = (self._total - self._rows) * (now - self._began) / fresh
        return f"{line}, {max(left, 0):,.0f} s left"

    def note(self, line: str) -> None:
        """See ``NoMeter.note``."""
        self.say(line)

    def nothing_to_do(self, out: str) -> None:
        """See ``NoMeter.nothing_to_do``."""
        self.say(f"{out} is complete for this configuration; nothing to do")
