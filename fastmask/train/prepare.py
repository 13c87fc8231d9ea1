"""From a FinetuneConfig to a model, its tokenizer and encoded data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import FastmaskError, ModelError
from ..models import load_pretrained, load_tokenizer, resolve_model
from ..read import read_documents
from .examples import Examples, Row, encode_rows, find_classes, labelled_rows
from .packed import enable_packing, first_position
from .vocabulary import learn_wordpieces

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from .classify import FinetuneConfig

CONFIGS = {
    # 3 MB in float16 with 8,192 wordpieces
    "small": {
        "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512,
        "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1,
    },
}  # fmt: skip
HEADS = ("classifier.", "pooler.", "score.")


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
    """

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    class_names: tuple[str, ...]
    train: Examples
    dev: dict[str, Examples]
    test: dict[str, Examples]
    device: str


def build_task(config: FinetuneConfig, report: Callable[[str], None]) -> Task:
    """Reads every file, makes or loads the model, and encodes the rows; raises what ``finetune`` raises."""
    train_rows = _read(config, config.train)
    files = {path: _read(config, (path,)) for path in (*config.dev, *config.test)}
    start = _from_scratch if config.init is None else _from_model
    model, tokenizer, class_names = start(config, train_rows, report)
    device = _device(config.device)
    # a model with fewer positions than the option asks for sets the limit
    max_length = min(config.max_length, _longest(model))
    if max_length < config.max_length:
        report(f"inputs are cut at {max_length} tokens, all that the model has positions for")
    encoded = {path: encode_rows(tokenizer, rows, class_names, max_length) for path, rows in files.items()}
    return Task(
        model=enable_packing(model).to(device),
        tokenizer=tokenizer,
        class_names=class_names,
        train=encode_rows(tokenizer, train_rows, class_names, max_length),
        dev={path: encoded[path] for path in config.dev},
        test={path: encoded[path] for path in config.test},
        device=device,
    )


def _read(config: FinetuneConfig, paths: tuple[str, ...]) -> list[Row]:
    documents = read_documents(
        paths, text_field=config.text_field, label_field=config.label_field,
        encoding=config.encoding, on_error=config.on_error,
    )  # fmt: skip
    rows = list(labelled_rows(documents))
    if not rows:
        raise FastmaskError(f"{', '.join(paths)}: holds no labelled text")
    return rows


def _from_scratch(config: FinetuneConfig, rows: list[Row], report: Callable[[str], None]):
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = learn_wordpieces([row.text for row in rows], config.vocab_size, config.max_length)
    report(f"learned {len(tokenizer)} wordpieces from {len(rows)} rows")
    class_names = config.classes or find_classes(rows)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=config.max_length,
        pad_token_id=tokenizer.pad_token_id,
        problem_type="single_label_classification",
        **_labels(class_names),
        **CONFIGS[config.config],
    )
    return BertForSequenceClassification(shape), tokenizer, class_names


def _from_model(config: FinetuneConfig, rows: list[Row], report: Callable[[str], None]):
    import torch

    files = resolve_model(config.init)
    class_names = config.classes or _classes_of(files.class_names, rows)
    model, missing = load_pretrained(files, torch.float32, **_labels(class_names))
    for name in missing:
        if not any(head in name for head in HEADS):
            raise ModelError(f"{files.name}: its weights lack {name}")
    if missing:
        report(f"the classification head is new: {', '.join(missing)}")
    return model, load_tokenizer(files), class_names


def _classes_of(model_classes: tuple[str, ...], rows: list[Row]) -> tuple[str, ...]:
    """The model's class names if every label in the data is one of them, else the data's own."""
    given = {str(row.label) for row in rows}
    indices = {str(index) for index in range(len(model_classes))}
    return model_classes if given <= set(model_classes) | indices else find_classes(rows)


def _labels(class_names: tuple[str, ...]) -> dict:
    return {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
    }


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise FastmaskError("--device cuda: no CUDA device is there")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _longest(model: torch.nn.Module) -> int:
    """The longest input that the model has positions for; unlimited when its config names no number."""
    rows = getattr(model.config, "max_position_embeddings", None)
    return sys.maxsize if rows is None else rows - first_position(model.config)
