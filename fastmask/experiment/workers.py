"""Where the steps of a run are done: one after the other in this process, or several at a time in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import NamedTuple

from ..core.background import usable_cores
from ..core.errors import FastmaskError
from ..core.log import kept
from ..report.progress import now_and_then

KILLED = "its process was killed, for lack of memory perhaps; the same command resumes, with fewer --jobs if so"
Done = tuple[list[tuple[int, str]], Exception | None, str]
"""The level and text of each line logged (by processes, whose lines would be mixed), an error, and where it was."""


class Ended(NamedTuple):
    """What has ended: its name, the level and text of each line that it logged, and why it failed if it did."""

    name: str
    lines: list[tuple[int, str]]
    error: Exception | None


class Workers:
    """Does what it is given, up to ``jobs`` at a time, to be used in a ``with``.

    With one job all is done in this process, and an error is raised at once. Else there are ``jobs`` processes, each
    with an equal share of the cores and, of several GPUs, one. An interrupt here stops them, and so does a kill.

    Args:
        jobs: at least 1.
    """

    # no ProcessPoolExecutor: it stops all where one is killed, and may wait for ever for one that is killed early

    def __init__(self, jobs: int):
        self.jobs = jobs
        self._done: list[Ended] = []
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[str, _Worker]] = {}
        self._begun: list[_Worker] = []

    @property
    def is_full(self) -> bool:
        """Return whether nothing more can be started before something ends."""
        return len(self.running) == self.jobs

    @property
    def running(self) -> list[str]:
        """Return the names of what has been started, and has not been returned as ended."""
        return [*(ended.name for ended in self._done), *(name for name, _ in self._busy.values())]

    def start(self, name: str, work: Callable[[], object]) -> None:
        """Start something, which has to be picklable for other processes."""
        if self.jobs == 1:
            work()
            _free_device_memory()
            self._done.append(Ended(name, [], None))
            return
        worker = self._idle.pop() if self._idle else self._new()
        worker.take(work)
        self._busy[worker.connection] = name, worker

    def _new(self) -> _Worker:
        # a terminal's interrupt goes to a new process, too, also while it begins: it has this mask from then on
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._begun.append(_Worker(threads_of(self.jobs), len(self._begun)))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._begun[-1]

    def ended(self) -> Ended:
        """Wait until something has ended, and return it."""
        if self._done:
            return self._done.pop()
        name, worker = self._busy.pop(wait(list(self._busy))[0])  # type: ignore[call-overload]  # only connections
        try:
            lines, error, place = worker.connection.recv()
        except (EOFError, OSError):
            return Ended(name, [], FastmaskError(f"{name}: {KILLED}"))
        self._idle.append(worker)
        if error:
            error.add_note(place)
        return Ended(name, lines, error)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker in self._begun:
            worker.end(at_once=kind is not None and not issubclass(kind, Exception))


class _Worker:
    """A process that does what it is sent, and sends what has come of it."""

    def __init__(self, threads: int, number: int):
        context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, nor torch's threads
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, threads, number))
        self._process.start()
        theirs.close()

    def take(self, work: Callable[[], object]) -> None:
        """Send it something to do; where it has been killed, that is seen when it should answer."""
        try:
            self.connection.send(work)
        except OSError:
            return

    def end(self, at_once: bool) -> None:
        """Let the process end, once it has done what it does unless ``at_once``, and wait for it."""
        self.connection.close()
        if at_once:
            self._process.terminate()
        self._process.join()


def _serve(connection: Connection, threads: int, number: int) -> None:
    """Do what comes, one after the other, until no more can come."""
    _begin(threads, number)
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        connection.send(_done(work))


def _done(work: Callable[[], object]) -> Done:
    with kept() as lines:
        try:
            work()
        except Exception as error:
            return lines, _portable(error), "".join(traceback.format_exception(error))
        finally:
            _free_device_memory()
    return lines, None, ""


def _portable(error: Exception) -> Exception:
    """Return an error, or one that says the same where it is of a kind that another process cannot be given."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _free_device_memory() -> None:
    """Free the device memory that torch caches: other processes may need it."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def threads_of(jobs: int) -> int:
    """Return how many threads each of so many processes has: its share of the cores, at least one."""
    return max(1, usable_cores() // jobs)


def _begin(threads: int, number: int) -> None:
    """Make a worker process end with the one that started it, and take its share.

    Args:
        threads: of torch and of tokenizers.
        number: of the process, from 0.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # of tokenizers
    import torch

    torch.set_num_threads(threads)
    now_and_then.disabled = True  # what is logged is read at the end of a step
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if devices := named.split(",") if named else [str(device) for device in range(torch.cuda.device_count())]:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]


def _end_with(process: int) -> None:
    wait([process])
    os._exit(1)
