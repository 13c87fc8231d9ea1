"""Whole words and punctuation: the policy by a slow procedure, by hand, and on real models, precisions and methods."""

from dataclasses import replace
from itertools import groupby, pairwise
from unicodedata import category

import numpy as np
import pytest
from any_tokenizer import byte_level, unigram
from helpers import encoded, fastmask, golden, masks_of, refusal, rows_of, split, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_samples import as_format_1
from test_masker import STOP, engine_of, logits_of, masker_of, sentences_of
from transformers import PreTrainedTokenizerFast

from fastmask.core.config import ScoreConfig
from fastmask.models.punctuation import Punctuation
from fastmask.pipeline import score_corpus
from fastmask.scoring.engine import score_certain
from fastmask.scoring.policy import Items, choose
from fastmask.text.stop_words import stop_words

RATE = 0.2


def policy(words, important, may_mask, strength, rate=None) -> list[int]:
    """The rule in plain Python: words int [n], strength larger is stronger."""
    groups = [[at for at, _ in group] for _, group in groupby(enumerate(words), key=lambda pair: pair[1])]
    found = [g for g in groups if any(important[at] for at in g) and any(may_mask[at] for at in g)]
    found.sort(key=lambda g: (-max(strength[at] for at in g), g[0]))
    kept = found if rate is None else found[: max(1, int(rate * len(groups) + 1e-9))]
    return sorted(at for g in kept for at in g if may_mask[at])


@st.composite
def sentences(draw):
    token = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 4))
    return draw(st.lists(st.lists(token, max_size=9), min_size=1, max_size=4))


@settings(deadline=None, max_examples=80)
@given(sentences(), st.sampled_from([None, 0.3, 1.0]), st.booleans())
def test_the_policy(drawn, rate, by_word):
    offsets = np.cumsum([0, *map(len, drawn)])
    flat = [token for one in drawn for token in one]
    begins, important, may_mask = (np.array([token[k] for token in flat], bool) for k in range(3))
    rank = -np.array([token[3] for token in flat], float)
    numbers = np.cumsum(begins).astype(np.int32)
    items = Items.of(offsets, numbers if by_word else None)
    chosen, ambiguous = choose(items, important, may_mask, rank, rank, rate)
    for (a, b), found in zip(pairwise(offsets.tolist()), split(offsets, chosen), strict=True):
        words = numbers[a:b] if by_word else np.arange(b - a)
        expected = policy(words.tolist(), important[a:b], may_mask[a:b], -rank[a:b], rate)
        assert np.flatnonzero(found).tolist() == expected
    if rate is None:
        assert not ambiguous.any()


def test_by_hand():
    # un ##believ ##able , film : the first word is important by its second token, the comma by itself
    word, important = np.array([0, 0, 0, 1, 2], np.int32), np.array([0, 1, 0, 1, 0], bool)
    may_mask, rank = np.array([1, 1, 0, 1, 1], bool), np.array([0.0, -2.0, 0.0, -1.0, 0.0])
    items = Items.of(np.array([0, 5]), word)
    assert choose(items, important, may_mask, rank, rank, None)[0].tolist() == [True, True, False, True, False]
    # three words, of which a rate of 0.4 takes one
    assert choose(items, important, may_mask, rank, rank, 0.4)[0].tolist() == [True, True, False, False, False]


def test_only_what_may_be_a_words_strongest_token_is_in_doubt():
    word, important = np.array([0, 0, 1, 2], np.int32), np.ones(4, bool)
    low, high = np.array([-3.0, 0.0, -2.5, 1.0]), np.array([-1.0, 2.0, -0.5, 2.0])
    _, ambiguous = choose(Items.of(np.array([0, 4]), word), important, important, low, high, 0.34)
    assert ambiguous.tolist() == [True, False, True, False]  # token 1 is weaker than token 0, whatever they are


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    texts = [row["text"] for row in golden(golden_dir, "mr_tiny_0.05")[:30]]
    folder = tmp_path_factory.mktemp("units")
    return write_jsonl(folder / "corpus.jsonl", [{"text": text} for text in [*texts, "Unbelievably . " * 70, texts[0]]])


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus, mr_tiny):
    """A function from options to the rows of a run."""

    def made(**options) -> list[dict]:
        out = str(tmp_path_factory.mktemp("run") / "out")
        score_corpus([corpus], out, ScoreConfig(**{"model": mr_tiny, "threads": 1, **options}))
        return rows_of(out)

    return made


def stopped_words(pieces: list[str], words: list[int]) -> set[int]:
    """The numbers of the stop words in a sentence of wordpieces, by the decoded words; "isn't" is "is" and "n't"."""
    stop = stop_words("language")
    texts = ["".join(piece.removeprefix("##") for piece, _ in group)
             for _, group in groupby(zip(pieces, words, strict=True), key=lambda pair: pair[1])]  # fmt: skip
    found = {number for number, text in enumerate(texts) if text in stop}
    for at in [number for number, text in enumerate(texts) if text == "'" and 0 < number < len(texts) - 1]:
        joined = "".join(texts[at - 1 : at + 2])
        if any({joined[:cut], joined[cut:]} <= stop for cut in range(len(joined))):
            found |= {at - 1, at, at + 1}
    return found


METHODS = {"greedy": -1, "prefix": -1, "leave-one-out": 1}
"""Methods, and the sign that makes a large importance a strong one."""


