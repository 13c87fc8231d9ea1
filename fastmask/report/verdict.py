"""What a comparison says, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.words import counted

CONTROL, BASELINE, METHODS = "control", "baseline", "methods"
"""Kinds of differences: a method and its control; a way to mask and plain random masks, or none; two ways to mask."""
LEVEL = 0.05
FEW = 3
"""Of fewer seeds there is no test."""
PUBLISHED = 0.01
"""About the gain of selective masking over random masks in the paper."""


def name_of(report: dict[str, Any], arm: str) -> str:
    """Return what an arm is called where people read."""
    names: dict[str, str] = report.get("names", {})
    return names.get(arm, arm)


def chief_questions(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the differences that a run is made for: of each method and its control; else of each arm and none."""
    found: list[dict[str, Any]] = report["differences"]
    return [entry for entry in found if entry["kind"] == CONTROL] or [
        entry for entry in found if entry["kind"] == BASELINE]  # fmt: skip


def verdict(report: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence about each chief difference, then what a run like this can tell at all."""
    asked = chief_questions(report)
    for entry in asked:
        yield _answer(report, entry)
    if asked:
        yield _power(report, asked)


def outcome(entry: dict[str, Any]) -> str | None:
    """Return "better" or "worse"; None where the interval or the test, corrected by Holm, leaves both possible."""
    figures = entry["accuracy"]
    low, high = figures["interval"]
    if figures["p_holm"] is None or figures["p_holm"] >= LEVEL or low <= 0 <= high:
        return None
    return "better" if low > 0 else "worse"


def _answer(report: dict[str, Any], entry: dict[str, Any]) -> str:
    figures, found = entry["accuracy"], outcome(entry)
    low, high = (f"{100 * bound:+.2f}" for bound in figures["interval"])
    arm = name_of(report, entry["arm"])
    other = "as many random masks" if entry["kind"] == CONTROL else name_of(report, entry["baseline"])
    how_much = f"{100 * figures['mean']:+.2f} points of accuracy, 95 % interval {low} to {high}"
    said = f"{arm} did {found} than {other}" if found else f"Whether {arm} is better than {other}, this run cannot tell"
    return f"{said}: {how_much}{_doubt(report, figures, found)}.{_unequal(entry)}"


def _doubt(report: dict[str, Any], figures: dict[str, Any], found: str | None) -> str:
    """Return why an interval without 0 in it does not decide; "" otherwise."""
    low, high = figures["interval"]
    if found or low <= 0 <= high:
        return ""
    if figures["p_holm"] is None:
        return f", but {counted(report['seeds'], 'seed')} allow no test"
    tests = sum(one["accuracy"]["p"] is not None for one in report["differences"])
    return f", but p = {figures['p']:.2g}, and {figures['p_holm']:.2g} corrected for {counted(tests, 'comparison')}"


def _unequal(entry: dict[str, Any]) -> str:
    work = entry.get("work")
    if entry["kind"] != CONTROL or work is None or work["equal"]:
        return ""
    return f" The work was NOT equal: {work['tokens']:.3g}x tokens, {work['masked']:.3g}x masks of the control."


def _power(report: dict[str, Any], asked: list[dict[str, Any]]) -> str:
    """Return the smallest difference that a run like this shows, beside the paper's."""
    seeds = counted(report["seeds"], "seed")
    if report["seeds"] < FEW:
        return f"{seeds} cannot tell a difference from chance in training: take {FEW} at least, better 10."
    least = sorted(entry["accuracy"]["detectable"] for entry in asked if entry["accuracy"]["detectable"] is not None)
    if not least:
        return f"All {seeds} differ by the same, so that no test over seeds can be made; a larger test file would help."
    few, most = (f"{100 * value:.2f}" for value in (least[0], least[-1]))
    size = f"{few} points" if few == most else f"{few} to {most} points, depending on the method,"
    said = f"With {seeds} and {counted(report['rows'], 'test row')}, a true difference of {size} would be found four "
    said += f"times in five; the paper's gains{{}} about {100 * PUBLISHED:.0f} point"
    if least[0] <= PUBLISHED:
        return said.format(" are") + "."
    return said.format(",") + ", would be missed: take more seeds or test rows."
