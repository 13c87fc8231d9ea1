"""The protocol of executors, which make the shards of a plan, and the one that makes them in this process."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import closing
from itertools import count, islice
from typing import Protocol, TypeVar

from ..core.background import run_ahead
from ..core.records import EncodedSentences, ScoredSentences
from ..text.documents import HashedInputs
from ..text.frontend import STOP_SECONDS, encoded_shards
from .cascade import Bounds, widened_by
from .scorer import Scorer

# Shards scored ahead of the writer.
_SCORED_AHEAD = 1
Numbered = tuple[int, EncodedSentences]
Made = tuple[int, ScoredSentences]
Item = TypeVar("Item")


class Wanted:
    """Shards to be made: some, or all but some.

    Attributes:
        number: how many; None: to the end of the corpus.
    """

    def __init__(self, some: Collection[int] | None = None, but: Collection[int] = ()):
        self._some, self._but = some, but
        self.number = None if some is None else len(some)

    def __contains__(self, index: object) -> bool:
        return index not in self._but if self._some is None else index in self._some


class Executor(Protocol):
    """What makes shards of a plan, wherever it runs them."""

    def calibrate(self) -> Bounds | None:
        """Return the error bounds of a run that has no shard yet, None where no model is asked."""
        ...

    def shards(self, wanted: Wanted, bounds: Bounds | None) -> Generator[Made]:
        """Yield (k, its scores and masks) for each shard k that is wanted, once and in any order.

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
    """

    def __init__(self, scorer: Scorer, inputs: HashedInputs):
        self._scorer, self._inputs = scorer, inputs
        # the reader that calibration began and the shards it took off it, for the first call of ``shards``
        self._begun: Generator[Numbered] | None = None
        self._held: list[Numbered] = []

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

    def shards(self, wanted: Wanted, bounds: Bounds | None) -> Generator[Made]:
        """See ``Executor.shards``; in order."""
        encoded, self._begun = self._begun or self._encoded(wanted), None
        taken = islice(self._held_first(encoded), wanted.number)
        with closing(encoded), closing(self._ahead(self._scored(taken, bounds))) as scored:
            yield from scored

    def close(self) -> None:
        """See ``Executor.close``."""
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
        return encoded_shards(
            [entry["name"] for entry in self._inputs.entries],
            self._scorer.config,
            self._scorer.encoder,
            self._scorer.classes,
            first_shard=next(index for index in count() if index in wanted),
            wanted=wanted,
            stamps=self._inputs.stamps,
        )
