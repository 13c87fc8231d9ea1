"""The cascade, on toys whose cheap precisions are wrong by a known amount: masks are those of exact arithmetic."""

import warnings

import numpy as np
import pytest
from helpers import ADDITIVE, FIRST_ID, METHODS, Toy, encoded, masks_of, pseudo_noise, split, toy_engine

from fastmask.core.config import ScoreConfig
from fastmask.scoring.engine import score_certain

VOCABULARY = 40
RARE = VOCABULARY - 1
"""A word that only the second shard has."""


def random_toy(seed: int, classes: int = 2) -> Toy:
    return Toy(np.random.default_rng(seed).integers(-9, 10, (classes, VOCABULARY)))


def random_sentences(seed: int, count: int = 150, last_id: int = RARE - 1) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_ID, last_id + 1, rng.integers(1, 13)).tolist() for _ in range(count)]


def rounding(precision, ids) -> float:
    """About the errors that were measured."""
    return pseudo_noise(ids, {"bfloat16": 0.1, "float16": 0.01, "float32": 1e-6, "float64": 0.0}[precision])


def two_shards(patch, toy, noise, **options):
    engine = toy_engine(patch, toy, ScoreConfig(threads=2, **options), noise=noise)
    first, bounds = score_certain(engine, encoded(random_sentences(1)))
    later = [[*s[:-1], RARE] for s in random_sentences(2)]
    second, _ = score_certain(engine, encoded(later, first_row=150), bounds)
    return first, second


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"mask_rate": 0.25}, {"threshold": 0.0}], ids=str)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_masks_of_a_noisy_precision_are_the_exact_ones(monkeypatch, method, options, precision):
    for seed in range(2):
        toy = random_toy(seed, classes=2 + seed)
        noisy = two_shards(monkeypatch, toy, rounding, method=method, precision=precision, **options)
        exact = two_shards(monkeypatch, toy, lambda *_: 0.0, method=method, precision="float32", **options)
        for found, expected in zip(noisy, exact, strict=True):
            assert masks_of(found) == masks_of(expected)
            assert found.predicted.tolist() == expected.predicted.tolist()
            assert 0 < found.certificate["eps"][precision] < 1
            assert found.certificate["max_error"][precision] <= found.certificate["eps"][precision]


def test_an_aspect_cap_is_certified_across_aspects(monkeypatch):
    rng = np.random.default_rng(0)
    texts = random_sentences(3, 120)
    aspects = [[([int(rng.integers(FIRST_ID, RARE))], -1) for _ in range(rng.integers(0, 4))] for _ in texts]
    shard, found = encoded(texts, aspects=aspects), {}
    for precision, noise in (("bfloat16", rounding), ("float32", lambda *_: 0.0)):
        config = ScoreConfig(precision=precision, mask_rate=0.2, threads=2)
        engine = toy_engine(monkeypatch, random_toy(4, 3), config, is_aspect=True, noise=noise)
        found[precision] = masks_of(score_certain(engine, shard)[0])
    assert found["bfloat16"] == found["float32"]


