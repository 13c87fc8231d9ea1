"""What the training stream gives: every sequence once an epoch, in an order of hashes; errors that name the shard."""

import json
import os
from collections import Counter
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from fastmask_kernels.reference import _chain as splitmix
from shard_samples import contents
from stream_samples import SPECIAL, TOKENIZER, key, make_blocks_small, sample_corpus, stream, take, write_corpus

import fastmask
from fastmask.core.errors import FastmaskError, OutputError
from fastmask.data.sequences import Frame, examples_of
from fastmask.data.shard_blocks import Corpus
from fastmask.shards.reader import open_shards
from fastmask.shards.schema import MANIFEST, shard_name


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    return sample_corpus(tmp_path_factory.mktemp("corpus") / "out")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_blocks_small(monkeypatch)


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
    for each in (plain, packed, masked):
        assert each.tokens == sum(len(example) for example in each.epoch())
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


def test_another_format_version_is_refused(out, tmp_path):
    for name, data in contents(out).items():
        (tmp_path / name).write_bytes(data)
    manifest = json.loads((tmp_path / "_manifest.json").read_text())
    (tmp_path / "_manifest.json").write_text(json.dumps(manifest | {"format_version": 3}))
    with pytest.raises(OutputError, match="format version 3; this fastmask reads versions 1 to 2"):
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
    with pytest.raises(OutputError, match=r"_manifest.json: the tokenizer's special_ids"):
        stream(none)


def test_ordinary_ids_are_the_tokenizers_own(out, tmp_path, mr_tiny):
    """All ids but the special ones, as the manifest says; older manifests do not, and the tokenizer is asked."""
    assert stream(out).ordinary.tolist() == [*range(9000), 9005, 9006, 9008, 9009]
    (tmp_path / "c.txt").write_text("Great coffee, terrible parking.")
    manifest = fastmask.score_corpus([str(tmp_path / "c.txt")], str(tmp_path / "new"),
                                     fastmask.ScoreConfig(model=mr_tiny, method="random"))  # fmt: skip
    record = manifest["tokenizer"]
    assert record["vocab_size"] == 8192
    assert record["all_special_ids"] == sorted(i for i in record["special_ids"].values() if i is not None)
    new = stream(str(tmp_path / "new")).ordinary
    assert sorted([*new, *record["all_special_ids"]]) == list(range(8192))
    del record["vocab_size"], record["all_special_ids"]
    (tmp_path / "new" / MANIFEST).write_text(json.dumps(manifest))
    assert np.array_equal(stream(str(tmp_path / "new")).ordinary, new)


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
