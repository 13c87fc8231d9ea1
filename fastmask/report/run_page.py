"""The page about a recipe's run: verdict, arms, differences, curves; one file without scripts, which loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..core.plain import Json
from .charts import HEIGHT, Lines, Scale, lines_chart
from .comparison import ENDS, equality
from .highlight import environment
from .page import head
from .verdict import BASELINE, CONTROL, METHODS, chief_questions, name_of, outcome, verdict

MOST_DOTS = 3000
"""Most seeds of all arms together that are drawn and told one by one."""
MOST_PAIRS = 100
"""Most differences of a kind."""
MOST_CURVES = 30
GROUPS = {
    CONTROL: ("Method against control", "The control masks as many tokens of each sentence, at random: what differs is "
              "the choice alone."),
    BASELINE: ("Against plain ways", "Against random masks, and against no pre-training on the in-domain text."),
    METHODS: ("Between methods", "Two ways to choose; look at their work, too."),
}  # fmt: skip


class Curve(NamedTuple):
    """Lines of one chart.

    Attributes:
        title: of the chart.
        of: (name, points from left to right) of the method and, if it has one, its control.
        bands: of each line the interval of each point, None where there is none; nothing where no line has any.
    """

    title: str
    of: Sequence[tuple[str, Sequence[tuple[float, float]]]]
    bands: Sequence[Sequence[Sequence[float]] | None] = ()


@dataclass(frozen=True, slots=True)
class RunTold:
    """What the page tells.

    Attributes:
        name: of the run.
        report: of ``experiment.run``, with names and kinds of differences.
        pages: arm -> the page about its masks, beside this one.
        seeds: of the runs of an arm.
        losses: of pre-training.
        lines: sentences about the work; facts: what and which; both as they are to be read.
    """

    name: str
    report: Json
    pages: Mapping[str, str]
    seeds: Sequence[int]
    losses: Sequence[Curve]
    lines: Sequence[str]
    facts: Sequence[tuple[str, str]]


def run_page(told: RunTold) -> str:
    """Return the page as HTML."""
    r = told.report
    arms_axis = Scale.of([100 * value for one in r["arms"].values() for value in one["accuracy"]["values"]])
    bounds = [100 * value for one in r["differences"] for value in one["accuracy"]["interval"]]
    points_axis = Scale.of([0.0, *bounds])
    groups = list(_groups(r, points_axis))
    losses, along = ([_drawn(curve, share) for curve in curves[:MOST_CURVES]] for curves, share in
                     ((told.losses, False), (list(_along(r)), True)))  # fmt: skip
    sections = [("arms", "Arms"), *((one["id"], one["title"]) for one in groups)]
    sections += [("curves", "Curves")] * bool(losses or along) + [("made", "How this was made")]
    least = [one["accuracy"]["detectable"] for one in chief_questions(r)]
    values = head(f"Which masks helped in {told.name}", "run.css") | {
        "r": r, "name": told.name, "verdict": list(verdict(r)), "contents": sections, "groups": groups,
        "arms": list(_arms(told, arms_axis)), "dots": _dots(r), "seeds": told.seeds,
        "least": min((one for one in least if one is not None), default=None),
        "arms_axis": arms_axis, "points_axis": points_axis, "zero": points_axis.at(0.0),
        "along": along, "losses": losses, "lines": told.lines, "facts": told.facts,
        "terms": list((r["method"] | r.get("curve", {}).get("method", {})).items()),
    }  # fmt: skip
    return environment().get_template("run.html").render(values)


def _dots(r: Json) -> bool:
    return len(r["arms"]) * r["seeds"] <= MOST_DOTS


def _arms(told: RunTold, axis: Scale) -> Iterator[Json]:
    r = told.report
    for arm, metrics in r["arms"].items():
        accuracy = metrics["accuracy"]
        yield metrics | {
            "name": name_of(r, arm),
            "mean": axis.at(100 * accuracy["mean"]),
            "seeds": [axis.at(100 * value) for value in accuracy["values"]] if _dots(r) else [],
            "work": r["work"].get(arm),
            "page": told.pages.get(arm),
        }


def _groups(r: Json, axis: Scale) -> Iterator[Json]:
    for kind, (title, note) in GROUPS.items():
        if found := [one for one in r["differences"] if one["kind"] == kind]:
            entries = [_pair(r, one, axis) for one in found[:MOST_PAIRS]]
            yield {"id": kind, "title": title, "note": note, "entries": entries, "left": len(found) - len(entries)}


def _pair(r: Json, entry: Json, axis: Scale) -> Json:
    low, high = (axis.at(100 * bound) for bound in entry["accuracy"]["interval"])
    return {**{end: name_of(r, entry[end]) for end in ENDS}, "entry": entry, "outcome": outcome(entry), "low": low,
            "high": high, "mean": axis.at(100 * entry["accuracy"]["mean"]), "work": equality(entry)}  # fmt: skip


def _along(r: Json) -> Iterator[Curve]:
    """Yield accuracy along pre-training of each method and its control, then of arms without, in percent by percent."""
    if "curve" not in r:
        return
    shares, found = r["curve"]["shares"], r["curve"]["arms"]
    pairs = [(one["arm"], one["control"]) for one in r["curve"]["reach"]]
    alone = [(arm,) for arm in found if not any(arm in pair for pair in pairs)]
    for arms in (*pairs, *alone):
        lines = [(name_of(r, arm), [(100 * share, 100 * mean) for share, mean in
                                    zip(shares, found[arm]["mean"], strict=True)]) for arm in arms]  # fmt: skip
        yield Curve(name_of(r, arms[0]), lines, [found[arm]["band"] for arm in arms])


def _drawn(curve: Curve, percent: bool) -> Json:
    """Return a chart with the table of its numbers, a line for each x of any of its lines."""
    names = [name for name, _ in curve.of]
    by_x = [dict(points) for _, points in curve.of]
    bands = curve.bands or [None] * len(names)
    within = [dict(zip(own, band or (), strict=False)) for own, band in zip(by_x, bands, strict=True)]
    table = [(f"{x:g}%" if percent else f"{x:,.0f}", [_cell(*line, x) for line in zip(by_x, within, strict=True)])
             for x in sorted({x for own in by_x for x in own})]  # fmt: skip
    chart: Lines = lines_chart(f"Curves: {' and '.join(names)}", HEIGHT, [points for _, points in curve.of])
    return {"title": curve.title, "names": names, "chart": chart, "table": table}


def _cell(line: Mapping[float, float], band: Mapping[float, Sequence[float]], x: float) -> str:
    """Return a point of a line as text, with its interval, in percent, if it has one."""
    if x not in line:
        return "–"
    low, high = (f"{100 * bound:.2f}" for bound in band.get(x, (0.0, 0.0)))
    return f"{line[x]:.2f} ({low} to {high})" if x in band else f"{line[x]:.2f}"
