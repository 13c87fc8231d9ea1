"""The pages of a recipe's report: one about the comparison, and one about each arm's masks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.errors import FastmaskError
from ..core.plain import Json
from ..report.page import short, write_page
from ..report.run_page import Curve, RunTold, run_page
from ..report.terminal import work_lines
from ..report.verdict import name_of
from ..scoring.overview import write_overview
from ..train.finished import losses_of
from .curve import curve_lines
from .questions import control_of
from .recipe import Recipe
from .steps import PAGE, masks_of

log = logging.getLogger(__name__)
MOST_POINTS = 60
"""Of a curve."""


def write_pages(recipe: Recipe, report: Json, place: Path, runs: Mapping[str, Sequence[Path]]) -> None:
    """Write the pages into the directory of the report, in place of older ones.

    Args:
        report: with names, kinds of differences and work.
        runs: arm -> the directories of its pre-training.

    Raises:
        OutputError: the page about the comparison cannot be written, or a log cannot be read.
    """
    out = Path(recipe.general.out)
    pages = {arm: name for arm in runs if (name := _page_of_masks(out, place, arm, control_of(arm) in runs))}
    told = RunTold(
        name=short(str(out)),
        report=report,
        pages=pages,
        seeds=sorted(recipe.general.seeds),
        losses=list(_losses(recipe, report, runs)),
        lines=[*work_lines(report), *curve_lines(report)],
        facts=list(_facts(recipe)),
    )
    write_page(run_page(told), place / PAGE)


def _page_of_masks(out: Path, place: Path, arm: str, has_control: bool) -> str | None:
    """Write the page about an arm's masks, beside its control's; return its name, None where there can be none."""
    name, control = f"{arm}.html", str(out / masks_of(control_of(arm)))
    try:
        write_overview(str(out / masks_of(arm)), str(place / name), control if has_control else None)
    except FastmaskError as error:  # a run that was moved has lost the tokenizer's place
        log.warning(f"{place / name}: no page about these masks: {error}")
        return None
    return name


def _losses(recipe: Recipe, report: Json, runs: Mapping[str, Sequence[Path]]) -> Iterator[Curve]:
    """Yield the loss of pre-training of each way to mask, beside its control's."""
    for choice in recipe.choices:
        arms = [arm for arm in (choice.name, control_of(choice.name)) if arm in runs]
        yield Curve(name_of(report, choice.name), [(name_of(report, arm), _mean_loss(runs[arm])) for arm in arms])


def _mean_loss(runs: Sequence[Path]) -> list[tuple[float, float]]:
    """Return (last step, mean loss) of neighbouring steps, of all runs together."""
    losses = [losses_of(run) for run in runs]
    steps = min(map(len, losses))
    mean = np.mean([one[:steps] for one in losses], axis=0)
    parts = np.array_split(np.arange(steps), min(steps, MOST_POINTS))
    return [(float(part[-1] + 1), float(mean[part].mean())) for part in parts if len(part)]


def _facts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    general, task = recipe.general, recipe.task
    yield "recipe", recipe.source
    yield "begins with", general.init
    yield "ways to mask", ", ".join(general.methods)
    yield "seeds", ", ".join(map(str, sorted(general.seeds)))
    yield "pre-training", "anew for each seed" if general.pretrain_each_seed else "once for all seeds of an arm"
    yield "trained on", ", ".join(task.train)
    yield "tested on", task.test
    yield "in-domain text", ", ".join(recipe.in_domain.corpus)
