"""A process that dies at its n-th change of the disk, played in this one."""

import itertools
import os
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
