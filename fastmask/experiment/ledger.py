"""The record of a recipe's run, ``OUT/steps.json``: what each finished step was made from, and whether it still is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.config import MAX_TEXT_MB, SENTIMENT, WORD_LISTS, ScoreConfig, shares_of
from ..core.config_train import UNSETTLING
from ..core.directories import begun_beside, recover, replace_directory
from ..core.durable import TEMPORARY, os_errors_named, remove_temporaries, write_atomically
from ..core.errors import InputError, OutputError
from ..core.locked import VERSION, LockedDirectory, differences, listed
from ..core.plain import parse_json, read_regular
from ..core.urls import Url, path_of
from ..shards.manifest import whole_fault
from ..shards.schema import manifest_path
from ..text.hashed import describe_inputs
from ..text.listing import input_files
from ..text.streams import Stamp, check_path
from ..train.run_directory import kept_name
from .predictions import PREDICTIONS
from .steps import PAGE, PREDICT, REPORT, Step

STEPS, LOCK = "steps.json", ".fastmask-run.lock"
MODEL_FILES = ("config.json", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*.json", "*.txt",
               "*.model")  # fmt: skip
RESULTS = {"finetune": "metrics.json", "train-masker": "metrics.json", "pretrain": "pretrain.json",
           PREDICT: PREDICTIONS, "evaluate": "report.json"}  # fmt: skip
"""What each command but ``score`` writes last."""
_RESUMED = ("score", "pretrain")
"""Commands that can be resumed; the others replace their directory by themselves, at their end."""
_PERMITTED = "again"
"""Key in the entry of a step that is being made again; its old output stays until the new one is complete."""
WEIGHTS = "*.safetensors"
_MODELS = ("finetune", "train-masker", "pretrain")
# Options that do not change the result: where it goes, how often a run is saved.
_UNSETTLING = (*UNSETTLING, "json", "picture")
COMPLETE, BEGUN, TO_DO, AGAIN = "complete", "begun", "to do", "to do again"
STEP = {"made_from": {"config": dict}, "weights": dict, "fingerprint": str}
RECORD = {"steps": {"*": STEP}, "files": {"*": list}}
"""The types of what ``steps.json`` holds, as ``manifest.whole_fault`` takes them."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A step, its state (one of the four above), and what the user changed, if that is why it has to be done again."""

    step: Step
    state: str
    reason: str = ""


