"""A classifier's answers on labelled rows, and how good they are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..models.trainable import class_logits, pack

if TYPE_CHECKING:
    import torch

    from ..models.trainable import PackedTensors
    from .examples import Examples
    from .tagged import TaggedSentences

EVALUATION_TOKENS = 2048


def pack_rows(examples: Examples | TaggedSentences, rows: np.ndarray, device: str) -> PackedTensors:
    """Pack the examples that ``rows`` (int [B]) names."""
    ids, types = ([values[i] for i in rows] for values in (examples.input_ids, examples.token_types))
    return pack(ids, types, device, examples.is_typed)


def logits_of(model: torch.nn.Module, examples: Examples, device: str = "cpu") -> np.ndarray:
    """Return logits, float32 [N, classes], in evaluation mode, of a model that has gone through ``enable_packing``."""
    import torch

    model.eval()
    logits = np.empty((len(examples), model.config.num_labels), np.float32)
    with torch.inference_mode():
        for rows in evaluation_batches(examples.lengths):
            logits[rows] = class_logits(model, pack_rows(examples, rows, device)).float().cpu().numpy()
    return logits


def predict(model: torch.nn.Module, examples: Examples, device: str = "cpu") -> np.ndarray:
    """Return argmax classes, int64 [N], of a model that has gone through ``enable_packing``."""
    return logits_of(model, examples, device).argmax(-1)


def evaluation_batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of rows, int64 [B], in order of length, about EVALUATION_TOKENS tokens a batch."""
    order = np.argsort(lengths, kind="stable")
    ends = np.flatnonzero(np.diff(np.cumsum(lengths[order]) // EVALUATION_TOKENS)) + 1
    yield from (order[start:end] for start, end in pairwise([0, *ends, len(order)]))


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of equal entries of two int64 [N] arrays."""
    return float((predicted == labels).mean())


def macro_f1(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Return the mean over classes of F1; a class that is neither given nor predicted counts 0."""
    table = np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    hits, marked = np.diag(table), table.sum(0) + table.sum(1)
    return float(np.mean(2 * hits / np.maximum(marked, 1)))
