"""The paper authors' released scripts reproduced, decision for decision; masks that nothing but the text changes."""

import dataclasses

import numpy as np
import pytest
from helpers import encoder_of, golden, masks_of, parts_of, real_engine, rows_of, write_jsonl

from fastmask.core.config import ScoreConfig
from fastmask.pipeline import score_corpus
from fastmask.scoring.engine import score_certain
from fastmask.text.frontend import encode_texts

NEAR = 1e-5
"""Largest difference of a probability at float32; the golden files have seven digits of most."""


def score(tmp_path, rows, model, **options) -> list[dict]:
    """Rows through a file and the whole pipeline to shards."""
    corpus, out = write_jsonl(tmp_path / "corpus.jsonl", rows), tmp_path / "out"
    score_corpus([corpus], str(out), ScoreConfig(model=model, **options), overwrite=True)
    return rows_of(out)


def model_of(name, request) -> str:
    if name.startswith("mr_minilm"):
        return str(request.getfixturevalue("shared") / "models" / "mr-minilm")
    return request.getfixturevalue("mr_tiny")


@pytest.mark.parametrize("name", ["mr_tiny_0.05", "mr_tiny_0.01", "mr_minilm_0.05"])
def test_greedy_is_the_released_scripts(name, request, golden_dir, tmp_path):
    model, expected = model_of(name, request), golden(golden_dir, name)
    rows = [{"text": row["text"], "label": row["label"]} for row in expected]
    threshold = expected[0]["threshold"]
    all_words = score(tmp_path, rows, model, threshold=threshold, stop_words="none", precision="float32")
    masked = score(tmp_path, rows, model, threshold=threshold)
    sentences = [(n, row["label"], s) for n, row in enumerate(expected) for s in row["sentences"]]
    tokens_of = parts_of(model)[1].convert_ids_to_tokens
    for (number, label, sentence), found, stopped in zip(sentences, all_words, masked, strict=True):
        assert (found["row"], found["label"]) == (number, label)
        assert tokens_of(found["input_ids"]) == sentence["tokens"]
        assert (found["predicted"] == label) == sentence["correct"]
        assert found["mask_index"] == sentence["important"] and stopped["mask_index"] == sentence["masked"]
        if not sentence["correct"]:
            assert found["importance"] is None
            continue
        assert found["prob"] == pytest.approx(sentence["prob"], abs=NEAR)
        step_prob = found["prob"] - np.array(found["importance"])
        np.testing.assert_allclose(step_prob, sentence["step_prob"], rtol=0, atol=NEAR)


def test_aspects_are_the_released_scripts(restaurant_tiny, golden_dir, tmp_path):
    expected = golden(golden_dir, "restaurant_tiny_0.05")
    conflict = {"term": "place", "polarity": "conflict"}  # is dropped, so that it changes nothing
    rows = [{"text": r["text"], "aspects": [*r["aspects"], conflict]} for r in expected]
    for row, found in zip(expected, score(tmp_path, rows, restaurant_tiny), strict=True):
        assert found["mask_index"] == row["masked"]
        assert (found["importance"] is not None) == any(a["correct"] for a in row["aspects"])


def test_single_aspects_are_the_released_scripts(restaurant_tiny, golden_dir, tmp_path):
    pairs = [(row, a) for row in golden(golden_dir, "restaurant_tiny_0.05") for a in row["aspects"]]
    rows = [{"text": row["text"], "aspects": [aspect]} for row, aspect in pairs]
    tokens_of = parts_of(restaurant_tiny)[1].convert_ids_to_tokens
    found = score(tmp_path, rows, restaurant_tiny, precision="float32", stop_words="none")
    for (row, aspect), one in zip(pairs, found, strict=True):
        assert tokens_of(one["input_ids"]) == row["tokens"] and one["mask_index"] == aspect["important"]
        assert (one["importance"] is not None) == aspect["correct"]
        if aspect["correct"]:
            assert one["prob"] == pytest.approx(aspect["prob"], abs=NEAR)
            step_prob = one["prob"] - np.array(one["importance"])
            np.testing.assert_allclose(step_prob, aspect["step_prob"], rtol=0, atol=NEAR)


# --- one text, one mask: whatever the batch, the threads, the order and the precision ---

CHOICES = [
    {"precision": "float32", "batch_tokens": 64, "threads": 1},
    {"precision": "bfloat16", "batch_tokens": 1, "threads": 2, "order": "reversed"},
    {"precision": "float16", "batch_tokens": 4096, "threads": 3, "order": "shuffled"},
]
METHODS = [
    {"method": "greedy"},
    {"method": "greedy", "mask_rate": 0.15},
    {"method": "prefix"},
    {"method": "leave-one-out", "threshold": 0.02},
    {"method": "leave-one-out", "mask_rate": 0.1, "threshold": -1.0},
]


def masks_by_text(model, texts, order="given", **options) -> dict:
    """Masks and prediction of each sentence, by its place in ``texts``."""
    places = np.arange(len(texts))
    if order != "given":
        places = places[::-1] if order == "reversed" else np.random.default_rng(0).permutation(places)
    encoded = encode_texts([texts[n] for n in places], encoder_of(model))
    scored, _ = score_certain(real_engine(model, **options), encoded)
    keys = zip(places[encoded.row].tolist(), encoded.sentence.tolist(), strict=True)
    return dict(zip(keys, zip(masks_of(scored), scored.predicted.tolist(), strict=True), strict=True))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, m.values())))
def test_nothing_but_the_text_changes_a_mask(method, mr_tiny, golden_dir):
    texts = [(row["text"], row["label"]) for row in golden(golden_dir, "mr_tiny_0.05")[:66]]
    texts = [(text[-70:], label) for text, label in texts]
    expected = masks_by_text(mr_tiny, texts, **method, precision="float32")
    assert any(masks for masks, _ in expected.values())
    for choice in CHOICES:
        assert masks_by_text(mr_tiny, texts, **method, **choice) == expected, choice


def test_nothing_but_the_text_changes_a_mask_of_a_larger_model(shared, golden_dir):
    model = str(shared / "models" / "mr-minilm")
    texts = [row["text"][-35:] for row in golden(golden_dir, "mr_tiny_0.05")[:66]]
    expected = masks_by_text(model, texts, mask_rate=0.3, precision="float32", batch_tokens=64)
    assert masks_by_text(model, texts, mask_rate=0.3, precision="bfloat16", order="shuffled") == expected


def test_a_shard_is_the_same_to_the_last_bit_with_other_threads(mr_tiny, golden_dir):
    texts = [row["text"] for row in golden(golden_dir, "mr_tiny_0.05")[:66]]
    encoded = encode_texts(texts, encoder_of(mr_tiny))
    first, _ = score_certain(real_engine(mr_tiny, threads=1), encoded)
    again, _ = score_certain(real_engine(mr_tiny, threads=3), encoded)
    for field in dataclasses.fields(first):
        if field.name != "sentences":
            np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))


def test_cut_text(mr_tiny):
    """A variant beyond the length is cut on the right, so all later tokens share one importance."""
    texts = ["a fine film and a good one " * 12]
    scored, _ = score_certain(
        real_engine(mr_tiny, method="prefix", max_length=16),
        encode_texts(texts, encoder_of(mr_tiny), segment="line"),
        None,
    )
    assert len(scored.importance) == 84 and len(set(scored.importance[13:].tolist())) == 1
    assert len(set(scored.importance[:14].tolist())) > 5
