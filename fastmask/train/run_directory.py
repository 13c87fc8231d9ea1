"""The directory of a training run: its settings, its log, checkpoints to resume from, and the model at the end.

``OUT/run.json`` what decides the result; ``OUT/log.jsonl`` one line a step; ``OUT/checkpoint-N/`` the model after N
steps, with what resuming needs; ``OUT/at-0.5/`` the model after half of them, where it is to be kept; at the end the
model itself in ``OUT``, and ``OUT/pretrain.json``, written last.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.directories import check_free, drop_begun, recover
from ..core.durable import TEMPORARY, os_errors_named, remove_temporaries, sync, write_atomically
from ..core.errors import FastmaskError, ModelError, OutputError
from ..core.locked import LockedDirectory, differences
from ..core.plain import parse_json, read_regular
from ..shards.manifest import NUMBER, whole_fault
from .checkpoint import save_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from .ranks import Ranks

RUN, LOG, RESULT, LOCK = "run.json", "log.jsonl", "pretrain.json", ".fastmask-train.lock"
EXPECTED = "expected_masked"
"""In RESULT, where masks are drawn."""
TENSORS, DOCUMENT = "training.safetensors", "training.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d{8})")
SAVED = {
    "counts": {"step": int, "tokens": int, "masked": int},
    "streams": [{"stream": dict, "epoch": int, "example": int}],
    "held_out": [{"step": int, "loss": NUMBER}],
}
"""What DOCUMENT holds."""
TENSORBOARD = "tensorboard"
"""A folder, of a run that is tracked so."""
_OURS = re.compile(
    rf".*\.(jsonl?|safetensors|model|jinja)|(vocab|merges)\.txt|README\.md|\.?(checkpoint|at)-.*|.*{TEMPORARY}|{LOCK}"
    rf"|{TENSORBOARD}", re.S
)  # fmt: skip
"""Names of the files of a run and of a model, which go where another run takes the place of one."""


class TrainingRun(LockedDirectory):
    """The directory ``out``, locked, to be used in a ``with``.

    Args:
        out: the directory.
        header: ``config`` and whatever else decides the result, JSON-ready.
        overwrite: replace a run of another header, or whatever is there, when the model is finished: until then it is
            made beside.

    Attributes:
        result: content of RESULT if the run is finished, else None.

    Raises:
        OutputError: it cannot be written, is in use, holds something else, or a run with another header.
    """

    LOCK, KEPT = LOCK, "checkpoint-*"

    def __init__(self, out: str, header: dict, overwrite: bool):
        super().__init__(Path(out), header)
        self.result: dict | None = None
        self._confirmed = True
        with os_errors_named(self.path):
            recover(self.path)
            # the lock alone is left by a run that was killed before it wrote anything
            check_free(out, overwrite or any((self.path / name).is_file() for name in (RUN, LOCK)))
        self.locked(lambda: self._prepare(overwrite))

    def _prepare(self, overwrite: bool) -> None:
        if self._goes_on(overwrite):
            if overwrite and self.result:
                drop_begun(self.path)
            return
        if {path.name for path in self.path.iterdir()} - {LOCK}:
            self.begin_beside(lambda name: _OURS.fullmatch(name) is not None)
            if self._goes_on(overwrite):
                if self.result:  # killed before the rename
                    self.install()
                return
            self.start_beside_again()
        write_atomically(self.path / RUN, json.dumps(self.header, indent=2).encode() + b"\n")

    def _goes_on(self, overwrite: bool) -> bool:
        """Return whether there is a run of this header, which is then resumed; OutputError for another one."""
        remove_temporaries(self.path)
        for half_written in self.path.glob(".*checkpoint-*"):
            shutil.rmtree(half_written)
        if not (self.path / RUN).is_file():
            return False
        there = read_document(self.path / RUN, {"config": dict})
        if overwrite and differences(there, self.header):
            return False
        self.check_header(there)
        self.result = read_document(self.path / RESULT, {}) if (self.path / RESULT).is_file() else None
        if self.result:  # killed while it removed them
            self._remove_checkpoints()
        self._confirmed = len(self._checkpoints()) < 2
        return True

    @property
    def last(self) -> Path | None:
        """Return the last complete checkpoint."""
        return max(self._checkpoints(), default=None)

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.path.iterdir() if _CHECKPOINT.fullmatch(path.name)]

    def save(self, step: int, model, tokenizer, tensors: dict[str, torch.Tensor], document: dict) -> None:
        """Write the checkpoint after ``step`` steps; earlier ones stay until it is confirmed.

        Raises:
            FastmaskError: it cannot be written, or its weights are not finite; the one before is kept, and named.
        """
        import torch

        name = name_of(step)
        try:
            save_model(model, tokenizer, self.path / name, torch.float32, {DOCUMENT: document},
                       tensors={TENSORS: tensors}, overwrite=True)  # fmt: skip
        except FastmaskError as error:
            raise type(error)(f"{error}; {self.last_good()}") from error
        self._confirmed = False

    def keep(self, share: float, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write the model as it is after a share of the steps; raise what ``save`` does."""
        import torch

        save_model(model, tokenizer, self.path / kept_name(share), torch.float32, overwrite=True)

    def confirm(self) -> None:
        """Remove the earlier checkpoints, because a step from the last one was good."""
        if not self._confirmed:
            self._confirmed = True
            self._remove_checkpoints(keep=self.last.name if self.last else "")

    def diverged(self, error: FastmaskError) -> FastmaskError:
        """Return the error with the last checkpoint that training can resume from: a step from it was good."""
        if not self._confirmed and self.last:
            _remove_whole(self.last)
        return FastmaskError(f"{error}; {self.last_good()}")

    def last_good(self) -> str:
        """Return the last checkpoint, in words."""
        return f"last good checkpoint: {self.last or 'none yet'}"

    def _remove_checkpoints(self, keep: str = "") -> None:
        for path in self._checkpoints():
            if path.name != keep:
                _remove_whole(path)

    def finish(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, result: dict, card: str = "") -> None:
        """Write the model and its card into the directory itself, then RESULT, and remove the checkpoints.

        Raises:
            OutputError: it cannot be written; the last checkpoint is kept.
        """
        import torch

        made = save_model(model, tokenizer, self.path / ".checkpoint-model", torch.float32, overwrite=True, card=card)
        with os_errors_named(self.path):
            for file in made.iterdir():
                os.replace(file, self.path / file.name)
            sync(self.path)
            made.rmdir()
            write_atomically(self.path / RESULT, json.dumps(result, indent=2).encode() + b"\n")
            self._remove_checkpoints()
            self.install()


