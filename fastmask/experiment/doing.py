"""What each step of a recipe's run does; needs nothing of the run but the step, so that any process can do it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..report.progress import Meter
from ..report.terminal import totals_line
from ..scoring.method import label_warnings
from .predictions import write_predictions
from .steps import PREDICT, Step

if TYPE_CHECKING:
    from rich.console import Console

    from ..core.plain import Json

log = logging.getLogger(__name__)


def do(step: Step, place: Path, directory: Path, overwrite: bool, console: Console | None = None) -> None:
    """Do a step, all but the last comparison.

    Args:
        place: where it is made.
        directory: where it will be.
        overwrite: make again what was made from other settings or inputs.
        console: see ``progress.Progress``.

    Raises:
        FastmaskError: whatever its command raises.
    """
    if step.command == "score":
        from ..pipeline import score_corpus

        manifest = score_corpus(step.files, str(place), step.config, overwrite=overwrite, meter=Meter(console))
        log.info(totals_line(str(directory), manifest))
        warn_of_labels(directory, manifest)
    elif step.command == "pretrain":
        from ..train.pretrain import pretrain

        pretrain(replace(step.config, out=str(place), overwrite=overwrite), console)
    elif step.command == "finetune":
        from ..train.finetune import finetune

        finetune(replace(step.config, overwrite=True))
    elif step.command == "train-masker":
        from ..train.masker import train_masker

        train_masker(replace(step.config, overwrite=True))
    elif step.command == PREDICT:
        write_predictions(step.config, place)
    else:
        from .arms import evaluate
        from .compared import write_report

        write_report(evaluate(step.config), place)


def warn_of_labels(directory: Path, manifest: Json) -> None:
    """Warn where a classifier often disagrees with the labels, as ``fastmask score`` does."""
    for line in label_warnings(str(directory), manifest):
        log.warning(line)
