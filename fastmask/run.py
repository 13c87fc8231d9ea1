"""``fastmask run``: a recipe's steps, each done unless its output is complete for this configuration.

``OUT/steps.json`` says what each finished step was made from: its settings, the hashes of the files and models that it
read, and the fingerprints of the steps that it needed. Whatever differs is made again only when asked to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .config import ScoreConfig
from .durable import TEMPORARY, FileLock, os_errors_named, remove_temporaries, write_atomically
from .errors import FastmaskError, OutputError
from .journal import differences
from .read import describe_inputs
from .recipe import Recipe, read_recipe
from .show import totals_line
from .steps import REPORT, Step, control_of, pretrained, steps_of

if TYPE_CHECKING:
    from .meter import NoMeter

Say = Callable[[str], None]
STEPS, LOCK = "steps.json", ".fastmask-run.lock"
# What each command writes last.
_RESULT = {"finetune": "metrics.json", "train-masker": "metrics.json", "score": "manifest.json",
           "pretrain": "pretrain.json", "evaluate": "report.json"}  # fmt: skip
# Options that say where a result goes, how often a run is saved, and no more.
_UNSETTLING = ("out", "overwrite", "save_every", "json", "picture")
COMPLETE, BEGUN, TO_DO, CHANGED = "complete", "begun", "to do", "to do again"


@dataclass(frozen=True, slots=True)
class Planned:
    """A step, its state (one of the four above), and why it is to do again."""

    step: Step
    state: str
    reasons: tuple[str, ...] = ()


class Run:
    """A recipe's run, its directory locked, to be used in a ``with``.

    Args:
        path: the recipe.
        overwrite: make again what was made from other settings or inputs.

    Raises:
        FastmaskError: something in the recipe, or a library that is missing.
        InputError, ModelError: a file or model that it names cannot be read.
        OutputError: its directory is taken, in use, or cannot be written.
    """

    def __init__(self, path: str, overwrite: bool = False):
        self.recipe: Recipe = read_recipe(path)
        self.steps, self.overwrite = steps_of(self.recipe), overwrite
        self.out = Path(self.recipe.general.out)
        self._lock: FileLock | None = None
        self._done = self._finished()
        _check_libraries()
        self._fingerprint = cache(_fingerprint)
        # what the last step reads, too: before the first of many hours, not after them
        for step in self.steps:
            self._read_by(step)

    def _finished(self) -> dict[str, dict]:
        """Step name -> its entry in STEPS."""
        if not (self.out / STEPS).is_file():
            if self.out.is_file() or (self.out.is_dir() and not all(map(_is_ours, self.out.iterdir()))):
                raise OutputError(f"{self.out}: is there already, and no run of a recipe; choose another out")
            return {}
        try:
            return json.loads((self.out / STEPS).read_text("utf-8"))["steps"]
        except (OSError, ValueError, KeyError) as error:
            raise OutputError(f"{self.out / STEPS}: is damaged: {error}") from error

    def __enter__(self) -> Run:
        with os_errors_named(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = FileLock(self.out / LOCK)
            except BlockingIOError:
                raise OutputError(f"{self.out}: another fastmask run is writing here") from None
            self._done = self._finished()  # another run may have ended meanwhile
            remove_temporaries(self.out)
            if not (self.out / STEPS).is_file():  # from the first moment it is a run's directory
                self._keep()
        return self

    def __exit__(self, *_) -> None:
        self._lock.release()

    def plan(self) -> list[Planned]:
        """Every step's state; what needs a step that is to do is to do itself, unless the same comes out of that."""
        planned: dict[str, Planned] = {}
        for step in self.steps:
            waits = any(planned[name].state != COMPLETE for name in step.needs)
            planned[step.name] = Planned(step, TO_DO) if waits else self._state(step)
        return list(planned.values())

    def _state(self, step: Step) -> Planned:
        directory, header = self.out / step.name, self._header(step)
        if step.name not in self._done or not (directory / _RESULT[step.command]).is_file():
            return Planned(step, BEGUN if directory.exists() else TO_DO)
        changed = differences(self._done[step.name]["made_from"], header)
        return Planned(step, CHANGED, tuple(changed)) if changed else Planned(step, COMPLETE)

    def _header(self, step: Step) -> dict:
        """What decides a step's result, JSON-ready; the steps that it needs are done."""
        config = {name: value for name, value in asdict(step.config).items() if name not in _UNSETTLING}
        needs = {name: self._done[name]["fingerprint"] for name in step.needs}
        # as it will be read again: tuples are lists in JSON
        return json.loads(json.dumps({"config": config, "read": self._read_by(step), "needs": needs}))

    def _read_by(self, step: Step) -> dict[str, str]:
        """sha256 of each file and model of the user's that a step reads."""
        return {name: self._fingerprint(name) for name in (*step.files, *step.models, *_word_list(step.config))}

    def run(self, say: Say, show: Say | None, meter: NoMeter) -> dict:
        """Does what is not complete, in order.

        Args:
            say: receives one line at a time.
            show: receives live lines, each in the place of the one before; None where there is no terminal.
            meter: told of scoring's progress.

        Returns:
            The report of the comparison.

        Raises:
            OutputError: a step was made from other settings or inputs, and ``overwrite`` is off.
            FastmaskError: whatever a step raises; the same recipe goes on from there.
        """
        for number, step in enumerate(self.steps, 1):
            planned = self._state(step)
            if planned.state == COMPLETE:
                continue
            if planned.state == CHANGED and not self.overwrite:
                raise OutputError(f"{self.out / step.name}: was made otherwise: {'; '.join(planned.reasons)} "
                                  "(--overwrite makes it, and what follows from it, again)")  # fmt: skip
            say(f"[{number}/{len(self.steps)}] {step.name}: {step.command}")
            self._forget(step)
            self._do(step, say, show, meter)
            self._finish(step)
        return json.loads((self.out / REPORT / _RESULT["evaluate"]).read_text("utf-8"))

    def _do(self, step: Step, say: Say, show: Say | None, meter: NoMeter) -> None:
        directory = self.out / step.name
        if step.command == "score":
            from .pipeline import score_corpus

            manifest = score_corpus(step.files, str(directory), step.config, overwrite=self.overwrite, meter=meter)
            say(totals_line(str(directory), manifest))
        elif step.command == "pretrain":
            from .train.mlm import pretrain

            pretrain(replace(step.config, overwrite=self.overwrite), say, show)
        elif step.command == "finetune":
            from .train.classify import finetune

            finetune(replace(step.config, overwrite=True), say)
        elif step.command == "train-masker":
            from .train.masker import train_masker

            train_masker(replace(step.config, overwrite=True), say)
        else:
            self._compare(step, say)

    def _compare(self, step: Step, say: Say) -> None:
        from .train.arms import evaluate

        with os_errors_named(self.out):
            (self.out / step.name).mkdir(exist_ok=True)
        report = evaluate(step.config, say)
        report["pretraining"] = {
            method: compared_work(self._pretrainings(method), self._pretrainings(control_of(method)))
            for method in self.recipe.general.methods
        }
        _write_json(self.out / step.name / _RESULT[step.command], report)

    def _pretrainings(self, arm: str) -> list[Path]:
        """Directories of an arm's pre-training: one, or one a seed."""
        general = self.recipe.general
        return [self.out / name for name in dict.fromkeys(pretrained(general, arm, seed) for seed in general.seeds)]

    def _finish(self, step: Step) -> None:
        result = self.out / step.name / _RESULT[step.command]
        is_model = step.command in ("finetune", "train-masker", "pretrain")
        made = _model_hash(result.parent) if is_model else _sha256(result)
        self._done[step.name] = {"made_from": self._header(step), "fingerprint": made}
        self._keep()

    def _forget(self, step: Step) -> None:
        """First of all a step that is made again must not look finished."""
        if self._done.pop(step.name, None) is not None:
            self._keep()

    def _keep(self) -> None:
        _write_json(self.out / STEPS, {"steps": self._done})


