"""Which model directory is meant, what is in it, and loading it without surprises.

Only safetensors weights and only code from transformers itself are ever loaded; whatever does not fit is
refused with one line, because transformers would fill missing weights with random numbers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ModelError, first_line
from ..core.labels import NUMBERS_ARE_NAMES, Classes
from ..core.panics import panics_told
from ..core.plain import is_special, parse_json, read_regular, short_number
from .conversion import WEIGHTS, WEIGHTS_INDEX, check_converted
from .sizes import check_counts, shapes_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED = "embedded"
CONFIG = "config.json"
MOST_OF_A_CHARACTER = 4096
"""What replacements of a normalizer may make of it: real ones make three."""
ARE_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot")
"""Endings of weights, of which only the first are loaded."""
DOWNLOADS = ["*.json", "*.txt", "*.model", "*.safetensors"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model directory that was looked through, before any weight is loaded.

    Attributes:
        dir: the directory.
        name: what the user called it; "embedded" for the classifier in the package.
        is_local: whether that is a directory.
        config: its config.json.
        class_names: name of each class, "LABEL_<i>" where the config has none.
        num_labels: number of classes.
        weights_sha256: goes into manifests.
    """

    dir: Path
    name: str
    is_local: bool
    config: dict
    class_names: tuple[str, ...]
    num_labels: int
    weights_sha256: str

    @property
    def classes(self) -> Classes:
        """Return the classes in which labels are looked up."""
        return Classes(self.class_names, self.config.get(NUMBERS_ARE_NAMES) is True)


def resolve_model(model: str | None) -> ModelFiles:
    """Find a model: None is the embedded classifier, else a directory, else a Hugging Face hub id.

    Raises:
        ModelError: no such directory or hub model, no config.json or one that cannot be read, no safetensors weights,
            or a tokenizer that has to be converted.
    """
    path, name = (ASSETS, EMBEDDED) if model is None else (Path(model), model)
    is_local = model != "" and os.path.isdir(path)  # Path("") is the current directory
    if not is_local:
        path = _download(name)
    inside = (Path(folder, file) for folder, _, files in os.walk(path) for file in files)
    if special := next(filter(is_special, inside), None):
        raise ModelError(f"{name}: {special.relative_to(path)} is not a regular file")
    config = _read_config(path, name)
    check_converted(path, name, config, is_local)
    check_counts(config, shapes_of(weight_files(path)), name)
    class_names = _class_names(config, name)
    return ModelFiles(path, name, is_local, config, class_names, len(class_names), weights_hash(path))


def _download(model: str) -> Path:
    if model.count("/") > 1 or model.startswith((".", "/", "~")) or "\\" in model or not model:
        raise ModelError(f"{model or '(an empty name)'}: no such model directory")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=DOWNLOADS))
    except Exception as error:  # the hub client raises OSError, ValueError and its HTTP library's own errors
        reason = type(error).__name__
        raise ModelError(
            f"{model}: no such directory, and it could not be had from the Hugging Face hub ({reason})"
        ) from error


def _read_config(path: Path, name: str) -> dict:
    file = path / CONFIG
    try:
        config = parse_json(read_regular(file))
    except FileNotFoundError as error:
        raise ModelError(f"{name}: not a model directory, {CONFIG} is missing") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: {CONFIG} cannot be read: {first_line(error)}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f'{name}: {CONFIG} does not name a "model_type"')
    return config


def _class_names(config: dict, name: str) -> tuple[str, ...]:
    try:
        if config.get("id2label"):
            by_index = {int(index): str(label) for index, label in config["id2label"].items()}
            return tuple(by_index[index] for index in range(len(by_index)))
        return tuple(f"LABEL_{index}" for index in range(int(config.get("num_labels", 2))))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f'{name}: "id2label" in {CONFIG} must map 0..n-1 to class names') from error


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a model directory, the one file or the sorted parts that its index names.

    Raises:
        ModelError: there are none, or a part is missing or elsewhere.
    """
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if not (path / WEIGHTS_INDEX).is_file():
        raise ModelError(f"{path}: {WEIGHTS} is missing")
    try:
        names = set(parse_json(read_regular(path / WEIGHTS_INDEX))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: {WEIGHTS_INDEX} cannot be read") from error
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{path}: {WEIGHTS_INDEX} does not say which files have the weights")
    if outside := [name for name in sorted(names) if name in ("", ".", "..") or re.search(r"[/\\\0]", name)]:
        raise ModelError(f"{path}: {WEIGHTS_INDEX} names {outside[0]!a}, which is not a file of this directory")
    files = [path / name for name in sorted(names)]
    for file in files:
        if not os.path.isfile(file):  # also where the name is too long to be one
            raise ModelError(f"{path}: {file.name}, named by {WEIGHTS_INDEX}, is missing")
    return files


def weights_hash(path: str | Path) -> str:
    """Return the sha256 of ``model.safetensors``, or of all parts together; raise what ``weight_files`` raises."""
    return _sha256(weight_files(Path(path)))


def settings_hash(path: Path) -> str:
    """Return the sha256 of the files of a model directory that are no weights, names and content."""
    files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix not in ARE_WEIGHTS)
    hashes = [f"{_sha256([file])} {file.name}" for file in files]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)  # adds to it
    return digest.hexdigest()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers inside; restore its settings afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """Load what ``AutoTokenizer`` makes of the directory: every command's tokenizer. Truncation and padding are off.

    Raises:
        ModelError: it cannot be loaded, is empty, gives no positions in the text, or makes ids that the model has no
            embedding for.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers(), panics_told(files.name, loading=True):
            tokenizer = AutoTokenizer.from_pretrained(files.dir, local_files_only=True, trust_remote_code=False)
        _check_growth(tokenizer)
    except ModelError:
        raise
    except Exception as error:  # transformers and tokenizers raise bare Exception for damaged files
        raise ModelError(f"{files.name}: the tokenizer cannot be loaded: {first_line(error)}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{files.name}: has no fast tokenizer, so token positions in the text are unknown")
    # where there is nothing to load, transformers makes a tokenizer of special tokens, and "▁" for some families
    if len(set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab())) < 2:
        raise ModelError(f"{files.name}: has no tokenizer, or one with an empty vocabulary")
    largest, rows = max(tokenizer.get_vocab().values()), files.config.get("vocab_size")
    if isinstance(rows, int) and largest >= rows:
        raise ModelError(f"{files.name}: the tokenizer's ids go up to {largest}, past the model's {rows}")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens  # as transformers does at every call
    return tokenizer


def _check_growth(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError where replacements make so much of a character that a text ends the process for memory."""
    normalizer = tokenizer.is_fast and tokenizer.backend_tokenizer.normalizer
    steps, most = ([parse_json(normalizer.__getstate__())] if normalizer else []), 1
    while steps:
        step = steps.pop()
        steps += step.get("normalizers") or []
        most *= max(1, len(step.get("content") or ""), len(step.get("prepend") or ""))
    if most > MOST_OF_A_CHARACTER:
        raise ValueError(f"its normalizer makes up to {short_number(most)} characters of one")
