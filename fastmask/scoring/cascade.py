"""The precision cascade: ask a cheap precision first, and a higher one wherever the cheap answer could be wrong.

Decisions are taken in log-odds. With y the class of a unit, d the threshold and v a variant:

    z      = log P(y|v) - log P(not y|v)              what a level of the cascade answers
    z_full = the same of the whole sentence
    z*     = log-odds of P(y|s) - d                   (``star``)
    S(w) = P(y|s) - P(y|v) < d    <=>    z > z*       the token is important

The **error bound** eps of a level bounds |z of the level - exact z|. z* comes from float32, whose error in z_full grows
on its way to z* by

    slack = dz*/dz_full = p (1 - p) / |(p - d) (1 - p + d)|,    p = P(y|s)

so that a decision is certain, and equal to that of exact arithmetic, when

    |z - z*| > width = eps[level] + eps[float32] * slack

Everything else is a doubt and is asked again one level up. The last level is float64 with an exact z*; differences
there below TIE are rounding and count as equal. Paper section 2.2 has the rule, this file the arithmetic around it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

# Differences in float64 log-odds below this are rounding: they count as equal.
TIE = 1e-9
# A bound is this many times the largest error of the calibration. Of a thousand sentences the largest was up to twice
# that of 160, and a wider bound costs little: instead of one in a hundred decisions two are taken again.
SAFETY = 3.0
# A bound that is exceeded grows by this, so that errors found in any order lead to the same one.
WIDENING = 2.0
# float32 doubts cost next to nothing, so its bound is generous; it may not shrink below what other batch shapes do.
SAFETY_FLOAT32 = 16.0
FLOOR_FLOAT32 = 2e-5

# Bits of a decision: z is above z*; z is too near it to be certain, or not finite.
ABOVE, DOUBT = 1, 2


@dataclass(frozen=True, slots=True)
class Bounds:
    """The error bounds of a run, in log-odds.

    Attributes:
        levels: precision names, cheapest first, "float64" last if the model can run in it; one alone when decisions are
            not certified.
        eps: one bound a level, TIE for the last; infinite at a level that is being calibrated.
    """

    levels: tuple[str, ...]
    eps: tuple[float, ...]

    @property
    def float32(self) -> float:
        """Return the float32 level's bound; 0 in a run that is not certified."""
        return self.eps[self.levels.index("float32")] if len(self.levels) > 1 else 0.0

    def widened(self, max_error: Iterable[float]) -> Bounds:
        """Return the bounds after errors [L] were seen: each that was exceeded grows by WIDENING until it no longer is.

        The steps depend on the bound alone, so errors seen in any order, or in parts, lead to the same bounds.
        """
        eps = list(self.eps)
        for level, seen in enumerate(max_error):
            while seen > eps[level]:
                eps[level] *= WIDENING
        return Bounds(self.levels, tuple(eps))

    def as_dict(self) -> dict[str, float]:
        """Return eps by level, JSON-ready."""
        return dict(zip(self.levels, self.eps, strict=True))


def uncertified(precision: str) -> Bounds:
    """Return the bounds of a run in which one precision decides."""
    return Bounds((precision,), (TIE,))


def calibrated(levels: tuple[str, ...], max_error: np.ndarray) -> Bounds:
    """Return bounds from the largest error float64 [L] of each level against the next."""
    eps = []
    for level, error in zip(levels[:-1], max_error, strict=False):
        factor = SAFETY_FLOAT32 if level == "float32" else SAFETY
        eps.append(max(float(error) * factor, FLOOR_FLOAT32))
    return Bounds(levels, (*eps, TIE))


