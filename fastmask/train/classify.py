"""``fastmask finetune``: trains a sequence classifier, from a model or from scratch, on unpadded batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from ..config import FinetuneConfig
from ..durable import check_free
from ..errors import FastmaskError
from ..models import quiet_transformers
from .checkpoint import save_model
from .distill import mixed_loss
from .loop import (
    WeightAverage,
    linear_schedule,
    make_optimizer,
    seed_everything,
    shuffled_batches,
    train,
)
from .packed import class_logits
from .predict import accuracy, macro_f1, pack_rows, predict
from .prepare import Task, build_task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from .examples import Examples

SECONDS_BETWEEN_LINES = 15.0


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
    check_free(config.out, config.overwrite)
    started = time.perf_counter()
    with quiet_transformers():
        rng = seed_everything(config.seed)
        task = build_task(config, rng, report)
        epochs, best = _train_epochs(config, task, rng, report)
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
        save_model(task.model, task.tokenizer, config.out, _dtype(config.dtype), {"metrics.json": metrics},
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


def _dtype(name: str) -> torch.dtype:
    import torch

    return getattr(torch, name)


def _train_epochs(
    config: FinetuneConfig, task: Task, rng: np.random.Generator, report: Callable[[str], None]
) -> tuple[list[dict], int]:
    """Trains every epoch and leaves the best one's weights, rounded to ``config.dtype``, in the model."""
    average = WeightAverage(task.model, config.average)
    run_epoch = _epoch_runner(config, task, average, report)
    records: list[dict] = []
    best, best_score, weights = 0, -1.0, {}
    for epoch in range(1, config.epochs + 1):
        loss = run_epoch(shuffled_batches(task.train.lengths, config.batch_size, rng), epoch)
        with average.applied():
            dev = {path: figures["accuracy"] for path, figures in _measure(task, task.dev).items()}
            if sum(dev.values()) > best_score or not dev:
                best, best_score = epoch, sum(dev.values())
                weights = _rounded(task.model, _dtype(config.dtype))
        records.append({"epoch": epoch, "train_loss": loss, "dev_accuracy": dev})
        report(f"epoch {epoch} of {config.epochs}: loss {loss:.4f}" + "".join(
            f", {path} {value:.4f}" for path, value in dev.items()))  # fmt: skip
    task.model.load_state_dict(weights)
    return records, best


def _epoch_runner(config: FinetuneConfig, task: Task, average: WeightAverage, report: Callable[[str], None]):
    """A function of (batches, epoch) that trains on them and returns the mean loss of their rows."""
    steps = -(-len(task.train) // config.batch_size)
    schedule = linear_schedule(steps * config.epochs, config.warmup)
    optimizer = make_optimizer(task.model, config.lr, config.weight_decay)
    model_step = _model_step(config, task)

    def run(batches: list[np.ndarray], epoch: int) -> float:
        task.model.train()
        total, seen, said = 0.0, 0, time.monotonic()
        losses = train(model_step, batches, optimizer, schedule, first_step=(epoch - 1) * steps)
        for rows, (step, loss) in zip(batches, losses, strict=True):
            average.update()
            total, seen = total + loss * len(rows), seen + len(rows)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                report(f"step {step + 1} of {steps * config.epochs}: loss {total / seen:.4f}")
        return total / seen

    return run


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


def _rounded(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A copy of the weights after a round trip through ``dtype``: the model that the saved file holds."""
    return {name: tensor.detach().to(dtype, copy=True).to(tensor.dtype) if tensor.is_floating_point()
            else tensor.clone() for name, tensor in model.state_dict().items()}  # fmt: skip
