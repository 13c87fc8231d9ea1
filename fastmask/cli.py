"""The ``fastmask`` command: its commands in the order of work, and what a process of it sets up."""

from __future__ import annotations

import gc
import signal
import sys

from .commands import masks, shards, training  # noqa: F401  # each adds its commands, in this order
from .commands.group import cli
from .report.screen import open_doors


def main() -> None:
    """Entry point of the ``fastmask`` command."""
    from .core.startup import open_closed_streams, set_waiting

    open_closed_streams()
    open_doors()
    set_waiting()
    # Imports make objects by the hundred thousand, none of them garbage: looking for some takes a tenth of the start.
    gc.set_threshold(100_000)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cli(prog_name="fastmask")
