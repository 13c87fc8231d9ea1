"""``fastmask train-masker``: a token classifier learns from finished shards which tokens to mask."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..core.config_train import MaskerConfig
from ..core.directories import claim
from ..core.errors import FastmaskError, ModelError
from ..models.device import choose_device
from ..models.directory import ModelFiles, load_tokenizer, quiet_transformers, resolve_model
from ..models.trainable import enable_packing, own_forward_remark, runs_packed, token_logits
from ..models.weights import is_head, is_token_classifier, load_pretrained, redrawn
from .card import model_card
from .checkpoint import METRICS, save_model
from .epochs import Measured, Training, torch_dtype, train_epochs
from .loop import seed_everything
from .predict import evaluation_batches, pack_rows
from .reading import reading_of
from .tagged import UNLABELLED, TaggedSentences, read_tagged, split_documents

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
LABELS = ("keep", "mask")
LAST_LAYERS = ("classifier.", "score.")
"""How the names of a token classifier's last layer begin."""


@dataclass(frozen=True, slots=True)
class MaskerTask:
    """What training works on: a token classifier on ``device``, its tokenizer, and sentences to learn and measure.

    ``config`` has the longest input that the model takes; ``base`` is what training starts from.
    """

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    train: TaggedSentences
    dev: TaggedSentences
    device: str
    config: MaskerConfig
    base: ModelFiles


def train_masker(config: MaskerConfig) -> dict:
    """Train, save the epoch of the best token F1 in ``config.out`` with ``metrics.json``, and return those metrics.

    Two runs with one config and one thread count on one CPU give the same bytes.

    Args:
        config: what to train.

    Raises:
        ModelError: ``init`` cannot be loaded, or the shards are of another tokenizer.
        OutputError: shards are not finished or damaged, or ``out`` is taken or cannot be written.
        FastmaskError: there is too little to learn from, or a loss that is not finite.
    """
    started = time.perf_counter()
    # an output directory that cannot be written is an error now, not after hours of training
    with claim(config.out, config.overwrite) as out, quiet_transformers():
        rng = seed_everything(config.seed)
        task = _build_task(config, rng)
        training = Training(task.model, task.train.lengths, _model_step(config, task), lambda: _measured(task))
        epochs, best = train_epochs(config, training, rng)
        metrics = {
            "config": asdict(task.config),
            "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
            "train_sentences": len(task.train),
            "train_tokens": int(task.train.lengths.sum()),
            "train_masked": task.train.masked,
            "dev_sentences": len(task.dev),
            "epochs": epochs,
            "best_epoch": best,
            "dev": epochs[best - 1]["dev"],
        }
        save_model(task.model, task.tokenizer, out, torch_dtype(config.dtype), {METRICS: metrics},
                   config.overwrite, card=model_card(task.config, task.base, metrics, METRICS))  # fmt: skip
    log.info(f"{config.out}: epoch {best} of {config.epochs}, {_figures(metrics['dev'])}, "
             f"{time.perf_counter() - started:.0f} s in all")  # fmt: skip
    return metrics


def _figures(measured: dict) -> str:
    return ", ".join(f"{name} {measured[name]:.4f}" for name in ("precision", "recall", "f1"))


def _build_task(config: MaskerConfig, rng: np.random.Generator) -> MaskerTask:
    files = resolve_model(config.init)
    tokenizer, model = load_tokenizer(files), _token_classifier(files)
    max_length, is_typed = reading_of(model, tokenizer, files.name, config.max_length, False)
    if not runs_packed(model):
        log.info(own_forward_remark(model, pads=False))
    sentences = read_tagged(config.shards, files, tokenizer, max_length, is_typed)
    if config.dev:
        parts = sentences, read_tagged(config.dev, files, tokenizer, max_length, is_typed)
    else:
        parts = split_documents(sentences, config.dev_share, rng)
    _require_masks(config, *parts)
    device = choose_device(config.device)
    config = replace(config, max_length=max_length)
    return MaskerTask(enable_packing(model).to(device), tokenizer, *parts, device, config, files)


def _require_masks(config: MaskerConfig, learned: TaggedSentences, measured: TaggedSentences) -> None:
    """Raise FastmaskError if nothing is masked in what is learned from, or in what chooses the best epoch."""
    if not learned.masked:
        raise FastmaskError(f"{', '.join(config.shards)}: no token is masked; there is nothing to learn from")
    if not measured.masked:
        where = f"{', '.join(config.dev)}: no token" if config.dev else "no token of the held-out documents"
        raise FastmaskError(f"{where} is masked, so that no epoch is the best; give --dev with masks")


def _token_classifier(files: ModelFiles) -> torch.nn.Module:
    """Return the encoder of ``files`` with a classifier of two classes on every token, a new one unless it is a masker.

    Raises:
        ModelError: the model cannot be loaded, or its encoder is incomplete.
    """
    import torch

    label2id = {name: index for index, name in enumerate(LABELS)}
    model, missing = load_pretrained(
        files, torch.float32, task="TokenClassification", id2label=dict(enumerate(LABELS)), label2id=label2id
    )
    for name in missing:
        if not is_head(model, name):
            raise ModelError(f"--init {files.name}: its weights lack {name}")
    if not is_token_classifier(files):
        # a sequence classifier's last layer has the same name, and may have the same shape
        model = redrawn(model, [name for name, _ in model.named_parameters() if name.startswith(LAST_LAYERS)])
    return model


def _measured(task: MaskerTask) -> Measured:
    found = measure(task.model, task.dev, task.device)
    return Measured({"dev": found}, found["f1"], f", {_figures(found)}")


def _model_step(config: MaskerConfig, task: MaskerTask) -> Callable[[np.ndarray], torch.Tensor]:
    import torch

    weight = torch.tensor([1.0, config.mask_weight], device=task.device)

    def step(rows: np.ndarray) -> torch.Tensor:
        logits = token_logits(task.model, pack_rows(task.train, rows, task.device)).float()
        labels = torch.from_numpy(np.concatenate([task.train.labels[i] for i in rows])).to(task.device)
        return torch.nn.functional.cross_entropy(logits, labels, weight, ignore_index=UNLABELLED)

    return step


def measure(model: torch.nn.Module, sentences: TaggedSentences, device: str = "cpu") -> dict[str, float]:
    """Return precision, recall and F1 of class 1 over all labelled tokens, in evaluation mode."""
    import torch

    model.eval()
    counts = np.zeros(3, np.int64)
    with torch.inference_mode():
        for rows in evaluation_batches(sentences.lengths):
            predicted = token_logits(model, pack_rows(sentences, rows, device)).argmax(-1).cpu().numpy()
            counts += token_counts(predicted, np.concatenate([sentences.labels[i] for i in rows]))
    return token_scores(*counts.tolist())


def token_counts(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count, in int64 [T] arrays, the tokens 1 in both, predicted as 1, and labelled 1: int64 [3], no UNLABELLED."""
    marked, given = (predicted == 1) & (labels != UNLABELLED), labels == 1
    return np.array([(marked & given).sum(), marked.sum(), given.sum()])


def token_scores(hits: int, marked: int, given: int) -> dict[str, float]:
    """Return precision, recall and F1; 0 where there is nothing to divide by."""
    return {"precision": hits / max(1, marked), "recall": hits / max(1, given), "f1": 2 * hits / max(1, marked + given)}
