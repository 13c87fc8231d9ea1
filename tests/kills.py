"""A process that dies at its n-th change of the disk, played in this one."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHANGES = ("write", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "truncate", "link")


class Killed(BaseException):
    """Stands for a kill: nothing that changes the disk works after it."""


def kill_at(monkeypatch, moment: int) -> None:
    """Let the process die at its ``moment``-th call that changes the disk, half of a write done."""
    calls = itertools.count()
    dead = []

    def wrap(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            if dead or next(calls) == moment:
                if name == "write" and not dead:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                dead.append(name)
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in CHANGES:
        wrap(name)


def killed_everywhere(prepare: Callable[[int], Path], work: Callable[[Path], object]) -> Iterator[Path]:
    """Call ``work(prepare(moment))`` to be killed at each moment in turn; yield its path, until one lets it end."""
    for moment in itertools.count():
        path = prepare(moment)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, moment)
            try:
                work(path)
                return
            except Killed:
                pass
        yield path


def left_by_kills(place: Path, copies: Path, work: Callable[[], object]) -> list[Path]:
    """Do ``work`` to its end; return copies of ``place`` as a kill at each of its changes of the disk would leave it.

    One run instead of one for every moment. What is the same as a moment before is not copied again.
    """
    found: list[Path] = []
    seen: list[set] = []
    busy = []

    def keep() -> None:
        now = {(path.relative_to(place), path.lstat().st_ino, path.lstat().st_size) for path in place.rglob("*")}
        if seen[-1:] != [now]:
            seen.append(now)
            found.append(Path(shutil.copytree(place, copies / f"{len(found):03d}", copy_function=_copy)))

    def wrap(patch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(os, name)

        def call(*args, **kwargs):
            if busy:
                return real(*args, **kwargs)
            busy.append(name)
            try:
                keep()
                if name != "write":
                    return real(*args, **kwargs)
                half = real(args[0], bytes(args[1])[: len(args[1]) // 2])
                keep()
                return half + real(args[0], bytes(args[1])[half:])
            finally:
                busy.clear()

        patch.setattr(os, name, call)

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            wrap(patch, name)
        work()
    return found


def _copy(source: str, target: str) -> None:
    """Weights and shards are written once: a link to them is a copy, and takes no time."""
    if source.endswith((".safetensors", ".parquet")):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
