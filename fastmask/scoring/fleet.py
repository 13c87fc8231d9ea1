"""Several devices: a worker process each that scores whole shards, to the same bytes as one device would.

The parent and each worker hold one end of a socket. When the parent is gone, however it ended, its end closes and the
worker leaves at once; when a worker is gone the parent reads the end of its stream.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe, wait

from ..core.config import ScoreConfig
from ..core.errors import FastmaskError
from ..core.records import EncodedSentences, ScoredSentences
from ..models.directory import ModelFiles
from .cascade import bands_of
from .lookahead import UNKNOWN, Attempt, Lookahead

# Shards held per device: the one in work, and one that is done and waits for its turn.
_SHARDS_HELD = 2
_END_SECONDS = 10.0
# A process made thus, unlike multiprocessing's, does not run the caller's main module again.
_START = "import sys; sys.path[:] = sys.argv[2:]; from fastmask.scoring.fleet import work; work(int(sys.argv[1]))"


class Fleet:
    """One engine a device, each in a process of its own.

    Args:
        config: names several devices.
        files: the model's.
        is_aspect: whether the corpus holds (aspect, text) pairs.
        meter: told of progress.

    Raises:
        FastmaskError: an engine cannot be made, as for one device; or the devices are not alike.
    """

    def __init__(self, config: ScoreConfig, files: ModelFiles, is_aspect: bool, meter):
        self.meter = meter
        self._workers: list[_Worker] = []
        try:
            for device in config.devices:
                self._workers.append(_Worker(device))
            for worker in self._workers:
                own = replace(config, device=worker.device)
                worker.send((own, files, is_aspect, len(self._workers)))
            self._description, self.levels, self.remark = self._engines()
        except BaseException:
            self.stop()
            raise

    def _engines(self) -> tuple[dict, tuple[str, ...], str | None]:
        """What every engine says of itself, the levels of its cascade, and its remark, once all of them are there."""
        first, *others = self._workers
        _, *found = first.receive()
        description = found[0]
        for worker in others:
            _, other, *_ = worker.receive()
            for key in {**description, **other}:
                if other.get(key) != description.get(key):
                    raise FastmaskError(
                        f"--device {first.device},{worker.device}: these are not alike, so results could differ: "
                        f"{key} is {description.get(key)} and {other.get(key)}"
                    )
        return tuple(found)

    def describe(self) -> dict:
        """As each engine describes itself."""
        return self._description

    def stop(self) -> None:
        """End every worker now, from any thread; a running ``score_shards`` then fails."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):  # one that hangs in a driver
                worker.process.wait(_END_SECONDS)

    def score_shards(
        self, shards: Iterator[tuple[int, EncodedSentences]], entries: Mapping[int, dict]
    ) -> Iterator[tuple[int, ScoredSentences]]:
        """See ``Scorer.score_shards``; the shards after the one whose turn it is are scored at the same time."""
        line = Lookahead(_SHARDS_HELD * len(self._workers))
        source = _Source(shards, entries, self.levels)
        while True:
            for worker in self._workers:
                if worker.attempt is None:
                    self._give_work(worker, line, source)
            if ready := line.take():
                yield ready
                self._receive(line, timeout=0)
            elif any(worker.attempt for worker in self._workers):
                self._receive(line, timeout=None)
            elif source.error is not None:
                raise source.error
            else:
                return

    def _give_work(self, worker: _Worker, line: Lookahead, source: _Source) -> None:
        attempt = line.begin()
        if attempt is None and line.has_room and (entry := source.next()):
            line.add(*entry)
            attempt = line.begin()
        if attempt is not None:
            self.meter.shard(attempt.shard.first_row, attempt.shard.end_row)
            worker.score(attempt)

    def _receive(self, line: Lookahead, timeout: float | None) -> None:
        """Take in what the workers sent, waiting for it so long."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout):
            worker = by_connection[connection]
            kind, *content = worker.receive()
            attempt = worker.attempt
            if kind == "scored":
                line.finish(attempt, *content)
                worker.attempt = None
            else:
                share, tokens = content
                self.meter.advance(attempt.shard.first_row, share if line.is_wanted(attempt) else 0.0, tokens)


class _Source:
    """The shards to come, each with the bands it begins with if they are known.

    An error in reading them is kept until the shards before it are through.
    """

    def __init__(self, shards: Iterator[tuple[int, EncodedSentences]], entries: Mapping[int, dict], levels):
        self._shards, self._entries, self._levels = shards, entries, levels
        self._ended = False
        self.error: Exception | None = None

    def next(self) -> tuple | None:
        """The arguments of ``Lookahead.add``; None when there are no more shards."""
        try:
            found = None if self._ended else next(self._shards, None)
        except Exception as error:
            self.error, found = error, None
        if found is None:
            self._ended = True
            return None
        index, shard = found
        before = self._entries.get(index - 1)
        return index, shard, UNKNOWN if before is None else bands_of(before["certificate"], self._levels)


class _Worker:
    """The parent's side of a worker process; ``attempt`` is what it is at."""

    def __init__(self, device: str):
        self.device = device
        self.attempt: Attempt | None = None
        self.connection, theirs = Pipe()
        with theirs:
            # a process group of its own: Ctrl-C is for the parent, which ends its workers
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), *map(str, sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )

    def send(self, message: object) -> None:
        """Send the worker a message.

        Raises:
            FastmaskError: it is gone.
        """
        try:
            self.connection.send(message)
        except OSError:
            raise self._end() from None

    def score(self, attempt: Attempt) -> None:
        """Have a shard scored."""
        self.attempt = attempt
        self.send((attempt.shard, attempt.bands))

    def receive(self) -> tuple:
        """The worker's next message: ("ready", ...), ("progress", ...) or ("scored", ...); see ``work``.

        Raises:
            FastmaskError: the worker is gone.
            Exception: whatever it failed with.
        """
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            raise self._end() from None
        if message[0] == "failed":
            raise message[1]
        return message

    def _end(self) -> FastmaskError:
        """How it ended, for the user."""
        try:
            code = self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        how = f"ended with exit code {code}"
        if code < 0:
            name = signal.Signals(-code).name
            how = f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        place = "before its first shard"
        if self.attempt is not None:
            shard = self.attempt.shard
            place = f"at shard {self.attempt.index} (rows {shard.first_row} to {shard.end_row - 1})"
        return FastmaskError(f"--device {self.device}: its worker process {how} {place}; finished shards are kept")


