"""``fastmask evaluate``: arms named on the command line -> predictions on the test file -> a report."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.config import EvaluateConfig, Unsaid
from ..core.durable import os_errors_named, write_atomically
from ..core.errors import FastmaskError, InputError, ModelError
from ..core.labels import Classes
from ..core.plain import parse_json, read_regular
from ..models.directory import resolve_model
from ..report.comparison import draw
from ..train.evaluate import compare
from ..train.examples import Row, class_index, find_classes
from .predictions import PREDICTIONS, Predictions, predictions_of, read_written, rows_of, texts_of
from .questions import Asked

if TYPE_CHECKING:
    from ..models.directory import ModelFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """One seed of an arm: a model's directory, or that of its predictions, or a file of these; its seed if it tells."""

    path: Path
    seed: int | None


def evaluate(config: EvaluateConfig, asked: Asked | None = None) -> dict:
    """Predict with every model, compare the arms, and write the files that ``config`` names.

    Args:
        asked: which arms to compare, and what they are called; all, by their own names, unless given.

    Returns:
        The report of ``evaluate.compare``, with the runs that were compared as ``runs``: arm -> paths.

    Raises:
        InputError: a row or a prediction without a usable class, or a file that cannot be read.
        ModelError: a model cannot be loaded, or has other classes than the others.
        OutputError: a file cannot be written.
        FastmaskError: arms that cannot be paired.
    """
    rows = rows_of(config)
    arms = find_runs(config.arms)
    models = {run.path: read_written(run.path) or resolve_model(str(run.path))
              for runs in arms.values() for run in runs if run.path.is_dir()}  # fmt: skip
    classes = _classes(models, rows)
    labels = np.array([class_index(row, classes) for row in rows], np.int64)
    _check_kept(models, rows, config)
    predictions: dict[str, list[np.ndarray]] = {}
    names = {} if asked is None else asked.names
    for name, runs in arms.items():
        for run in runs:
            model = models.get(run.path)
            if model is None:
                found = read_predictions(run.path, classes)
            elif isinstance(model, Predictions):
                found = model.predicted
            else:
                found = predictions_of(model, rows, config.max_length)
            predictions.setdefault(name, []).append(found)
            right = np.mean(found == labels) if len(found) == len(labels) else 0
            log.info(f"{names.get(name, name)}: {run.path}: accuracy {right:.4f}")
    pairs = None if asked is None else [(one.arm, one.baseline) for one in asked.questions]
    result = compare(predictions, labels, pairs=pairs, resamples=config.resamples, seed=config.seed)
    if asked is not None:
        asked.note(result)
    result["runs"] = {name: [str(run.path) for run in runs] for name, runs in arms.items()}
    _write(config, result)
    return result


def _check_kept(models: dict[Path, Predictions | ModelFiles], rows: Sequence[Row], config: EvaluateConfig) -> None:
    """Refuse kept answers to other texts than those of the test file, or to inputs cut otherwise than the others'."""
    answers, texts = [kept for kept in models.values() if isinstance(kept, Predictions)], texts_of(rows)
    asked = not isinstance(config.max_length, Unsaid) or len(answers) < len(models)
    for kept in answers:
        if kept.texts != texts:
            raise ModelError(f"{kept.name}: its answers are not to the texts of {config.test}")
        longest = config.max_length if asked else answers[0].max_length
        if kept.max_length != longest:
            raise ModelError(f"{kept.name}: its answers were made with --max-length {kept.max_length}, not {longest} "
                             "as others: give that, or the model itself")  # fmt: skip


def find_runs(arms: Sequence[str]) -> dict[str, list[Run]]:
    """Return the runs of each arm, paired: by the seeds that they tell where all do, else in order.

    Args:
        arms: ``NAME=PATH``, patterns expanded in the order of their names.

    Raises:
        FastmaskError: a path that is not there or is of two arms, a pattern that catches a seed twice, or arms that
            were trained with different seeds.
    """
    found: dict[str, list[Run]] = {}
    taken: dict[str, str] = {}
    for arm in arms:
        name, _, pattern = arm.partition("=")
        is_pattern = has_magic(pattern) and not Path(pattern).exists()
        paths = sorted(glob(pattern)) if is_pattern else [pattern]
        if not paths or not Path(paths[0]).exists():
            raise FastmaskError(f"--arm {arm}: no such file or directory")
        for path in paths:
            if taken.setdefault(os.path.realpath(path), name) != name and is_pattern:
                raise FastmaskError(f"--arm {arm}: {path} is a run of {taken[os.path.realpath(path)]}, too")
        runs = [Run(Path(path), _seed_of(Path(path))) for path in paths]
        if is_pattern and (twice := _same_seed(runs)):
            raise FastmaskError(f"--arm {arm}: {twice[0].path} and {twice[1].path} have one seed, {twice[0].seed}")
        found.setdefault(name, []).extend(runs)
    if all(run.seed is not None for runs in found.values() for run in runs):
        found = {name: sorted(runs, key=lambda run: run.seed or 0) for name, runs in found.items()}
        (first, expected), *others = ((name, [run.seed for run in runs]) for name, runs in found.items())
        for name, seeds in others:
            if seeds != expected:
                raise FastmaskError(f"arms cannot be paired: {first} has seeds {expected}, {name} has {seeds}")
    return found


def _same_seed(runs: list[Run]) -> tuple[Run, Run] | None:
    """Return two runs with the same seed: a pattern has caught another arm's; None if there are none."""
    first: dict[int, Run] = {}
    for run in runs:
        if run.seed is not None and (other := first.setdefault(run.seed, run)) is not run:
            return other, run
    return None


def _seed_of(path: Path) -> int | None:
    written = PREDICTIONS if (path / PREDICTIONS).exists() else "metrics.json"
    try:
        return int(parse_json(read_regular(path / written))["config"]["seed"])
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError):
        return None


def _classes(models: dict, rows: Sequence[Row]) -> Classes:
    """Return the models' classes, which must be the same; those of the test file if there are only predictions."""
    classes = None
    for files in models.values():
        classes = classes or files.classes
        if files.class_names != classes.names:
            theirs, ours = ", ".join(files.class_names), ", ".join(classes.names)
            raise ModelError(f"{files.name}: its classes are {theirs}, not {ours}")
    return classes or find_classes(rows)


def read_predictions(path: Path, classes: Classes) -> np.ndarray:
    """Return predicted classes, int64 [N], from a text file with a class name or index on each line.

    Raises:
        InputError: a line that is neither, or a file that cannot be read.
    """
    try:
        lines = read_regular(path).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), None, None, f"cannot be read: {error}") from error
    rows = (Row("", None, line.strip(), str(path), number, "class") for number, line in enumerate(lines, 1))
    return np.array([class_index(row, classes) for row in rows], np.int64)


def _write(config: EvaluateConfig, result: dict) -> None:
    if config.json is not None:
        path = Path(config.json)
        with os_errors_named(path):
            text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            write_atomically(path, text.encode("utf-8", "backslashreplace"))
    if config.picture is not None:
        draw(result, config.picture)
