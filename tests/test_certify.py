"""The precision cascade: targets in log-odds, bands, what is doubtful, what is recorded."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask.scoring.cascade import (
    FLOOR_FLOAT32,
    SAFETY,
    SAFETY_FLOAT32,
    TIE,
    Bands,
    Evidence,
    bands_of,
    calibrated,
    decisions,
    merged_certificate,
    probability,
    resolve,
    star,
    targets,
)

LEVELS = ("bfloat16", "float32", "float64")
EPS = (0.15, 2e-5, TIE)
BANDS = Bands(LEVELS, EPS)
QUICK = settings(deadline=None, max_examples=100)
log_odds = st.floats(-30, 30)


@given(z=log_odds, other=log_odds, d=st.sampled_from([0.0, 0.01, 0.05, -0.05, 0.3, -0.3, 1.0, -1.0]))
@QUICK
def test_star_decides_as_probabilities_do(z, other, d):
    drop = float(probability(np.array(z)) - probability(np.array(other)))
    if abs(drop - d) > 1e-12:
        assert (other > star(np.array([z]), d)[0]) == (drop < d)


def test_star_at_its_ends():
    z = np.array([0.0, -5.0, 5.0])
    assert star(z, 0.5).tolist()[:2] == [-np.inf, -np.inf]
    assert star(z, -0.5).tolist()[0] == np.inf and star(z, -0.5)[2] == np.inf
    assert star(z, 0.0).tolist() == z.tolist()
    assert star(z, 0.05)[0] == pytest.approx(np.log(0.45 / 0.55))


def test_slack_is_how_much_an_error_grows():
    z = np.array([2.0, -2.0, 0.3])
    goal = targets(z, 0.05, 1e-5)
    step = 1e-7
    np.testing.assert_allclose((star(z + step, 0.05) - goal.z_star) / step, goal.slack, rtol=1e-4)
    assert targets(z, 0.0, 1e-5).slack.tolist() == [1, 1, 1]


def test_slack_where_the_target_is_unknown_or_settled():
    edge = np.log(0.05 / 0.95)  # P(y|s) = d: whether everything is important hangs on float32's last bits
    goal = targets(np.array([edge, edge - 1, edge + 1e-6]), 0.05, 1e-4)
    assert goal.slack.tolist() == [np.inf, 0.0, np.inf] and goal.z_star[1] == -np.inf


def test_calibrated_bands():
    bands = calibrated(LEVELS, np.array([0.1, 1e-5]))
    np.testing.assert_allclose(bands.eps, (0.1 * SAFETY, 1e-5 * SAFETY_FLOAT32, TIE))
    assert calibrated(LEVELS, np.zeros(2)).eps == (FLOOR_FLOAT32, FLOOR_FLOAT32, TIE)
    assert bands.float32 == bands.eps[1] and Bands(("float32",), (TIE,)).float32 == 0.0


def test_widened_bands_grow_only_where_they_were_exceeded():
    assert BANDS.widened(np.array([0.2, 1e-6, 0.0])).eps == (pytest.approx(0.3), 2e-5, TIE)
    assert BANDS.widened(np.zeros(3)) == BANDS


class World:
    """Exact log-odds of V variants, and each level's answer to them; counts what is asked."""

    def __init__(self, exact, errors):
        self.z = [exact + error for error in errors]
        self.asked: list[tuple[int, int]] = []

    def __call__(self, level, units, indices):
        self.asked += [(level, int(i)) for i in indices if i >= 0]
        return np.array([self.z[level][i] if i >= 0 else self.full for i in indices])

    def decide(self, level, units, indices, limits):
        z = self(level, units, indices)
        return z, decisions(z, limits)

    full = 2.0


def decide(exact, errors, audit=None, threshold=0.05, bands=BANDS):
    exact = np.asarray(exact, np.float64)
    world = World(exact, [np.asarray(error) for error in errors])
    units, indices = np.zeros(len(exact), np.int32), np.arange(len(exact), dtype=np.int32)
    audit = np.zeros(len(exact), bool) if audit is None else np.asarray(audit)
    goal, evidence = targets(np.array([world.full]), threshold, bands.float32), Evidence(len(bands.levels))
    first = world.decide(0, units, indices, goal.limits(units, bands, 0))
    found = resolve(world, units, indices, first, goal, bands, audit, evidence)
    return *found, evidence, world


@given(
    distance=st.lists(
        st.floats(-1, 1) | st.floats(-0.2, 0.2) | st.floats(-1e-4, 1e-4) | st.floats(-1e-8, 1e-8),
        min_size=1, max_size=20,
    ),
    seed=st.integers(0, 99),
    threshold=st.sampled_from([0.05, 0.0, -0.02]),
)  # fmt: skip
@QUICK
def test_errors_within_the_bands_change_no_decision(distance, seed, threshold):
    rng = np.random.default_rng(seed)
    z_star = star(np.array([World.full]), threshold)[0]
    exact = z_star + np.array(distance)
    sizes = (EPS[0] * 0.99, EPS[1] * 0.49, 0.0)
    errors = [rng.uniform(-size, size, len(exact)) for size in sizes]
    z, level, above, evidence, _ = decide(exact, errors, rng.random(len(exact)) < 0.2, threshold)
    assert above.tolist() == (exact - z_star > TIE).tolist()
    assert evidence.flips == 0 and not evidence.refutes(BANDS)
    assert evidence.decisions == len(exact)
    for value, at in zip(z, level, strict=True):
        assert value in exact + errors[at]


