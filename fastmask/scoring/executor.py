"""The protocol of executors, which make the shards of a plan, and the one that makes them in this process."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, TypeVar

from ..core.background import run_ahead
from ..core.records import EncodedSentences, ScoredSentences
from ..core.urls import Url
from ..shards.encoded import EncodedShard
from ..text.frontend import STOP_SECONDS, encoded_shards
from ..text.hashed import HashedInputs
from .cascade import Bounds, widened_by
from .kept import KeptShards
from .scorer import Scorer

# Shards scored ahead of the writer.
_SCORED_AHEAD = 1
Numbered = tuple[int, EncodedSentences]
Made = tuple[int, ScoredSentences | EncodedShard]
Item = TypeVar("Item")


class Wanted:
    """Shards to be made: some, or all but some.

    Attributes:
        number: how many; None: to the end of the corpus.
    """

    def __init__(self, some: Collection[int] | None = None, but: Collection[int] = ()):
        self._some, self._but = None if some is None else frozenset(some), frozenset(but)
        self.number = None if some is None else len(some)

    def without(self, held: Iterable[Numbered]) -> Wanted:
        """Return the same without shards that are there."""
        there = {index for index, _ in held}
        if self._some is None:
            return Wanted(but={*self._but, *there})
        return Wanted([index for index in self._some if index not in there])

    def __contains__(self, index: object) -> bool:
        return index not in self._but if self._some is None else index in self._some


class Executor(Protocol):
    """What makes shards of a plan, wherever it runs them."""

    def calibrate(self) -> Bounds | None:
        """Return the error bounds of a run that has no shard yet, None where no model is asked."""
        ...

    def statistics(self) -> bytes | None:
        """Return what the method counts over the whole corpus of a run without a shard; None where it counts nothing.

        Raises:
            FastmaskError: as reading does, or as ``CorpusScorer.statistics``.
        """
        ...

    def prepare(self, statistics: bytes | None) -> None:
        """Take the statistics in the plan, before the first call of ``shards``."""
        ...

    def shards(self, wanted: Wanted, bounds: Bounds | None) -> Generator[Made]:
        """Yield (k, its scores and masks, or the shard encoded) for each shard k that is wanted, once and in any order.

        Closing the generator before its end ends the executor. A shard is made with the bounds given or with wider
        ones that evidence asked for meanwhile; its certificate says with which.

        Raises:
            FastmaskError: as reading and scoring do, in the place of the shard.
        """
        ...

    def close(self) -> None:
        """End whatever still runs."""
        ...


class LocalExecutor:
    """Makes shards in order, each with all threads of this process or on its one device; an ``Executor``.

    Args:
        scorer: the model.
        inputs: what to read.
        folder: where a corpus is kept between its statistics and its scores; None: it is read twice.
    """

    def __init__(self, scorer: Scorer, inputs: HashedInputs, folder: Path | Url | None = None):
        self._scorer, self._inputs, self._folder = scorer, inputs, folder
        # the reader that calibration began and the shards it took off it, for the first call of ``shards``
        self._begun: Generator[Numbered] | None = None
        self._held: list[Numbered] = []
        self._kept = KeptShards(None)

    def calibrate(self) -> Bounds | None:
        """See ``Executor.calibrate``."""
        self._begun = self._encoded(Wanted())

        def taken(shards: Iterator[Numbered]) -> Iterator[EncodedSentences]:
            for numbered in shards:
                self._held.append(numbered)
                yield numbered[1]

        def calibrated(shards: Iterator[Numbered]) -> Generator[Bounds | None]:
            yield self._scorer.engine.calibrate(taken(shards))

        bounds: Bounds | None
        (bounds,) = self._ahead(calibrated(self._begun))
        return bounds

    def statistics(self) -> bytes | None:
        """See ``Executor.statistics``."""
        if not self._scorer.reads_corpus:
            return None
        self._kept = KeptShards(self._folder)

        def counted(shards: Iterator[Numbered]) -> Generator[bytes | None]:
            first = next(shards, None)
            yield self._scorer.statistics(self._kept.taken(chain([first], shards))) if first else None

        found: bytes | None
        encoded, self._begun = self._begun or self._encoded(Wanted()), None
        with closing(encoded):
            (found,) = self._ahead(counted(self._held_first(encoded)))
        return found

    def prepare(self, statistics: bytes | None) -> None:
        """See ``Executor.prepare``."""
        if statistics is not None:
            self._scorer.prepare(statistics)

    def shards(self, wanted: Wanted, bounds: Bounds | None) -> Generator[Made]:
        """See ``Executor.shards``; in order."""
        self._held = [numbered for numbered in self._held if numbered[0] in wanted]
        if self._kept:
            encoded = self._kept.shards(wanted)
        else:
            encoded, self._begun = self._begun or self._encoded(wanted.without(self._held)), None
        taken = islice(self._held_first(encoded), wanted.number)
        with closing(encoded), closing(self._ahead(self._scored(taken, bounds))) as scored:
            yield from scored

    def close(self) -> None:
        """See ``Executor.close``."""
        self._kept.close()
        if self._begun:
            self._begun.close()

    def _scored(self, encoded: Iterator[Numbered], bounds: Bounds | None) -> Generator[Made]:
        """Yield the scores of shards; later ones are made with the wider bounds that were found to hold."""
        for index, shard in encoded:
            scored = self._scorer.score(shard, bounds)
            bounds = bounds and widened_by(bounds, [scored.certificate])
            yield index, scored

    def _held_first(self, encoded: Iterator[Numbered]) -> Iterator[Numbered]:
        while self._held:
            yield self._held.pop(0)
        yield from encoded

    def _ahead(self, items: Generator[Item]) -> Generator[Item]:
        """Yield the same items, made in a thread ahead of the writer: an interrupt need not wait for scoring."""
        return run_ahead(items, _SCORED_AHEAD, self._scorer.stop, STOP_SECONDS)

    def _encoded(self, wanted: Wanted) -> Generator[Numbered]:
        if wanted.number == 0:
            return _nothing()
        return encoded_shards(
            [entry["name"] for entry in self._inputs.entries],
            self._scorer.config,
            self._scorer.encoder,
            self._scorer.classes,
            wanted=wanted,
            places=self._inputs.places,
            stamps=self._inputs.stamps,
        )


def _nothing() -> Generator[Numbered]:
    yield from ()
