"""Shards that are kept between two passes: all of them or none, in a file that nobody else sees."""

import resource
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import pytest
from helpers import encoded

from fastmask.scoring.kept import KeptShards

SHARDS = {2: encoded([[5, 6], [7]], [1, 0]), 0: encoded([[8] * 9]), 1: encoded([], first_row=4)}


def keeping(folder, **options) -> KeptShards:
    kept = KeptShards(folder, **options)
    assert [*kept.taken(iter(SHARDS.items()))] == [*SHARDS.values()]
    return kept


@contextmanager
def files_of_at_most(size: int):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_is_wanted_comes_back_as_it_was(tmp_path):
    kept = keeping(tmp_path)
    assert not [*tmp_path.iterdir()]  # the file has no name
    for wanted in ((1, 2), (2, 0, 1)):
        found = dict(kept.shards(wanted))
        assert [*found] == [index for index in SHARDS if index in wanted]
        for index, shard in found.items():
            for field in fields(shard):
                there, here = (np.asarray(getattr(one, field.name)) for one in (SHARDS[index], shard))
                assert there.dtype == here.dtype and np.array_equal(there, here)
    kept.close()
    assert not kept


@pytest.mark.parametrize("limit", [100, 1800])
def test_nothing_is_kept_of_a_corpus_that_the_disk_has_no_room_for(tmp_path, limit):
    with files_of_at_most(limit):
        assert not keeping(tmp_path)
    assert not keeping(tmp_path, free_share=1e-12)
    assert not keeping(tmp_path / "missing") and not keeping(None)