def test_errors_beyond_the_band_widen_it_and_the_shard_is_scored_again(monkeypatch):
    def noise(precision, ids):
        wild = precision == "bfloat16" and RARE in ids
        return pseudo_noise(ids, 2.0) if wild else rounding(precision, ids)

    toy = random_toy(7)
    first, second = two_shards(monkeypatch, toy, noise, precision="bfloat16")
    _, expected = two_shards(monkeypatch, toy, lambda *_: 0.0, precision="float32")
    assert second.certificate["eps"]["bfloat16"] > first.certificate["eps"]["bfloat16"]
    assert masks_of(second) == masks_of(expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_overflow_at_a_cheap_precision_is_rechecked_and_hides_no_error(monkeypatch, bad):
    def noise(precision, ids):
        return bad if precision == "float16" and 5 in ids else rounding(precision, ids) * 10

    toy = random_toy(8)
    warnings.simplefilter("error")
    found = two_shards(monkeypatch, toy, noise, precision="float16")
    expected = two_shards(monkeypatch, toy, lambda *_: 0.0, precision="float32")
    assert [masks_of(shard) for shard in found] == [masks_of(shard) for shard in expected]
    assert 0.05 < found[0].certificate["eps"]["float16"] < 1


def test_a_run_without_certificates_asks_one_precision_for_decisions(monkeypatch):
    asked = []
    config = ScoreConfig(precision="bfloat16", certify=False, threads=1)
    engine = toy_engine(monkeypatch, random_toy(0), config, noise=rounding, asked=asked)
    shard = encoded(random_sentences(1, 20))
    scored, bounds = score_certain(engine, shard)
    assert {precision for precision, _ in asked} == {"bfloat16", "float32"}  # P(y|s) itself is float32
    assert scored.certificate["audited"] == 0 and bounds.levels == ("bfloat16",)


def test_equal_sentences_are_scored_once_and_alike(monkeypatch):
    asked = []
    config = ScoreConfig(precision="float32", threads=1)
    engine = toy_engine(monkeypatch, random_toy(0), config, asked=asked)
    sentences = [*random_sentences(5, 10)] * 3
    scored, _ = score_certain(engine, encoded(sentences))
    masks, importance = masks_of(scored), split(scored.sentences.offsets, scored.importance)
    assert masks[:10] == masks[10:20] == masks[20:] and importance[:10] == importance[10:20] == importance[20:]
    wholes = [ids for _, ids in asked if list(ids[1:-1]) in sentences]
    assert len(wholes) < 3 * 10


def test_equal_texts_with_other_labels_are_different(monkeypatch):
    engine = toy_engine(monkeypatch, ADDITIVE, ScoreConfig(threads=1))
    scored, _ = score_certain(engine, encoded([[3, 5, 4]] * 3, [1, 0, -1]))
    assert scored.scored.tolist() == [True, False, True]
    assert masks_of(scored) == [[1, 2], [], [1, 2]]


def test_masks_depend_on_no_order_budget_or_thread(monkeypatch):
    sentences, toy = random_sentences(6), random_toy(6)
    expected = None
    for order, options in (
        (np.arange(150), {}),
        (np.arange(150)[::-1], {"threads": 3}),
        (np.random.default_rng(0).permutation(150), {"batch_tokens": 1}),
        (np.random.default_rng(1).permutation(150), {"batch_tokens": 64, "seed": 9}),
    ):
        config = ScoreConfig(precision="bfloat16", mask_rate=0.3, **{"threads": 1, **options})
        engine = toy_engine(monkeypatch, toy, config, noise=rounding)
        scored, _ = score_certain(engine, encoded([sentences[n] for n in order]))
        found = {int(n): masks for n, masks in zip(order, masks_of(scored), strict=True)}
        expected = expected or found
        assert found == expected


def test_stopped_engine(monkeypatch):
    from fastmask.scoring.backend import Stopped

    engine = toy_engine(monkeypatch, ADDITIVE, ScoreConfig(threads=1))
    engine.stop()
    with pytest.raises(Stopped):
        score_certain(engine, encoded([[3, 5, 4]]))


def test_too_few_sentences_start_at_float32(monkeypatch):
    toy = Toy([[0, 0, 0, 3, -1, 2, 1, -2, 1, 0, 2, -3, 1, 2, -1, 3, 0, 1, 2, 1], [0] * 20])
    few, more = ([[3 + n % 5, 4, 5 + n // 5] for n in range(count)] for count in (47, 70))
    for precision, levels in (("float32", ("float32", "float64")), ("bfloat16", ("bfloat16", "float32", "float64"))):
        engine = toy_engine(monkeypatch, toy, ScoreConfig(precision=precision))
        assert engine.calibrate(iter([encoded(few)])).levels == ("float32", "float64")
        assert engine.calibrate(iter([encoded(more)])).levels == levels
        # what a sample lacks comes from the shards after it, and no more of them are read
        shards = iter([encoded(few), encoded(more), encoded(few)])
        assert engine.calibrate(shards).levels == levels and len(list(shards)) == 1


def test_a_shard_is_a_function_of_its_sentences_and_the_bounds(monkeypatch):
    """Whatever was scored before it, in whatever order, and whoever has calibrated."""
    config, toy = ScoreConfig(precision="bfloat16", mask_rate=0.3, threads=2), random_toy(9)
    shards = [encoded(random_sentences(seed, 60), first_row=60 * seed) for seed in range(3)]
    engine = toy_engine(monkeypatch, toy, config, noise=rounding)
    bounds = engine.calibrate(iter(shards))
    forwards = [engine.score(shard, bounds) for shard in shards]
    other = toy_engine(monkeypatch, toy, config, noise=rounding)
    backwards = [other.score(shard, bounds) for shard in reversed(shards)][::-1]
    assert other.calibrate(iter(shards)) == bounds
    for one, two in zip(forwards, backwards, strict=True):
        assert masks_of(one) == masks_of(two) and one.certificate == two.certificate
        assert one.importance.tobytes() == two.importance.tobytes() and one.prob.tobytes() == two.prob.tobytes()