@pytest.mark.parametrize("rate", [None, RATE])
@pytest.mark.parametrize("method", METHODS)
def test_words_are_masked_whole_by_their_strongest_token(method, rate, run, mr_tiny):
    important = run(method=method, stop_words="none")
    found = run(method=method, mask_rate=rate, unit="word")
    vocabulary, partly = PreTrainedTokenizerFast.from_pretrained(mr_tiny), 0
    for row, new in zip(important, found, strict=True):
        stopped = stopped_words(vocabulary.convert_ids_to_tokens(row["input_ids"]), row["word"])
        may_mask = [word not in stopped for word in row["word"]]
        strength = [METHODS[method] * s if k < 126 else -9.0 for k, s in enumerate(row["importance"])]
        marked = np.isin(np.arange(len(may_mask)), row["mask_index"])
        assert new["mask_index"] == policy(row["word"], marked, may_mask, strength, rate)
        partly += len(set(new["mask_index"]) - set(row["mask_index"]))
    assert partly > 20 and sum(len(new["mask_index"]) for new in found) > 100


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_a_maskers_words(rate, precision):
    model, sentences = masker_of("bert"), sentences_of(80)
    rng = np.random.default_rng(5)
    words = [np.cumsum(rng.random(len(one)) < 0.5) for one in sentences]
    shard = replace(encoded(sentences), word=np.concatenate(words).astype(np.int32))
    scored, _ = score_certain(engine_of(model, mask_rate=rate, unit="word", precision=precision), shard)
    model.double()
    for ids, word, found in zip(sentences, words, masks_of(scored), strict=True):
        z = logits_of(model, ids, 128)
        assert found == policy(word.tolist(), z[:, 1] > z[:, 0], ~STOP[ids], z[:, 1], rate)


@pytest.mark.parametrize("method", METHODS)
def test_words_do_not_depend_on_the_precision(method, run):
    options = {"method": method, "mask_rate": RATE, "unit": "word", "shard_rows": 7}
    low, high = (run(precision=precision, **options) for precision in ("bfloat16", "float32"))
    assert [row["mask_index"] for row in low] == [row["mask_index"] for row in high]


def test_equal_tokens_of_other_words_are_scored_apart():
    model = masker_of("bert")
    (ids,) = sentences_of(1, longest=30, seed=4)
    shard = encoded([ids, ids])
    words = np.concatenate([np.arange(len(ids)), np.zeros(len(ids))]).astype(np.int32)
    scored, _ = score_certain(engine_of(model, unit="word", mask_rate=1.0), replace(shard, word=words))
    first, second = masks_of(scored)
    assert 0 < len(first) < len(second) == np.count_nonzero(~STOP[ids])


def test_a_control_has_as_many_words(corpus, mr_tiny, tmp_path):
    done = fastmask("score", corpus, "-o", tmp_path / "out", "--control", tmp_path / "twin", "--model", mr_tiny,
                    "--unit", "word", "--mask-rate", "0.3", "--keep-punctuation")  # fmt: skip
    assert done.exit_code == 0, done.output
    rows, twin = rows_of(tmp_path / "out"), rows_of(tmp_path / "twin")
    words = [[{row["word"][k] for k in row["mask_index"]} for row in one] for one in (rows, twin)]
    assert [*map(len, words[0])] == [*map(len, words[1])] and words[0] != words[1]
    for row, chosen in zip(twin, words[1], strict=True):
        assert {k for k, word in enumerate(row["word"]) if word in chosen} == set(row["mask_index"])
    manifest = (tmp_path / "twin" / "_manifest.json").read_text()
    assert '"unit": "word"' in manifest and '"keep_punctuation": true' in manifest


def test_counts_of_words_need_them(corpus, mr_tiny, tmp_path):
    assert fastmask("score", corpus, "-o", tmp_path / "new", "--model", mr_tiny).exit_code == 0
    old = as_format_1(tmp_path / "new", tmp_path / "old")
    options = ("--model", mr_tiny, "--method", "random", "--like", old)
    assert fastmask("score", corpus, "-o", tmp_path / "tokens", *options).exit_code == 0
    refused = refusal(fastmask("score", corpus, "-o", tmp_path / "words", *options, "--unit", "word"))
    assert f"{old}: its shards are of format 1, which does not tell words" in refused


def is_punctuation(text: str) -> bool:
    """BERT's definition."""
    return all(category(c)[0] == "P" or (c.isascii() and not c.isalnum()) for c in text) and bool(text)


@pytest.mark.parametrize("unit", ["token", "word"])
@pytest.mark.parametrize("method", ["greedy", "random"])
def test_punctuation_is_kept(method, unit, run, mr_tiny):
    options = {"method": method, "unit": unit, "threshold": 1.0, "mask_rate": 1.0}
    kept, free = (run(keep_punctuation=keep, **options) for keep in (True, False))
    vocabulary = PreTrainedTokenizerFast.from_pretrained(mr_tiny)
    found = 0
    for row, other in zip(kept, free, strict=True):
        tokens = vocabulary.convert_ids_to_tokens(row["input_ids"])
        marks = {k for k, token in enumerate(tokens) if is_punctuation(token.removeprefix("##"))}
        assert set(other["mask_index"]) - marks == set(row["mask_index"])
        found += len(marks & set(other["mask_index"]))
    assert found > 20


def marks_in(tokenizer, text) -> list[str]:
    encoding, find = tokenizer.encode(text), Punctuation(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert find.among(np.array([], np.int32), np.zeros(1, int)).tolist() == []
    found = find.among(np.array(encoding.ids), np.array([0, len(encoding)]))
    return [one for one, is_mark in zip(encoding.tokens, found, strict=True) if is_mark]


def test_punctuation_of_every_kind_of_piece():
    # the last mark is of three bytes, as the two letters before it are
    assert marks_in(byte_level(False), "great ?! it's 电影。") == ["?", "!", "'", "ã", "Ģ", "Ĥ"]
    assert marks_in(unigram("always"), "A great film . Dull, it!") == [".", ",", "!"]
