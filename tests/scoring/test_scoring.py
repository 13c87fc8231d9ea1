"""The engine against the paper's rule written out in plain Python, on classifiers that can be computed by hand."""

from dataclasses import dataclass
from decimal import Decimal, getcontext

import numpy as np
import pytest
from helpers import ADDITIVE, CLS, FIRST_ID, METHODS, SEP, Toy, encoded, masks_of, split, toy_engine
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastmask.core.config import ScoreConfig
from fastmask.scoring.engine import score_certain

getcontext().prec = 60
QUICK = settings(deadline=None, max_examples=40)


@dataclass
class Unit:
    """One classifier question: the paper's rule on it."""

    right: bool
    prob: Decimal
    importance: list[Decimal]
    important: list[bool]


class Paper:
    """The paper's rule, one variant at a time, with 60 digits."""

    def __init__(self, toy: Toy, method: str, threshold: float, max_length: int = 128):
        self.toy, self.method, self.threshold, self.max_length = toy, method, Decimal(threshold), max_length

    def probabilities(self, content, context) -> list[Decimal]:
        if context is None:
            ids = [CLS, *content[: self.max_length - 2], SEP]
            types = [0] * len(ids)
        else:
            first = [CLS, *context, SEP]
            ids = [*first, *content[: max(self.max_length - len(first) - 1, 0)], SEP]
            types = [0] * len(first) + [1] * (len(ids) - len(first))
        powers = [Decimal(float(z)).exp() for z in self.toy.logits(ids, types)]
        return [round(power / sum(powers), 50) for power in powers]

    def room(self, context) -> int:
        return self.max_length - 2 - (0 if context is None else len(context) + 1)

    def unit(self, words, label, context=None) -> Unit:
        whole = self.probabilities(words, context)
        predicted = max(range(len(whole)), key=lambda c: (whole[c], -c))
        target = predicted if label < 0 else label
        unit = Unit(predicted == target, whole[target], [], [])
        if not unit.right:
            return unit
        kept = []
        for i, word in enumerate(words):
            variant = {
                "greedy": [*kept, word],
                "prefix": words[: i + 1],
                "leave-one-out": words[:i] + words[i + 1 :],
            }[self.method]
            drop = whole[target] - self.probabilities(variant, context)[target]
            drop = round(drop, 40)  # so that what is equal by hand is equal here
            important = drop >= self.threshold if self.method == "leave-one-out" else drop < self.threshold
            unit.importance.append(drop)
            # what the classifier does not see of the sentence is never masked
            unit.important.append(important and i < self.room(context))
            if not important:
                kept.append(word)
        return unit

    def masks(self, words, units, stop_ids=(), mask_rate=None, digits=12) -> list[int]:
        """Union over units; stop words taken out; the rate cap by importance of so many digits, ties by position."""
        right = [unit for unit in units if unit.right]
        found = [i for i in range(len(words)) if any(u.important[i] for u in right) and words[i] not in stop_ids]
        if mask_rate is None:
            return found
        sign = -1 if self.method == "leave-one-out" else 1
        found.sort(key=lambda i: (min(sign * round(u.importance[i], digits) for u in right), i))
        return sorted(found[: max(1, int(mask_rate * len(words)))])


def weights(classes: int, span: int = 6, vocabulary: int = 12):
    row = st.lists(st.integers(-span, span), min_size=vocabulary, max_size=vocabulary)
    return st.lists(row, min_size=classes, max_size=classes).map(Toy)


words = st.lists(st.integers(FIRST_ID, 11), min_size=1, max_size=12)
thresholds = st.sampled_from([0.05, 0.01, 0.0, -0.01, -0.5, -1.0, 0.5, 1.0]) | st.floats(-1, 1, width=16)


spares = st.sampled_from([0, 30, 1000])
"""Tokens for looking ahead."""


