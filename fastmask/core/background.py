"""A background thread that makes items ahead of their consumer."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

_POLL_SECONDS = 0.05
Item = TypeVar("Item")
Entry = tuple[Any, BaseException | None]
"""An item, or what was raised in its place."""


def run_ahead(
    items: Generator[Item, None, None],
    depth: int,
    stop: Callable[[], None] = lambda: None,
    patience: float | None = None,
) -> Generator[Item, None, None]:
    """Yield the same items, made by a background thread at most ``depth`` of them ahead.

    An exception is raised in the place of its item. Closing the generator, or an interrupt in it, ends the thread.

    Args:
        stop: called when the generator ends early, to make the item in work fail soon.
        patience: seconds to wait for the thread at the end, then it is abandoned; None: until it has ended. A thread
            that still runs when Python ends may take the process down with it.
    """
    ready: queue.Queue[Entry] = queue.Queue(depth)
    stopped = threading.Event()
    producer = threading.Thread(target=_produce, args=(items, ready, stopped), name="run-ahead", daemon=True)
    producer.start()
    is_done = False
    try:
        while True:
            item, error = ready.get()
            if is_done := isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        if not is_done:
            stop()
        producer.join(patience)


def _produce(items: Generator[Any, None, None], ready: queue.Queue[Entry], stopped: threading.Event) -> None:
    with closing(items):
        while not stopped.is_set():
            try:
                entry: Entry = (next(items), None)
            except BaseException as error:  # StopIteration included: the consumer raises or ends
                entry = (None, error)
            _offer(entry, ready, stopped)
            if entry[1] is not None:
                return


def _offer(entry: Entry, ready: queue.Queue[Entry], stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            return ready.put(entry, timeout=_POLL_SECONDS)
        except queue.Full:
            continue


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
