"""The training stream: every sequence once an epoch, in one order, for any ranks, workers and interruptions."""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from fastmask_kernels.reference import _chain as splitmix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_samples import IDENTITY, build, contents, open_run
from torch.utils.data import DataLoader

import fastmask
from fastmask.corpus import Corpus
from fastmask.dataset import open_shards
from fastmask.errors import FastmaskError, OutputError
from fastmask.schema import shard_name
from fastmask.sequences import Frame, examples_of
from fastmask.torch_stream import TorchStream

SPECIAL = {"cls": 9001, "sep": 9002, "mask": 9003, "pad": 9000, "unk": 9004, "bos": None, "eos": None}
TOKENIZER = {"name": "toy", "local": True, "vocabulary_sha256": "ab", "special_ids": SPECIAL}
FIELDS = {"certificate": {}, "environment": {}}


def documents(first_row: int, count: int, seed: int, mean_tokens: int = 6):
    """Decisions for ``count`` documents of one to four sentences."""
    rng = np.random.default_rng(seed)
    sentences = rng.integers(1, 5, count)
    lengths = rng.poisson(mean_tokens, sentences.sum())
    masked = [np.flatnonzero(rng.random(n) < 0.15).tolist() for n in lengths]
    scored = build(lengths, masked, first_row=first_row, seed=seed)
    number = np.arange(len(lengths)) - np.repeat(np.cumsum(sentences) - sentences, sentences)
    row = first_row + np.repeat(np.arange(count), sentences)
    numbered = replace(scored.sentences, row=row, sentence=number.astype(np.int32), end_row=first_row + count)
    return replace(scored, sentences=numbered)


def write_corpus(out, counts, tokenizer=TOKENIZER, change=lambda scored: scored, **options) -> str:
    with open_run(out, identity=IDENTITY | {"tokenizer": tokenizer}) as run:
        first = 0
        for index, count in enumerate(counts):
            run.write_shard(index, change(documents(first, count, index, **options)))
            first += count
        run.finish(FIELDS)
    return str(out)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    """108 documents in five shards of several row groups each, one of them empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastmask.schema.ROW_GROUP", 16)
        return write_corpus(tmp_path_factory.mktemp("corpus") / "out", [30, 30, 0, 3, 45])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks and windows small enough for a corpus of a few hundred sentences to have many."""
    monkeypatch.setattr("fastmask.corpus.ROW_GROUP", 16)
    monkeypatch.setattr("fastmask.corpus.BLOCK_TOKENS", 120)
    monkeypatch.setattr("fastmask.stream.WINDOW_TOKENS", 500)


def stream(shards, **options) -> fastmask.TrainingStream:
    return fastmask.TrainingStream(shards, **({"max_length": 24, "seed": 5} | options))


def key(item) -> tuple:
    epoch, example = item
    fields = ("input_ids", "at", "row", "sentence", "position")
    return epoch, *(tuple(getattr(example, name).tolist()) for name in fields)


def take(items, count: int) -> list[tuple]:
    return [key(item) for item in islice(items, count)]


def in_turns(iterators, rounds: int) -> list[tuple]:
    return [key(next(iterator)) for _ in range(rounds) for iterator in iterators]


# what comes


def test_an_epoch_holds_every_sentence_once(out):
    data = stream(out)
    rows = [row for row in open_shards(out) if row["input_ids"]]
    found = list(data.epoch())
    assert len(found) == len(data)
    framed = [example.input_ids.tolist() for example in found]
    assert all(ids[0] == SPECIAL["cls"] and ids[-1] == SPECIAL["sep"] and len(ids) <= 24 for ids in framed)
    assert Counter(i for ids in framed for i in ids[1:-1]) == Counter(i for row in rows for i in row["input_ids"])
    masked = [(r["row"], r["sentence"], p) for r in rows for p in r["mask_index"]]
    arrays = [zip(e.row.tolist(), e.sentence.tolist(), e.position.tolist(), strict=True) for e in found]
    assert sorted(triple for triples in arrays for triple in triples) == masked


def test_masked_tokens_are_where_their_key_says(out):
    ids = {(row["row"], row["sentence"]): row["input_ids"] for row in open_shards(out)}
    for pack in (False, True):
        for e in stream(out, pack=pack).epoch(3):
            for at, row, sentence, position in zip(e.at, e.row, e.sentence, e.position, strict=True):
                assert e.input_ids[at] == ids[int(row), int(sentence)][position]


def test_packing_and_masked_only_change_what_comes(out):
    plain, packed, masked = stream(out), stream(out, pack=True), stream(out, masked_only=True)
    assert len(packed) < len(plain)
    with_masks = [key((0, example)) for example in plain.epoch() if len(example.at)]
    assert 0 < len(with_masks) == len(masked) < len(plain)
    assert sorted(key((0, example)) for example in masked.epoch()) == sorted(with_masks)


