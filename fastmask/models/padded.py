"""Any masked-language model through its own forward pass, on sequences of like length that are padded together."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..core.errors import ModelError, first_line
from .probe import MIDDLE, differ, variant
from .trainable import PackedTensors, pack

if TYPE_CHECKING:
    from .packing import Template

LIKE = 0.8
"""The shortest of the sequences that are padded together, as a share of the longest: at most a fifth is padding."""
PLACES = 8


def masked_logits(model: torch.nn.Module, batch: PackedTensors, at: torch.Tensor, pads: bool) -> torch.Tensor:
    """Return logits [M, V] at some places of a packed batch, by the model's own forward pass.

    Args:
        model: a masked-language model.
        batch: neighbours of like length run together.
        at: int64 [M], ascending places in ``batch.input_ids``.
        pads: whether sequences of different lengths may run together, which pads them.
    """
    bounds, places = batch.cu_seqlens.cpu().numpy(), at.cpu().numpy()
    lengths, ends = np.diff(bounds), np.searchsorted(places, bounds)
    parts = []
    for start, end in _groups(lengths, LIKE if pads else 1.0):
        inside = places[ends[start] : ends[end]]
        row = np.searchsorted(bounds, inside, side="right") - 1
        parts.append(_group_logits(model, batch, (start, end, int(lengths[start:end].max())),
                                   row - start, inside - bounds[row]))  # fmt: skip
    return torch.cat(parts)


def _groups(lengths: np.ndarray, least: float) -> Iterator[tuple[int, int]]:
    """Return runs (start, end) of neighbours, int64 [B], none shorter than ``least`` of the longest of its run."""
    start, low, high = 0, lengths[0], lengths[0]
    for number, length in enumerate(lengths):
        low, high = min(low, length), max(high, length)
        if low < least * high:
            yield start, number
            start, low, high = number, length, length
    yield start, len(lengths)


def _group_logits(
    model: torch.nn.Module, batch: PackedTensors, group: tuple[int, int, int], row: np.ndarray, column: np.ndarray
) -> torch.Tensor:
    """Return logits [N, V] at places (row, column), int64 [N] each, of the sequences (first, end, longest length)."""
    start, end, longest = group
    index, real = (table[start:end, :longest] for table in (batch.padded_index, batch.real))
    accepted, padding = inspect.signature(model.forward).parameters, model.config.get_text_config().pad_token_id or 0
    inputs = {"input_ids": batch.input_ids[index].masked_fill(~real, padding)}
    if "attention_mask" in accepted:
        inputs["attention_mask"] = real.long()
    if batch.is_typed and "token_type_ids" in accepted:
        inputs["token_type_ids"] = batch.token_type_ids[index].masked_fill(~real, 0)
    rows, columns = (torch.from_numpy(each).to(index.device) for each in (row, column))
    with _decoded_at(model, rows * longest + columns):
        logits = model(**inputs, return_dict=True).logits
    return logits if logits.ndim == 2 else logits[rows, columns]


@contextmanager
def _decoded_at(model: torch.nn.Module, places: torch.Tensor) -> Iterator[None]:
    """Give the decoder some places of a batch only, int64 [N], inside a ``with``, if it is a module of the model."""
    decoder = model.get_output_embeddings()
    if not isinstance(decoder, torch.nn.Linear):
        yield
        return
    hook = decoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].flatten(0, 1)[places],))
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode()
def may_pad(model: torch.nn.Module, template: Template, longest: int, name: str) -> bool:
    """Return whether a masked-language model says the same of a sequence that is padded as of one that is not.

    Args:
        model: on the CPU, in evaluation mode. Some change for good at the first short sequence: it is given one here.
        template: of what it is given.
        longest: tokens of its longest input.
        name: the model's.

    Raises:
        ModelError: it cannot be run, or its answers are not finite.
    """
    inputs = tried_inputs(template, longest)
    try:
        alone = torch.cat([_tried_logits(model, [one], template.typed, pads=False) for one in inputs])
    except Exception as error:  # each family its own
        raise ModelError(f"{name}: cannot be trained: {first_line(error)}") from error
    if not alone.isfinite().all():
        raise ModelError(f"{name}: cannot be trained: it gives no finite numbers")
    try:
        together = _tried_logits(model, inputs, template.typed, pads=True)
    except Exception:  # some take no other lengths
        return False
    return not differ(alone.numpy(), together.numpy())


def tried_inputs(template: Template, longest: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ids and token types of two short sequences and two long ones, two of a kind of unlike lengths."""
    most = longest - len(template.prefix) - len(template.suffix)
    counts = (max(1, min(MIDDLE, most) - 1), min(MIDDLE, most), max(1, int(LIKE * most) + 1), most)
    return [variant(template, count, number) for number, count in enumerate(counts)]


def _tried_logits(model: torch.nn.Module, inputs: list, typed: bool, pads: bool) -> torch.Tensor:
    """Return logits at a few places of each input, the first and the last among them."""
    ids, types = zip(*inputs, strict=True)
    batch = pack(ids, types, is_typed=typed)
    starts, lengths = batch.cu_seqlens[:-1, None], batch.cu_seqlens.diff()[:, None]
    at = starts + (lengths - 1) * torch.arange(PLACES) // (PLACES - 1)
    return masked_logits(model, batch, at.ravel(), pads).float()
