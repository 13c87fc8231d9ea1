"""Verified speculation: the same decisions in fewer rounds; and a token budget that memory does not allow."""

import numpy as np
import pytest
import torch
from helpers import FIRST_ID, Toy, ToyEncoder, encoded, masks_of, pseudo_noise, toy_engine

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError
from fastmask.scoring.engine import score_certain

VOCABULARY = 20
ONE_THREAD = {"threads": 1, "stop_words": "none"}


def random_toy(seed: int) -> Toy:
    return Toy(np.random.default_rng(seed).integers(-6, 7, (2, VOCABULARY)))


def random_sentences(seed: int, count: int, longest: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_ID, VOCABULARY, rng.integers(1, longest)).tolist() for _ in range(count)]


def rounding(precision, ids) -> float:
    return pseudo_noise(ids, {"float64": 0.0, "float32": 1e-6}.get(precision, 0.05))


def outcome(monkeypatch, sentences, spare, precision="bfloat16", toy=None, **options):
    """Masks, importance at float64's exactness, and the rounds of each precision, of one engine."""
    rounds = []

    class Counted(ToyEncoder):
        batch_tokens = 10**7

        def logits(self, batch, memory=None):
            rounds.append(self.precision)
            return super().logits(batch, memory)

    toy = toy or random_toy(3)
    engine = toy_engine(monkeypatch, toy, ScoreConfig(precision=precision, **{**ONE_THREAD, **options}))
    monkeypatch.setattr(
        "fastmask.scoring.backend.build_encoder", lambda model, name, *_: Counted(toy, name, rounding, None, spare)
    )
    engine.backend._encoders.clear()
    scored, _ = score_certain(engine, encoded(sentences))
    return scored, rounds


@pytest.mark.parametrize("options", [{}, {"mask_rate": 0.2}, {"max_length": 12}, {"certify": False}, {"seed": 5}])
@pytest.mark.parametrize("spare", [10, 60, 700, 10**6])
def test_looking_ahead_changes_no_decision(monkeypatch, options, spare):
    sentences = random_sentences(1, 70, 25)
    plain, _ = outcome(monkeypatch, sentences, 0, **options)
    ahead, _ = outcome(monkeypatch, sentences, spare, **options)
    assert masks_of(ahead) == masks_of(plain) and any(masks_of(plain))
    np.testing.assert_array_equal(ahead.importance, plain.importance)
    for fact in ("decisions", "rechecked", "audited", "flips", "eps"):
        assert ahead.certificate[fact] == plain.certificate[fact]


def test_a_sentence_takes_a_handful_of_rounds(monkeypatch):
    """The word that decides comes last, and all before it are kept."""
    sentence, toy = [4] * 60 + [3], Toy([[0] * VOCABULARY, [0, 0, 0, 9, *[0] * 16]])
    plain, one_by_one = outcome(monkeypatch, [sentence], 0, "float32", toy)
    ahead, few = outcome(monkeypatch, [sentence], 10**6, "float32", toy)
    assert masks_of(ahead) == masks_of(plain) == [[60]]
    assert one_by_one.count("float32") >= 60 and few.count("float32") <= 6


def test_a_very_long_line_is_quick(monkeypatch):
    sentence = [3] * 3000
    toy = Toy([[0] * VOCABULARY, [0, 0, 0, 9, *[0] * 16]])
    ahead, rounds = outcome(monkeypatch, [sentence], 256, "float32", toy)
    assert ahead.mask_index.tolist() == list(range(1, 126)) and len(rounds) < 100  # past 126 it is cut off


# --- memory ---


class Small(ToyEncoder):
    """Memory for a number of tokens."""

    holds = 64

    def logits(self, batch, memory=None):
        if len(batch.input_ids) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().logits(batch, memory)


@pytest.mark.parametrize("method", ["greedy", "leave-one-out"])
def test_out_of_memory_halves_the_budget_and_goes_on(monkeypatch, method):
    sentences, toy = random_sentences(2, 70, 25), random_toy(2)
    config = ScoreConfig(method=method, precision="float32", batch_tokens=1000, **ONE_THREAD)
    plain, _ = score_certain(toy_engine(monkeypatch, toy, config), encoded(sentences))
    engine = toy_engine(monkeypatch, toy, config)
    monkeypatch.setattr("fastmask.scoring.backend.build_encoder", lambda model, name, *_: Small(toy, name))
    engine.backend._encoders.clear()
    scored, _ = score_certain(engine, encoded(sentences))
    assert masks_of(scored) == masks_of(plain)
    assert plain.certificate["batch_tokens_halved"] == {}
    halved = scored.certificate["batch_tokens_halved"]
    assert halved.keys() == {"float32", "float64"} and all(25 <= tokens <= 500 for tokens in halved.values())


def test_a_text_that_memory_cannot_hold_is_said(monkeypatch):
    engine = toy_engine(monkeypatch, random_toy(0), ScoreConfig(precision="float32", **ONE_THREAD))
    monkeypatch.setattr("fastmask.scoring.backend.build_encoder", lambda model, name, *_: Small(random_toy(0), name))
    engine.backend._encoders.clear()
    with pytest.raises(FastmaskError, match="a text of 102 tokens does not fit in memory"):
        score_certain(engine, encoded([[3] * 100]))
