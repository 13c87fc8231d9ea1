"""Caps, choice, and the random positions."""

import numpy as np
import pytest
from helpers import flat, offsets_of, split
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask.scoring.policy import cap_of, ragged_positions, random_positions, select

QUICK = settings(deadline=None, max_examples=50)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.15, 0.25, 0.3, 0.7, 1.0])
def test_cap_is_max_1_int_rate_n(rate):
    lengths = np.arange(1, 400)
    exact = [max(1, round(rate * 100) * n // 100) for n in lengths.tolist()]
    assert cap_of(lengths, rate).tolist() == exact
    assert cap_of(lengths, None).tolist() == lengths.tolist()


def test_cap_of_an_empty_sentence():
    assert cap_of(np.array([0, 1]), 0.15).tolist() == [0, 1]


@st.composite
def ranked(draw):
    value = st.integers(-3, 3).map(lambda n: n / 4)
    sentences = draw(st.lists(st.lists(st.tuples(value, st.booleans()), max_size=9), min_size=1, max_size=5))
    caps = draw(st.lists(st.integers(1, 5), min_size=len(sentences), max_size=len(sentences)))
    return sentences, caps


@given(ranked())
@QUICK
def test_the_smallest_are_chosen_ties_by_position(data):
    sentences, caps = data
    offsets = offsets_of(sentences)
    values = flat([[v for v, _ in s] for s in sentences], float)
    candidate = flat([[c for _, c in s] for s in sentences], bool)
    chosen, _ = select(offsets, values, values, candidate, np.array(caps))
    for sentence, cap, found in zip(sentences, caps, split(offsets, chosen), strict=True):
        order = sorted((value, at) for at, (value, good) in enumerate(sentence) if good)
        assert [at for at, taken in enumerate(found) if taken] == sorted(at for _, at in order[:cap])


@given(ranked(), st.integers(0, 50))
@QUICK
def test_a_choice_without_doubt_holds_for_all_values_within_bounds(data, seed):
    sentences, caps = data
    rng = np.random.default_rng(seed)
    offsets = offsets_of(sentences)
    exact = rng.random(offsets[-1])
    candidate = flat([[c for _, c in s] for s in sentences], bool)
    width = rng.random(offsets[-1]) * rng.choice([1e-3, 0.1, 0.5])
    at = rng.random(offsets[-1])
    low, high = exact - width * at, exact + width * (1 - at)
    chosen, ambiguous = select(offsets, low, high, candidate, np.array(caps))
    truth, _ = select(offsets, exact, exact, candidate, np.array(caps))
    for guess, doubt, right in zip(*(split(offsets, x) for x in (chosen, ambiguous, truth)), strict=True):
        assert guess == right or any(doubt)
    # tightening what is doubtful ends in the truth
    while ambiguous.any():
        low, high = np.where(ambiguous, exact, low), np.where(ambiguous, exact, high)
        chosen, now = select(offsets, low, high, candidate, np.array(caps))
        if (now & (low < high)).sum() == 0:
            break
        ambiguous = now
    assert chosen.tolist() == truth.tolist()


def test_no_candidate():
    chosen, ambiguous = select(np.array([0, 3, 3]), *np.zeros((2, 3)), np.zeros(3, bool), np.array([1, 1]))
    assert not chosen.any() and not ambiguous.any()


@given(st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=6))
@QUICK
def test_ragged_positions(sentences):
    offsets, positions = ragged_positions(offsets_of(sentences), flat(sentences, bool))
    assert split(offsets, positions) == [[at for at, taken in enumerate(s) if taken] for s in sentences]
    assert offsets.dtype == np.int64 and positions.dtype == np.int32


def draw(seed, rows, lengths, counts, numbers=None, allowed=None):
    numbers = np.zeros(len(rows), np.int32) if numbers is None else np.array(numbers, np.int32)
    offsets = offsets_of([range(n) for n in lengths])
    allowed = np.ones(offsets[-1], bool) if allowed is None else flat(allowed, bool)
    chosen = random_positions(seed, np.array(rows, np.int64), numbers, offsets, np.array(counts, np.int64), allowed)
    return [np.flatnonzero(sentence).tolist() for sentence in split(offsets, chosen)]


def test_random_positions_are_a_function_of_seed_row_and_sentence():
    rows, lengths, counts = [5, 9, 2], [20, 30, 7], [4, 6, 7]
    found = draw(3, rows, lengths, counts)
    assert list(map(len, found)) == counts
    assert draw(3, rows[::-1], lengths[::-1], counts[::-1]) == found[::-1]
    assert draw(3, rows[1:2], lengths[1:2], counts[1:2]) == found[1:2]
    assert draw(4, rows, lengths, counts) != found and draw(3, [6, 8, 2], lengths, counts) != found
    assert draw(3, rows, lengths, counts, [1, 1, 1])[:2] != found[:2]


def test_random_positions_are_uniform():
    n, rows = 8, 4000
    found = draw(0, range(rows), [n] * rows, [3] * rows)
    counts = np.bincount(np.concatenate(found), minlength=n)
    expected = rows * 3 / n
    assert np.sum((counts - expected) ** 2 / expected) < 24.3  # p = 0.001 with 7 degrees of freedom
    pairs = np.bincount([a * n + b for a, b, _ in found], minlength=n * n)
    assert np.count_nonzero(pairs) >= 21  # every pair that can come first does


def test_random_counts_beyond_the_length():
    assert draw(0, [0], [3], [9]) == [[0, 1, 2]]


def test_random_positions_are_drawn_among_the_allowed():
    assert draw(0, [0, 1], [4, 3], [2, 3], allowed=[[0, 1, 0, 1], [0, 0, 1]]) == [[1, 3], [2]]
    # as many draws as there are places to draw from: the first n of a sentence, as if it were so long
    assert draw(5, [7], [9], [3], allowed=[[1] * 6 + [0] * 3]) == draw(5, [7], [6], [3])
