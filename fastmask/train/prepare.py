"""From a FinetuneConfig to a model, its tokenizer and encoded data."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..core.config_train import CONFIGS, FinetuneConfig
from ..core.errors import FastmaskError, ModelError
from ..core.labels import NUMBERS_ARE_NAMES, Classes
from ..core.log import SILENT, at_level
from ..core.words import counted
from ..models.device import choose_device
from ..models.directory import ModelFiles, load_tokenizer, resolve_model
from ..models.trainable import enable_packing, own_forward_remark, runs_packed
from ..models.weights import is_head, load_pretrained, redrawn
from ..text.documents import read_documents
from .examples import Examples, Row, class_index, encode_rows, find_classes, has_pairs, labelled_rows
from .reading import reading_of
from .vocabulary import learn_wordpieces

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """What training works on, all built from one FinetuneConfig.

    Attributes:
        model: a sequence classifier on ``device``, float32, with packing enabled where its family allows it.
        tokenizer: the model's.
        class_names: in index order.
        train: the training rows.
        dev, test: file name -> its rows.
        device: "cpu" or "cuda".
        config: with the longest input that the model takes.
        base: what training starts from; None for a new model.
    """

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    class_names: tuple[str, ...]
    train: Examples
    dev: dict[str, Examples]
    test: dict[str, Examples]
    device: str
    config: FinetuneConfig
    base: ModelFiles | None = None


def build_task(config: FinetuneConfig) -> Task:
    """Read every file, make or load the model, and encode the rows; raise what ``finetune`` raises."""
    hard = _read(config, config.train)
    files = {path: _read(config, (path,)) for path in (*config.dev, *config.test)}
    device, base = choose_device(config.device), None
    if config.init is None:
        classes = Classes(config.classes) if config.classes else _classes_in(hard)
        model, tokenizer = new_classifier(config, [row.text for row in hard], classes.names)
    else:
        base = resolve_model(config.init)
        model, tokenizer, classes = _from_model(config, base, hard)
    # the model that training starts from may have other classes
    if getattr(model.config, NUMBERS_ARE_NAMES, False) != classes.numbers_are_names:
        setattr(model.config, NUMBERS_ARE_NAMES, classes.numbers_are_names)
    name = config.init or "the new model"
    max_length, is_typed = reading_of(model, tokenizer, name, config.max_length, has_pairs(hard))
    if not runs_packed(model):
        log.info(own_forward_remark(model, pads=False))
    encoded = {path: encode_rows(tokenizer, rows, classes, max_length, is_typed) for path, rows in files.items()}
    train = encode_rows(tokenizer, hard, classes, max_length, is_typed)
    if unseen := [name for index, name in enumerate(classes.names) if index not in train.labels]:
        log.warning(f"no training row has the class {' or '.join(unseen)}")
    return Task(
        model=enable_packing(model).to(device),
        tokenizer=tokenizer,
        class_names=classes.names,
        train=train,
        dev={path: encoded[path] for path in config.dev},
        test={path: encoded[path] for path in config.test},
        device=device,
        config=replace(config, max_length=max_length),
        base=base,
    )


def _read(config: FinetuneConfig, paths: tuple[str, ...]) -> list[Row]:
    skipped: list[str] = []
    documents = read_documents(paths, text_field=config.text_field, label_field=config.label_field,
                               encoding=config.encoding, on_error=config.on_error,
                               max_text_mb=config.max_text_mb, skipped=skipped)  # fmt: skip
    rows = list(labelled_rows(documents, config.label_field))
    if skipped:
        log.warning(f"{counted(len(skipped), 'row')} skipped, the first: {skipped[0]}")
    if not rows:
        raise FastmaskError(f"{', '.join(paths)}: holds no labelled text")
    return rows


def check_labels(config: FinetuneConfig, test: str) -> None:
    """Raise InputError for a row of a test file whose label is none of the classes that training will have."""
    with at_level(SILENT):  # the training itself will log what there is to say
        hard = _read(config, config.train)
        classes = _classes_for(config, resolve_model(config.init), hard)
    for row in _read(replace(config, on_error="fail"), (test,)):
        class_index(row, classes)


def new_classifier(config: FinetuneConfig, texts: list[str], class_names: tuple[str, ...]):
    """Return a new model of the shape that ``config`` names, and its tokenizer, whose vocabulary the texts teach."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = learn_wordpieces(texts, config.vocab_size, int(config.max_length))
    log.info(f"learned {counted(len(tokenizer), 'wordpiece')} from {counted(len(texts), 'text')}")
    shape = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=int(config.max_length),
        pad_token_id=tokenizer.pad_token_id,
        problem_type="single_label_classification",
        **_labels(class_names),
        **CONFIGS[str(config.config)],
    )
    return BertForSequenceClassification(shape), tokenizer


def _from_model(config: FinetuneConfig, files: ModelFiles, hard: list[Row]):
    import torch

    classes = _classes_for(config, files, hard)
    kind = "single_label_classification"  # whatever the model was trained for
    model, missing = load_pretrained(files, torch.float32, problem_type=kind, **_labels(classes.names))
    for name in missing:
        if not is_head(model, name):
            raise ModelError(f"{files.name}: its weights lack {name}")
    if config.new_head:
        missing = [name for name, _ in model.named_parameters() if is_head(model, name)]
        model = redrawn(model, missing, config.seed)
    elif missing:
        log.info(f"the classification head is new: {', '.join(sorted(missing))}")
    elif classes.names != files.class_names:
        theirs, ours = ", ".join(files.class_names), ", ".join(classes.names)
        log.warning(f"the head was trained for other classes: {theirs} become {ours}; --new-head draws another")
    return model, load_tokenizer(files), classes


def _classes_for(config: FinetuneConfig, files: ModelFiles, rows: list[Row]) -> Classes:
    """Return the classes of --classes; else the model's if they have every label in the data, else the data's own."""
    if config.classes:
        return Classes(config.classes)
    return files.classes if all(files.classes.has(row.label) for row in rows) else _classes_in(rows)


def _classes_in(rows: list[Row]) -> Classes:
    classes = find_classes(rows)
    if classes.numbers_are_names:
        log.warning(f"the labels are not the numbers from 0 on: the classes are {', '.join(classes.names)}")
    return classes


def _labels(class_names: tuple[str, ...]) -> dict:
    return {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
    }
