"""The report of ``evaluate.compare`` as a rich table and as a picture."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.durable import os_errors_named, write_atomically
from ..core.errors import FastmaskError
from ..core.words import counted
from .screen import one_line, shown
from .verdict import name_of

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata without the time by file ending, so that the same report gives the same bytes."""
MANY = 15
"""Differences, those of six arms; of more than these, the chief ones are told first, and drawn."""
TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
ENDS = ("arm", "baseline")
MOST_IN_A_PICTURE = 60
"""The most characters of a name."""
LINE = 0.28
"""Inches between names in a picture: more than their letters are high."""
LETTER = 0.085
"""Inches of a letter in it, in the mean."""


def tables(report: dict) -> Group:
    """Return the means and standard deviations of the arms, then the differences, all in points of 0.01."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    work = report.get("work", {})
    arms = Table(box=None, pad_edge=False, title=None)
    arms.add_column("arm", style="bold", overflow="fold")
    for title in TITLES.values():
        arms.add_column(title, justify="right", no_wrap=True)
        arms.add_column("sd", justify="right", no_wrap=True)
    for title in ("steps", "tokens", "masked") if work else ():
        arms.add_column(title, justify="right", no_wrap=True)
    for name, metrics in report["arms"].items():
        cells = (cell for m in TITLES for cell in (points(metrics[m]["mean"]), points(metrics[m]["sd"])))
        trained = (f"{work[name][key]:,}" for key in ("steps", "tokens", "masked")) if name in work else ()
        arms.add_row(Text(shown(name_of(report, name))), *cells, *trained)
    head = f"{counted(report['seeds'], 'seed')}, {counted(report['rows'], 'test row')}, "
    head += f"{report['resamples']:,} resamples; points of 0.01"
    if not report["differences"]:
        return Group(Text(head), arms)
    notes = [Text(f"{name}: {text}", style="dim") for name, text in report["method"].items()]
    left = len(report["differences"]) - len(chief_differences(report))
    more = [Text(f"{left} more pairs, which {_chief(report)[1]}, are in the JSON report")] if left else []
    return Group(Text(head), arms, _differences(report), *more, *notes)


def chief_differences(report: dict) -> list[dict]:
    """Return all differences, or of many those of arms that had equal work, or those from the first arm if none had."""
    found: list[dict] = report["differences"]
    if len(found) <= MANY:
        return found
    equal = [entry for entry in found if (entry.get("work") or {}).get("equal")]
    return equal or [entry for entry in found if entry["baseline"] == next(iter(report["arms"]))]


def _chief(report: dict) -> tuple[str, str]:
    """Return in words what the chief ones of many differences have, and what the others have not."""
    if (chief_differences(report)[0].get("work") or {}).get("equal"):
        return "which had equal work", "had not equal work"
    return "with the first arm", "do not have the first arm"


def _differences(report: dict) -> Table:
    """Return the table of differences: two lines each, or of many one for each chief one."""
    from rich.table import Table
    from rich.text import Text

    chief, are_all = chief_differences(report), len(report["differences"]) <= MANY
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("difference" if are_all else f"difference in {TITLES['accuracy']}", style="bold", overflow="fold")
    for title in (
        ("", "mean", "95 % interval", "p", "Holm", "detectable") if are_all else ("mean", "95 % interval", "Holm")
    ):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    if not are_all:
        table.add_column("work")
    for entry in chief:
        label, work = Text(" - ".join(shown(name_of(report, entry[end])) for end in ENDS)), equality(entry)
        if not are_all:
            mean, interval, _, corrected, _ = _figures(entry["accuracy"])
            table.add_row(label, mean, interval, corrected, work)
            continue
        for name, metric in zip((label, Text(work, style="not bold dim")), TITLES, strict=True):
            table.add_row(name, TITLES[metric], *_figures(entry[metric]))
    return table


def _figures(figures: dict) -> Iterator[str]:
    yield f"{100 * figures['mean']:+.2f}"
    yield " to ".join(f"{100 * bound:+.2f}" for bound in figures["interval"])
    for name in ("p", "p_holm"):
        yield "-" if figures[name] is None else f"{figures[name]:.3g}"
    yield points(figures["detectable"])


def equality(entry: dict) -> str:
    """Return in words whether the arms of a difference had equal work; "" where that is not known, or one had none."""
    work = entry.get("work")
    if work is None:
        return ""
    if work["equal"]:
        return {"every step": "equal work", "total": "equal work in total"}.get(work["equal"], "equal expected work")
    times = ((work["tokens"], "tokens"), (work["masked"], "masks"))
    return ", ".join(f"{value:.3g}x {what}" for value, what in times)


def points(value: float | None) -> str:
    """Return a share in points of 0.01; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"


def draw(report: dict, path: str) -> None:
    """Write a picture: every seed's accuracy by arm, paired seeds joined, and each difference with its interval.

    Args:
        path: its ending names the format, as matplotlib knows it (.png, .svg, .pdf).

    Raises:
        FastmaskError: matplotlib is not installed, or does not know the format.
        OutputError: it cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise FastmaskError("--picture: needs matplotlib; pip install 'fastmask[evaluate]'") from None
    file = Path(path) if Path(path).suffix else Path(f"{path}.png")
    kind, how = file.suffix[1:].lower(), {"text.parse_math": False, "svg.hashsalt": "fastmask"}
    with rc_context(how), warnings.catch_warnings():  # a $ in a name is a $
        warnings.simplefilter("ignore")  # about characters that the font has not
        try:
            figure = _drawn(report, Figure(layout="constrained"))
            figure.savefig(image := BytesIO(), dpi=150, format=kind, metadata=UNDATED.get(kind))
        except ValueError as error:
            raise FastmaskError(f"--picture {file}: {' '.join(str(error).split())}") from error
    with os_errors_named(file):
        write_atomically(file, image.getvalue())


def _drawn(report: dict, figure):
    """Return the figure with a line an arm on the left and a line a difference on the right, as high as need be."""
    names, found = list(report["arms"]), chief_differences(report)
    labels = ([one_line(name_of(report, name), MOST_IN_A_PICTURE) for name in names],
              [" - ".join(one_line(name_of(report, entry[end]), MOST_IN_A_PICTURE) for end in ENDS)
               for entry in found])  # fmt: skip
    width = LETTER * sum(max(map(len, texts), default=0) for texts in labels)
    figure.set_size_inches(7 + width, max(4, 1.2 + LINE * max(map(len, labels))))
    left, right = figure.subplots(1, 2)
    accuracies = [[100 * value for value in report["arms"][name]["accuracy"]["values"]] for name in names]
    places = range(len(names))
    left.plot(accuracies, places, color="0.85", marker="o", markerfacecolor="C0", markeredgecolor="C0", zorder=1)
    left.plot([sum(values) / len(values) for values in accuracies], places, "k|", markersize=14)
    _name_lines(left, labels[0])
    left.set_xlabel(f"accuracy, {counted(report['seeds'], 'seed')} and the mean")
    for place, entry in enumerate(found):
        mean, interval = entry["accuracy"]["mean"], entry["accuracy"]["interval"]
        right.plot([100 * bound for bound in interval], [place, place], color="C0")
        right.plot([100 * mean], [place], "o", color="C0")
    right.axvline(0, color="0.6", linestyle=":")
    _name_lines(right, labels[1])
    right.set_xlabel("points of accuracy, paired bootstrap 95 %")
    if len(found) < len(report["differences"]):
        right.set_title(f"{len(found)} of {len(report['differences'])} pairs, {_chief(report)[0]}", fontsize="medium")
    return figure


def _name_lines(axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)  # in the table's order, from the top
