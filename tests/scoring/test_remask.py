"""``remask``: what score would have written with other options, from the scores alone; else it is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import contents, fastmask, golden, refusal, rows_of, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from pretrain_samples import SHAPE, save_model
from shard_samples import as_format_1
from transformers import AutoModelForMaskedLM, BertConfig

from fastmask.core.config import ScoreConfig
from fastmask.pipeline import score_corpus
from fastmask.scoring.cascade import TIE, Bounds
from fastmask.scoring.method import Stored, method_named
from fastmask.scoring.policy import agreeing
from fastmask.shards.verify import verify


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:40]]
    rows += [{"text": "very very very bad bad film , it is !"}, {"text": "unbelievably good . " * 50}, {"text": " "}]
    return write_jsonl(tmp_path_factory.mktemp("remask") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus, mr_tiny):
    """A function from options to the directory of a run, each made once."""
    made = {}

    def scored(**options) -> Path:
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("run") / "out"
            settings = {"model": mr_tiny, "threads": 1, "shard_rows": 16, "precision": "float32", **options}
            score_corpus([corpus], str(made[key]), ScoreConfig(**settings))
        return made[key]

    return scored


def remask(shards, out, **options):
    flags = [f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')}={value}"
             for name, value in options.items()]  # fmt: skip
    return fastmask("remask", shards, "-o", out, *flags)


def shards_of(out) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name.endswith(".parquet")}


METHODS = ("greedy", "prefix", "leave-one-out")
POLICIES = {
    "words": {"unit": "word"}, "punctuation": {"keep_punctuation": True}, "stop words": {"stop_words": "none"},
    "all": {"unit": "word", "keep_punctuation": True, "stop_words": "none"},
}  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("method", METHODS)
def test_the_bytes_are_those_of_score(method, policy, run, tmp_path):
    source, expected = run(method=method), run(method=method, **POLICIES[policy])
    done = remask(source, tmp_path / "out", **POLICIES[policy])
    assert done.exit_code == 0, done.output
    assert shards_of(tmp_path / "out") == shards_of(expected) != shards_of(source)
    found, fresh = (json.loads((out / "_manifest.json").read_text()) for out in (tmp_path / "out", expected))
    assert found.pop("remasked") == {"shards": [one["sha256"] for one in json.loads(
        (source / "_manifest.json").read_text())["shards"]]}  # fmt: skip
    assert fresh.pop("repeat") and found == fresh
    assert verify(tmp_path / "out") == []


RANKS = [("greedy", {"mask_rate": 0.1}), ("greedy", {"mask_rate": 0.2, "unit": "word"}), ("prefix", {"threshold": 0.2}),
         ("prefix", {"threshold": -0.01, "mask_rate": 0.15}), ("leave-one-out", {"threshold": 0.01, "unit": "word"}),
         ("leave-one-out", {"threshold": 0.02, "mask_rate": 0.3})]  # fmt: skip


@pytest.mark.parametrize(("method", "options"), RANKS)
def test_masks_of_other_rates_and_thresholds_are_those_of_score(method, options, run, tmp_path):
    source, expected = run(method=method), rows_of(run(method=method, **options))
    done = remask(source, tmp_path / "out", **options)
    assert done.exit_code == 0, done.output
    for row, fresh in zip(rows_of(tmp_path / "out"), expected, strict=True):
        # doubts about other masks were asked again at a higher precision
        np.testing.assert_allclose(row.pop("importance") or [], fresh.pop("importance") or [], atol=1e-6)
        assert row.pop("prob") == pytest.approx(fresh.pop("prob"), abs=1e-6)
        assert row == fresh


@pytest.mark.parametrize(("method", "options"), [
    ("gradient", {"mask_rate": 0.4}), ("gradient", {"mask_rate": 1.0, "unit": "word"}),
    ("entropy", {"mask_rate": 1.0, "unit": "word"}),
])  # fmt: skip
def test_masks_by_a_number_for_each_token(method, options, run, mr_tiny, tmp_path):
    model = {}
    if method == "entropy":
        torch.manual_seed(0)
        shape = {**SHAPE, "max_position_embeddings": 128, "vocab_size": 8192}
        filling = AutoModelForMaskedLM.from_config(BertConfig(**shape))
        model = {"model": save_model(tmp_path / "model", filling, mr_tiny)}
    source, expected = run(method=method, **model), rows_of(run(method=method, **model, **options))
    assert remask(source, tmp_path / "out", **options).exit_code == 0
    assert [row["mask_index"] for row in rows_of(tmp_path / "out")] == [row["mask_index"] for row in expected]


def test_back_again(run, tmp_path):
    source = run(method="prefix")
    assert remask(source, tmp_path / "a", threshold=0.3, unit="word", keep_punctuation=True).exit_code == 0
    assert remask(tmp_path / "a", tmp_path / "b", threshold=0.05, unit="token", no_keep_punctuation=True).exit_code == 0
    assert [row["mask_index"] for row in rows_of(tmp_path / "b")] == [row["mask_index"] for row in rows_of(source)]


def test_a_random_run(run, tmp_path):
    options = {"unit": "word", "mask_rate": 0.3, "keep_punctuation": True}
    assert remask(run(method="random"), tmp_path / "out", **options).exit_code == 0
    assert shards_of(tmp_path / "out") == shards_of(run(method="random", **options))


def test_aspects(restaurant_tiny, golden_dir, tmp_path):
    found = golden(golden_dir, "restaurant_tiny_0.05")[:25]
    keys = "term", "polarity"
    rows = [{"text": row["text"], "aspects": [{k: one[k] for k in keys} for one in row["aspects"]]} for row in found]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)

    def score(name, **options):
        config = ScoreConfig(model=restaurant_tiny, precision="float32", threads=1, **options)
        score_corpus([corpus], str(tmp_path / name), config)

    score("source")
    score("fresh", unit="word", stop_words="none")
    assert remask(tmp_path / "source", tmp_path / "out", unit="word", stop_words="none").exit_code == 0
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "fresh")
    entries = [json.loads((tmp_path / name / "_manifest.json").read_text())["shards"] for name in ("out", "fresh")]
    assert entries[0] == entries[1] and entries[0][0]["labelled"] > 0
    score("left", method="leave-one-out")
    assert "the largest; score again" in refusal(remask(tmp_path / "left", tmp_path / "x", unit="word"))


@pytest.fixture(scope="module")
def masked(tmp_path_factory, corpus, mr_tiny) -> Path:
    """A run of a masker of random weights, with the embedded tokenizer."""
    from transformers import AutoModelForTokenClassification

    folder = tmp_path_factory.mktemp("masker")
    shape = BertConfig(vocab_size=8192, hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=32, initializer_range=0.5, id2label={0: "keep", 1: "mask"})  # fmt: skip
    AutoModelForTokenClassification.from_config(shape).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(mr_tiny) / name, folder / "model")
    for name, options in {"capped": {}, "all": {"mask_rate": 1.0}, "words": {"mask_rate": 1.0, "unit": "word"}}.items():
        config = ScoreConfig(model=str(folder / "model"), method="masker", threads=1, shard_rows=16, **options)
        score_corpus([corpus], str(folder / name), config)
    return folder


def test_what_a_masker_marks_is_certain(masked, tmp_path):
    assert remask(masked / "capped", tmp_path / "all", mask_rate=1.0).exit_code == 0
    assert shards_of(tmp_path / "all") == shards_of(masked / "all")
    assert remask(masked / "capped", tmp_path / "words", mask_rate=1.0, unit="word").exit_code == 0
    assert shards_of(tmp_path / "words") == shards_of(masked / "words")
    refused = refusal(remask(masked / "all", tmp_path / "x", threshold=0.1))
    assert "--threshold 0.1: means nothing to this method, which has a rate and no threshold" in refused


def test_a_masker_taken_as_it_is_ranks_by_its_probabilities(masked, tmp_path):
    done = remask(masked / "all", tmp_path / "some", mask_rate=0.1, no_certify=True)
    assert done.exit_code == 0 and "score might choose other masks in 62 sentences" in done.stderr
    assert json.loads((tmp_path / "some" / "_manifest.json").read_text())["config"]["certify"] is False
    checked = 0
    for row, before in zip(rows_of(tmp_path / "some"), rows_of(masked / "all"), strict=True):
        chosen = set(row["mask_index"])
        left = set(before["mask_index"]) - chosen
        assert chosen <= set(before["mask_index"])
        if left:
            checked += 1
            assert min(row["importance"][k] for k in chosen) >= max(row["importance"][k] for k in left)
    assert checked > 10


@pytest.mark.parametrize(("options", "words"), [
    ({"threshold": 0.2}, "--threshold 0.2: method greedy scores a token after those that it kept"),
    ({"mask_rate": 2}, "--mask-rate 2.0: above 0, at most 1"), ({"stop_words": "no.txt"}, "cannot read stop words"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_a_line(options, words, run, tmp_path):
    assert words in refusal(remask(run(method="greedy"), tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_shards_that_do_not_tell_enough(run, mr_tiny, restaurant_tiny, tmp_path):
    source = run(method="greedy")
    old = as_format_1(source, tmp_path / "old")
    assert f"{old}: its shards are of format 1, which does not tell words" in refusal(remask(old, tmp_path / "x"))
    assert "is the directory of the shards" in refusal(remask(source, source))
    assert fastmask("remap", source, "--tokenizer", restaurant_tiny, "-o", tmp_path / "remapped").exit_code == 0
    assert "remask what it was made from" in refusal(remask(tmp_path / "remapped", tmp_path / "x"))


def stored(importance, prob, eps, ids=None, is_aspect=False, decided=None) -> Stored:
    n = len(importance)
    known = np.ones(n, bool) if decided is None else np.array(decided)
    return Stored(np.array([0, n]), np.arange(n) if ids is None else np.array(ids), np.array(importance),
                  np.array([prob]), np.ones(1, bool), np.array([is_aspect]), np.ones(n, bool), known,
                  Bounds(("bfloat16", "float32", "float64"), (eps, 2e-5, TIE)))  # fmt: skip


def test_doubts_by_hand():
    # q = P(y|v) = 0.7, 0.5, 0.69: 0.1 of log-odds is about 0.021, 0.025, 0.0214 there
    prefix, scores = method_named("prefix"), stored([0.2, 0.4, 0.21], 0.9, 0.1)
    found = prefix.recall(scores, 0.188, 0.05)
    assert found.important.tolist() == [False, False, False] and found.in_doubt.tolist() == [True, False, True]
    assert (
        method_named("prefix").recall(stored([0.2, 0.4, 0.21], 0.9, 0.1), 0.05, 0.05).in_doubt.tolist() == [False] * 3
    )
    widths = (found.high - found.low) / 2
    np.testing.assert_allclose(widths, 0.1 * np.exp(0.1) * np.array([0.21, 0.25, 0.2139]), rtol=1e-4)
    # of aspects it is not known which P(y|v) it was
    found = method_named("greedy").recall(stored([0.2, 0.4], 0.9, 0.1, is_aspect=True), 0.05, 0.05)
    np.testing.assert_allclose((found.high - found.low) / 2, 0.25 * (0.1 * np.exp(0.1) + 2e-5), rtol=1e-3)


def test_tokens_that_had_no_part_in_a_maskers_masks_are_not_certain():
    """P = 0.51 is a margin of 0.04 in log-odds, 0.6 one of 0.41; stop words are not asked again more precisely."""
    scores = stored([0.51, 0.51, 0.6, 0.0, 1.0], 0.9, 0.1, decided=[True, False, False, False, False])
    found = method_named("masker").recall(scores, 0.05, 0.05)
    assert found.important.tolist() == [True, True, True, False, True]
    assert found.in_doubt.tolist() == [False, True, False, False, False]


def test_tokens_of_one_variant_have_one_rank():
    greedy = method_named("greedy").recall(stored([0.01, 0.0100001, 0.2, 0.01], 0.9, 0.1, ids=[5, 5, 6, 5]), 0.05, 0.05)
    assert greedy.same[0] == greedy.same[1] != greedy.same[3] and greedy.low[0] == greedy.low[1]
    one_out = method_named("leave-one-out").recall(stored([0.1, 0.1, 0.2, 0.1], 0.9, 0.1, ids=[5, 5, 6, 5]), 0.05, 0.05)
    assert one_out.same[0] == one_out.same[1] != one_out.same[3]
    assert len(set(method_named("prefix").recall(stored([0.1] * 3, 0.9, 0.1, ids=[5, 5, 5]), 0.05, 0.05).same)) == 3


@given(st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=1), st.floats(-1, 1), st.booleans())
def test_importances_tell_the_decisions(tokens, threshold, large):
    importance, marked = np.array([one for one, _ in tokens], np.float32), np.array([mark for _, mark in tokens])
    found = agreeing(importance, marked, threshold, large)
    assert found.dtype == np.float32
    assert ((found >= threshold if large else found < threshold) == marked).all()
    told = (importance >= threshold if large else importance < threshold) == marked
    assert (found[told] == importance[told]).all()


def test_the_same_command_again_and_after_a_change(run, mr_tiny, corpus, tmp_path):
    source = run(method="greedy")
    assert remask(source, tmp_path / "out", unit="word").exit_code == 0
    before = contents(tmp_path / "out")
    assert remask(source, tmp_path / "out", unit="word").exit_code == 0 and contents(tmp_path / "out") == before
    assert "--unit was" in refusal(remask(source, tmp_path / "out"))
    assert remask(source, tmp_path / "out", overwrite=True).exit_code == 0
    assert shards_of(tmp_path / "out") == shards_of(source)
    (tmp_path / "out" / "shard-00000.parquet").unlink()
    assert "was made by fastmask remask" in refusal(fastmask("verify", tmp_path / "out", "--repair"))