def test_without_shuffle_the_corpus_order_comes(out):
    data = stream(out, shuffle=False)
    firsts = [example.row[0] for example in data.epoch() if len(example.row)]
    assert firsts == sorted(firsts)
    assert take(iter(data), 5) == [key((0, example)) for example in islice(data.epoch(1), 5)]


def test_orders_differ_by_epoch_and_seed(out):
    orders = [[key((0, e)) for e in stream(out, seed=seed).epoch(n)] for seed, n in [(5, 0), (5, 0), (5, 1), (6, 0)]]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_shuffled_well(out):
    data = stream(out)
    place = {key((0, e)): n for n, e in enumerate(stream(out, shuffle=False).epoch())}
    orders = np.array([[place[key((0, e))] for e in data.epoch(n)] for n in range(40)])
    assert np.mean(np.abs(np.diff(orders, axis=1)) == 1) < 0.1
    # over the epochs, every place of the corpus comes as early as any other
    when = np.argsort(orders, axis=1).mean(0) / orders.shape[1]
    assert abs(when.mean() - 0.5) < 0.01 and when.min() > 0.25 and when.max() < 0.75


@pytest.mark.parametrize("epoch", [0, 3])
def test_the_order_is_that_of_hashes(out, epoch):
    """Computed with Python's integers: it does not hang on the machine or on a version of numpy."""
    corpus = Corpus(out)
    blocks = [list(examples_of(corpus.read(b), max_length=24, frame=Frame(9001, 9002))) for b in range(len(corpus))]
    windows, room = [], 0
    for block in sorted(range(len(blocks)), key=lambda b: splitmix(5, epoch, b)):
        if corpus.tokens[block] > room:
            windows, room = [*windows, []], 500
        windows[-1] += [(splitmix(5, epoch, block, i), example) for i, example in enumerate(blocks[block])]
        room -= corpus.tokens[block]
    assert len(blocks) > 8 and len(windows) > 2
    expected = [key((0, example)) for window in windows for _, example in sorted(window, key=itemgetter(0))]
    assert [key((0, example)) for example in stream(out).epoch(epoch)] == expected


def test_other_masks_do_not_change_the_order(out, tmp_path):
    """The arms of a comparison see the same sequences at the same time."""

    def moved(scored):
        lengths = np.repeat(np.diff(scored.sentences.offsets), np.diff(scored.mask_offsets))
        index = [n - 1 - p for n, p in zip(lengths, scored.mask_index, strict=True)]
        owner = np.repeat(np.arange(len(scored.scored)), np.diff(scored.mask_offsets))
        return replace(scored, mask_index=np.array(index, np.int32)[np.lexsort((index, owner))])

    other = write_corpus(tmp_path / "other", [30, 30, 0, 3, 45], change=moved)
    for pack in (False, True):
        a, b = (list(stream(shards, pack=pack).epoch(1)) for shards in (out, other))
        assert [e.input_ids.tolist() for e in a] == [e.input_ids.tolist() for e in b]
        assert [e.row.tolist() for e in a] == [e.row.tolist() for e in b]
        assert [e.at.tolist() for e in a] != [e.at.tolist() for e in b]


def test_several_directories_are_numbered_on(out, tmp_path):
    other = write_corpus(tmp_path / "other", [10])
    data = stream([out, Path(other), out], shuffle=False)
    assert len(data.manifests) == 3 and data.tokenizer == TOKENIZER
    rows = {int(row) for example in data.epoch() for row in example.row}
    expected = [row["row"] for row in open_shards(out) if row["mask_index"]]
    others = [108 + row["row"] for row in open_shards(other) if row["mask_index"]]
    assert rows == {*expected, *others, *(118 + row for row in expected)}


# ranks, workers, resuming


@cache
def first_items(out, **options) -> list[tuple]:
    return take(stream(out, **options), 1200)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_ranks_and_any_interruptions_give_the_one_order(out, data):
    options = {name: data.draw(st.booleans(), name) for name in ("shuffle", "pack", "masked_only")}
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
        patch.setattr("fastmask.stream.WINDOW_TOKENS", 501)
        stream(out).load_state_dict(state)


CHILD = """
import json, os, sys
from pathlib import Path
import fastmask, fastmask.corpus, fastmask.stream
fastmask.corpus.ROW_GROUP, fastmask.corpus.BLOCK_TOKENS, fastmask.stream.WINDOW_TOKENS = 16, 120, 500
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


# memory


MEMORY = """
import resource, sys
import fastmask, fastmask.corpus, fastmask.stream
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
fastmask.stream.WINDOW_TOKENS = 2**20
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


# what is wrong is said


def test_damage_met_on_the_way_names_the_shard(out, tmp_path):
    for name, data in contents(out).items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / shard_name(4)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(OutputError, match=r"shard-00004.*SHA-256"):
        stream(tmp_path, check_hashes=True)
    with pytest.raises(OutputError, match=r"shard-00004\.parquet: damaged") as caught:
        list(stream(tmp_path).epoch())
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(OutputError, match=r"shard-00004.*missing"):
        stream(tmp_path)


