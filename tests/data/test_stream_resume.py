"""The training stream goes on: any ranks, workers and interruptions give the one order, in bounded memory."""

import json
import pickle
import signal
import subprocess
import sys
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stream_samples import key, make_blocks_small, sample_corpus, stream, take, write_corpus
from torch.utils.data import DataLoader

from fastmask.core.errors import FastmaskError
from fastmask.data.torch_stream import TorchStream


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    return sample_corpus(tmp_path_factory.mktemp("corpus") / "out")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_blocks_small(monkeypatch)


def in_turns(iterators, rounds: int) -> list[tuple]:
    return [key(next(iterator)) for _ in range(rounds) for iterator in iterators]


@cache
def first_items(out, **options) -> list[tuple]:
    return take(stream(out, **options), 1200)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_ranks_and_any_interruptions_give_the_one_order(out, data):
    options = {name: data.draw(st.booleans(), name) for name in ("shuffle", "pack", "masked_only", "sample")}
    expected = first_items(out, **options)
    state, found = None, []
    for _ in range(data.draw(st.integers(1, 4), "interruptions")):
        world = data.draw(st.integers(1, 7), "world")
        ranks = [stream(out, **options, rank=rank, world=world) for rank in range(world)]
        for each in ranks:
            if state is not None:
                each.load_state_dict(json.loads(state))
        found += in_turns([iter(each) for each in ranks], data.draw(st.integers(0, 40), "rounds"))
        state = json.dumps(data.draw(st.sampled_from(ranks), "rank").state_dict())
    assert found == expected[: len(found)]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 250))
def test_any_workers_give_the_one_order(out, workers, world, batch_size, start):
    expected = first_items(out)[start:]
    ranks = [stream(out, rank=rank, world=world) for rank in range(world)]
    state = stream(out)
    state.advance(start)
    for each in ranks:
        each.load_state_dict(state.state_dict())
    rounds = 200 // (world * workers * batch_size)
    parts = [[each.part(worker, workers, batch_size) for worker in range(workers)] for each in ranks]
    by_rank = [[key(next(part)) for _ in range(rounds) for part in mine for _ in range(batch_size)] for mine in parts]
    found = [item for turn in zip(*by_rank, strict=True) for item in turn]
    assert found == expected[: len(found)]


@pytest.mark.parametrize("world", [1, 2, 3, 40])
def test_the_ranks_share_an_epoch(out, world):
    parts = [[key((0, e)) for e in stream(out, rank=rank, world=world).epoch(2)] for rank in range(world)]
    assert sorted(item for part in parts for item in part) == sorted(key((0, e)) for e in stream(out).epoch(2))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_states_are_plain_and_normal(out):
    data = stream(out)
    length = len(data)
    assert data.state_dict()["epoch"] == data.state_dict()["example"] == 0
    take(data, 2 * length + 3)
    state = data.state_dict()
    assert (state["epoch"], state["example"]) == (2, 3) and json.loads(json.dumps(state)) == state
    again = stream(out)
    again.advance(2 * length + 3)
    assert take(again, 5) == take(data, 5)
    # a break and another loop go on where the first one stopped
    assert take(again, 5) == take(data, 3) + take(data, 2)


def test_a_state_of_other_data_is_refused(out, tmp_path):
    state = stream(out).state_dict()
    for change in ({"seed": 6}, {"max_length": 25}, {"pack": True}, {"masked_only": True}, {"shuffle": False}):
        with pytest.raises(FastmaskError, match=f"another stream's state: {next(iter(change))} was"):
            stream(out, **change).load_state_dict(state)
    with pytest.raises(FastmaskError, match="shards was"):
        stream([out, out]).load_state_dict(state)
    with pytest.raises(FastmaskError, match="window_tokens was"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastmask.data.stream.WINDOW_TOKENS", 501)
        stream(out).load_state_dict(state)


CHILD = """
import json, os, sys
from pathlib import Path
import fastmask
from fastmask.data import shard_blocks, stream as streams
shard_blocks.ROW_GROUP, shard_blocks.BLOCK_TOKENS, streams.WINDOW_TOKENS = 16, 120, 500
shards, folder = sys.argv[1], Path(sys.argv[2])
stream = fastmask.TrainingStream(shards, max_length=24, seed=5, rank=1, world=2)
taken = []
if (folder / "state.json").exists():
    state, taken = json.loads((folder / "state.json").read_text())
    stream.load_state_dict(state)
for n, (epoch, example) in enumerate(stream, len(taken) + 1):
    taken.append([epoch, example.input_ids.tolist(), example.at.tolist(), example.row.tolist()])
    if n % 7 == 0:
        (folder / "new.json").write_text(json.dumps([stream.state_dict(), taken]))
        os.replace(folder / "new.json", folder / "state.json")
        print(n, flush=True)
    if n == 400:
        break
print(json.dumps(taken))
"""


def test_a_killed_process_goes_on_in_another(out, tmp_path):
    command = [sys.executable, "-c", CHILD, out, str(tmp_path)]
    for lines in (9, 11):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for _ in range(lines):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[0]) > 7 * 20
    expected = take(stream(out, rank=1, world=2), 400)
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(json.dumps([item[:4] for item in expected]))


@pytest.mark.parametrize("workers, batch_size", [(0, None), (1, None), (2, None), (0, 4), (2, 4)])
def test_torch_loaders_give_the_one_order(out, workers, batch_size):
    data = stream(out, rank=1, world=2)
    data.advance(17)
    expected = take(pickle.loads(pickle.dumps(data)), 40)
    context = "fork" if workers else None
    options = {"collate_fn": list} if batch_size else {}
    loader = DataLoader(
        TorchStream(data, batch_size or 1), batch_size, num_workers=workers, multiprocessing_context=context, **options
    )
    items = iter(loader)
    found = [next(items) for _ in range(10)] if batch_size else [[next(items)] for _ in range(40)]
    del items
    assert [key(item) for batch in found for item in batch] == expected[: sum(map(len, found))]
    data.advance(40)
    again = stream(out, rank=1, world=2)
    again.load_state_dict(data.state_dict())
    assert take(again, 9) == take(data, 9)


MEMORY = """
import resource, sys
import fastmask, fastmask.data.shard_blocks, fastmask.data.stream
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
fastmask.data.stream.WINDOW_TOKENS = 2**20
list(fastmask.TrainingStream(sys.argv[1:2], max_length=128, seed=0, world=1000).epoch())
before = peak()
stream = fastmask.TrainingStream(sys.argv[1:2] * 80, max_length=128, seed=0, pack=True, world=1000)
taken = len(list(stream.epoch()))
print(peak() - before, 4 * stream.manifests[0]["totals"]["tokens"] * 80, taken, len(stream))
"""


def test_memory_is_a_window(tmp_path):
    out = write_corpus(tmp_path / "out", [5000, 5000], mean_tokens=25)
    done = subprocess.run([sys.executable, "-c", MEMORY, out], capture_output=True, text=True, check=True)
    grown, whole, taken, length = map(int, done.stdout.split())
    assert whole > 190e6 and taken == -(-length // 1000)
    assert grown < 40e6
