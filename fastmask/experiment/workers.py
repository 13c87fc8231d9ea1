"""Where the steps of a run are done: one after the other in this process, or several at a time in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from threading import Thread
from typing import Any, NamedTuple

from ..core.background import usable_cores
from ..core.errors import FastmaskError
from ..core.log import kept

KILLED = "a worker process was killed, for lack of memory perhaps; the same command resumes, with fewer --jobs if so"


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

    def __init__(self, jobs: int):
        self.jobs = jobs
        self._pool: Executor = _Here() if jobs == 1 else _processes(jobs)
        self._do = _do_here if jobs == 1 else _do_in_worker
        self._others = set(multiprocessing.active_children())
        self._running: dict[Future, str] = {}

    @property
    def is_full(self) -> bool:
        """Return whether nothing more can be started before something ends."""
        return len(self._running) == self.jobs

    def __len__(self) -> int:
        return len(self._running)

    def start(self, name: str, work: Callable[[], object]) -> None:
        """Start something, which has to be picklable for other processes."""
        self._running[self._pool.submit(self._do, work)] = name

    def ended(self) -> list[Ended]:
        """Wait until something has ended, and return what has since the last call.

        Raises:
            FastmaskError: a process was killed.
        """
        futures = wait(self._running, return_when=FIRST_COMPLETED).done
        try:
            return [Ended(self._running.pop(future), *future.result()) for future in futures]
        except BrokenProcessPool as error:
            raise FastmaskError(KILLED) from error

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self._pool.shutdown(cancel_futures=True)


class _Here(Executor):
    """Calls at once what it is given."""

    def submit(self, function, /, *args: Any, **more: Any) -> Future:
        """Return a future that has its result; an error is raised."""
        future: Future = Future()
        future.set_result(function(*args, **more))
        return future


def _do_here(work: Callable[[], object]) -> tuple[list[tuple[int, str]], Exception | None]:
    work()
    _free_device_memory()
    return [], None


def _do_in_worker(work: Callable[[], object]) -> tuple[list[tuple[int, str]], Exception | None]:
    """Return what was logged, as lines of several would be mixed, and the error, if there was one."""
    with kept() as lines:
        try:
            work()
        except Exception as error:
            return lines, error
        finally:
            _free_device_memory()
    return lines, None


def _free_device_memory() -> None:
    """Free the device memory that torch caches: other processes may need it."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def threads_of(jobs: int) -> int:
    """Return how many threads each of so many processes has: its share of the cores, at least one."""
    return max(1, usable_cores() // jobs)


def _processes(jobs: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, nor torch's threads
    return ProcessPoolExecutor(jobs, context, _begin_worker, (threads_of(jobs), context.Value("i", 0)))


def _begin_worker(threads: int, begun: Any) -> None:
    """Make a worker process end with the one that started it, leave interrupts to that one, and take its share.

    Args:
        threads: of torch.
        begun: a shared counter of the processes.
    """
    import torch

    parent = multiprocessing.parent_process()
    assert parent is not None
    Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if devices := named.split(",") if named else [str(device) for device in range(torch.cuda.device_count())]:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]


def _end_with(process: int) -> None:
    wait_for([process])
    os._exit(1)