class Ledger(LockedDirectory):
    """The record in ``out``.

    Raises:
        OutputError: ``out`` holds something else than a run, or its record is damaged.
    """

    LOCK = LOCK

    def __init__(self, out: Path):
        super().__init__(out)
        self._of_model = cache(model_identity)
        self._load()

    def _load(self) -> None:
        self._steps: dict[str, dict] = {}
        # a user's file -> its size, time of change and sha256, so that a large corpus is hashed once
        self._files: dict[str, list] = {}
        if not (self.path / STEPS).is_file():
            if self.path.is_file() or (self.path.is_dir() and not all(map(_is_ours, self.path.iterdir()))):
                raise OutputError(f"{self.path}: is there already, and no run of a recipe; choose another out")
            return
        try:
            document = parse_json(read_regular(self.path / STEPS))
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.path / STEPS}: is damaged: {error}") from error
        if fault := _fault(document):
            raise OutputError(f"{self.path / STEPS}: is damaged: {fault}")
        self._steps, self._files = document["steps"], document["files"]

    def lock(self, steps: Iterable[Step]) -> None:
        """Make the directory and keep others from it until ``close``; OutputError when one is there already."""
        self.locked(lambda: self._prepare(steps))

    def _prepare(self, steps: Iterable[Step]) -> None:
        self._load()  # another run may have ended meanwhile
        remove_temporaries(self.path)
        for step in steps:
            recover(self.path / step.name)
        if not (self.path / STEPS).is_file():  # from the first moment it is a run's directory
            self._keep()

    def state(self, step: Step) -> Planned:
        """Return the state of a step whose needed steps are complete."""
        directory, entry = self.path / step.name, self._steps.get(step.name)
        if entry is None or not directory.exists():
            return Planned(step, BEGUN if directory.exists() else TO_DO)
        if not _is_whole(step, directory):
            return Planned(step, BEGUN if _PERMITTED in entry else AGAIN)
        changed = differences(entry["made_from"], self._header(step))
        is_touched = self._made(step, directory, entry) != entry["fingerprint"]
        if not changed and not is_touched:
            return Planned(step, COMPLETE)
        if _PERMITTED in entry:
            return Planned(step, BEGUN)
        if step.command in ("evaluate", PREDICT):  # made in seconds, and from other steps only: needs no --overwrite
            return Planned(step, AGAIN)
        # what has changed in the steps that it needs is told there
        own: list[object] = [one for one in changed if not one.name.startswith("needs.")]
        if is_touched:
            own.append("its files are not those that were made")
        return Planned(step, AGAIN, listed(own, most=5))

    def read_by(self, step: Step) -> dict[str, list[dict[str, str]]]:
        """Return the sha256 of each of the user's files, models and shard directories that a step reads.

        Raises:
            InputError, ModelError, OutputError: one of them cannot be read.
        """
        found = {"files": [{name: self._of_file(name)} for name in step.files],
                 "words": [{name: _sha256(path_of(name))} for name in _word_list(step.config)],
                 "models": [{name: self._of_model(name)} for name in step.models],
                 "shards": [{name: _sha256(manifest_path(name))} for name in step.shards]}  # fmt: skip
        more = [{name: self._of_file(name)} for name in _other_files(step.config)]
        return found | ({"more": more} if more else {})  # steps of before have none

    def make_again(self, step: Step) -> None:
        """Record that a step is being made again, so that a resumed run does not ask for --overwrite once more."""
        with os_errors_named(self.path):
            if begun_beside(self.path / step.name).exists():
                shutil.rmtree(begun_beside(self.path / step.name))
            self._steps[step.name][_PERMITTED] = True
            self._keep()

    def place(self, step: Step) -> Path:
        """Return where a step is made: beside its old output if it is made again, which stays until ``finish``."""
        directory = self.path / step.name
        again = step.command in _RESUMED and _PERMITTED in self._steps.get(step.name, {})
        return begun_beside(directory) if again else directory

    def keep_report(self, step: Step) -> Path | None:
        """Rename a report that another is to replace and that tells what this one will not; return its new place.

        None where there is none, or all that it compares stays and only seeds or arms come in.
        """
        directory, entry = self.path / step.name, self._steps.get(step.name)
        if entry is None or not _result(step, directory).is_file():
            return None
        found = [
            one for one in differences(entry["made_from"], self._header(step)) if not one.name.startswith("--arms[")
        ]
        lost = any(one.was is not None or not one.name.startswith("needs.") for one in found)
        if not lost and self._made(step, directory) == entry["fingerprint"]:
            return None
        kept = next(path for k in count(1) if not (path := directory.with_name(f"{step.name}-earlier-{k}")).exists())
        with os_errors_named(directory):
            directory.rename(kept)
        return kept

    def finish(self, step: Step, read: dict) -> None:
        """Record that a step is complete; InputError if a file has changed since ``read_by`` was called."""
        again = self.read_by(step)
        pairs = ((before, now) for key in ("files", "more") for before, now in
                 zip(read.get(key, ()), again.get(key, ()), strict=True))  # fmt: skip
        for before, now in pairs:
            if before != now:
                (name,) = before
                raise InputError(name, None, None, f"has changed while {step.name} was made from it")
        directory, made = self.path / step.name, self.place(step)
        entry = {
            "made_from": self._header(step),
            "weights": _weights(step, made),
            "fingerprint": self._made(step, made),
        }
        if made != directory:
            # before the rename, so that after a kill in it the next run knows what is there
            self._steps[step.name] = {**entry, _PERMITTED: True}
            self._keep()
            with os_errors_named(directory):
                replace_directory(made, directory)
        self._steps[step.name] = entry
        self._keep()

    def settle(self, step: Step) -> None:
        """Remove what was begun to replace a step's output, which turned out to be complete, and the record of it."""
        shutil.rmtree(begun_beside(self.path / step.name), ignore_errors=True)
        if self._steps[step.name].pop(_PERMITTED, False):  # killed after the rename, or the recipe was changed back
            self._keep()

    def _header(self, step: Step) -> dict:
        """Return what decides a step's result; the steps that it needs are complete."""
        settings = step.config.as_dict() if isinstance(step.config, ScoreConfig) else asdict(step.config)
        if settings.get("max_text_mb") == MAX_TEXT_MB:  # as steps from before there was a limit have it
            del settings["max_text_mb"]
        if not settings.get("keep"):
            settings.pop("keep", None)
        config = {name: _within(value, f"{self.path}/") for name, value in settings.items()
                  if name not in _UNSETTLING}  # fmt: skip
        needs = {name: self._steps[name]["fingerprint"] for name in step.needs}
        # as it will be read again: tuples are lists in JSON
        return json.loads(json.dumps({VERSION: __version__, "config": config, "needs": needs, **self.read_by(step)}))

    def _made(self, step: Step, directory: Path, entry: dict | None = None) -> str:
        """Return the fingerprint of what a step made; that in its entry if the weights have not been touched since."""
        if step.command not in _MODELS:
            return _sha256(_result(step, directory))
        if entry and entry["weights"] == _weights(step, directory):
            return entry["fingerprint"]
        return _hash_of_all([model_identity(model) for model in _models(step, directory)])

    def _of_file(self, name: str) -> str:
        """Return the hash of an input; of a pattern or a folder one of its files' hashes."""
        return _hash_of_all([self._of_one(file) for file in input_files((name,))])

    def _of_one(self, name: str) -> str:
        check_path(name)
        size, modified, *_ = Stamp.of(name)
        known = self._files.get(name, [])
        if known[:2] != [size, modified]:
            self._files[name] = [size, modified, describe_inputs((name,))[0]["sha256"]]
        return self._files[name][2]

    def _keep(self) -> None:
        with os_errors_named(self.path / STEPS):
            document = {"steps": self._steps, "files": self._files}
            # after each of perhaps a thousand steps: with line breaks it would take twenty times as long
            write_atomically(self.path / STEPS, json.dumps(document).encode())