@dataclass(slots=True)
class Evidence:
    """What was seen while deciding; merged over blocks.

    Attributes:
        decisions: variants decided.
        rechecked: int64 [L], variants that needed level l after a doubt (index 0 is unused); calibration apart.
        audited, flips: certain decisions recomputed one level up, and those that came out differently.
        pairs: int64 [L], variants computed both at level l and l + 1.
        max_error: float64 [L], the largest |difference| between level l and l + 1.
    """

    levels: int
    decisions: int = 0
    audited: int = 0
    flips: int = 0
    rechecked: np.ndarray = field(init=False)
    pairs: np.ndarray = field(init=False)
    max_error: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.rechecked, self.pairs = np.zeros(self.levels, np.int64), np.zeros(self.levels, np.int64)
        self.max_error = np.zeros(self.levels)

    def compare(self, level: int, low: np.ndarray, high: np.ndarray) -> None:
        """Record the errors of ``level`` against the next one: float64 [V] each; overflows are doubts, not errors."""
        finite = np.isfinite(low) & np.isfinite(high)
        error = np.abs(low[finite] - high[finite])
        self.pairs[level] += low.size
        self.max_error[level] = max(self.max_error[level], float(error.max(initial=0.0)))

    def merge(self, other: Evidence) -> None:
        """Add what another block saw."""
        for name in ("decisions", "audited", "flips"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.rechecked += other.rechecked
        self.pairs += other.pairs
        np.maximum(self.max_error, other.max_error, out=self.max_error)

    def certificate(self, bounds: Bounds, halved: dict[str, int] | None = None) -> dict[str, Any]:
        """Return the record of one shard, JSON-ready, by precision.

        Args:
            bounds: those it was made with.
            halved: token budgets of precisions at which memory has run out.
        """
        lower = bounds.levels[:-1]
        return {
            "eps": dict(zip(lower, bounds.eps, strict=False)),
            "decisions": self.decisions,
            "rechecked": dict(zip(bounds.levels[1:], self.rechecked[1:].tolist(), strict=True)),
            "pairs": dict(zip(lower, self.pairs.tolist(), strict=False)),
            "max_error": dict(zip(lower, self.max_error.tolist(), strict=False)),
            "audited": self.audited,
            "flips": self.flips,
            "batch_tokens_halved": halved or {},
        }


def widened_by(bounds: Bounds, certificates: Iterable[dict[str, Any]]) -> Bounds:
    """Return the plan's bounds after what some shards' certificates tell, in whatever order.

    They never shrink below what a shard was made with: an error that was found on a walk of wrong decisions may not be
    met again once these are right, and bounds that fell back to the plan's would make that shard wrong again, for ever.
    """
    seen, made = [0.0] * len(bounds.levels), [0.0] * len(bounds.levels)
    for one in certificates:
        for at, level in enumerate(bounds.levels):
            seen[at] = max(seen[at], one.get("max_error", {}).get(level, 0.0))
            eps = one.get("eps", {}).get(level, 0.0)
            if bounds.widened([0.0] * at + [eps]).eps[at] == eps:  # else no run of this plan has made it
                made[at] = max(made[at], eps)
    return bounds.widened(map(max, seen, made))


def is_made_with(certificate: dict[str, Any], bounds: Bounds) -> bool:
    """Return whether a shard was made with these bounds; one on which no decision fell was made with any."""
    return not certificate or certificate.get("eps") == dict(zip(bounds.levels[:-1], bounds.eps, strict=False))


def merged_certificate(certificates: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one certificate for a run, or for parts of a shard: counts added, errors at their largest."""
    total: dict[str, Any] = {"eps": {}, "decisions": 0, "rechecked": {}, "pairs": {}, "max_error": {}}
    total |= {"batch_tokens_halved": {}, "audited": 0, "flips": 0}
    for one in filter(None, certificates):
        total["eps"] |= one["eps"]
        for level, tokens in one.get("batch_tokens_halved", {}).items():
            total["batch_tokens_halved"][level] = min(total["batch_tokens_halved"].get(level, tokens), tokens)
        for name in ("decisions", "audited", "flips"):
            total[name] += one[name]
        for name in ("rechecked", "pairs"):
            for level, count in one[name].items():
                total[name][level] = total[name].get(level, 0) + count
        if "asked_again" in one:
            total["asked_again"] = total.get("asked_again", 0) + one["asked_again"]
        for level, error in one["max_error"].items():
            total["max_error"][level] = max(total["max_error"].get(level, 0.0), error)
    if total["decisions"]:
        total["rechecked_share"] = sum(total["rechecked"].values()) / total["decisions"]
    return total


def probability(z: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-z)), float64."""
    with np.errstate(over="ignore"):
        p: np.ndarray = 1.0 / (1.0 + np.exp(-z))
    return p


def star(z_full: np.ndarray, threshold: float) -> np.ndarray:
    """Return the log-odds of P - d for P of log-odds z_full, float64 [U]; -inf where P <= d, inf where P - d >= 1."""
    if threshold == 0:
        return z_full.copy()
    p, complement = probability(z_full) - threshold, probability(-z_full) + threshold
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.log(p) - np.log(complement)
    return np.where(p <= 0, -np.inf, np.where(complement <= 0, np.inf, z))


class Limits(NamedTuple):
    """What answers on V variants are compared with, float64 [V] each: z*, and the width around it that is a doubt."""

    z_star: np.ndarray
    width: np.ndarray


@dataclass(slots=True)
class Targets:
    """What each unit's variants are compared with.

    Attributes:
        z_full: float64 [U], log-odds of y on the whole sentence; float32 accuracy or better.
        z_star: float64 [U], log-odds of P(y|s) - d; -inf where that is not positive.
        slack: float64 [U], how many times z_star's error is z_full's; inf where z_star is not known at all.
        exact: float64 [U], z_star from float64, NaN until asked for.
        threshold: d.
    """

    z_full: np.ndarray
    z_star: np.ndarray
    slack: np.ndarray
    exact: np.ndarray
    threshold: float

    def limits(self, units: np.ndarray, bounds: Bounds, level: np.ndarray) -> Limits:
        """Return what answers at ``level`` uint8 [V] on units int32 [V] are compared with; exact at the last level."""
        eps, last = np.array(bounds.eps), len(bounds.levels) - 1
        exact = (level == last) & (last > 0)
        with np.errstate(invalid="ignore"):  # an unknown target and no bound: nothing is certain
            width = eps[level] + bounds.float32 * self.slack[units]
        return Limits(np.where(exact, self.exact[units], self.z_star[units]), np.where(exact, eps[level], width))


def targets(z_full: np.ndarray, threshold: float, eps_float32: float) -> Targets:
    """Return the targets of units whose whole sentence has float32 log-odds z_full float64 [U]."""
    p, complement = probability(z_full) - threshold, probability(-z_full) + threshold
    spread = probability(z_full) * probability(-z_full)
    with np.errstate(divide="ignore", invalid="ignore"):
        slack = spread / np.abs(p * complement)
    settled = (p <= 0) | (complement <= 0)
    margin = np.minimum(np.abs(p), np.abs(complement))
    unknown = margin <= 2 * eps_float32 * spread
    slack = np.where(unknown, np.inf, np.where(settled, 0.0, slack))
    if threshold == 0:
        slack = np.ones(len(z_full))
    return Targets(z_full.copy(), star(z_full, threshold), slack, np.full(len(z_full), np.nan), threshold)


def decisions(z: np.ndarray, limits: Limits) -> np.ndarray:
    """Return decisions uint8 [V], bits ABOVE and DOUBT, by z float64 [V]; what is not finite is in doubt."""
    with np.errstate(invalid="ignore"):
        margin = z - limits.z_star
        doubt = ~(np.abs(margin) > limits.width) | ~np.isfinite(z)
        return np.where(margin > TIE, ABOVE, 0).astype(np.uint8) | np.where(doubt, DOUBT, 0).astype(np.uint8)


class Questions(Protocol):
    """N questions that have an answer each, from some level of the cascade.

    Attributes:
        values: float64 [N] or [k, N], the answers.
        level: uint8 [N], the level of each.
    """

    values: np.ndarray
    level: np.ndarray

    def ask(self, level: int, chosen: np.ndarray) -> None:
        """Answer questions ``chosen`` int64 [K] at a level: writes ``values`` and ``level``."""
        ...

    def decide(self) -> tuple[np.ndarray, np.ndarray]:
        """Return decisions bool [N] by the answers as they are, and doubts bool [N]: answers that leave them open."""
        ...


def settle(questions: Questions, bounds: Bounds, audit: np.ndarray | None, evidence: Evidence) -> np.ndarray:
    """Ask again, one level up, what is in doubt, until nothing is; return the decisions bool [N].

    Args:
        questions: with answers already.
        bounds: the cascade in force.
        audit: bool [N], questions to ask one level up once even if they are certain.
        evidence: of what is asked here; updated.
    """
    last = len(bounds.levels) - 1
    decided, doubt = questions.decide()
    audit = np.zeros(len(doubt), bool) if audit is None else audit
    while True:
        again = np.flatnonzero((doubt | audit) & (questions.level < last))
        if not len(again):
            return decided
        for level in np.unique(questions.level[again])[::-1]:  # the highest first: nothing is asked twice at once
            chosen = again[questions.level[again] == level]
            before = questions.values[..., chosen]
            questions.ask(int(level) + 1, chosen)
            evidence.compare(int(level), before, questions.values[..., chosen])
            if np.isfinite(bounds.eps[level]):
                evidence.rechecked[level + 1] += int(doubt[chosen].sum())
        now, still = questions.decide()
        certain = again[~doubt[again]]
        evidence.audited += len(certain)
        evidence.flips += int((now != decided)[certain].sum())
        decided, doubt, audit = now, still, np.zeros(len(doubt), bool)