def test_masks_outside_their_sentence_are_refused(out, monkeypatch):
    import pyarrow as pa

    from fastmask.dataset import ShardSet

    read = ShardSet.read_rows

    def broken(self, shard, *rest):
        table = read(self, shard, *rest)
        if shard != 3:
            return table
        column = pa.array([[999]] * table.num_rows, table.schema.field("mask_index").type)
        return table.set_column(table.schema.get_field_index("mask_index"), "mask_index", column)

    monkeypatch.setattr(ShardSet, "read_rows", broken)
    with pytest.raises(OutputError, match=r"shard-00003\.parquet: mask_index leaves its sentence"):
        len(stream(out))


def test_another_format_version_is_refused(out, tmp_path):
    for name, data in contents(out).items():
        (tmp_path / name).write_bytes(data)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 2}))
    with pytest.raises(OutputError, match="format version 2; this fastmask reads version 1"):
        stream(tmp_path)


def test_wrong_arguments_are_refused(out, tmp_path):
    for options, message in [
        ({"max_length": 2}, "max_length 2"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"rank": -1}, "rank -1 of 1"),
        ({"seed": -1}, "seed -1"),
    ]:
        with pytest.raises(FastmaskError, match=message):
            stream(out, **options)
    with pytest.raises(FastmaskError, match="at least one shard directory"):
        stream([])
    with pytest.raises(OutputError, match="no such directory"):
        stream([out, tmp_path / "nowhere"])


def test_tokenizers_must_be_one(out, tmp_path):
    other = write_corpus(tmp_path / "a", [3], TOKENIZER | {"vocabulary_sha256": "cd"})
    with pytest.raises(FastmaskError, match=r"a: made with another tokenizer than .*out \(vocabulary_sha256\)"):
        stream([out, other])
    moved = write_corpus(tmp_path / "b", [3], TOKENIZER | {"name": "elsewhere"})
    assert len(stream([out, moved])) > len(stream(out))
    bare = write_corpus(tmp_path / "c", [3], TOKENIZER | {"special_ids": SPECIAL | {"sep": None}})
    with pytest.raises(FastmaskError, match="toy: the tokenizer has no sep or eos token"):
        stream(bare)
    none = write_corpus(tmp_path / "d", [3], {"name": "toy", "vocabulary_sha256": "ab"})
    with pytest.raises(OutputError, match=r"manifest.json: the tokenizer's special_ids"):
        stream(none)


def test_nothing_to_train_on(tmp_path):
    for name, counts, options in [("none", [], {}), ("empty", [0, 0], {}), ("blank", [4], {"mean_tokens": 0})]:
        data = stream(write_corpus(tmp_path / name, counts, **options))
        assert len(data) == 0 and list(data.epoch()) == []
        with pytest.raises(FastmaskError, match=f"{name}: no sequence to train on"):
            next(iter(data))
    with pytest.raises(FastmaskError, match="blank: no sequence with a mask to train on"):
        next(iter(stream(str(tmp_path / "blank"), masked_only=True)))


def test_shards_that_fastmask_made(tmp_path, mr_tiny, golden_dir):
    """Whole documents of several sentences, with the real tokenizer's special tokens and the control's masks."""
    texts = [json.loads(line)["text"] for line in (golden_dir / "mr_tiny_0.05.jsonl").open(encoding="utf-8")]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(texts[k : k + 3]) for k in range(0, 90, 3)), encoding="utf-8")
    config = fastmask.ScoreConfig(model=mr_tiny, method="random", mask_rate=0.15, shard_rows=8)
    manifest = fastmask.score_corpus([str(path)], str(tmp_path / "out"), config)
    data = stream(str(tmp_path / "out"), max_length=64)
    found = list(data.epoch())
    special = manifest["tokenizer"]["special_ids"]
    assert sum(len(example.at) for example in found) == manifest["totals"]["masked"]
    assert sum(len(example) - 2 for example in found) == manifest["totals"]["tokens"]
    assert {(int(e.input_ids[0]), int(e.input_ids[-1])) for e in found} == {(special["cls"], special["sep"])}
    assert os.path.basename(data.tokenizer["name"]) == "mr-tiny"


def test_the_readme_trainer(tmp_path, out, monkeypatch):
    """The loop that README shows, on these shards."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = [part.split("```")[0] for part in text.split("```python\n") if "TrainingStream" in part]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").symlink_to(out)
    names = {"fastmask": fastmask}
    exec(code + "    break\n", names)
    example = names["e"]
    assert names["targets"].tolist() == example.input_ids[example.at].tolist()
    unmasked = np.setdiff1d(np.arange(len(example)), example.at)
    assert np.array_equal(names["inputs"][unmasked], example.input_ids[unmasked])
    assert np.isin(names["inputs"][example.at], [*names["ordinary"], SPECIAL["mask"]]).all()