def _is_ours(path: Path) -> bool:
    """Whether a file is one that a run leaves which is killed in its first moment."""
    return path.name == LOCK or path.name.endswith(TEMPORARY)


def _write_json(path: Path, document: dict) -> None:
    with os_errors_named(path):
        write_atomically(path, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")


def compared_work(selective: list[Path], control: list[Path]) -> dict:
    """What a method's pre-training runs and those of its control did, and whether every step of theirs was alike.

    Returns:
        ``runs``: of each; ``selective`` and ``control``: ``steps``, ``tokens`` and ``masked`` over these runs;
        ``every_step_equal``: whether each step had as many tokens and masks in one as in the other.
    """
    from .train.state import work_of

    selective_work, control_work = ([work_of(path) for path in paths] for paths in (selective, control))
    return {"runs": len(selective), "selective": _sums(selective_work), "control": _sums(control_work),
            "every_step_equal": selective_work == control_work}  # fmt: skip


def _sums(work: list[list[tuple[int, int]]]) -> dict[str, int]:
    steps = [step for run in work for step in run]
    return {"steps": len(steps), "tokens": sum(t for t, _ in steps), "masked": sum(m for _, m in steps)}


def _check_libraries() -> None:
    """That what the comparison needs is there."""
    for name in ("scipy", "matplotlib"):
        if find_spec(name) is None:
            raise FastmaskError(f"the comparison needs {name}; pip install 'fastmask[evaluate]'")


def _word_list(config) -> tuple[str, ...]:
    """The file of stop words, if there is one."""
    if isinstance(config, ScoreConfig) and config.stop_words not in ("english", "none"):
        return (config.stop_words,)
    return ()


def _fingerprint(name: str) -> str:
    """sha256 of a file, or of a model's weights; raises what reading it raises."""
    if Path(name).is_file():
        return describe_inputs((name,))[0]["sha256"]
    return _model_hash(name)


def _model_hash(name: str | Path) -> str:
    from .models import resolve_model

    return resolve_model(str(name)).weights_sha256


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