@given(
    toy=weights(2) | weights(3),
    sentences=st.lists(words, min_size=1, max_size=6),
    labels=st.lists(st.integers(-1, 1), min_size=6, max_size=6),
    method=st.sampled_from(METHODS),
    threshold=thresholds,
    max_length=st.sampled_from([8, 9, 128]),
    stop=st.sets(st.integers(FIRST_ID, 11), max_size=3),
    spare=spares,
)
@QUICK
def test_texts(toy, sentences, labels, method, threshold, max_length, stop, spare):
    config = ScoreConfig(method=method, threshold=threshold, max_length=max_length, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        engine = toy_engine(patch, toy, config, stop_ids=stop, spare_tokens=spare)
        scored, _ = score_certain(engine, encoded(sentences, labels[: len(sentences)]))
    paper = Paper(toy, method, threshold, max_length)
    units = [paper.unit(sentence, label) for sentence, label in zip(sentences, labels, strict=False)]
    assert masks_of(scored) == [paper.masks(s, [u], stop) for s, u in zip(sentences, units, strict=True)]
    assert scored.scored.tolist() == [unit.right for unit in units]
    np.testing.assert_allclose(scored.prob, [float(unit.prob) for unit in units], rtol=1e-6)
    for found, unit in zip(split(scored.sentences.offsets, scored.importance), units, strict=True):
        if unit.right:
            np.testing.assert_allclose(found, [float(drop) for drop in unit.importance], atol=1e-6)


aspect = st.tuples(st.lists(st.integers(FIRST_ID, 11), min_size=1, max_size=3), st.integers(0, 2))


@given(
    toy=weights(3),
    texts=st.lists(st.tuples(words, st.lists(aspect, max_size=3)), min_size=1, max_size=4),
    method=st.sampled_from(METHODS),
    threshold=thresholds,
    max_length=st.sampled_from([10, 128]),
    mask_rate=st.none() | st.sampled_from([0.15, 0.5]),
    spare=spares,
)
@QUICK
@example(  # two words whose importance differs by 7e-10
    toy=Toy([[0, 0, 0, -1, 0, -2, 0, -4, 0, 0, 0, -4], [0, 0, 5, *[0] * 8, 1], [0, 0, 1, *[0] * 9]]),
    texts=[([3, 3, 3, 3, 5, 5, 7, 7, 7, 11], [([3, 3, 3], 1)])], method="leave-one-out", threshold=0.01,
    max_length=128, mask_rate=0.5, spare=0,
)  # fmt: skip
def test_aspects(toy, texts, method, threshold, max_length, mask_rate, spare):
    config = ScoreConfig(method=method, threshold=threshold, max_length=max_length, mask_rate=mask_rate, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        engine = toy_engine(patch, toy, config, is_aspect=True, spare_tokens=spare)
        scored, _ = score_certain(engine, encoded([t for t, _ in texts], aspects=[a for _, a in texts]))
    paper = Paper(toy, method, threshold, max_length)
    found = zip(masks_of(scored), split(scored.sentences.offsets, scored.importance), strict=True)
    for n, ((sentence, aspects), (masks, importance)) in enumerate(zip(texts, found, strict=True)):
        units = [paper.unit(sentence, label, context) for context, label in aspects]
        right = [unit for unit in units if unit.right]
        # S of several aspects is told apart by nine digits; what differs by less is equal
        assert masks == paper.masks(sentence, units, mask_rate=mask_rate, digits=9)
        assert scored.scored[n] == bool(right) and scored.predicted[n] == -1
        if right:
            smallest = [float(min(drops)) for drops in zip(*(u.importance for u in right), strict=True)]
            np.testing.assert_allclose(importance, smallest, atol=1e-6)
            assert scored.prob[n] == pytest.approx(float(min(u.prob for u in right)), rel=1e-6)
        else:
            assert np.isnan(scored.prob[n])


@given(
    toy=weights(2, span=3),
    sentences=st.lists(words, min_size=1, max_size=4),
    method=st.sampled_from(METHODS),
    mask_rate=st.sampled_from([0.01, 0.15, 0.25, 0.5, 1.0]),
    stop=st.sets(st.integers(FIRST_ID, 11), max_size=3),
)
@QUICK
def test_rate_cap(toy, sentences, method, mask_rate, stop):
    config = ScoreConfig(method=method, mask_rate=mask_rate, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        scored, _ = score_certain(toy_engine(patch, toy, config, stop_ids=stop), encoded(sentences))
    paper = Paper(toy, method, 0.05)
    assert masks_of(scored) == [paper.masks(s, [paper.unit(s, -1)], stop, mask_rate) for s in sentences]


def score_by_hand(monkeypatch, sentence, label=-1, toy=ADDITIVE, **options):
    engine = toy_engine(monkeypatch, toy, ScoreConfig(threads=1, **options))
    scored, _ = score_certain(engine, encoded([sentence], [label]))
    return scored


def test_greedy_by_hand(monkeypatch):
    # [CLS] w [SEP]: place 1 counts 2/8, place 2 counts 3/8, place 3 counts 4/8. The whole: 3 at 2/8, 5 at 3/8, 4 at
    # 4/8: z = 6 + 4 = 10, P = 0.99995. Word 3: z = 0, S = 0.49995 > 0.05: kept. Then 3 5: z = 6, P = 0.9975,
    # S = 0.0024 < 0.05: important, left out. Then 3 4: z = 3, P = 0.9526, S = 0.0474 < 0.05: important.
    scored = score_by_hand(monkeypatch, [3, 5, 4])
    assert masks_of(scored) == [[1, 2]]
    np.testing.assert_allclose(scored.importance, [0.4999546, 0.0024272, 0.0473805], atol=1e-6)
    assert scored.prob[0] == pytest.approx(0.9999546) and scored.predicted[0] == 1


def test_prefix_and_leave_one_out_by_hand(monkeypatch):
    # prefixes: z = 0, 6, 10; without word 0: 5 at 2/8, 4 at 3/8: z = 7; without 1: 3; without 2: 6
    scored = score_by_hand(monkeypatch, [3, 5, 4], method="prefix")
    np.testing.assert_allclose(scored.importance, [0.4999546, 0.0024272, 0.0], atol=1e-6)
    assert masks_of(scored) == [[1, 2]]
    scored = score_by_hand(monkeypatch, [3, 5, 4], method="leave-one-out", threshold=0.04)
    np.testing.assert_allclose(scored.importance, [0.0008653, 0.0473805, 0.0024272], atol=1e-6)
    assert masks_of(scored) == [[1]]


def test_a_wrong_label_is_not_scored(monkeypatch):
    scored = score_by_hand(monkeypatch, [3, 5, 4], label=0)
    assert not scored.scored[0] and masks_of(scored) == [[]] and scored.predicted[0] == 1
    assert scored.prob[0] == pytest.approx(4.54e-5, rel=1e-3)


def test_a_drop_equal_to_the_threshold(monkeypatch):
    # the prefix of all words has S = 0 exactly: not below 0 for prefix, and at least 0 without a word of no weight
    assert masks_of(score_by_hand(monkeypatch, [5, 3], method="prefix", threshold=0.0)) == [[]]
    assert masks_of(score_by_hand(monkeypatch, [5, 3], method="leave-one-out", threshold=0.0)) == [[0, 1]]


@pytest.mark.parametrize(("threshold", "masks"), [(1.0, [0, 1, 2]), (-1.0, [])])
def test_thresholds_at_their_ends(monkeypatch, threshold, masks):
    assert masks_of(score_by_hand(monkeypatch, [3, 5, 4], threshold=threshold)) == [masks]


def test_nothing_is_decided_where_the_class_is_certain(monkeypatch):
    # P(y|s) rounds to 1: in probability space S of the word of no weight would be 0, in log-odds the order is kept
    toy = Toy([[0] * 12, [0, 0, 0, 0, 400, 800, 0, 0, 0, 0, 0, 0]])
    scored = score_by_hand(monkeypatch, [5, 4], toy=toy, method="prefix", threshold=0.0)
    assert scored.prob[0] == 1.0 and masks_of(scored) == [[]]


def test_ties_go_by_position(monkeypatch):
    toy = Toy(np.zeros((2, 12)))
    scored = score_by_hand(monkeypatch, [3, 4, 5, 6, 7, 8], toy=toy, mask_rate=0.5)
    assert masks_of(scored) == [[0, 1, 2]]


def test_a_tie_of_classes_takes_the_first(monkeypatch):
    assert score_by_hand(monkeypatch, [3], toy=Toy(np.zeros((3, 12)))).predicted[0] == 0


def test_text_beyond_the_length_repeats_the_last_variant(monkeypatch):
    asked = []
    engine = toy_engine(monkeypatch, ADDITIVE, ScoreConfig(threads=1, max_length=8), asked=asked)
    scored, _ = score_certain(engine, encoded([[7, 3] * 20]))
    assert len(set(scored.importance[12:].tolist())) == 1
    assert max(len(ids) for _, ids in asked) == 8


@pytest.mark.parametrize(
    "options",
    [{"method": "greedy"}, {"method": "prefix"}, {"method": "leave-one-out", "threshold": -0.5}],
    ids=lambda options: options["method"],
)
def test_what_is_cut_off_is_not_masked(monkeypatch, options):
    # nothing moves P, so S is 0 and every word important: those are masked that fit between [CLS] and [SEP]
    scored = score_by_hand(monkeypatch, [3] * 40, toy=Toy(np.zeros((2, 12))), max_length=8, **options)
    assert masks_of(scored) == [[0, 1, 2, 3, 4, 5]] and not scored.importance.any()


def test_an_aspect_longer_than_the_length_stays_within_it(monkeypatch):
    """A variant longer than the model's positions would read past their table."""
    asked = []
    engine = toy_engine(monkeypatch, ADDITIVE, ScoreConfig(threads=1, max_length=8), is_aspect=True, asked=asked)
    score_certain(engine, encoded([[3, 4, 5]], aspects=[[([5] * 30, 1)]]))
    assert max(len(ids) for _, ids in asked) <= 8
