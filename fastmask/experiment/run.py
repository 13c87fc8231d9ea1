"""``fastmask run``: a recipe's steps, each done unless its output is complete for this configuration."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.config import ScoreConfig, demand, on_disk
from ..core.durable import json_bytes, os_errors_named, write_atomically
from ..core.errors import FastmaskError, ModelError, OutputError
from ..models.directory import resolve_model
from ..models.weights import MASKED_LM, load_trained
from ..report.progress import Meter
from ..report.terminal import totals_line
from ..scoring.method import label_warnings, method_named
from ..shards.schema import read_manifest
from ..text.documents import read_rows
from .curve import curve_of
from .ledger import AGAIN, COMPLETE, RESULTS, TO_DO, Ledger, Planned
from .questions import NO_PRETRAINING, Asked, control_of
from .recipe import Recipe, TaskFiles, read_recipe
from .steps import PAGE, PICTURE, REPORT, Step, compared_at, pretrained, steps_of
from .work import add_work, compared_work

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)


class Run:
    """A recipe's run, its directory locked, to be used in a ``with``; ``plan`` works without.

    Args:
        path: the recipe.
        overwrite: make again what was made from other settings or inputs.

    Raises:
        FastmaskError: something in the recipe; on entering, a library that is missing.
        InputError, ModelError: a file or model that it names cannot be read.
        OutputError: its directory is taken, in use, or cannot be written.
    """

    def __init__(self, path: str, overwrite: bool = False):
        self.recipe: Recipe = read_recipe(path)
        self.steps, self.overwrite = steps_of(self.recipe), overwrite
        demand(not (fault := on_disk(self.recipe.general.out)), f"out {self.recipe.general.out}", fault)
        self.out = Path(self.recipe.general.out)
        self.ledger = Ledger(self.out)
        # what the last step reads, too: an error there should not wait for hours of earlier steps
        for step in self.steps:
            self.ledger.read_by(step)
        _check_task(self.recipe.task)

    def __enter__(self) -> Run:
        _check_libraries(self.steps)
        self.ledger.lock(self.steps)
        return self

    def __exit__(self, *_) -> None:
        self.ledger.close()

    def plan(self) -> list[Planned]:
        """Return every step's state; one that needs a step that is not complete counts as to do."""
        planned: dict[str, Planned] = {}
        for step in self.steps:
            waits = any(planned[name].state != COMPLETE for name in step.needs)
            planned[step.name] = Planned(step, TO_DO) if waits else self.ledger.state(step)
        return list(planned.values())

    def run(self, console: Console | None = None) -> dict:
        """Run the steps that are not complete, in order.

        Args:
            console: see ``progress.Progress``.

        Returns:
            The report of the comparison.

        Raises:
            OutputError: a step was made from other settings or inputs, and ``overwrite`` is off.
            FastmaskError: whatever a step raises; the same recipe resumes there.
        """
        plan = self.plan()
        for planned in plan:  # before anything is done
            self._check_allowed(planned)
        if any(planned.state != COMPLETE for planned in plan):
            self._check_labels()
            self._check_models([planned.step for planned in plan if planned.state != COMPLETE])
        for number, step in enumerate(self.steps, 1):
            planned = self.ledger.state(step)
            if planned.state == COMPLETE:
                self.ledger.settle(step)
                if step.command == "score":  # as ``fastmask score`` does, which says it again, too
                    _warn(directory := str(self.out / step.name), read_manifest(directory))
                continue
            self._check_allowed(planned)
            if step.name == REPORT and not self.overwrite and (kept := self.ledger.keep_report(step)):
                log.warning(f"{self.out / step.name}: was of other seeds, arms or settings, and is kept as {kept}")
            if planned.state == AGAIN:
                self.ledger.make_again(step)
            log.info(f"[{number}/{len(self.steps)}] {step.name}: {step.command}")
            read = self.ledger.read_by(step)
            self._do(step, console)
            self.ledger.finish(step, read)
            _free_device_memory()
        return json.loads((self.out / REPORT / RESULTS["evaluate"]).read_text("utf-8"))

    def results(self) -> dict[str, Path]:
        """Return what the comparison has written: kind -> file."""
        names = {"report": RESULTS["evaluate"], "page": PAGE, "picture": PICTURE}
        return {kind: self.out / REPORT / name for kind, name in names.items()}

    def _check_allowed(self, planned: Planned) -> None:
        if planned.reason and not self.overwrite:
            raise OutputError(f"{self.out / planned.step.name}: was made otherwise: {planned.reason} "
                              "(--overwrite makes it, and what follows from it, again)")  # fmt: skip

    def _check_labels(self) -> None:
        """Check the test file's labels, which the last step needs, before the first step."""
        from ..train.prepare import check_labels

        first = next(step for step in self.steps if step.command == "finetune")
        check_labels(first.config, self.recipe.task.test)

    def _check_models(self, steps: list[Step]) -> None:
        """Check that the user's models that will fill masks can, before the first step."""
        for step in steps:
            if step.models and isinstance(step.config, ScoreConfig):
                method = method_named(step.config.method)
                if method.task == MASKED_LM:
                    try:
                        load_trained(resolve_model(step.config.model), MASKED_LM)
                    except ModelError as error:
                        raise ModelError(f"{self.recipe.source}: {step.config.method}: {error}; name another model "
                                         f"in [methods.{step.config.method}]") from error  # fmt: skip

    def _do(self, step: Step, console: Console | None) -> None:
        directory, place = self.out / step.name, str(self.ledger.place(step))
        if step.command == "score":
            from ..pipeline import score_corpus

            meter = Meter(console)
            manifest = score_corpus(step.files, place, step.config, overwrite=self.overwrite, meter=meter)
            log.info(totals_line(str(directory), manifest))
            _warn(str(directory), manifest)
        elif step.command == "pretrain":
            from ..train.pretrain import pretrain

            pretrain(replace(step.config, out=place, overwrite=self.overwrite), console)
        elif step.command == "finetune":
            from ..train.finetune import finetune

            finetune(replace(step.config, overwrite=True))
        elif step.command == "train-masker":
            from ..train.masker import train_masker

            train_masker(replace(step.config, overwrite=True))
        else:
            self._compare(step)

    def _compare(self, step: Step) -> None:
        from ..report.comparison import draw
        from .arms import evaluate
        from .pages import write_pages

        with os_errors_named(self.out):
            (self.out / step.name).mkdir(parents=True, exist_ok=True)
        asked = Asked.by(self.recipe.choices) if step.name == REPORT else None
        report = evaluate(replace(step.config, picture=None), asked)
        if step.name == REPORT:
            runs = {arm: self._pretrainings(arm) for arm in report["arms"] if arm != NO_PRETRAINING}
            self._add_pretraining(report, runs)
            draw(report, step.config.picture)
            write_pages(self.recipe, report, self.out / step.name, runs)
        path = self.out / step.name / RESULTS[step.command]
        with os_errors_named(path):
            write_atomically(path, json_bytes(report))

    def _add_pretraining(self, report: dict, runs: dict[str, list[Path]]) -> None:
        """Add to the report what the arms were pre-trained on, and what became of them on the way."""
        add_work(report, runs)
        report["pretraining"] = {
            choice.name: compared_work(runs[choice.name], runs[control_of(choice.name)])
            for choice in self.recipe.choices if not choice.is_random
        }  # fmt: skip
        if shares := self.recipe.general.curve:
            earlier = {share: json.loads((self.out / compared_at(share) / RESULTS["evaluate"]).read_text("utf-8"))
                       for share in shares}  # fmt: skip
            pairs = [(choice.name, control_of(choice.name)) for choice in self.recipe.choices if not choice.is_random]
            report["curve"] = curve_of({**earlier, 1.0: report}, NO_PRETRAINING, pairs)

    def _pretrainings(self, arm: str) -> list[Path]:
        """Return the directories of an arm's pre-training: one, or one a seed."""
        general = self.recipe.general
        return [self.out / name for name in dict.fromkeys(pretrained(general, arm, seed) for seed in general.seeds)]


def _warn(masks: str, manifest: dict) -> None:
    for line in label_warnings(masks, manifest):
        log.warning(line)


def _check_task(task: TaskFiles) -> None:
    """Check that the labelled files can be read and have the label's field, each by itself as the steps read them."""
    for paths in (task.train, *((path,) for path in (*task.dev, task.test))):
        read_rows(paths, text_field=task.text_field, label_field=task.label_field, encoding=task.encoding)


def _check_libraries(steps: list[Step]) -> None:
    """Raise FastmaskError unless the libraries of all steps are there; a dry run does without them."""
    from ..train.tracking import tracker_module

    for tracker in {step.config.track for step in steps if step.command == "pretrain"} - {None}:
        tracker_module(tracker)
    for name in ("scipy", "matplotlib"):
        if find_spec(name) is None:
            raise FastmaskError(f"the comparison needs {name}; pip install 'fastmask[evaluate]'")


def _free_device_memory() -> None:
    """Free the device memory that torch caches: the next step may run in other processes, which need it."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
