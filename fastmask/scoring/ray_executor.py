"""The executor whose shards are made by workers on a Ray cluster."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import ray

from ..core.errors import FastmaskError
from ..core.words import counted
from ..shards.encoded import EncodedShard
from ..text.hashed import HashedInputs
from ..text.streams import format_of
from .cascade import Bounds, widened_by
from .executor import Made, Wanted
from .ray_workers import LINE, Actor, WorkerLost, Workers, result

log = logging.getLogger(__name__)
IN_FLIGHT = 2
"""Shards that a worker is asked for at a time, so that it need not wait for the next one."""
MOST_LOSSES = 3
"""How often a shard may be lost with its worker; then it is probably what ends them."""
STARTS = -1
"""In the place of a shard, where losses are counted: workers that were lost before they were ready."""
PIECE = 16
"""The most shards, one after the other in the corpus, that a worker reads at a stretch; of a .gz file it reads all."""
PIECES_A_WORKER = 4
SECONDS_BETWEEN_LOOKS = 1.0


class _Call(NamedTuple):
    actor: Actor
    what: str
    shard: int = -1


class RayExecutor:
    """Makes shards on workers; an ``Executor``.

    Args:
        workers: they.
        inputs: what they read; it must be there by the same names on each of their machines.
        patience: seconds to wait for a worker in the place of a lost one, where there is no other.
    """

    def __init__(self, workers: Workers, inputs: HashedInputs, patience: float = 120.0):
        assert inputs.places is not None  # no standard input
        self._workers, self._inputs, self._patience = workers, inputs, patience
        stamps = {path: stamp.of_any_machine for path, stamp in inputs.stamps.items()}
        self._given = ray.put((inputs.entries, inputs.places, inputs.rows, stamps))
        self._statistics: Any = None
        for reference in [one.handle.take.remote(self._given) for one in workers.alive]:
            result(reference)
        self._calls: dict[Any, _Call] = {}

    def calibrate(self) -> Bounds | None:
        """See ``Executor.calibrate``."""
        bounds: Bounds | None = result(self._workers.alive[0].handle.calibrate.remote())
        return bounds

    def statistics(self) -> bytes | None:
        """See ``Executor.statistics``; one worker reads the corpus."""
        counted: bytes | None = result(self._workers.alive[0].handle.statistics.remote())
        return counted

    def prepare(self, statistics: bytes | None) -> None:
        """See ``Executor.prepare``."""
        self._statistics = ray.put(statistics)
        for reference in [one.handle.prepare.remote(self._statistics) for one in self._workers.alive]:
            result(reference)

    def shards(self, wanted: Wanted, bounds: Bounds | None) -> Generator[Made]:
        """See ``Executor.shards``; in the order in which they are made."""
        queue, losses = deque(self._pieces(wanted)), Counter[int]()
        missing, self._calls = sum(map(len, queue)), {}
        looked = heard = time.monotonic()
        while missing:
            for actor in self._workers.alive:
                self._ask(actor, queue, bounds)
            if any(actor.asked for actor in self._workers.alive):
                heard = time.monotonic()
            elif time.monotonic() - heard > self._patience:
                raise FastmaskError("no machine of the cluster is left that could make the rest")
            if time.monotonic() - looked >= SECONDS_BETWEEN_LOOKS:
                looked = time.monotonic()
                self._look()
            for reference in ray.wait(list(self._calls), timeout=SECONDS_BETWEEN_LOOKS)[0]:
                if (call := self._calls.pop(reference, None)) is None:
                    continue  # of a worker that was lost
                try:
                    found = result(reference)
                except WorkerLost as error:
                    self._replace(call.actor, queue, losses, error)
                    continue
                if call.what == "make":
                    call.actor.asked.remove(call.shard)
                    missing -= 1
                    bounds = bounds and widened_by(bounds, [found.entry["certificate"]])
                    yield call.shard, EncodedShard(*found)
                else:
                    self._hear(call, found)

    def close(self) -> None:
        """See ``Executor.close``; whoever made the workers ends them."""

    def _pieces(self, wanted: Wanted) -> Iterator[range]:
        """Yield the shards that are wanted, as pieces that are read at a stretch."""
        places = self._inputs.places or []
        shards = [index for index in range(len(places)) if index in wanted]
        most = max(1, min(PIECE, len(shards) // (PIECES_A_WORKER * len(self._workers.alive))))

        def neighbours(numbered: tuple[int, int]) -> tuple[int, int]:
            return numbered[1] - numbered[0], places[numbered[1]].input

        for (_, number), run in groupby(enumerate(shards), neighbours):
            first, *others = [index for _, index in run]
            end = first + len(others) + 1
            size = end - first if format_of(self._inputs.entries[number]["name"])[1] else most
            yield from (range(begin, min(begin + size, end)) for begin in range(first, end, size))

    def _ask(self, actor: Actor, queue: deque[range], bounds: Bounds | None) -> None:
        while actor.is_ready and len(actor.asked) < IN_FLIGHT and (actor.piece or queue):
            piece = actor.piece or queue.popleft()
            call = _Call(actor, "make", piece[0])
            self._calls[actor.handle.make.remote(piece[0], piece.stop, bounds)] = call
            actor.asked.append(piece[0])
            actor.piece = piece[1:]

    def _look(self) -> None:
        """Ask for the progress of those who have answered the last time."""
        waiting = {call.actor for call in self._calls.values() if call.what == "progress"}
        for actor in self._workers.alive:
            if actor.asked and actor not in waiting:
                progress = actor.handle.progress.options(concurrency_group="progress").remote()
                self._calls[progress] = _Call(actor, "progress")

    def _hear(self, call: _Call, found: Any) -> None:
        if call.what == "progress":
            for name, arguments in found:
                tell = log.log if name == LINE else getattr(self._workers.meter, name)
                tell(*arguments)
        elif call.what == "load":
            self._workers.check(found)
            self._calls[call.actor.handle.take.remote(self._given)] = _Call(call.actor, "take")
        elif call.what == "take":
            self._calls[call.actor.handle.prepare.remote(self._statistics)] = _Call(call.actor, "prepare")
        else:
            call.actor.is_ready = True

    def _replace(self, lost: Actor, queue: deque[range], losses: Counter[int], error: WorkerLost) -> None:
        """Put back what a lost worker had, and start another in its place."""
        self._calls = {reference: call for reference, call in self._calls.items() if call.actor is not lost}
        if not lost.is_ready:  # its machine may have gone while it was starting
            losses[STARTS] += 1
            if losses[STARTS] > MOST_LOSSES:
                raise error
        if lost.asked:
            losses[first := lost.asked[0]] += 1
            if losses[first] > MOST_LOSSES:
                raise FastmaskError(f"shard {first}: {losses[first]} workers were lost while they made it, perhaps for "
                                    "want of memory; --max-text-mb and --shard-rows make it smaller")  # fmt: skip
        if lost.piece:
            queue.appendleft(lost.piece)
        queue.extendleft(range(index, index + 1) for index in reversed(lost.asked))
        if lost.asked:
            again = f"{counted(len(lost.asked), 'shard')} of it will be made again"
            log.info(f"a worker was lost; {again}")
        new = self._workers.replaced(lost)
        self._calls[new.loaded] = _Call(new, "load")
