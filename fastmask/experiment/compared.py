"""The last step of a recipe's run: the report of all arms, with their work and curves, its page and its picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ..core.durable import json_bytes, os_errors_named, write_atomically
from ..core.plain import Json
from ..report.comparison import draw
from .arms import evaluate
from .curve import curve_of
from .ledger import RESULTS
from .pages import write_pages
from .questions import NO_PRETRAINING, Asked, control_of
from .recipe import Recipe
from .steps import Step, compared_at, pretrained
from .work import add_work, compared_work


def write_report(report: Json, place: Path) -> None:
    """Write a comparison's report into the directory of its step."""
    path = place / RESULTS["evaluate"]
    with os_errors_named(path):
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json_bytes(report))


def write_last(recipe: Recipe, step: Step) -> None:
    """Compare all arms, and write report, page and picture; the report last, which says that the others are there.

    Raises:
        FastmaskError: as ``arms.evaluate`` does.
        OutputError: a file cannot be written.
    """
    out = Path(recipe.general.out)
    with os_errors_named(out):
        (out / step.name).mkdir(parents=True, exist_ok=True)
    report = evaluate(replace(step.config, picture=None), Asked.by(recipe.choices))
    runs = {arm: _pretrainings(recipe, arm) for arm in report["arms"] if arm != NO_PRETRAINING}
    _add_pretraining(recipe, report, runs)
    draw(report, step.config.picture)
    write_pages(recipe, report, out / step.name, runs)
    write_report(report, out / step.name)


def _add_pretraining(recipe: Recipe, report: Json, runs: dict[str, list[Path]]) -> None:
    """Add to the report what the arms were pre-trained on, and what became of them on the way."""
    pairs = [(choice.name, control_of(choice.name)) for choice in recipe.choices if not choice.is_random]
    add_work(report, runs)
    report["pretraining"] = {arm: compared_work(runs[arm], runs[control]) for arm, control in pairs}
    if shares := recipe.general.curve:
        before = {share: Path(recipe.general.out, compared_at(share), RESULTS["evaluate"]) for share in shares}
        earlier = {share: json.loads(path.read_text("utf-8")) for share, path in before.items()}
        report["curve"] = curve_of({**earlier, 1.0: report}, NO_PRETRAINING, pairs)


def _pretrainings(recipe: Recipe, arm: str) -> list[Path]:
    """Return the directories of an arm's pre-training: one, or one a seed."""
    names = dict.fromkeys(pretrained(recipe.general, arm, seed) for seed in recipe.general.seeds)
    return [Path(recipe.general.out, name) for name in names]