def _remove_whole(checkpoint: Path) -> None:
    """Remove a checkpoint, renamed first, so that one under its own name is always whole."""
    hidden = checkpoint.with_name(f".{checkpoint.name}")
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


class Log:
    """OUT/log.jsonl: one JSON object a line. Lines past ``steps`` steps, which a killed run left, are removed.

    Args:
        path: the file.
        steps: how many were taken before.
        send: is given the fields of each line, too.

    Raises:
        OutputError: it cannot be written; also ``write``.
    """

    def __init__(self, path: Path, steps: int, send: Callable[..., None] | None = None):
        self.path, self._send = path, send
        with os_errors_named(path):
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            write_atomically(path, b"".join(line for line in lines if _step_of(line) <= steps))
            self._file = path.open("a", encoding="utf-8")

    def write(self, **fields: Any) -> None:
        """Append a line, which another process sees at once."""
        with os_errors_named(self.path):
            self._file.write(json.dumps(fields) + "\n")
            self._file.flush()
        if self._send is not None:
            self._send(**fields)

    def sync(self) -> None:
        """Make the lines so far durable, before the checkpoint that follows them."""
        with os_errors_named(self.path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_) -> None:
        # something is left to be written only if ``write`` has failed, which raised its own error
        with suppress(OSError):
            self._file.close()


def _step_of(line: bytes) -> float:
    try:
        step = parse_json(line)["step"]
    except (ValueError, KeyError, TypeError):  # cut short by a kill
        return float("inf")
    return step if isinstance(step, int) else float("inf")


def training_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> dict:
    """Return optimizer state by parameter name, and every rank's random state; call on all ranks."""
    import torch

    own = {"cpu": torch.get_rng_state()}
    if ranks.device.startswith("cuda"):
        own["cuda"] = torch.cuda.get_rng_state(ranks.device)
    random = {f"random.{rank}.{kind}": state for rank, states in enumerate(ranks.gather(own))
              for kind, state in states.items()}  # fmt: skip
    state = {f"optimizer.{name}.{key}": value.contiguous() for name, parameter in _trained(model)
             for key, value in optimizer.state[parameter].items()}  # fmt: skip
    return {**state, **random}


def restore(checkpoint: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> dict:
    """Set optimizer and random state to a checkpoint's (its weights are loaded as any model's are).

    Returns:
        The document that was saved with it.

    Raises:
        ModelError: it is damaged.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(checkpoint / TENSORS)
        for name, parameter in _trained(model):
            state = {key: tensors[f"optimizer.{name}.{key}"].to(parameter.device)
                     for key in ("step", "exp_avg", "exp_avg_sq")}  # fmt: skip
            if [each.shape for each in state.values()] != [(), parameter.shape, parameter.shape]:
                raise KeyError(name)
            optimizer.state[parameter] = state
        torch.set_rng_state(tensors[f"random.{ranks.rank}.cpu"])
        if ranks.device.startswith("cuda"):
            torch.cuda.set_rng_state(tensors[f"random.{ranks.rank}.cuda"], ranks.device)
        saved = read_document(checkpoint / DOCUMENT, SAVED)
        if checkpoint.name != name_of(saved["counts"]["step"]) or len(saved["streams"]) <= ranks.rank:
            raise KeyError(DOCUMENT)
        return saved
    except (SafetensorError, KeyError, OSError, RuntimeError, TypeError) as error:  # the last two: a bad random state
        raise ModelError(f"{checkpoint}: is damaged, remove it to begin again ({error})") from error


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the parameters that the optimizer has, with their names."""
    return (pair for pair in model.named_parameters() if pair[1].requires_grad)


def name_of(step: int) -> str:
    """Return the name of the checkpoint after ``step`` steps."""
    return f"checkpoint-{step:08d}"


def kept_name(share: float) -> str:
    """Return the name of the model that is kept after a share of the steps."""
    return f"at-{share:g}"


def read_document(path: Path, kind: dict) -> dict:
    """Return a JSON document, which has the fields of a kind (``manifest.whole_fault``)."""
    try:
        document = parse_json(read_regular(path))
    except ValueError as error:
        raise OutputError(f"{path}: is damaged: {error}") from error
    if fault := whole_fault(document, kind):
        raise OutputError(f"{path}: is damaged: {fault}")
    return document
