"""The step ``predict`` of a recipe's run: a fine-tuned model's answers on the test file, kept for the comparisons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.durable import json_bytes, os_errors_named, write_atomically
from ..core.errors import FastmaskError, ModelError
from ..core.labels import Classes
from ..core.plain import parse_json, read_regular
from ..models.directory import load_tokenizer, resolve_model
from ..models.trainable import enable_packing
from ..models.weights import load_classifier
from ..shards.manifest import whole_fault
from ..text.documents import read_documents
from ..train.examples import Row, encode_rows, has_pairs, labelled_rows
from ..train.predict import predict
from ..train.reading import reading_of

if TYPE_CHECKING:
    from ..core.config import EvaluateConfig
    from ..models.directory import ModelFiles

PREDICTIONS = "predictions.json"
WRITTEN = {"config": dict, "classes": [str], "numbers_are_names": bool, "predicted": [int], "texts": str}
"""The types of what it holds, as ``manifest.whole_fault`` takes them."""


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """What decides the answers: the model, the seed it was fine-tuned with, and the test file and how it is read."""

    model: str
    seed: int
    test: str
    max_length: int
    max_text_mb: int
    text_field: str
    label_field: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers in a step's directory, in place of the model.

    Attributes:
        name: the directory.
        classes: of the model.
        predicted: int64 [N], the class of each test row.
        texts: hash of the texts of these rows, as ``texts_of`` gives it.
        max_length: what was asked for as the longest of the model's inputs, in tokens.
    """

    name: str
    classes: Classes
    predicted: np.ndarray
    texts: str
    max_length: int

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, as ``ModelFiles`` does."""
        return self.classes.names


def rows_of(config: PredictConfig | EvaluateConfig) -> list[Row]:
    """Return the labelled rows of the test file.

    Raises:
        InputError: the file cannot be read, or a row has no usable label.
        FastmaskError: it has none.
    """
    documents = read_documents((config.test,), text_field=config.text_field, label_field=config.label_field,
                               encoding=config.encoding, max_text_mb=config.max_text_mb)  # fmt: skip
    if not (rows := list(labelled_rows(documents, config.label_field))):
        raise FastmaskError(f"{config.test}: holds no labelled text")
    return rows


def write_predictions(config: PredictConfig, place: str | Path) -> None:
    """Write a model's answers into a directory, as ``PREDICTIONS``.

    Raises:
        InputError: a row without a usable class, or a file that cannot be read.
        ModelError: the model cannot be loaded.
        OutputError: the file cannot be written.
    """
    rows, files = rows_of(config), resolve_model(config.model)
    predicted = predictions_of(files, rows, config.max_length)
    content = {"config": asdict(config), "classes": list(files.class_names),
               "numbers_are_names": files.classes.numbers_are_names, "predicted": predicted.tolist(),
               "texts": texts_of(rows)}  # fmt: skip
    with os_errors_named(Path(place)):
        Path(place).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(place, PREDICTIONS), json_bytes(content))


def read_written(place: Path) -> Predictions | None:
    """Return what ``write_predictions`` has left in a directory; None where there is nothing.

    Raises:
        ModelError: it is damaged.
    """
    try:
        content = parse_json(read_regular(place / PREDICTIONS))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{place / PREDICTIONS}: is damaged: {error}") from error
    if fault := whole_fault(content, WRITTEN):
        raise ModelError(f"{place / PREDICTIONS}: is damaged: {fault}")
    names, predicted = tuple(content["classes"]), content["predicted"]
    longest = content["config"].get("max_length")
    if type(longest) is not int:
        raise ModelError(f"{place / PREDICTIONS}: is damaged: config has no max_length")
    if not all(0 <= one < len(names) for one in predicted):
        raise ModelError(f"{place / PREDICTIONS}: is damaged: predicted has what is no class's number")
    classes = Classes(names, content["numbers_are_names"])
    return Predictions(str(place), classes, np.array(predicted, np.int64), content["texts"], longest)


def texts_of(rows: Sequence[Row]) -> str:
    """Return one sha256 of the texts of all rows, with their aspects, in order."""
    return hashlib.sha256(json.dumps([[row.aspect, row.text] for row in rows]).encode()).hexdigest()


def predictions_of(files: ModelFiles, rows: Sequence[Row], max_length: int) -> np.ndarray:
    """Return a model's argmax classes of the rows, int64 [N]."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load_classifier(files, torch.float32), load_tokenizer(files)
    how = reading_of(model, tokenizer, files.name, max_length, has_pairs(rows))
    examples = encode_rows(tokenizer, rows, files.classes, *how)
    return predict(enable_packing(model).to(device), examples, device)
