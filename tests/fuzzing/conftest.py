"""What the tests of the fuzzer's findings damage: a model, shards, and a training run that was stopped."""

import shutil
import sys
from pathlib import Path

import pytest
from shard_samples import write_run

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def model(tmp_path, mr_tiny) -> Path:
    return Path(shutil.copytree(mr_tiny, tmp_path / "model"))


@pytest.fixture
def shards(tmp_path) -> Path:
    return write_run(tmp_path / "shards", 2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from fuzz_world import World

    return World.make(tmp_path_factory.mktemp("world"))
