"""Certified decisions: cheap precision first, a higher one wherever the cheap one could be wrong (DESIGN section 4).

Decisions are taken in logit space. With z the log-odds of the target class on a variant and z* those of
P(y|s) - d, a token is *above* when z > z*. A level's band eps bounds its error in z, so a decision with
|z - z*| > eps is the exact one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

# Differences in float64 log-odds below this are rounding: they count as equal.
TIE = 1e-9
# A band is this many times the largest error seen: about the spread of the maximum over a run's worth of variants.
SAFETY = 1.5
# float32 doubts cost next to nothing, so its band is generous; it may not shrink below what other batch shapes do.
SAFETY_FLOAT32 = 16.0
FLOOR_FLOAT32 = 2e-5

# Bits of a decision: z is above z_star; z is too near it to be certain, or not finite.
ABOVE, DOUBT = 1, 2


class Limits(NamedTuple):
    """What answers on V variants are compared with, float64 [V] each.

    Attributes:
        z_full: log-odds of y on the whole sentence.
        z_star: log-odds above which a variant's token is important.
        width: how near to z_star an answer leaves a doubt.
    """

    z_full: np.ndarray
    z_star: np.ndarray
    width: np.ndarray


class Ask(Protocol):
    """How the cascade asks about variants (units, indices int32 [V]; index -1 is the whole sentence) at a level."""

    def __call__(self, level: int, units: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """z float64 [V], log-odds of each unit's class."""
        ...

    def decide(self, level: int, units, indices, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """z float64 [V] and decisions uint8 [V], bits ABOVE and DOUBT."""
        ...


@dataclass(frozen=True, slots=True)
class Bands:
    """eps of each level of the cascade, in log-odds; the last level's is TIE.

    Attributes:
        levels: precision names, cheapest first, "float64" last if the model can run in it; one alone when decisions are
            not certified.
        eps: one band a level; infinite at a level that is being calibrated.
    """

    levels: tuple[str, ...]
    eps: tuple[float, ...]

    @property
    def float32(self) -> float:
        """The float32 level's band; 0 in a run that is not certified."""
        return self.eps[self.levels.index("float32")] if len(self.levels) > 1 else 0.0

    def widened(self, max_error: np.ndarray) -> Bands:
        """The bands after errors float64 [L] were seen: each that was exceeded becomes SAFETY times the error."""
        pairs = zip(self.eps, max_error, strict=True)
        return Bands(self.levels, tuple(e if seen <= e else float(SAFETY * seen) for e, seen in pairs))


def calibrated(levels: tuple[str, ...], max_error: np.ndarray) -> Bands:
    """Bands from the largest error float64 [L] of each level against the next."""
    eps = []
    for level, error in zip(levels[:-1], max_error, strict=False):
        is_float32 = level == "float32"
        factor, floor = (SAFETY_FLOAT32, FLOOR_FLOAT32) if is_float32 else (SAFETY, FLOOR_FLOAT32)
        eps.append(max(float(error) * factor, floor))
    return Bands(levels, (*eps, TIE))


@dataclass(slots=True)
class Evidence:
    """What was seen while deciding; merged over blocks.

    Attributes:
        decisions: variants decided.
        rechecked: int64 [L], variants that needed level l after a doubt (index 0 is unused); calibration apart.
        audited, flips: accepted decisions recomputed one level up, and those that came out differently.
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

    def __post_init__(self):
        self.rechecked, self.pairs = np.zeros(self.levels, np.int64), np.zeros(self.levels, np.int64)
        self.max_error = np.zeros(self.levels)

    def compare(self, level: int, low: np.ndarray, high: np.ndarray) -> None:
        """Record the errors of ``level`` against the next one: float64 [V] each; overflows are doubts, not errors."""
        finite = np.isfinite(low) & np.isfinite(high)
        error = np.abs(low[finite] - high[finite])
        self.pairs[level] += len(low)
        self.max_error[level] = max(self.max_error[level], float(error.max(initial=0.0)))

    def merge(self, other: Evidence) -> None:
        """Add what another block saw."""
        for name in ("decisions", "audited", "flips"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.rechecked += other.rechecked
        self.pairs += other.pairs
        np.maximum(self.max_error, other.max_error, out=self.max_error)

    def refutes(self, bands: Bands) -> bool:
        """Whether an error outside its band was seen; every flipped decision comes with one."""
        return bool(np.any(self.max_error > np.array(bands.eps)))

    def certificate(self, bands: Bands, rescored: int, settled: bool, halved: dict[str, int] | None = None) -> dict:
        """The record of one shard, JSON-ready, by precision.

        Args:
            bands: those it ended with.
            rescored: its repetitions with wider bands.
            settled: whether the next shard goes on with these bands; else it calibrates anew.
            halved: token budgets of precisions at which memory has run out.
        """
        lower = bands.levels[:-1]
        return {
            "eps": dict(zip(lower, bands.eps, strict=False)),
            "decisions": self.decisions,
            "rechecked": dict(zip(bands.levels[1:], self.rechecked[1:].tolist(), strict=True)),
            "pairs": dict(zip(lower, self.pairs.tolist(), strict=False)),
            "max_error": dict(zip(lower, self.max_error.tolist(), strict=False)),
            "audited": self.audited,
            "flips": self.flips,
            "rescored": rescored,
            "settled": settled,
            "batch_tokens_halved": halved or {},
        }


def bands_of(certificate: dict, levels: tuple[str, ...]) -> Bands | None:
    """The bands that a shard's certificate hands to the next shard; None when that has to calibrate anew."""
    eps = certificate.get("eps", {})
    if not certificate.get("settled") or not set(levels[:-1]) <= eps.keys():
        return None
    return Bands(levels, (*(eps[level] for level in levels[:-1]), TIE))


def merged_certificate(certificates: list[dict]) -> dict:
    """One certificate for a run: counts added, errors at their largest, bands as they ended."""
    total = {"eps": {}, "decisions": 0, "rechecked": {}, "pairs": {}, "max_error": {}}
    total |= {"batch_tokens_halved": {}, "audited": 0, "flips": 0, "rescored": 0}
    for one in filter(None, certificates):
        total["eps"] |= one["eps"]
        for level, tokens in one.get("batch_tokens_halved", {}).items():
            total["batch_tokens_halved"][level] = min(total["batch_tokens_halved"].get(level, tokens), tokens)
        for name in ("decisions", "audited", "flips", "rescored"):
            total[name] += one[name]
        for name in ("rechecked", "pairs"):
            for level, count in one[name].items():
                total[name][level] = total[name].get(level, 0) + count
        for level, error in one["max_error"].items():
            total["max_error"][level] = max(total["max_error"].get(level, 0.0), error)
    if total["decisions"]:
        total["rechecked_share"] = sum(total["rechecked"].values()) / total["decisions"]
    return total


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

    def limits(self, units: np.ndarray, bands: Bands, level: int) -> Limits:
        """What answers of ``level`` on units int32 [V] are compared with; those of the last one with exact targets."""
        exact = level > 0 and level == len(bands.levels) - 1
        with np.errstate(invalid="ignore"):  # an unknown target and no band: nothing is certain
            width = bands.eps[level] + bands.float32 * self.slack[units]
        return Limits(self.z_full[units], (self.exact if exact else self.z_star)[units], width)

    def exact_star(self, ask: Ask, level: int, units: np.ndarray, evidence: Evidence) -> None:
        """Make z_star of units int32 [V] exact by the float64 ``level``, each sentence asked once."""
        unknown = np.unique(units[np.isnan(self.exact[units])])
        if len(unknown):
            z = ask(level, unknown, np.full(len(unknown), -1, np.int32))
            evidence.compare(level - 1, self.z_full[unknown], z)
            self.z_full[unknown] = z
            self.exact[unknown] = star(z, self.threshold)


def probability(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), float64."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-z))


def star(z_full: np.ndarray, threshold: float) -> np.ndarray:
    """Log-odds of P - d for P of log-odds z_full, float64 [U]; -inf where P <= d, inf where P - d >= 1."""
    if threshold == 0:
        return z_full.copy()
    p, complement = probability(z_full) - threshold, probability(-z_full) + threshold
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.log(p) - np.log(complement)
    return np.where(p <= 0, -np.inf, np.where(complement <= 0, np.inf, z))


def targets(z_full: np.ndarray, threshold: float, eps_float32: float) -> Targets:
    """The targets of units whose whole sentence has float32 log-odds z_full float64 [U]."""
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
    """Decisions uint8 [V], bits ABOVE and DOUBT, by z float64 [V]; what is not finite is in doubt."""
    with np.errstate(invalid="ignore"):
        margin = z - limits.z_star
        doubt = ~(np.abs(margin) > limits.width) | ~np.isfinite(z)
        return np.where(margin > TIE, ABOVE, 0).astype(np.uint8) | np.where(doubt, DOUBT, 0).astype(np.uint8)


def resolve(ask: Ask, units, indices, first, goal: Targets, bands: Bands, audit, evidence: Evidence):
    """Take decisions through the cascade.

    Args:
        ask: the classifier.
        units, indices: int32 [V].
        first: z and decisions of level 0 on them.
        goal: the units' targets.
        bands: the cascade in force.
        audit: bool [V], decisions to recompute one level up even when they are certain.
        evidence: updated.

    Returns:
        z float64 [V], level uint8 [V] it was computed at, above bool [V].
    """
    z, code = first[0].copy(), first[1]
    level, above = np.zeros(len(units), np.uint8), (code & ABOVE) != 0
    doubt = (code & DOUBT) != 0
    evidence.decisions += len(units)
    open_ = np.arange(len(units))
    last = len(bands.levels) - 1
    for low in range(last):
        taken = doubt | audit[open_]
        chosen = open_[taken]
        if not len(chosen):
            break
        asked = units[chosen]
        if low + 1 == last:
            goal.exact_star(ask, last, asked, evidence)
        higher, code = ask.decide(low + 1, asked, indices[chosen], goal.limits(asked, bands, low + 1))
        now = (code & ABOVE) != 0
        evidence.compare(low, z[chosen], higher)
        if np.isfinite(bands.eps[low]):
            evidence.rechecked[low + 1] += int(doubt.sum())
        _count_audit(evidence, doubt[taken], above[chosen] != now)
        z[chosen], level[chosen], above[chosen] = higher, low + 1, now
        open_, doubt = open_[doubt], (code & DOUBT)[doubt[taken]] != 0
    return z, level, above


def _count_audit(evidence: Evidence, doubted: np.ndarray, differs: np.ndarray) -> None:
    evidence.audited += int((~doubted).sum())
    evidence.flips += int((differs & ~doubted).sum())
