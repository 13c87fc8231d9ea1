"""Corpora of small documents as shards, and the stream over them in blocks small enough to be many."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from shard_samples import IDENTITY, build, open_run

import fastmask

SPECIAL = {"cls": 9001, "sep": 9002, "mask": 9003, "pad": 9000, "unk": 9004, "bos": None, "eos": None}
TOKENIZER = {"name": "toy", "local": True, "vocabulary_sha256": "ab", "special_ids": SPECIAL, "vocab_size": 9010,
             "all_special_ids": [*range(9000, 9005), 9007]}  # fmt: skip
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
    return replace(scored, sentences=numbered, mask_prob=probabilities(lengths, seed))


def probabilities(lengths, seed: int) -> np.ndarray:
    """0 to 1, in every fourth sentence all 0 and of other tokens a third."""
    rng = np.random.default_rng(1000 + seed)
    prob = rng.random(lengths.sum()) * (rng.random(lengths.sum()) > 1 / 3)
    return (prob * np.repeat(np.arange(len(lengths)) % 4 > 0, lengths)).astype(np.float32)


def write_corpus(out, counts, tokenizer=TOKENIZER, change=lambda scored: scored, **options) -> str:
    with open_run(out, identity=IDENTITY | {"tokenizer": tokenizer}) as run:
        first = 0
        for index, count in enumerate(counts):
            run.write_shard(index, change(documents(first, count, index, **options)))
            first += count
        run.finish(FIELDS)
    return str(out)


def sample_corpus(out) -> str:
    """108 documents in five shards of several row groups each, one of them empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastmask.shards.table.ROW_GROUP", 16)
        return write_corpus(out, [30, 30, 0, 3, 45])


def make_blocks_small(monkeypatch) -> None:
    """Blocks and windows small enough for a corpus of a few hundred sentences to have many."""
    monkeypatch.setattr("fastmask.data.shard_blocks.ROW_GROUP", 16)
    monkeypatch.setattr("fastmask.data.shard_blocks.BLOCK_TOKENS", 120)
    monkeypatch.setattr("fastmask.data.stream.WINDOW_TOKENS", 500)


def stream(shards, **options) -> fastmask.TrainingStream:
    return fastmask.TrainingStream(shards, **({"max_length": 24, "seed": 5} | options))


def key(item) -> tuple:
    epoch, example = item
    fields = ("input_ids", "at", "row", "sentence", "position")
    return epoch, *(tuple(getattr(example, name).tolist()) for name in fields)


def take(items, count: int) -> list[tuple]:
    return [key(item) for item in islice(items, count)]
