"""``pretrain --track``: lines of the log are sent to TensorBoard, Weights & Biases or Trackio as well."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ..core.durable import os_errors_named, write_atomically
from ..core.errors import FastmaskError, first_line
from .run_directory import TENSORBOARD, read_document

log = logging.getLogger(__name__)
MARK = ".tracking.json"
SENT = {"*": {"run": str, "step": int, "held_out": int}}
"""What MARK holds: by tracker, the run's name there and the last step of each kind that was sent."""
FIGURES = {"loss": "train/loss", "lr": "train/learning_rate", "tokens_per_second": "train/tokens_per_second",
           "held_out_loss": "held_out/loss"}  # fmt: skip
"""Fields of the log that are sent, and their names there."""
_NOT_OF_A_NAME = re.compile(r"[^\w.-]+", re.ASCII)


class Tracker(Protocol):
    """What shows figures of a run."""

    def log(self, figures: dict[str, float], step: int) -> None:
        """Show figures of a step."""

    def finish(self, failed: bool) -> None:
        """End the run."""


class TensorBoard:
    """Event files in the run's directory."""

    def __init__(self, module: Any, path: Path):
        self._writer = module.SummaryWriter(path / TENSORBOARD)

    def log(self, figures: dict[str, float], step: int) -> None:
        """See ``Tracker``."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a kill loses what it has in memory

    def finish(self, failed: bool) -> None:
        """See ``Tracker``."""
        self._writer.close()


class Hosted:
    """A run of wandb, or of trackio, which has the same functions."""

    def __init__(self, module: Any, name: str, run: str, config: dict[str, Any]):
        self._module = module
        self._failure = {"exit_code": 1} if name == "wandb" else {}
        project = os.environ.get(f"{name.upper()}_PROJECT", "fastmask")
        identity = {"id": run} if name == "wandb" else {}  # trackio knows a run by its name
        module.init(project=project, name=run, resume="allow", config=config, **identity)

    def log(self, figures: dict[str, float], step: int) -> None:
        """See ``Tracker``."""
        self._module.log(figures, step=step)

    def finish(self, failed: bool) -> None:
        """See ``Tracker``."""
        self._module.finish(**self._failure if failed else {})


def tracker_module(name: str) -> Any:
    """Return the library of a tracker; FastmaskError if it is not installed."""
    module, needed = ("torch.utils.tensorboard", "SummaryWriter") if name == "tensorboard" else (name, "init")
    try:
        found = import_module(module)
        if not hasattr(found, needed):  # a folder of that name, where the library has left its files
            raise ImportError(name)
    except ImportError as error:
        raise FastmaskError(f"--track {name}: {name} is not installed; pip install 'fastmask[{name}]'") from error
    return found


class Tracking:
    """Sends the log to a tracker, each line once: one that was sent before a kill is not sent again.

    A line is marked before it is sent, so that a kill between the two loses it there.

    Args:
        name: of the tracker.
        path: directory of the run.
        title: how the run's name there begins.
        config: settings of the run.

    Raises:
        FastmaskError: the tracker is not installed or cannot begin a run.
        OutputError: MARK is damaged or cannot be written; also ``send``.
    """

    def __init__(self, name: str, path: Path, title: str, config: dict[str, Any]):
        module = tracker_module(name)
        self.name, self._path = name, path / MARK
        self._marks = read_document(self._path, SENT) if self._path.exists() else {}
        run = f"{_NOT_OF_A_NAME.sub('-', title)[:40]}-{secrets.token_hex(4)}"
        self._mark = self._marks.setdefault(name, {"run": run, "step": 0, "held_out": 0})
        write_atomically(self._path, self._bytes())
        self._file = self._path.open("r+b", buffering=0)
        try:
            self._tracker: Tracker | None = (
                TensorBoard(module, path) if name == "tensorboard" else Hosted(module, name, self._mark["run"], config)
            )
        except Exception as error:  # each library its own
            self._file.close()
            raise FastmaskError(f"--track {name}: {first_line(error)}") from error

    def _bytes(self) -> bytes:
        return json.dumps(self._marks).encode()  # never shorter than before: it is written over

    def send(self, step: int, **fields: float) -> None:
        """Send a line of the log."""
        kind = "held_out" if "held_out_loss" in fields else "step"
        if self._tracker is None or step <= self._mark[kind]:
            return
        self._mark[kind] = step
        with os_errors_named(self._path):
            os.pwrite(self._file.fileno(), self._bytes(), 0)
        try:
            self._tracker.log({FIGURES[key]: value for key, value in fields.items() if key in FIGURES}, step)
        except Exception as error:
            log.warning(f"--track {self.name}: {first_line(error)}; nothing more is sent")
            self._tracker = None

    def close(self, failed: bool) -> None:
        """End the run at the tracker."""
        self._file.close()
        if self._tracker is not None:
            try:
                self._tracker.finish(failed)
            except Exception as error:
                log.warning(f"--track {self.name}: {first_line(error)}")


@contextmanager
def tracked(name: str | None, path: Path, title: str, config: dict[str, Any]) -> Iterator[Callable[..., None] | None]:
    """Yield what sends lines to a tracker, None without a name; see ``Tracking``."""
    if name is None:
        yield None
        return
    tracking, failed = Tracking(name, path, title, config), True
    try:
        yield tracking.send
        failed = False
    finally:
        tracking.close(failed)
