"""``fastmask finetune``: trains a sequence classifier, from a model or from scratch, on unpadded batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from ..core.config_train import FinetuneConfig
from ..core.directories import claim
from ..models.directory import quiet_transformers
from ..models.trainable import class_logits
from .card import model_card
from .checkpoint import METRICS, save_model
from .epochs import Measured, Training, torch_dtype, train_epochs
from .loop import seed_everything
from .predict import accuracy, macro_f1, pack_rows, predict
from .prepare import Task, build_task

if TYPE_CHECKING:
    import torch

    from .examples import Examples

log = logging.getLogger(__name__)


def finetune(config: FinetuneConfig) -> dict:
    """Train, save the best epoch in ``config.out`` with ``metrics.json``, and return those metrics.

    Two runs with one config and one thread count on one CPU give the same bytes.

    Args:
        config: what to train.

    Raises:
        InputError: a row without a usable label, or a file that cannot be read.
        ModelError: ``init`` cannot be loaded or does not fit.
        OutputError: ``out`` is taken or cannot be written.
        FastmaskError: anything else in the options, or a loss that is not finite.
    """
    started = time.perf_counter()
    # an output directory that cannot be written is an error now, not after hours of training
    with claim(config.out, config.overwrite) as out, quiet_transformers():
        rng = seed_everything(config.seed)
        task = build_task(config)
        training = Training(task.model, task.train.lengths, _model_step(task), lambda: _measured(task))
        epochs, best = train_epochs(config, training, rng)
        metrics = {
            "config": asdict(task.config),
            "classes": list(task.class_names),
            "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
            "train_rows": len(task.train),
            "train_tokens": int(task.train.lengths.sum()),
            "epochs": epochs,
            "best_epoch": best,
            "dev": measure(task, task.dev),
            "test": measure(task, task.test),
        }
        save_model(task.model, task.tokenizer, out, torch_dtype(config.dtype), {METRICS: metrics},
                   config.overwrite, card=model_card(task.config, task.base, metrics, METRICS))  # fmt: skip
    for path, figures in {**metrics["dev"], **metrics["test"]}.items():
        log.info(f"{path}: accuracy {figures['accuracy']:.4f}, macro F1 {figures['macro_f1']:.4f}")
    log.info(f"{config.out}: epoch {best} of {config.epochs}, {time.perf_counter() - started:.0f} s in all")
    return metrics


def measure(task: Task, files: dict[str, Examples]) -> dict[str, dict]:
    """Return accuracy and macro F1 of the model as it stands, file by file."""
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
    dev = {path: figures["accuracy"] for path, figures in measure(task, task.dev).items()}
    words = "".join(f", {path} {value:.4f}" for path, value in dev.items())
    return Measured({"dev_accuracy": dev}, sum(dev.values()) if dev else None, words)


def _model_step(task: Task) -> Callable[[np.ndarray], torch.Tensor]:
    import torch

    labels = torch.from_numpy(task.train.labels).to(task.device)

    def step(rows: np.ndarray) -> torch.Tensor:
        logits = class_logits(task.model, pack_rows(task.train, rows, task.device))
        return torch.nn.functional.cross_entropy(logits.float(), labels[rows])

    return step