def test_only_doubtful_decisions_go_up():
    z_star = star(np.array([World.full]), 0.05)[0]
    exact = z_star + np.array([1.0, 0.1, 1e-6, -1.0])
    _, level, above, evidence, world = decide(exact, np.zeros((3, 4)))
    assert level.tolist() == [0, 1, 2, 0] and above.tolist() == [True, True, True, False]
    assert world.asked == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 2)]
    assert evidence.rechecked.tolist() == [0, 2, 1] and evidence.pairs.tolist() == [2, 2, 0]
    assert evidence.audited == 0


def test_an_audit_finds_a_flip_and_refutes_the_bands():
    z_star = star(np.array([World.full]), 0.05)[0]
    exact = z_star + np.array([1.0, 1.0])
    errors = [[-2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    _, level, above, evidence, _ = decide(exact, errors, [True, True])
    assert above.tolist() == [True, True] and level.tolist() == [1, 1]
    assert (evidence.audited, evidence.flips) == (2, 1) and evidence.refutes(BANDS)
    assert evidence.max_error.tolist() == [2.0, 0.0, 0.0]
    assert not evidence.refutes(BANDS.widened(evidence.max_error))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_overflow_is_a_doubt_and_hides_no_error(bad):
    z_star = star(np.array([World.full]), 0.05)[0]
    exact = z_star + np.array([-1.0, 1.0, 0.1])
    _, level, above, evidence, _ = decide(exact, [[bad, bad, 0.03], [0.0] * 3, [0.0] * 3])
    assert level.tolist() == [1, 1, 1] and above.tolist() == [False, True, True]
    assert evidence.max_error[0] == pytest.approx(0.03)
    json.dumps(evidence.certificate(BANDS, 0, True), allow_nan=False)


def test_without_certificate_the_one_level_decides():
    bands = Bands(("bfloat16",), (TIE,))
    z_star = star(np.array([World.full]), 0.05)[0]
    _, level, above, _, world = decide(z_star + np.array([1e-3, -1e-3]), [[0.0, 0.0]], [True, True], bands=bands)
    assert above.tolist() == [True, False] and level.tolist() == [0, 0] and len(world.asked) == 2


def test_equal_within_rounding_is_not_above():
    _, _, above, _, _ = decide([World.full] * 3, [[0.1, 0, 0], [0, 1e-6, 0], [1e-12, -1e-12, 0]], threshold=0.0)
    assert above.tolist() == [False, False, False]


def evidence_of(decisions, error) -> Evidence:
    one = Evidence(3)
    one.decisions, one.audited, one.flips = decisions, 3, 1
    one.rechecked[1:] = 4, 2
    one.compare(0, np.array([0.0, 1.0]), np.array([error, 1.0]))
    return one


def test_evidence_adds_up_in_any_order():
    both, swapped = evidence_of(10, 0.3), evidence_of(20, 0.1)
    both.merge(evidence_of(20, 0.1))
    swapped.merge(evidence_of(10, 0.3))
    assert both.certificate(BANDS, 0, True) == swapped.certificate(BANDS, 0, True)
    assert both.decisions == 30 and both.max_error[0] == 0.3 and both.pairs.tolist() == [4, 0, 0]


def test_certificates_are_json_and_hand_on_the_bands():
    record = json.loads(json.dumps(evidence_of(10, 0.3).certificate(BANDS, 2, True), allow_nan=False))
    assert bands_of(record, LEVELS) == BANDS and bands_of(record, LEVELS[1:]) == Bands(LEVELS[1:], EPS[1:])
    assert bands_of({}, LEVELS) is None
    started_at_float32 = Evidence(2).certificate(Bands(LEVELS[1:], EPS[1:]), 0, False)
    assert bands_of(started_at_float32, LEVELS) is None


def test_merged_certificate():
    wider = Bands(LEVELS, (0.4, 2e-5, TIE))
    records = [evidence_of(10, 0.3).certificate(BANDS, 1, True), {}, evidence_of(30, 0.1).certificate(wider, 0, True)]
    total = merged_certificate(records)
    assert total["eps"] == {"bfloat16": 0.4, "float32": 2e-5} and total["decisions"] == 40
    assert total["rechecked"] == {"float32": 8, "float64": 4} and total["rechecked_share"] == 12 / 40
    assert total["max_error"] == {"bfloat16": 0.3, "float32": 0.0} and total["rescored"] == 1
    assert (total["audited"], total["flips"]) == (6, 2)
    assert "rechecked_share" not in merged_certificate([{}])


def test_probability_is_monotonous_and_silent_at_the_ends():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = probability(np.array([-1e4, -30.0, 0.0, 30.0, 1e4]))
    assert all(a < b for a, b in pairwise(found[:4])) and found[2] == 0.5 and found[[0, -1]].tolist() == [0.0, 1.0]
