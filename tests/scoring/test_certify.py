"""The precision cascade: targets in log-odds, bounds, what is doubtful, what is recorded."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask.scoring.cascade import (
    ABOVE,
    DOUBT,
    FLOOR_FLOAT32,
    SAFETY,
    SAFETY_FLOAT32,
    TIE,
    WIDENING,
    Bounds,
    Evidence,
    calibrated,
    decisions,
    is_made_with,
    merged_certificate,
    probability,
    settle,
    star,
    targets,
    widened_by,
)

LEVELS = ("bfloat16", "float32", "float64")
EPS = (0.15, 2e-5, TIE)
BOUNDS = Bounds(LEVELS, EPS)
QUICK = settings(deadline=None, max_examples=50)
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


def test_calibrated_bounds():
    bounds = calibrated(LEVELS, np.array([0.1, 1e-5]))
    np.testing.assert_allclose(bounds.eps, (0.1 * SAFETY, 1e-5 * SAFETY_FLOAT32, TIE))
    assert calibrated(LEVELS, np.zeros(2)).eps == (FLOOR_FLOAT32, FLOOR_FLOAT32, TIE)
    assert bounds.float32 == bounds.eps[1] and Bounds(("float32",), (TIE,)).float32 == 0.0


def test_widened_bounds_grow_by_steps_only_where_they_were_exceeded():
    assert BOUNDS.widened([0.2, 1e-6, 0.0]).eps == (0.15 * WIDENING, 2e-5, TIE)
    assert BOUNDS.widened([0.31, 2e-5, 0.0]).eps == (0.15 * WIDENING * WIDENING, 2e-5, TIE)
    assert BOUNDS.widened(np.zeros(3)) == BOUNDS


@given(st.lists(st.floats(0, 5), min_size=1, max_size=6), st.randoms())
@QUICK
def test_errors_in_any_order_lead_to_the_same_bounds(errors, chance):
    together = BOUNDS.widened([max(errors), 0.0, 0.0])
    one_by_one, certificates = BOUNDS, [{"max_error": {"bfloat16": error}} for error in errors]
    chance.shuffle(errors)
    for error in errors:
        one_by_one = one_by_one.widened([error, 0.0, 0.0])
    assert one_by_one == together == widened_by(BOUNDS, [*certificates, {}])
    assert max(errors) <= together.eps[0] and together.eps[1:] == BOUNDS.eps[1:]


class World:
    """Questions of known answers, as ``cascade.Questions``: exact log-odds of V variants of one unit, and each level's
    errors; notes what is asked."""

    full = 2.0

    def __init__(self, exact, errors, threshold, bounds):
        self.z = [exact + error for error in errors]
        self.goal, self.bounds = targets(np.array([self.full]), threshold, bounds.float32), bounds
        self.units = np.zeros(len(exact), np.int32)
        self.values, self.level = np.empty(len(exact)), np.zeros(len(exact), np.uint8)
        self.asked: list[tuple[int, int]] = []
        self.ask(0, np.arange(len(exact)))

    def ask(self, level, chosen):
        self.asked += [(level, int(i)) for i in chosen]
        self.values[chosen], self.level[chosen] = self.z[level][chosen], level
        if level == len(self.bounds.levels) - 1:
            self.goal.exact[:] = star(np.array([self.full]), self.goal.threshold)

    def decide(self):
        code = decisions(self.values, self.goal.limits(self.units, self.bounds, self.level))
        return (code & ABOVE) != 0, (code & DOUBT) != 0


def decide(exact, errors, audit=None, threshold=0.05, bounds=BOUNDS):
    exact = np.asarray(exact, np.float64)
    world = World(exact, [np.asarray(error) for error in errors], threshold, bounds)
    evidence = Evidence(len(bounds.levels))
    above = settle(world, bounds, None if audit is None else np.asarray(audit), evidence)
    return world.values, world.level, above, evidence, world


@given(
    distance=st.lists(
        st.floats(-1, 1) | st.floats(-0.2, 0.2) | st.floats(-1e-4, 1e-4) | st.floats(-1e-8, 1e-8),
        min_size=1, max_size=20,
    ),
    seed=st.integers(0, 99),
    threshold=st.sampled_from([0.05, 0.0, -0.02]),
)  # fmt: skip
@QUICK
def test_errors_within_the_bounds_change_no_decision(distance, seed, threshold):
    rng = np.random.default_rng(seed)
    z_star = star(np.array([World.full]), threshold)[0]
    exact = z_star + np.array(distance)
    sizes = (EPS[0] * 0.99, EPS[1] * 0.49, 0.0)
    errors = [rng.uniform(-size, size, len(exact)) for size in sizes]
    z, level, above, evidence, _ = decide(exact, errors, rng.random(len(exact)) < 0.2, threshold)
    assert above.tolist() == (exact - z_star > TIE).tolist()
    assert evidence.flips == 0 and BOUNDS.widened(evidence.max_error) == BOUNDS
    for value, at in zip(z, level, strict=True):
        assert value in exact + errors[at]


def test_only_doubtful_decisions_go_up():
    z_star = star(np.array([World.full]), 0.05)[0]
    exact = z_star + np.array([1.0, 0.1, 1e-6, -1.0])
    _, level, above, evidence, world = decide(exact, np.zeros((3, 4)))
    assert level.tolist() == [0, 1, 2, 0] and above.tolist() == [True, True, True, False]
    assert world.asked == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 2)]
    assert evidence.rechecked.tolist() == [0, 2, 1] and evidence.pairs.tolist() == [2, 1, 0]
    assert evidence.audited == 0


def test_an_audit_finds_a_flip_and_contradicts_the_bounds():
    z_star = star(np.array([World.full]), 0.05)[0]
    exact = z_star + np.array([1.0, 1.0])
    errors = [[-2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    _, level, above, evidence, _ = decide(exact, errors, [True, True])
    assert above.tolist() == [True, True] and level.tolist() == [1, 1]
    assert (evidence.audited, evidence.flips) == (2, 1)
    assert evidence.max_error.tolist() == [2.0, 0.0, 0.0]
    assert 2.0 <= BOUNDS.widened(evidence.max_error).eps[0] < 2.0 * WIDENING


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_overflow_is_a_doubt_and_hides_no_error(bad):
    z_star = star(np.array([World.full]), 0.05)[0]
    exact = z_star + np.array([-1.0, 1.0, 0.1])
    _, level, above, evidence, _ = decide(exact, [[bad, bad, 0.03], [0.0] * 3, [0.0] * 3])
    assert level.tolist() == [1, 1, 1] and above.tolist() == [False, True, True]
    assert evidence.max_error[0] == pytest.approx(0.03)
    json.dumps(evidence.certificate(BOUNDS), allow_nan=False)


def test_without_certificate_the_one_level_decides():
    bounds = Bounds(("bfloat16",), (TIE,))
    z_star = star(np.array([World.full]), 0.05)[0]
    _, level, above, _, world = decide(z_star + np.array([1e-3, -1e-3]), [[0.0, 0.0]], [True, True], bounds=bounds)
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
    assert both.certificate(BOUNDS) == swapped.certificate(BOUNDS)
    assert both.decisions == 30 and both.max_error[0] == 0.3 and both.pairs.tolist() == [4, 0, 0]


def test_certificates_are_json_and_tell_the_bounds():
    record = json.loads(json.dumps(evidence_of(10, 0.3).certificate(BOUNDS), allow_nan=False))
    assert is_made_with(record, BOUNDS) and is_made_with({}, BOUNDS)
    assert not is_made_with(record, Bounds(LEVELS, (0.2, 2e-5, TIE))) and not is_made_with(
        record, Bounds(LEVELS[1:], EPS[1:])
    )


def test_merged_certificate():
    wider = Bounds(LEVELS, (0.4, 2e-5, TIE))
    records = [evidence_of(10, 0.3).certificate(BOUNDS), {}, evidence_of(30, 0.1).certificate(wider)]
    total = merged_certificate(records)
    assert total["eps"] == {"bfloat16": 0.4, "float32": 2e-5} and total["decisions"] == 40
    assert total["rechecked"] == {"float32": 8, "float64": 4} and total["rechecked_share"] == 12 / 40
    assert total["max_error"] == {"bfloat16": 0.3, "float32": 0.0}
    assert (total["audited"], total["flips"]) == (6, 2)
    assert "rechecked_share" not in merged_certificate([{}])


def test_probability_is_monotonous_and_silent_at_the_ends():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = probability(np.array([-1e4, -30.0, 0.0, 30.0, 1e4]))
    assert all(a < b for a, b in pairwise(found[:4])) and found[2] == 0.5 and found[[0, -1]].tolist() == [0.0, 1.0]
