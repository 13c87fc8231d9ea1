"""Arms x seeds -> means, paired intervals, a paired test, and the smallest difference that so many seeds can show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations

import numpy as np

from ..core.errors import FastmaskError
from ..core.words import counted
from ..report.comparison import MANY
from ..report.verdict import FEW, LEVEL

METRICS = ("accuracy", "macro_f1")
RESAMPLES = 10_000
POWER = 0.8
QUANTILES = 10_000
CHUNK = 1 << 22
"""Most drawn row numbers that the bootstrap holds at a time."""
METHOD = {
    "interval": "percentiles 2.5 and 97.5 of the mean difference over resamples; a resample draws seeds and, "
    "independently, test rows, both with replacement, and the same draw serves every arm",
    "p": f"two-sided paired t test over seeds on this test set, from {FEW} seeds on; not corrected for "
    "the number of comparisons",
    "p_holm": "the same, corrected by Holm's method for all comparisons of the report: among differences with p_holm "
    "below 0.05 there is a false one at most once in twenty comparisons like this",
    "detectable": f"smallest true difference that this test shows with power {POWER} at level {LEVEL}, given this "
    "number of seeds and the sd of their paired differences",
}


def compare(
    arms: Mapping[str, Sequence[np.ndarray]],
    labels: np.ndarray,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Compare arms whose i-th predictions all come from the i-th seed.

    A test over seeds alone speaks of this test set; the interval also of other test rows, and is mostly the wider.

    Args:
        arms: name -> one int [N] array of predicted classes per seed; every arm has the same seeds in the same order.
        labels: int [N], the true classes.
        pairs: (arm, baseline) to compare; each later arm with each earlier one unless given.
        resamples: draws of the bootstrap.
        seed: of those draws.

    Returns:
        A JSON-ready report: ``rows``, ``seeds``, ``resamples``, ``method`` (METHOD), ``arms`` (name -> metric ->
        ``values`` one per seed, ``mean``, ``sd``) and ``differences`` (each arm minus its baseline: ``arm``,
        ``baseline`` and per metric ``mean``, ``sd``, ``interval``, ``p``, ``p_holm``, ``detectable``).
        What one seed, or differences without any spread, cannot tell (``sd``, ``p``, ``p_holm``, ``detectable``) is
        null, and so is p of fewer than FEW seeds.

    Raises:
        FastmaskError: no rows, an arm without seeds, arms of different shapes, or scipy is not installed.
    """
    _scipy()
    labels = np.asarray(labels)
    predictions = {name: _stacked(name, runs, labels) for name, runs in arms.items()}
    seeds = _number_of_seeds(predictions)
    tables = _tables(predictions, labels)
    scores = {name: _scores(table, np.ones((1, len(labels)), np.float32)) for name, table in tables.items()}
    values = {name: {m: scores[name][m][0] for m in METRICS} for name in tables}
    drawn = _bootstrap(tables, seeds, len(labels), resamples, np.random.default_rng(seed))
    differences: list[dict] = [
        {"arm": new, "baseline": old}
        | {m: _difference(values[new][m] - values[old][m], drawn[new][m] - drawn[old][m]) for m in METRICS}
        for new, old in pairs or [(new, old) for old, new in combinations(tables, 2)]
    ]
    for metric in METRICS:
        for entry, p in zip(differences, holm([entry[metric]["p"] for entry in differences]), strict=True):
            entry[metric]["p_holm"] = p
    return {
        "rows": len(labels),
        "seeds": seeds,
        "resamples": resamples,
        "method": METHOD,
        "arms": {name: {m: _summary(values[name][m]) for m in METRICS} for name in tables},
        "differences": differences,
    }


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected by Holm's step-down method (1979); None stays, and counts as no comparison.

    Of m values in ascending order the k-th (from 0) times m - k, and at least the one before it, at most 1.
    """
    found: list[float | None] = [None] * len(p)
    order = sorted((value, at) for at, value in enumerate(p) if value is not None)
    least = 0.0
    for k, (value, at) in enumerate(order):
        found[at] = least = max(least, min(1.0, (len(order) - k) * value))
    return found


def _number_of_seeds(predictions: dict[str, np.ndarray]) -> int:
    counts = {name: len(runs) for name, runs in predictions.items()}
    if len(set(counts.values())) != 1:
        said = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise FastmaskError(f"arms are compared seed by seed and need the same number of them: {said or 'no arm'}")
    return next(iter(counts.values()))


def _scipy():
    try:
        from scipy import optimize, stats
    except ImportError:
        raise FastmaskError("a comparison needs scipy; pip install 'fastmask[evaluate]'") from None
    return optimize, stats


def detectable_difference(sd: float, seeds: int, power: float = POWER, level: float = LEVEL) -> float:
    """Return the true mean difference that a two-sided paired t test over ``seeds`` >= 2 pairs finds with this power.

    Args:
        sd: standard deviation of the paired differences.
    """
    return _detectable(seeds, power, level) * sd / np.sqrt(seeds)


@cache
def _detectable(seeds: int, power: float, level: float) -> float:
    """Return the same in standard errors."""
    optimize, stats = _scipy()
    freedom = seeds - 1
    bound = stats.t.ppf(1 - level / 2, freedom)
    # the test's power is that of a z test averaged over the sample's sd, taken at its quantiles; scipy's own
    # noncentral t gives nan in places
    spread = np.sqrt(stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, freedom) / freedom)

    def excess(shift: float) -> float:
        tails = stats.norm.cdf(shift - bound * spread) + stats.norm.cdf(-shift - bound * spread)
        return float(tails.mean()) - power

    return float(optimize.brentq(excess, 0.0, 10 * bound))


def _stacked(name: str, runs: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Return the arm's predictions as one int array [S, N]."""
    if not len(labels) or labels.ndim != 1:
        raise FastmaskError("there are no test rows to compare on")
    if not len(runs):
        raise FastmaskError(f"arm {name}: has no seed")
    for number, run in enumerate(runs, 1):
        if np.shape(run) != labels.shape:
            has = counted(np.size(run), "prediction")
            raise FastmaskError(f"arm {name}: run {number} has {has} for {counted(len(labels), 'test row')}")
    return np.stack(runs)


