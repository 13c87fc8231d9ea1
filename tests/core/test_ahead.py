"""Items made ahead by a thread: in order, bounded, with errors in their place, and the thread is gone in the end."""

import itertools
import threading

import pytest

from fastmask.core.background import run_ahead


def test_run_ahead_is_bounded_and_stops():
    made, closed = [], threading.Event()

    def numbers():
        try:
            for number in itertools.count():
                made.append(number)
                yield number
        finally:
            closed.set()

    items = run_ahead(numbers(), 2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert closed.is_set() and len(made) <= 3 + 2 + 1


def test_run_ahead_raises_in_its_place():
    def numbers():
        yield 1
        raise KeyError("two")

    items = run_ahead(numbers(), 2)
    assert next(items) == 1
    with pytest.raises(KeyError, match="two"):
        next(items)
    assert list(items) == []


def test_nothing_ahead():
    assert list(run_ahead(iter_of([]), 2)) == []


def iter_of(items):
    yield from items


def test_the_thread_is_gone_when_nobody_wants_more():
    before = threading.active_count()
    ahead = run_ahead(iter_of(itertools.count()), 2)
    assert next(ahead) == 0 and threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before


def test_a_thread_that_cannot_be_woken_is_left_behind():
    woken, before = threading.Event(), threading.active_count()

    def waiting():
        yield 1
        woken.wait()

    ahead = run_ahead(waiting(), 2, patience=0.01)
    assert next(ahead) == 1
    ahead.close()
    assert threading.active_count() == before + 1
    woken.set()
