"""Workers on the machines of a Ray cluster: actors that load the model once and make shards of the plan.

This file and ``ray_executor`` alone know Ray. A worker makes shards by a ``LocalExecutor`` and gives them back encoded.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from ..core.config import ScoreConfig
from ..core.config_engine import EngineConfig
from ..core.errors import FastmaskError
from ..core.locked import differences, listed
from ..core.log import listen
from ..core.plain import Json
from ..report.progress import Meter
from ..shards.encoded import EncodedShard
from ..shards.schema import make_header
from ..text.hashed import PlannedInputs
from .cascade import Bounds
from .executor import LocalExecutor, Wanted
from .machine import Facts, facts_of, unlike
from .scorer import Scorer

log = logging.getLogger(__name__)
LINE = "line"
"""In the place of a method's name: a line that a worker has logged, and its level."""
SECONDS_BEFORE_A_WORD = 60.0
SECONDS_TO_CONNECT = 10.0


class Relay(Meter):
    """Keeps what a worker's meter is told, until it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._told: list[tuple[str, tuple[Any, ...]]] = []

    def shard(self, first_row: int, end_row: int) -> None:
        """See ``Meter``."""
        self._told.append(("shard", (first_row, end_row)))

    def advance(self, first_row: int, share: float, tokens: int) -> None:
        """See ``Meter``."""
        self._told.append(("advance", (first_row, share, tokens)))

    def line(self, level: int, text: str) -> None:
        """Keep a line that is logged here."""
        self._told.append((LINE, (level, text)))

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Return what was told since the last time: names of methods, or LINE, and their arguments."""
        told, self._told = self._told, []
        return told


class Worker:
    """What an actor runs: a model, the inputs, and the piece of the corpus in work."""

    def __init__(self) -> None:
        self._relay = Relay()
        listen(self._relay.line)
        self._next = -1

    def load(self, config: ScoreConfig, is_aspect: bool, of: ScoreConfig) -> tuple[str, Facts]:
        """Load the model for a configuration as it is here, of a run's; return this machine's name, and its facts."""
        from ..core.startup import start_numba

        start_numba()
        with self._named():
            self._scorer = Scorer(config, is_aspect, self._relay)
        return self._node(), facts_of(self._scorer, of)

    def take(self, inputs: tuple[list[Json], list[Sequence[int]], int, dict[str, list[int]]]) -> None:
        """Take the arguments of ``PlannedInputs``; they must be here what they were where they were hashed."""
        with self._named():
            self._inputs = PlannedInputs(*inputs)
        self._executor = LocalExecutor(self._scorer, self._inputs)

    def calibrate(self) -> Bounds | None:
        """See ``Executor.calibrate``."""
        with closing(LocalExecutor(self._scorer, self._inputs)) as executor:
            return executor.calibrate()

    def statistics(self) -> bytes | None:
        """See ``Executor.statistics``."""
        return LocalExecutor(self._scorer, self._inputs).statistics()

    def prepare(self, statistics: bytes | None) -> None:
        """See ``Executor.prepare``."""
        self._executor.prepare(statistics)

    def make(self, index: int, end: int, bounds: Bounds | None) -> EncodedShard:
        """Return a shard; those up to ``end`` are read and scored ahead."""
        if index != self._next:
            self._shards = self._executor.shards(Wanted(range(index, end)), bounds)
        made, scored = next(self._shards)
        assert made == index
        self._inputs.check()
        self._next = index + 1
        if self._next == end:
            assert next(self._shards, None) is None  # it ends by itself: closing it would stop the model for good
            self._next = -1
        return EncodedShard.of(index, scored)

    def progress(self) -> list[tuple[str, tuple[Any, ...]]]:
        """See ``Relay.take``."""
        return self._relay.take()

    def _node(self) -> str:
        return str(ray.util.get_node_ip_address())

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name this machine in an error."""
        try:
            yield
        except FastmaskError as error:
            raise FastmaskError(f"on {self._node()}: {error}") from None


class Share(NamedTuple):
    """What each worker gets.

    Attributes:
        number: of workers.
        cpus, gpus: of each.
        config: its configuration.
    """

    number: int
    cpus: int
    gpus: int
    config: ScoreConfig


def share_of(config: ScoreConfig, workers: int | None, nodes: Sequence[dict[str, float]]) -> Share:
    """Return how a run is shared: a worker for each GPU, or on processors for each machine.

    Args:
        config: the run's.
        workers: how many; None for the default.
        nodes: resources of the machines, as Ray counts them.

    Raises:
        FastmaskError: there are not as many, or the device is one that Ray chooses.
    """
    if ":" in config.device:
        raise FastmaskError(f"--device {config.device}: Ray chooses the GPU of a worker; use cuda")
    cpus, gpus = [int(node.get("CPU", 0)) for node in nodes], [int(node.get("GPU", 0)) for node in nodes]
    processors, devices = sum(cpus), sum(gpus)
    if (config.device != "cpu" and devices) or config.device == "cuda":
        number = workers or devices
        if not 0 < number <= devices:
            raise FastmaskError(f"--workers {number}: the cluster has {devices} GPUs, a worker takes one")
        return Share(number, 1 if processors >= number else 0, 1, replace(config, device="cuda"))
    number = workers or max(1, len([one for one in cpus if one]))
    if number > processors:
        raise FastmaskError(f"--workers {number}: the cluster has {processors} processors")
    each = processors // number
    while sum(one // each for one in cpus) < number:  # a worker is on one machine
        each -= 1
    return Share(number, each, 0, replace(config, device="cpu", threads=config.threads or each))


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Be connected to a Ray cluster inside, a local one without an address; Ray's own messages are not shown.

    Raises:
        FastmaskError: there is no cluster.
    """
    if ray.is_initialized():
        yield
        return
    # "local": not that of somebody else, which may run on this machine
    local = {"address": "local", "num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    check_answers(address)
    where: dict[str, Any] = local if address is None else {"address": address}
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=True)
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FastmaskError(f"--address {address or 'of a local cluster'}: no Ray cluster: {reason}") from error
    try:
        with suppress(ValueError):  # outside of the main thread nobody sets it
            signal.signal(signal.SIGTERM, on_term)
        yield
    finally:
        ray.shutdown()


