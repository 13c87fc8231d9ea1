"""Accuracy along pre-training: arms after shares of the steps, and which of them is sooner there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..report.verdict import LEVEL, name_of
from ..train.evaluate import RESAMPLES

METHOD = {
    "band": "95 % interval of the mean over seeds, by Student's t, for this test set",
    "reach": "share of the steps after which an arm's mean accuracy, linear between the shares that were measured, is "
    "first that of its control after all steps; interval: percentiles 2.5 and 97.5 over resamples of the seeds, null "
    "where it never is; never: share of the resamples in which it never is",
}


def curve_of(
    reports: Mapping[float, dict], start: str, pairs: Sequence[tuple[str, str]], *, resamples: int = RESAMPLES
) -> dict:
    """Return how accuracy grows with the steps, from comparisons of the same seeds after shares of them.

    Args:
        reports: share of the steps -> report of ``evaluate.compare``; the last, of 1, has arm ``start``, too.
        start: the arm without pre-training, which is where all others are after no step.
        pairs: (arm, its control).
        resamples: draws of the bootstrap.

    Returns:
        JSON-ready: ``method`` (METHOD), ``shares`` from 0 to 1, ``arms`` (name -> ``mean`` and ``band`` at each share),
        and ``reach`` (``arm``, ``control``, ``share``, ``interval``, ``never``). A band of one seed is null.
    """
    shares = [0.0, *reports]
    first = reports[1]["arms"][start]["accuracy"]["values"]
    values = {name: np.array([first, *(report["arms"][name]["accuracy"]["values"] for report in reports.values())])
              for name in reports[1]["arms"] if name != start}  # fmt: skip
    seeds = len(first)
    drawn = np.random.default_rng(0).integers(0, seeds, (resamples, seeds))
    return {
        "method": METHOD,
        "shares": shares,
        "arms": {name: {"mean": own.mean(1).tolist(), "band": _band(own)} for name, own in values.items()},
        "reach": [{"arm": arm, "control": control} | _reach(shares, values[arm], values[control][-1], drawn)
                  for arm, control in pairs],
    }  # fmt: skip


def _band(values: np.ndarray) -> list[list[float]] | None:
    """Return the interval of the mean at each share, of accuracies float64 [K, S]."""
    from scipy import stats

    seeds = values.shape[1]
    if seeds < 2:
        return None
    half = stats.t.ppf(1 - LEVEL / 2, seeds - 1) * values.std(1, ddof=1) / np.sqrt(seeds)
    return np.stack([values.mean(1) - half, values.mean(1) + half], 1).tolist()


def _reach(shares: Sequence[float], values: np.ndarray, last: np.ndarray, drawn: np.ndarray) -> dict:
    """Return where an arm's mean, of float64 [K, S], first is that of a control's last accuracies, float64 [S]."""
    found = first_crossing(shares, values[:, drawn].mean(2).T, last[drawn].mean(1))
    # no interpolation: between a share and infinity there is none
    low, high = np.quantile(found, [LEVEL / 2, 1 - LEVEL / 2], method="nearest")
    (share,) = first_crossing(shares, values.mean(1)[None], last.mean()[None])
    told = [None if np.isinf(one) else float(one) for one in (share, low, high)]
    return {"share": told[0], "interval": told[1:], "never": float(np.isinf(found).mean())}


def first_crossing(shares: Sequence[float], curves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return where each curve first is at its target, linear between ``shares``; infinity where it never is.

    Args:
        shares: K of them, ascending.
        curves: float64 [R, K].
        targets: float64 [R].
    """
    at = curves >= targets[:, None]
    k = at.argmax(1)
    before, rows = np.maximum(k - 1, 0), np.arange(len(curves))
    low, high, where = curves[rows, before], curves[rows, k], np.asarray(shares)
    part = np.divide(targets - low, high - low, out=np.zeros(len(curves)), where=high > low)
    found = np.where(k == 0, where[0], where[before] + part * (where[k] - where[before]))
    return np.where(at.any(1), found, np.inf)


def curve_lines(report: dict) -> Iterator[str]:
    """Yield a sentence about each arm that has a control, if the report has a curve."""
    for entry in report.get("curve", {}).get("reach", ()):
        arm, control = (name_of(report, entry[end]) for end in ("arm", "control"))
        low, high = ("all of them and more" if one is None else f"{one:.0%}" for one in entry["interval"])
        if entry["share"] is None:
            yield f"{arm} does not reach the final accuracy of {control}"
        else:
            yield (f"{arm} reaches the final accuracy of {control} after {entry['share']:.0%} of the "
                   f"steps, 95 % interval {low} to {high}")  # fmt: skip
