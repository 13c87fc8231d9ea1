"""Masks drawn anew in each epoch: against Python's integers, at the rates asked for, and the same however divided."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from fastmask_kernels.reference import _chain as splitmix
from shard_samples import as_format_1, build, open_run
from stream_samples import FIELDS, IDENTITY, TOKENIZER, key, make_blocks_small, sample_corpus, stream, write_corpus
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from fastmask import SelectiveMaskCollator, TorchStream, open_shards
from fastmask.core.errors import FastmaskError
from fastmask.data.sampling import Rates, drawn
from fastmask.data.sequences import Example, Frame, Sentences, examples_of


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    return sample_corpus(tmp_path_factory.mktemp("sampling") / "out")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_blocks_small(monkeypatch)


def masks(items) -> set[tuple]:
    """(epoch, row, sentence, position) of all masked tokens."""
    return {(epoch, *place) for epoch, e in items
            for place in zip(e.row.tolist(), e.sentence.tolist(), e.position.tolist(), strict=True)}  # fmt: skip


def number(*place, seed: int = 5) -> float:
    """The number of a token in [0, 1), by Python's integers."""
    return (splitmix(seed, *place, 2) >> 11) / 2**53


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
def test_a_token_is_masked_where_its_number_is_below_its_probability(out, epoch, scale):
    data = stream(out, sample=True)
    data.scale = scale
    expected = {(epoch, row["row"], row["sentence"], position) for row in open_shards(out)
                for position, prob in enumerate(row["mask_prob"][:22])
                if number(epoch, row["row"], row["sentence"], position) < prob * scale}  # fmt: skip
    assert masks((epoch, e) for e in data.epoch(epoch)) == expected and len(expected) > 100


def test_epochs_differ_in_their_masks_alone(out):
    data = stream(out, sample=True, shuffle=False)
    first, second = list(data.epoch(0)), list(data.epoch(1))
    assert [e.input_ids.tolist() for e in first] == [e.input_ids.tolist() for e in second]
    assert len(first) == len(second) == len(data)
    assert [e.at.tolist() for e in first] != [e.at.tolist() for e in second]
    assert [key((0, e)) for e in first] == [key((0, e)) for e in data.epoch(0)]
    assert all((e.input_ids[e.at] < 9000).all() and e.prob is None for e in first)


def test_a_sequence_stays_in_epochs_that_mask_nothing_of_it(out):
    """What is left out is what can never have a mask, so that all epochs have the same sequences."""
    plain, data = stream(out, sample=True), stream(out, sample=True, masked_only=True)
    possible = {(row["row"], row["sentence"]) for row in open_shards(out) if any(p > 0 for p in row["mask_prob"])}
    seen, empty = set(), 0
    for epoch in range(20):
        examples = list(data.epoch(epoch))
        assert len(examples) == len(data) < len(plain)
        empty += sum(not len(e.at) for e in examples)
        seen |= {(int(r), int(s)) for e in examples for r, s in zip(e.row, e.sentence, strict=True)}
    assert empty and seen <= possible and len(seen) > 0.9 * len(possible)


def test_the_rate_is_the_mean_of_the_probabilities(out):
    data = stream(out, sample=True, max_length=200)
    rows = [row["mask_prob"] for row in open_shards(out)]
    tokens = sum(map(len, rows))
    assert data.rates.tokens == tokens
    assert data.rates.mean == pytest.approx(sum(map(sum, rows)) / tokens, abs=1e-7)
    found = np.mean([sum(len(e.at) for e in data.epoch(n)) / tokens for n in range(25)])
    deviation = np.sqrt(sum(p * (1 - p) for row in rows for p in row) / 25) / tokens
    assert abs(found - data.rates.mean) < 5 * deviation


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_draw_the_same(out, workers):
    loader = DataLoader(TorchStream(stream(out, sample=True), 4), batch_size=4, collate_fn=list, num_workers=workers)
    found = [key(item) for batch in islice(loader, 30) for item in batch]
    assert found == [key(item) for item in islice(iter(stream(out, sample=True)), 120)]


def test_states_tell_whether_masks_are_drawn(out):
    state = stream(out, sample=True).state_dict()
    with pytest.raises(FastmaskError, match="another stream's state: sample was True, here it is False"):
        stream(out).load_state_dict(state)
    older = stream(out).state_dict()
    del older["stream"]["sample"]
    stream(out).load_state_dict(older)
    with pytest.raises(FastmaskError, match="sample was False, here it is True"):
        stream(out, sample=True).load_state_dict(older)