def _is_whole(step: Step, directory: Path) -> bool:
    """Return whether the result is there, and the weights of a model, or the page of the last comparison."""
    if step.name == REPORT and not (directory / PAGE).is_file():
        return False
    there = _result(step, directory).is_file()
    return there and all(any(model.glob(WEIGHTS)) for model in _models(step, directory))


def _result(step: Step, directory: Path) -> Path | Url:
    return manifest_path(directory) if step.command == "score" else directory / RESULTS[step.command]


def _models(step: Step, directory: Path) -> list[Path]:
    """Return where a step leaves models: in its directory, and where pre-training keeps some on the way."""
    if step.command not in _MODELS:
        return []
    kept = shares_of(step.config.keep) if step.command == "pretrain" and step.config.keep else ()
    return [directory, *(directory / kept_name(share) for share in kept)]


def _weights(step: Step, directory: Path) -> dict[str, list[int]]:
    """Return file -> [size, time of change] of the weights of a step's models."""
    found = (path for model in _models(step, directory) for path in sorted(model.glob(WEIGHTS)))
    return {str(path.relative_to(directory)): [path.stat().st_size, path.stat().st_mtime_ns] for path in found}


def _hash_of_all(hashes: list[str]) -> str:
    """Return one hash of several; a single one as it is."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _fault(document: Any) -> str | None:
    """Return in words what a ``Ledger`` would not have written; None if all is well."""
    if fault := whole_fault(document, RECORD):
        return fault
    files = document["files"].items()
    wrong = (name for name, known in files if [type(one) for one in known] != [int, int, str])
    return next((f'file "{name}": expected a size, a time and a hash' for name in wrong), None)


def _is_ours(path: Path) -> bool:
    """Return whether a run that is killed in its first moment may have left this file."""
    return path.name == LOCK or path.name.endswith(TEMPORARY)


def _within(value: Any, out: str) -> Any:
    """Return the value with paths inside the run made relative to it, so that its directory may be moved."""
    if isinstance(value, tuple):
        return tuple(_within(one, out) for one in value)
    return value.removeprefix(out) if isinstance(value, str) else value


def _word_list(config) -> tuple[str, ...]:
    """Return the file of stop words, if there is one."""
    if isinstance(config, ScoreConfig) and config.stop_words not in WORD_LISTS:
        return (config.stop_words,)
    return ()


def _other_files(config) -> tuple[str, ...]:
    """Return the other files that a method goes by."""
    if not isinstance(config, ScoreConfig):
        return ()
    words = () if config.words == SENTIMENT else (config.words,)
    return tuple(filter(None, (*words, config.vectors, *config.background, *config.labelled)))


def model_identity(name: str | Path) -> str:
    """Return a hash of a model's weights and of every file that its tokenizer or configuration may be made from.

    Raises:
        ModelError: it cannot be read.
    """
    from ..models.directory import resolve_model

    files = resolve_model(str(name))
    named = sorted(file for ending in MODEL_FILES for file in files.dir.glob(ending))
    content = [files.weights_sha256, [[file.name, _sha256(file)] for file in named]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path | Url) -> str:
    try:
        return hashlib.sha256(read_regular(path)).hexdigest()
    except OSError as error:
        raise InputError(str(path), None, None, f"cannot be read: {error.strerror}") from error
