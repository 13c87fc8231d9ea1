"""``fastmask finetune``: trains a sequence classifier, from a model or from scratch, on unpadded batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from ..config import FinetuneConfig
from ..durable import claim
from ..errors import FastmaskError
from ..models import quiet_transformers
from .checkpoint import save_model
from .distill import mixed_loss
from .epochs import Measured, Training, torch_dtype, train_epochs
from .loop import seed_everything
from .packed import class_logits
from .predict import accuracy, macro_f1, pack_rows, predict
from .prepare import Task, build_task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from .examples import Examples


def finetune(config: FinetuneConfig, report: Callable[[str], None]) -> dict:
    """Trains, saves the best epoch in ``config.out`` with ``metrics.json``, and returns those metrics.

    Two runs with one config and one thread count on one CPU give the same bytes.

    Args:
        config: what to train.
        report: receives one progress line at a time.

    Raises:
        InputError: a row without a usable label, or a file that cannot be read.
        ModelError: ``init`` cannot be loaded or does not fit.
        OutputError: ``out`` is taken or cannot be written.
        FastmaskError: anything else in the options, or a loss that is not finite.
    """
    started = time.perf_counter()
    # the training may not be lost in the end: what would keep the model from its place is said now
    with claim(config.out, config.overwrite) as out, quiet_transformers():
        rng = seed_everything(config.seed)
        task = build_task(config, rng, report)
        training = Training(task.model, task.train.lengths, _model_step(config, task), lambda: _measured(task))
        epochs, best = train_epochs(config, training, rng, report, config.average)
        metrics = {
            "config": asdict(config),
            "classes": list(task.class_names),
            "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
            "train_rows": len(task.train),
            "train_tokens": int(task.train.lengths.sum()),
            "epochs": epochs,
            "best_epoch": best,
            "dev": _measure(task, task.dev),
            "test": _measure(task, task.test),
        }
        save_model(task.model, task.tokenizer, out, torch_dtype(config.dtype), {"metrics.json": metrics},
                   config.overwrite)  # fmt: skip
    for path, figures in {**metrics["dev"], **metrics["test"]}.items():
        report(f"{path}: accuracy {figures['accuracy']:.4f}, macro F1 {figures['macro_f1']:.4f}")
    report(f"{config.out}: epoch {best} of {config.epochs}, {time.perf_counter() - started:.0f} s in all")
    return metrics


def _measure(task: Task, files: dict[str, Examples]) -> dict[str, dict]:
    """Accuracy and macro F1 of the model as it stands, file by file."""
    figures = {}
    for path, examples in files.items():
        predicted = predict(task.model, examples, task.device)
        figures[path] = {
            "rows": len(examples),
            "accuracy": accuracy(predicted, examples.labels),
            "macro_f1": macro_f1(predicted, examples.labels, len(task.class_names)),
        }
    return figures


def _measured(task: Task) -> Measured:
    dev = {path: figures["accuracy"] for path, figures in _measure(task, task.dev).items()}
    words = "".join(f", {path} {value:.4f}" for path, value in dev.items())
    return Measured({"dev_accuracy": dev}, sum(dev.values()) if dev else None, words)


def _model_step(config: FinetuneConfig, task: Task) -> Callable[[np.ndarray], torch.Tensor]:
    import torch

    examples = task.train
    labels, teacher = (torch.from_numpy(a).to(task.device) for a in (examples.labels, task.teacher_logits))
    drop = _token_dropout(task.tokenizer, config.token_dropout)

    def step(rows: np.ndarray) -> torch.Tensor:
        batch = pack_rows(examples, rows, task.device)
        batch = replace(batch, input_ids=drop(batch.input_ids))
        return mixed_loss(class_logits(task.model, batch).float(), labels[rows], teacher[rows])

    return step


def _token_dropout(tokenizer: PreTrainedTokenizerBase, probability: float):
    """int64 [T] -> int64 [T], each ordinary token replaced by [MASK] with ``probability``."""
    import torch

    if not probability:
        return lambda input_ids: input_ids
    if tokenizer.mask_token_id is None:
        raise FastmaskError("--token-dropout: the model's tokenizer has no mask token")
    special = torch.tensor(tokenizer.all_special_ids)

    def drop(input_ids: torch.Tensor) -> torch.Tensor:
        chosen = torch.rand(input_ids.shape).to(input_ids.device) < probability
        chosen &= ~torch.isin(input_ids, special.to(input_ids.device))
        return input_ids.masked_fill(chosen, tokenizer.mask_token_id)

    return drop
