"""Scoring ahead: whatever ends first and whatever bands turn up, the outcome is that of one shard after the other."""

import random

import pytest

from fastmask.scoring.cascade import TIE, Bands
from fastmask.scoring.lookahead import Lookahead


def bands(eps: float) -> Bands:
    return Bands(("float32", "float64"), (eps, TIE))


A, B, C = bands(1e-4), bands(2e-4), bands(3e-4)


def line_of(shards: int, **starts) -> Lookahead:
    """Shards 0, 1, ... in line; ``s2=A``: shard 2 begins with A whatever comes before it."""
    line = Lookahead(width=shards)
    for index in range(shards):
        start = {"start": starts[f"s{index}"]} if f"s{index}" in starts else {}
        line.add(index, None, **start)
    assert not line.has_room
    return line


def all_begun(line: Lookahead) -> list:
    return list(iter(line.begin, None))


def indices(attempts) -> list[int]:
    return [attempt.index for attempt in attempts]


def taken(line: Lookahead) -> list:
    return list(iter(line.take, None))


def test_others_wait_for_the_shard_that_calibrates():
    line = line_of(3)
    (first,) = all_begun(line)
    assert first.bands is None and line.take() is None
    line.finish(first, "zero", A)
    second, third = all_begun(line)
    assert second.bands == third.bands == A
    line.finish(third, "two", A)
    assert taken(line) == [(0, "zero")]
    line.finish(second, "one", A)
    assert taken(line) == [(1, "one"), (2, "two")] and line.has_room


def test_nobody_waits_where_shards_are_too_small_to_calibrate():
    line = line_of(3)
    line.finish(line.begin(), "zero", None)
    assert [attempt.bands for attempt in all_begun(line)] == [None, None]
    assert indices(all_begun(line_of(3, s0=None))) == [0, 1, 2]


def test_wider_bands_reject_what_was_scored_ahead():
    line = line_of(4, s0=A)
    zero, one, two, three = all_begun(line)
    line.finish(one, "one", A)
    line.finish(three, "three", A)
    line.finish(zero, "zero", B)
    assert taken(line) == [(0, "zero")]
    again = all_begun(line)
    assert indices(again) == [1, 2, 3] and {attempt.bands for attempt in again} == {B}
    assert not line.is_wanted(two) and line.is_wanted(again[1])
    line.finish(two, "two, late and wrong", A)
    for attempt, name in zip(again, ("one", "two", "three"), strict=True):
        line.finish(attempt, f"{name} again", B)
    assert taken(line) == [(1, "one again"), (2, "two again"), (3, "three again")]


def test_bands_of_a_shard_scored_ahead_reach_those_after_it():
    line = line_of(4, s0=A)
    zero, one = line.begin(), line.begin()
    line.finish(one, "one", B)
    two, three = all_begun(line)
    assert two.bands == three.bands == B
    line.finish(zero, "zero", A)
    line.finish(two, "two", B)
    line.finish(three, "three", B)
    assert indices([one]) == [1] and taken(line) == [(0, "zero"), (1, "one"), (2, "two"), (3, "three")]


def test_a_calibration_scored_ahead_is_rejected_once_bands_are_there():
    line = line_of(3, s0=None)
    zero, one, two = all_begun(line)
    line.finish(two, "two", B)
    line.finish(zero, "zero", None)
    line.finish(one, "one", A)
    assert taken(line) == [(0, "zero"), (1, "one")]
    again = line.begin()
    assert (again.index, again.bands) == (2, A)
    line.finish(again, "two again", A)
    assert taken(line) == [(2, "two again")]


def test_bands_that_are_known_wait_for_nobody():
    line = line_of(4, s2=C)
    zero, two, three = all_begun(line)
    assert (zero.bands, two.bands, three.bands) == (None, C, C)
    line.finish(two, "two", C)
    line.finish(zero, "zero", A)
    assert taken(line) == [(0, "zero")] and indices(all_begun(line)) == [1]


def one_after_the_other(outcome, shards: int, starts: dict) -> list:
    found, now = [], None
    for index in range(shards):
        now = starts.get(index, now)
        found.append((index, (index, now)))
        now = outcome(index, now)
    return found


def side_by_side(outcome, shards: int, starts: dict, workers: int, chance: random.Random) -> tuple[list, int]:
    """The same by workers that end in a random order; and how many attempts it took."""
    line, running, found, added, attempts = Lookahead(2 * workers), [], [], 0, 0
    while len(found) < shards:
        while line.has_room and added < shards:
            line.add(added, None, **({"start": starts[added]} if added in starts else {}))
            added += 1
        while len(running) < workers and (attempt := line.begin()):
            running.append(attempt)
            attempts += 1
        done = running.pop(chance.randrange(len(running)))
        line.finish(done, (done.index, done.bands), outcome(done.index, done.bands))
        found += taken(line)
    return found, attempts


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_any_order_of_ending_gives_the_same(workers):
    for seed in range(200):
        chance = random.Random(seed)
        shards, widens = 30, {chance.randrange(30): bands(10.0**-k) for k in (3, 2, 1)}
        settles, resumed = chance.randrange(10), chance.randrange(1, 30)
        starts = {} if seed % 3 else {resumed: chance.choice([None, A])}

        def outcome(index, given, widens=widens, settles=settles):
            if given is None:
                return A if index >= settles else None
            return max(given, widens.get(index, given), key=lambda one: one.eps[0])

        found, attempts = side_by_side(outcome, shards, starts, workers, chance)
        assert found == one_after_the_other(outcome, shards, starts)
        assert attempts <= shards + 6 * 2 * workers
        assert workers > 1 or attempts == shards