def work(descriptor: int) -> None:
    """What a worker process does, over the socket that it has inherited.

    It is sent what ``load_engine`` needs and the number of workers, then (shard, bands) one after the other. It sends
    ("ready", description, levels, remark), then for each shard some ("progress", share, tokens) and
    ("scored", scores, bands); or ("failed", exception), its last.
    """
    connection = Connection(descriptor)
    received: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, received), daemon=True).start()
    lock = threading.Lock()

    def tell(*message) -> None:
        with lock:
            try:
                connection.send(message)
            except OSError:
                os._exit(1)  # nobody listens any more

    try:
        engine = _load(*received.get(), lambda share, tokens: tell("progress", share, tokens))
        tell("ready", engine.describe(), engine.levels, engine.remark)
        while True:
            tell("scored", *engine.score_shard(*received.get()))
    except Exception as error:
        tell("failed", _portable(error))


def _listen(connection: Connection, received: queue.SimpleQueue) -> None:
    """Pass on what the parent sends. When it is gone the process ends, whatever it is at: it writes nothing."""
    while True:
        try:
            received.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)


def _load(config: ScoreConfig, files: ModelFiles, is_aspect: bool, workers: int, progress):
    """The engine of one worker, on its share of the cores."""
    from ..models.directory import load_tokenizer
    from .backend import choose_device, usable_cores
    from .loading import load_engine

    choose_device(config.device)
    threads = max(1, (config.threads or usable_cores()) // workers)
    return load_engine(replace(config, threads=threads), files, load_tokenizer(files), is_aspect, progress)


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, for --debug; another one where it does not survive the way."""
    note = "".join(traceback.format_exception(error))
    try:
        error.add_note(note)
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