class _Table:
    """Which (row, seed, class) cells an arm hits and marks.

    Attributes:
        hits, predicted: float32 [N, S * C], 1 where the class is predicted (and, in ``hits``, right).
        given: float32 [N, C], 1 at the row's class.
    """

    def __init__(self, predictions: np.ndarray, labels: np.ndarray, classes: np.ndarray):
        marked = predictions.T[:, :, None] == classes
        given = labels[:, None] == classes
        self.predicted = marked.reshape(len(labels), -1).astype(np.float32)
        self.hits = (marked & given[:, None, :]).reshape(len(labels), -1).astype(np.float32)
        self.given = given.astype(np.float32)


def _tables(predictions: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, _Table]:
    classes = np.unique(np.concatenate([labels, *(runs.ravel() for runs in predictions.values())]))
    return {name: _Table(runs, labels, classes) for name, runs in predictions.items()}


def _scores(table: _Table, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return both metrics, float64 [R, S], on R multisets of rows.

    A class that a multiset neither holds nor predicts counts 0 in macro-F1, as in ``predict.macro_f1``.

    Args:
        weights: float32 [R, N], how often each row is in each multiset; float32 counts exactly up to 2**24.
    """
    given = (weights @ table.given)[:, None, :].astype(np.float64)
    hits = (weights @ table.hits).reshape(len(weights), -1, given.shape[2]).astype(np.float64)
    marked = (weights @ table.predicted).reshape(hits.shape) + given
    rows = weights.sum(1, keepdims=True)
    return {"accuracy": hits.sum(2) / rows, "macro_f1": (2 * hits / np.maximum(marked, 1)).mean(2)}


def _bootstrap(
    tables: dict[str, _Table], seeds: int, rows: int, resamples: int, rng: np.random.Generator
) -> dict[str, dict[str, np.ndarray]]:
    """Return arm -> metric -> float64 [R], its mean over the drawn seeds on the drawn rows, R resamples."""
    parts: dict[str, dict[str, list]] = {name: {m: [] for m in METRICS} for name in tables}
    step = max(1, CHUNK // rows)
    for start in range(0, resamples, step):
        draws = min(step, resamples - start)
        row_weights, seed_weights = _drawn(rng, draws, rows), _drawn(rng, draws, seeds)
        for name, table in tables.items():
            for metric, scores in _scores(table, row_weights).items():
                parts[name][metric].append((scores * seed_weights).sum(1) / seeds)
    return {name: {m: np.concatenate(parts[name][m]) for m in METRICS} for name in tables}


def _drawn(rng: np.random.Generator, draws: int, size: int) -> np.ndarray:
    """Return float32 [draws, size], how often each of ``size`` things came up in ``size`` draws with replacement."""
    cells = rng.integers(0, size, (draws, size)) + size * np.arange(draws)[:, None]
    return np.bincount(cells.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float32)


def _summary(values: np.ndarray) -> dict:
    values = np.asarray(values, np.float64)
    return {"values": values.tolist(), "mean": float(values.mean()), "sd": _sd(values)}


def _sd(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _difference(by_seed: np.ndarray, drawn: np.ndarray) -> dict:
    _, stats = _scipy()
    by_seed = np.asarray(by_seed, np.float64)
    sd = _sd(by_seed)
    # without spread a t test divides by zero; rounding of equal differences is no spread
    spread = sd if sd is not None and sd > 1e-12 else 0.0
    return {
        "mean": float(by_seed.mean()),
        "sd": sd,
        "interval": [float(bound) for bound in np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])],
        "p": float(stats.ttest_1samp(by_seed, 0.0).pvalue) if spread and len(by_seed) >= FEW else None,
        "detectable": detectable_difference(spread, len(by_seed)) if spread else None,
    }


def statements(report: dict) -> Iterator[str]:
    """Yield a sentence about each difference in accuracy, in points of 0.01; of many, the table is enough."""
    for entry in report["differences"] if len(report["differences"]) <= MANY else ():
        figures = entry["accuracy"]
        low, high = (100 * bound for bound in figures["interval"])
        line = f"{entry['arm']} - {entry['baseline']}: {100 * figures['mean']:+.2f} points, "
        line += f"95 % interval {low:+.2f} to {high:+.2f}"
        if figures["detectable"] is None:
            yield f"{line}; {counted(report['seeds'], 'seed')} without spread cannot be tested"
            continue
        p = "" if figures["p"] is None else f", p = {figures['p']:.3g} ({figures['p_holm']:.3g} by Holm)"
        least = f"{counted(report['seeds'], 'seed')} could have shown {100 * figures['detectable']:.2f}"
        yield f"{line}{p}; {least} with power {POWER}"
