"""The GPU suite's sentences: those of the golden files, and review-like ones without end, from ids alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from zlib import crc32

import harness
import numpy as np
from tokenizers import Tokenizer

from fastmask.core.records import EncodedSentences
from fastmask.models.packing import Template

DATA = harness.ROOT / "tests/data"
MODELS = {
    "mr_tiny_0.05": DATA / "mr-tiny",
    "mr_tiny_0.01": DATA / "mr-tiny",
    "restaurant_tiny_0.05": DATA / "restaurant-tiny",
    "mr_minilm_0.05": harness.SHARED / "models/mr-minilm",
}
"""Golden file -> the classifier it was made with."""
TEMPLATE = Template(*(np.array(ids, np.int32) for ids in ([101], [], [102])), 0, mask=103)
"""BERT's special tokens around a single text, and what hides a token."""
VOCABULARY = 30_522
FIRST_WORD = 1000
"""Ids of BERT's vocabulary below this are special, unused, or single characters."""
REPLACED = 0.35
"""Share of tokens that are drawn anew: enough that variants repeat about as rarely as in real reviews."""

Unit = tuple[list[int], int]
"""A classifier question about a sentence: the aspect's tokens (none for plain text) and the given class or -1."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Sentences with the masks that they must get, stop words included.

    Attributes:
        name: of the file; model: directory of the classifier.
        threshold: d.
        sentences: what is scored.
        masks: important positions of each sentence.
    """

    name: str
    model: Path
    threshold: float
    sentences: EncodedSentences
    masks: list[list[int]]


def encoded(sentences: list[list[int]], units: list[list[Unit]], is_aspect: bool = False) -> EncodedSentences:
    """Sentences from their ids, a document each."""
    count, total = len(sentences), sum(map(len, sentences))
    flat = list(chain.from_iterable(units))
    own = [-1 if is_aspect else label for label in (group[0][1] if group else -1 for group in units)]
    return EncodedSentences(
        row=np.arange(count), sentence=np.zeros(count, np.int32), offsets=_offsets(sentences),
        input_ids=_flat(sentences), char_start=np.zeros(total, np.int32), char_end=np.zeros(total, np.int32),
        word=_flat(range(len(ids)) for ids in sentences),
        label=np.array(own, np.int32), unit_sentence=np.repeat(np.arange(count, dtype=np.int32), [*map(len, units)]),
        unit_label=np.array([label for _, label in flat], np.int32), is_aspect=is_aspect,
        context_offsets=_offsets([ids for ids, _ in flat]), context_ids=_flat([ids for ids, _ in flat]),
        first_row=0, end_row=count,
    )  # fmt: skip


def _offsets(lists: list[list[int]]) -> np.ndarray:
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)


def _flat(lists: list[list[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), np.int32)


def golden(name: str, count: int | None = None, longest: int | None = None) -> Golden:
    """The first ``count`` texts of at most ``longest`` words of a golden file, or all."""
    rows = [row for row in _rows(name) if longest is None or len(row["text"].split()) <= longest][:count]
    tokenizer = Tokenizer.from_file(str(MODELS[name] / "tokenizer.json"))
    is_aspect = "aspects" in rows[0]
    sentences = rows if is_aspect else [sentence for row in rows for sentence in row["sentences"]]
    ids = [[tokenizer.token_to_id(token) for token in one["tokens"]] for one in sentences]
    if is_aspect:
        config = json.loads((MODELS[name] / "config.json").read_text("utf-8"))
        units = [[_aspect_unit(aspect, tokenizer, config["label2id"]) for aspect in row["aspects"]] for row in rows]
    else:
        units = [[([], row["label"])] for row in rows for _ in row["sentences"]]
    return Golden(name, MODELS[name], rows[0]["threshold"], encoded(ids, units, is_aspect), [*map(_mask_of, sentences)])


def _rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / f"golden/{name}.jsonl").read_text("utf-8").splitlines()]


def _aspect_unit(aspect: dict, tokenizer: Tokenizer, classes: dict[str, int]) -> Unit:
    return tokenizer.encode(aspect["term"], add_special_tokens=False).ids, classes[aspect["polarity"]]


def _mask_of(sentence: dict) -> list[int]:
    """Positions that are important to any question which the classifier got right."""
    asked = sentence.get("aspects", [sentence])
    return sorted({position for one in asked if one["correct"] for position in one["important"]})


@cache
def reviews(count: int, seed: int = 0, longest: int | None = None) -> EncodedSentences:
    """Distinct unlabelled sentences like MR's in length, word frequency and repetition, in BERT's vocabulary.

    The golden sentences of MR, drawn with replacement, REPLACED of their tokens drawn anew from all tokens of all of
    them; a wordpiece's id is a hash of it. Their vocabulary, a quarter of BERT's, splits words twice as often: half of
    the continuations are left out.

    Args:
        count: how many.
        seed: other seeds give other sentences.
        longest: cut them to so many tokens.
    """
    texts = [one["tokens"] for row in _rows("mr_tiny_0.05") for one in row["sentences"]]
    pools = [np.array([_word_id(token) for token in text if _in_bert(token)][:longest], np.int32) for text in texts]
    words, rng, found = np.concatenate(pools), np.random.default_rng(seed), {}
    while len(found) < count:
        ids = pools[rng.integers(len(pools))].copy()
        fresh = rng.random(len(ids)) < REPLACED
        ids[fresh] = rng.choice(words, fresh.sum())
        found[tuple(ids.tolist())] = None
    return encoded([list(ids) for ids in found], [[([], -1)]] * count)


def _in_bert(token: str) -> bool:
    return not token.startswith("##") or crc32(token.encode()) % 2 == 0


def _word_id(token: str) -> int:
    return FIRST_WORD + crc32(token.encode()) % (VOCABULARY - FIRST_WORD)
