"""A directory that one process at a time writes, and the settings that decide its content."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from .directories import Replacement, what_was_begun
from .durable import FileLock, NoLock, locked_directory, os_errors_named
from .errors import OutputError
from .urls import Url

RESULT_NEUTRAL = ("threads", "device")
"""Options that leave the result as it is, so that a resumed run may have others. The kind of device is in the
identity. ``batch_tokens`` is not one: it changes the last bits of an importance."""
VERSION = "fastmask_version"
"""Its third number may differ. A patch release writes the same bytes from the same input, or it is no patch release:
whatever changes a mask, a number, a layout or an option is a new minor version, and cannot resume an older run."""

_INPUT = re.compile(r"^inputs\[(\d+)\]")


class LockedDirectory:
    """The base of every run's directory, to be used in a ``with``.

    Args:
        path: the directory.
        header: ``config`` and whatever else decides the result, JSON-ready; None where ``check_header`` is not used.

    Attributes:
        LOCK: name of the lock's file.
        KEPT: pattern of files: an unfinished replacement that has some is kept.
        advice: what to do where a run of other settings is there.
        path: the directory; while a replacement is being made, where it is made. A ``Path``, or a ``Url`` where a
            subclass can write to stores.
    """

    LOCK: ClassVar[str]
    KEPT: ClassVar[str] = ""

    def __init__(self, path: Path | Url, header: dict[str, Any] | None = None):
        self.path: Any = path
        self.header, self.advice = header or {}, "--overwrite replaces it"
        self._lock: FileLock | NoLock | None = None
        self._replacement: Replacement | None = None

    def locked(self, prepare: Callable[[], None]) -> None:
        """Make the directory if need be, lock it and call ``prepare``; an error there releases the lock.

        Raises:
            OutputError: another process has it, or it cannot be written.
        """
        with os_errors_named(self.path):
            self._lock = locked_directory(self.path, self.LOCK)
            try:
                prepare()
            except BaseException:
                self.close()
                raise

    def check_header(self, there: dict[str, Any]) -> None:
        """Raise OutputError, naming the differences, if what is there was made from another header."""
        if found := differences(there, self.header):
            reason = f"made with other settings: {listed(found)}"
            raise OutputError(f"{self.path}: {reason} ({self.advice}{what_was_begun(self.path)})")

    def begin_beside(self, is_ours: Callable[[str], bool]) -> None:
        """Leave the directory as it is and begin a ``Replacement``; ``path`` is now where that is made."""
        self._replacement = Replacement(self.path, is_ours)
        self.path = self._replacement.path

    def start_beside_again(self) -> None:
        """Remove what was begun beside the directory."""
        if self._replacement is not None:
            self._replacement.clear()

    @property
    def is_beside(self) -> bool:
        """Return whether this one is to replace another, or has done so."""
        return self._replacement is not None

    def install(self) -> None:
        """Put a complete replacement in its place; do nothing where the directory itself was written."""
        if self._replacement is not None:
            self.path = self._replacement.install()

    def close(self) -> None:
        """Release the locks; a second call does nothing."""
        with ExitStack() as last:
            if self._lock is not None:
                last.callback(self._lock.release)
            if self._replacement is not None:
                self._replacement.close(keep=any(self.path.glob(self.KEPT)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Difference(NamedTuple):
    """A setting, as ``_settings`` names it, and its value in two headers, as JSON; None where it is absent."""

    name: str
    was: str | None
    now: str | None

    def __str__(self) -> str:
        is_hash = self.name == "like" or self.name.endswith("sha256")
        name = _INPUT.sub(lambda found: f"input {int(found[1]) + 1}", self.name)
        if self.was and self.now and is_hash:  # two hashes tell a user nothing
            return f"{name.removesuffix('sha256').rstrip('._')} has other content"
        return f"{name.removesuffix('.name')} was {self.was or 'absent'}, is now {self.now or 'absent'}"


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[Difference]:
    """Return what keeps a run of header ``here`` from resuming one of header ``there``."""
    was, now = _settings(there), _settings(here)
    found = (Difference(name, was.get(name), now.get(name)) for name in {**was, **now})
    unequal = {one.name: one for one in found if not _agree(*one)}
    # other content is said once, not also by its size
    return [one for name, one in unequal.items() if name.replace(".bytes", ".sha256") not in {*unequal} - {name}]


def listed(found: Sequence[object], most: int = 20) -> str:
    """Return differences in one line, and how many more there are than ``most``."""
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return "; ".join([*map(str, found[:most]), *more])


def _agree(name: str, was: str | None, now: str | None) -> bool:
    if name == VERSION and was and now:  # a run of pretrain or of a recipe did not always note it
        return was.split(".")[:2] == now.split(".")[:2]
    return was == now or name == VERSION


def _settings(header: dict[str, Any]) -> dict[str, str]:
    """Return what must agree, as JSON, by option (``--stop-words``) or path in the identity (``model.sha256``)."""
    config = {name: value for name, value in header["config"].items() if name not in RESULT_NEUTRAL}
    options = {f"--{name.replace('_', '-')}": value for name, value in config.items()}
    return dict(_leaves("", {**options, **{key: value for key, value in header.items() if key != "config"}}))


def _leaves(path: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}[{index}]", inner)
    else:
        yield path, json.dumps(value)