def test_shards_without_probabilities_are_refused(out, tmp_path):
    bare = write_corpus(tmp_path / "bare", [3], change=lambda scored: replace(scored, mask_prob=None))
    for path in (bare, str(as_format_1(out, tmp_path / "old"))):
        with pytest.raises(
            FastmaskError, match=f"{path}: has no mask_prob to draw masks by; --method greedy gives none"
        ):
            len(stream(path, sample=True))
    assert len(stream(bare)) > 0


def example(prob, word=None, row=0) -> Example:
    n = len(prob)
    places, zeros = np.arange(n, dtype=np.int32), np.zeros(n, np.int32)
    word = places if word is None else np.array(word, np.int32)
    return Example(np.arange(n + 2, dtype=np.int32), places + 1, zeros + np.int64(row), zeros, places, word, None,
                   np.array(prob, np.float32))  # fmt: skip


def test_words_are_masked_whole_and_at_their_rate():
    """The tokens of a word share the number of its first one."""
    counts = np.zeros(3)
    for row in range(4000):
        found = drawn(
            example([0.3, 0.3, 0.3, 0.8, 0.8, 0.5], [0, 0, 0, 1, 1, 2], row), seed=1, epoch=0
        ).position.tolist()
        assert [p in found for p in (1, 2, 4)] == [p in found for p in (0, 0, 3)]
        counts += [0 in found, 3 in found, 5 in found]
    assert np.all(np.abs(counts / 4000 - [0.3, 0.8, 0.5]) < 5 * np.sqrt(0.25 / 4000))


def test_shards_of_words_are_drawn_by_word(tmp_path):
    """With unit word in the manifest; two tokens a word, of one probability."""
    scored = build([6] * 300, [[]] * 300)
    word = np.tile([0, 0, 1, 1, 2, 2], 300).astype(np.int32)
    scored = replace(scored, sentences=replace(scored.sentences, word=word), mask_prob=np.full(1800, 0.4, np.float32))
    with open_run(tmp_path / "out", unit="word", identity=IDENTITY | {"tokenizer": TOKENIZER}) as run:
        run.write_shard(0, scored)
        run.finish(FIELDS)
    found = masks((0, e) for e in stream(str(tmp_path / "out"), sample=True).epoch())
    assert found and all((e, r, s, p ^ 1) in found for e, r, s, p in found)
    assert abs(len(found) / 1800 - 0.4) < 5 * np.sqrt(0.24 / 900)


def test_certain_and_impossible_tokens():
    always = example([1.0] * 50)
    assert len(drawn(always, seed=3, epoch=9).at) == 50
    assert len(drawn(example([0.5] * 50), seed=3, epoch=9, scale=2.0).at) == 50  # clipped at 1


def rates_of(*sentences) -> Rates:
    lengths = np.array([len(s) for s in sentences])
    flat = np.concatenate([np.array(s, np.float32) for s in sentences])
    at = [np.flatnonzero(np.array(s) > 0) for s in sentences]
    offsets, mask_offsets = (np.concatenate([[0], np.cumsum(n)]) for n in (lengths, [len(a) for a in at]))
    index = np.concatenate(at).astype(np.int32)
    numbers = np.arange(len(sentences)), np.zeros(len(sentences), np.int32)
    ids = np.ones(len(flat), np.int32)
    given = Sentences(*numbers, offsets, ids, mask_offsets, index, index, flat[flat > 0])
    rates = Rates()
    rates.add(examples_of(given, max_length=512, frame=Frame(0, 1), masked_only=True))
    return rates