def check_answers(address: str | None) -> None:
    """Raise FastmaskError where nobody listens at HOST:PORT; Ray tries for minutes and prints lines of its own."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise FastmaskError(f"--address {address}: no Ray cluster: {error.strerror or error}") from error


@contextmanager
def ray_workers(
    config: ScoreConfig, is_aspect: bool, engine: EngineConfig, meter: Meter
) -> Iterator[tuple[Facts, Workers]]:
    """Start workers; yield what decides a result on them, and them.

    Raises:
        FastmaskError: as ``cluster`` and ``share_of``; one cannot load the model; they differ and may not.
    """
    with cluster(engine.address):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = Workers(config, share_of(config, engine.workers, nodes), is_aspect, meter)
        try:
            yield workers.loaded(engine.mixed), workers
        finally:
            workers.close()


class WorkerLost(FastmaskError):
    """A worker that has ended, or whose machine has."""


def result(reference: Any) -> Any:
    """Return what a call of a worker returned; raise its error as it was there.

    Raises:
        WorkerLost: the worker is gone, or what it returned.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else FastmaskError(str(error).splitlines()[-1])) from None
    except RayError as error:
        hint = "; install the same fastmask on all machines" if "ModuleNotFoundError" in str(error) else ""
        raise WorkerLost(f"a worker was lost: {' '.join(str(error).split())[-300:]}{hint}") from None


class Actor:
    """A worker as it is seen from here.

    Attributes:
        handle: Ray's.
        loaded: reference to what its ``load`` returns.
        is_ready: whether it can be asked for shards.
        piece: what of its piece of the corpus it is still to be asked for.
        asked: the shards it is asked for.
    """

    def __init__(self, handle: Any, loaded: Any):
        self.handle, self.loaded = handle, loaded
        self.is_ready = False
        self.piece: range = range(0)
        self.asked: list[int] = []


class Workers:
    """Actors of a cluster; see ``ray_workers``."""

    def __init__(self, config: ScoreConfig, share: Share, is_aspect: bool, meter: Meter):
        self.share, self.meter, self._config, self._is_aspect = share, meter, config, is_aspect
        how = {"num_cpus": share.cpus, "num_gpus": share.gpus, "scheduling_strategy": "SPREAD"}
        self._kind = ray.remote(concurrency_groups={"progress": 1}, **how)(Worker)
        self.alive = [self.start() for _ in range(share.number)]
        self._first: tuple[str, Facts] | None = None
        self._mixed = False

    def start(self) -> Actor:
        """Return a new worker, which loads the model."""
        handle = self._kind.remote()
        return Actor(handle, handle.load.remote(self.share.config, self._is_aspect, self._config))

    def replaced(self, lost: Actor) -> Actor:
        """Return a new worker in the place of one that is lost."""
        with suppress(RayError):
            ray.kill(lost.handle)
        self.alive[self.alive.index(lost)] = new = self.start()
        return new

    def loaded(self, mixed: bool) -> Facts:
        """Wait until all have loaded the model; return what decides a result.

        Args:
            mixed: whether they may differ in processor, device and versions.

        Raises:
            FastmaskError: one cannot load it, or differs where it may not.
        """
        references = [one.loaded for one in self.alive]
        if waiting := ray.wait(references, num_returns=len(references), timeout=SECONDS_BEFORE_A_WORD)[1]:
            log.info(f"waiting for {len(waiting)} workers to start")
        self._mixed, found = mixed, [result(one) for one in references]
        # of machines that differ always the same one's, so that a run is resumed as it began
        self._first = min(found, key=lambda one: repr(sorted(one[1].environment.items())))
        for one, (node, facts) in zip(self.alive, found, strict=True):
            self.check((node, facts))
            one.is_ready = True
        return self._first[1]

    def check(self, found: tuple[str, Facts]) -> None:
        """Raise FastmaskError, naming the differences, where what ``load`` returned is not like the first one's."""
        assert self._first is not None
        (node, first), (other, facts) = self._first, found
        headers = [make_header({}, one.with_inputs([])) for one in (first, facts)]
        unequal = [one for one in differences(*headers) if not one.name.startswith("engine.")]
        if unequal:
            raise FastmaskError(f"{other} is not like {node}: {listed(unequal)}")
        if not self._mixed and (how := unlike(facts.environment, first.environment)):
            raise FastmaskError(f"{other} is not like {node}: {listed(how)}; --mixed lets machines differ (the last "
                                "digits of importances may, too)")  # fmt: skip

    def close(self) -> None:
        """End them."""
        for one in self.alive:
            with suppress(RayError):
                ray.kill(one.handle)
        self.alive = []
