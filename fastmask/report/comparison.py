"""The report of ``evaluate.compare`` as a rich table and as a picture."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.durable import os_errors_named, write_atomically
from ..core.errors import FastmaskError
from .screen import one_line, shown

if TYPE_CHECKING:
    from rich.console import Group

UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata without the time by file ending, so that the same report gives the same bytes."""
TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
MOST_IN_A_PICTURE = 60
"""The most characters of a name."""


def tables(report: dict) -> Group:
    """Return the means and standard deviations of the arms, then the differences, all in points of 0.01."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    arms = Table(box=None, pad_edge=False, title=None)
    arms.add_column("arm", style="bold", overflow="fold")
    for title in TITLES.values():
        arms.add_column(title, justify="right", no_wrap=True)
        arms.add_column("sd", justify="right", no_wrap=True)
    for name, metrics in report["arms"].items():
        cells = (cell for m in TITLES for cell in (points(metrics[m]["mean"]), points(metrics[m]["sd"])))
        arms.add_row(Text(shown(name)), *cells)
    head = f"{report['seeds']} seeds, {report['rows']:,} test rows, {report['resamples']:,} resamples; points of 0.01"
    notes = [Text(f"{name}: {text}", style="dim") for name, text in report["method"].items()]
    return Group(Text(head), arms, *([_differences(report), *notes] if report["differences"] else []))


def _differences(report: dict):
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("difference", style="bold", overflow="fold")
    for title in ("", "mean", "95 % interval", "p", "detectable"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for entry in report["differences"]:
        for metric, title in TITLES.items():
            figures = entry[metric]
            interval = " to ".join(f"{100 * bound:+.2f}" for bound in figures["interval"])
            p = "-" if figures["p"] is None else f"{figures['p']:.3g}"
            label = Text(f"{shown(entry['arm'])} - {shown(entry['baseline'])}" if metric == "accuracy" else "")
            mean = f"{100 * figures['mean']:+.2f}"
            table.add_row(label, title, mean, interval, p, points(figures["detectable"]))
    return table


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
            figure = _drawn(report, Figure(figsize=(10, 4), layout="constrained"))
            figure.savefig(image := BytesIO(), dpi=150, format=kind, metadata=UNDATED.get(kind))
        except ValueError as error:
            raise FastmaskError(f"--picture {file}: {' '.join(str(error).split())}") from error
    with os_errors_named(file):
        write_atomically(file, image.getvalue())


def _drawn(report: dict, figure):
    left, right = figure.subplots(1, 2)
    names = list(report["arms"])
    accuracies = [[100 * value for value in report["arms"][name]["accuracy"]["values"]] for name in names]
    places = range(len(names))
    left.plot(places, accuracies, color="0.8", marker="o", markerfacecolor="C0", markeredgecolor="C0")
    left.plot(places, [sum(values) / len(values) for values in accuracies], "k_", markersize=30)
    left.set_xticks(places, [one_line(name, MOST_IN_A_PICTURE) for name in names])
    left.margins(x=0.15)
    left.set_ylabel(f"accuracy, {report['seeds']} seeds and their mean")
    for place, entry in enumerate(report["differences"]):
        mean, interval = entry["accuracy"]["mean"], entry["accuracy"]["interval"]
        right.plot([100 * bound for bound in interval], [place, place], color="C0")
        right.plot([100 * mean], [place], "o", color="C0")
    right.axvline(0, color="0.6", linestyle=":")
    right.set_yticks(range(len(report["differences"])),
                     [" - ".join(one_line(entry[end], MOST_IN_A_PICTURE) for end in ("arm", "baseline"))
                      for entry in report["differences"]])  # fmt: skip
    right.invert_yaxis()  # in the table's order
    right.set_xlabel("difference in accuracy, points, paired bootstrap 95 %")
    return figure
