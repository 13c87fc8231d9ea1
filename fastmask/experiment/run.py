"""``fastmask run``: a recipe's steps, each done unless its output is complete for this configuration."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.config import ScoreConfig, demand, on_disk
from ..core.errors import FastmaskError, ModelError, OutputError, line_of
from ..models.directory import resolve_model
from ..models.weights import MASKED_LM, load_trained
from ..scoring.method import method_named
from ..shards.schema import read_manifest
from ..text.documents import read_rows
from .doing import do, warn_of_labels
from .ledger import AGAIN, COMPLETE, RESULTS, TO_DO, Ledger, Planned
from .recipe import Recipe, TaskFiles, read_recipe
from .steps import PAGE, PICTURE, REPORT, Step, steps_of
from .workers import Ended, Workers, threads_of

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
        self._named = {step.name: step for step in self.steps}
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

    def run(self, console: Console | None = None, jobs: int = 1) -> dict:
        """Run the steps that are not complete, each as soon as those that it needs are.

        Args:
            console: see ``progress.Progress``.
            jobs: how many steps may run at a time, see ``Workers``.

        Returns:
            The report of the comparison.

        Raises:
            OutputError: a step was made from other settings or inputs, and ``overwrite`` is off.
            FastmaskError: whatever a step raises, once those that run beside it have ended; the same recipe resumes.
        """
        plan = self.plan()
        for planned in plan:  # before anything is done
            self._check_allowed(planned)
        if any(planned.state != COMPLETE for planned in plan):
            self._check_labels()
            self._check_models([planned.step for planned in plan if planned.state != COMPLETE])
        with Workers(jobs) as workers:
            self._work(workers, console if jobs == 1 else None)
        return json.loads((self.out / REPORT / RESULTS["evaluate"]).read_text("utf-8"))

    def _work(self, workers: Workers, console: Console | None) -> None:
        """Do the steps; after an error no more are started, but those that run are waited for, and recorded."""
        waiting, read = dict(self._named), dict[str, dict]()
        error: Exception | None = None
        while (not error and waiting) or workers.running:
            ready = None if error or workers.is_full else _first_ready(waiting, read)
            try:
                if ready is None:
                    ended = workers.ended()
                    self._end(ended, read.pop(ended.name), workers)
                elif self._is_to_do(waiting.pop(ready.name)):
                    read[ready.name] = self.ledger.read_by(ready)
                    workers.start(ready.name, self._work_of(ready, workers.jobs, console))
            except Exception as fault:
                error = error or fault
        if error:
            raise error

    def _end(self, ended: Ended, read: dict, workers: Workers) -> None:
        """Record a step that has ended, and log what it has logged if others run beside it; raise its error."""
        if ended.error:
            rest = f"; those that run are waited for: {', '.join(workers.running)}" if workers.running else ""
            log.warning(f"{ended.name}: failed: {line_of(ended.error)}{rest}")
        elif workers.jobs > 1:
            log.info(f"{ended.name}: done")
        for level, line in ended.lines:
            log.log(level, line)
        if ended.error:
            raise ended.error
        self.ledger.finish(self._named[ended.name], read)

    def _work_of(self, step: Step, jobs: int, console: Console | None) -> Callable[[], object]:
        number = list(self._named).index(step.name) + 1
        log.info(f"[{number}/{len(self.steps)}] {step.name}: {step.command}")
        if step.name == REPORT:
            from .compared import write_last

            return partial(write_last, self.recipe, step)
        if jobs > 1 and isinstance(step.config, ScoreConfig):
            step = replace(step, config=replace(step.config, threads=step.config.threads or threads_of(jobs)))
        return partial(do, step, self.ledger.place(step), self.out / step.name, self.overwrite, console)

    def _is_to_do(self, step: Step) -> bool:
        """Return whether a step is to be done, whose needed steps are complete; the record is ready for it then."""
        planned = self.ledger.state(step)
        if planned.state == COMPLETE:
            self.ledger.settle(step)
            if step.command == "score":  # as ``fastmask score`` does, which says it again, too
                warn_of_labels(self.out / step.name, read_manifest(str(self.out / step.name)))
            return False
        self._check_allowed(planned)
        if step.name == REPORT and not self.overwrite and (kept := self.ledger.keep_report(step)):
            log.warning(f"{self.out / step.name}: was of other seeds, arms or settings, and is kept as {kept}")
        if planned.state == AGAIN:
            self.ledger.make_again(step)
        return True

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


def _first_ready(waiting: Mapping[str, Step], running: Container[str]) -> Step | None:
    """Return the first step that needs none of those that wait or run; None where there is none."""
    return next((step for step in waiting.values()
                 if not any(name in waiting or name in running for name in step.needs)), None)  # fmt: skip


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