def test_scales_by_hand():
    """Ten tokens: 0.5, 0.25 and 0.25 of them; a rate of 0.2 is two masks, of 0.25 is 1 and 0.75 + 0.75."""
    rates = rates_of([0.5, 0, 0, 0, 0.25], [0.25, 0, 0, 0, 0])
    assert rates.tokens == 10 and rates.mean == pytest.approx(0.1)
    for rate, scale in [(0.05, 0.5), (0.1, 1), (0.2, 2), (0.25, 3), (0.3, 4)]:
        assert rates.scale(rate) == pytest.approx(scale)
    assert rates.most == 0.3 and rates.scale(0.31) == rates.scale(0.3)


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5, 0.8])
def test_clipped_probabilities_are_made_up_for(rate):
    """The sum of min(1, scale * p) is what was asked for, to the width of a bin."""
    prob = np.random.default_rng(3).beta(0.5, 2, 5000)
    scale = rates_of(*np.split(prob, 10)).scale(rate)
    assert np.minimum(1, scale * prob).mean() == pytest.approx(rate, rel=1e-4)
    assert rate <= 0.2 or (scale * prob > 1).any()


@pytest.fixture(scope="module")
def tokenizer(mr_tiny):
    return AutoTokenizer.from_pretrained(mr_tiny)


def row(number, prob, **more) -> dict:
    return {"row": number, "sentence": 0, "input_ids": list(range(50, 50 + len(prob))), "mask_prob": prob, **more}


def labelled(batch) -> list[list[int]]:
    return [np.flatnonzero(labels >= 0).tolist() for labels in batch["labels"].numpy()]


def test_the_collator_draws_as_the_stream_does(tokenizer):
    rows = [row(k, [0.2, 0.0, 0.9, 0.5] * 5) for k in range(20)]
    collator = SelectiveMaskCollator(tokenizer, seed=5, sample=True)
    for epoch in (0, 1):
        collator.set_epoch(epoch)
        expected = [[1 + p for p, prob in enumerate(r["mask_prob"]) if number(epoch, r["row"], 0, p) < prob]
                    for r in rows]  # fmt: skip
        assert labelled(collator(rows)) == expected
        assert [labelled(collator([r]))[0] for r in rows] == expected
        columns = {name: [r[name] for r in rows] for name in rows[0]}
        assert labelled(collator(columns)) == expected


def test_the_collator_masks_at_least_one_token_of_a_batch(tokenizer):
    """The one that a growing rate would mask first."""
    collator = SelectiveMaskCollator(tokenizer, sample=True)
    rows = [row(k, [1e-6, 2e-6, 0.0]) for k in range(3)]
    needed = {
        (k, p): number(0, k, 0, p, seed=0) / np.float32(prob) for k in range(3) for p, prob in ((0, 1e-6), (1, 2e-6))
    }
    k, p = min(needed, key=needed.get)
    assert labelled(collator(rows)) == [[1 + p] if number == k else [] for number in range(3)]
    with pytest.raises(FastmaskError, match="no token of a batch is masked"):
        collator([row(0, [0.0, 0.0])])


def test_the_collator_draws_words(tokenizer):
    collator = SelectiveMaskCollator(tokenizer, sample=True, whole_words=True)
    rows = [row(k, [0.5] * 6, word=[0, 0, 0, 1, 2, 2]) for k in range(40)]
    for found in labelled(collator(rows)):
        assert [1 in found, 5 in found] * 2 == [2 in found, 6 in found, 3 in found, 5 in found]


def test_what_the_collator_refuses(tokenizer, out):
    collator = SelectiveMaskCollator(tokenizer, sample=True)
    good = row(3, [0.5, 0.5])
    for changed, said in [
        ({"mask_prob": None}, "row 3: mask_prob: is null; the method of its shards gives none"),
        ({"mask_prob": [0.5]}, r"row 3: mask_prob: \[1\] numbers for 2 input_ids"),
        ({"mask_prob": [0.5, 1.5]}, "row 3: mask_prob: is not between 0 and 1"),
        ({"mask_prob": [0.5, float("nan")]}, "row 3: mask_prob: is not between 0 and 1"),
        ({"mask_prob": ["a", "b"]}, "row 3: mask_prob: holds something else than numbers"),
    ]:
        with pytest.raises(FastmaskError, match=said):
            collator([good | changed])
    with pytest.raises(FastmaskError, match='a row has no "mask_prob"'):
        collator([{name: good[name] for name in ("row", "sentence", "input_ids")}])
    with pytest.raises(FastmaskError, match="row 3: word: 1 of them, 2 input_ids"):
        SelectiveMaskCollator(tokenizer, sample=True, whole_words=True)([good | {"word": [0]}])
    with pytest.raises(FastmaskError, match="is for rows; give it to the TrainingStream instead"):
        collator(list(stream(out, sample=True).epoch())[:2])
