"""Shards scored ahead of their turn, to the outcome of scoring one after the other.

A shard begins with the bands that the shard before it ended with. Until that one has ended, they are guessed: bands
hardly ever change once they are there. A shard that was given others than it should have been is scored again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..core.records import EncodedSentences, ScoredSentences
from .cascade import Bands

UNKNOWN: Final = object()
"""Stands for bands that depend on a shard which is not scored yet; None are known bands: the shard calibrates."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One scoring of a shard: what it is given and, once it is there, what came out."""

    index: int
    shard: EncodedSentences
    bands: Bands | None
    scored: ScoredSentences | None = None
    after: Bands | None = None


@dataclass(slots=True, eq=False)
class _Place:
    """A shard waiting for its turn; ``start`` are the bands that it begins with whatever the others do."""

    index: int
    shard: EncodedSentences
    start: Bands | object | None
    attempt: Attempt | None = None


class Lookahead:
    """Says which shard to score next with which bands, and which one is right and has its turn.

    Args:
        width: how many shards may be waiting for their turn.
    """

    def __init__(self, width: int):
        self.width = width
        self._places: deque[_Place] = deque()
        # after the last shard that had its turn
        self._bands: Bands | None = None
        self._too_small = False

    @property
    def has_room(self) -> bool:
        """Whether a further shard may be added."""
        return len(self._places) < self.width

    def add(self, index: int, shard: EncodedSentences, start: Bands | object | None = UNKNOWN) -> None:
        """Put a shard last in line; UNKNOWN: it begins as the one before it ends, or with None if it is the first."""
        self._too_small |= start is None
        self._places.append(_Place(index, shard, start))

    def begin(self) -> Attempt | None:
        """The next shard to score; None when every one is in work, done, or has to wait for another."""
        for place, bands in self._expected():
            if place.attempt is None:
                place.attempt = Attempt(place.index, place.shard, bands)
                return place.attempt
        return None

    def is_wanted(self, attempt: Attempt) -> bool:
        """Whether an attempt is still expected to be right."""
        return any(place.attempt is attempt for place, _ in self._expected())

    def finish(self, attempt: Attempt, scored: ScoredSentences, after: Bands | None) -> None:
        """What came out of an attempt."""
        attempt.scored, attempt.after = scored, after
        self._too_small |= attempt.bands is None and after is None

    def take(self) -> tuple[int, ScoredSentences] | None:
        """The shard whose turn it is, when it has been scored with the right bands; it leaves the line."""
        place, _ = next(self._expected(), (None, None))
        if place is None or place.attempt is None or place.attempt.scored is None:
            return None
        self._places.popleft()
        self._bands = place.attempt.after
        return place.index, place.attempt.scored

    def _expected(self) -> Iterator[tuple[_Place, Bands | None]]:
        """The places in line with the bands expected before each, attempts with others dropped.

        Those before the first one are certain. Places for which nothing can be said yet are left out: a shard that
        calibrates ends with bands which nobody knows, unless shards are too small for that.
        """
        bands = self._bands
        for place in self._places:
            if place.start is not UNKNOWN:
                bands = place.start
            if bands is UNKNOWN:
                continue
            if place.attempt is not None and place.attempt.bands != bands:
                place.attempt = None
            yield place, bands
            if place.attempt is not None and place.attempt.scored is not None:
                bands = place.attempt.after
            elif bands is None and not self._too_small:
                bands = UNKNOWN
