"""Masked-language models: loading, and the loss with decoder rows at masked positions only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from fastmask_kernels import processor

from ..core.errors import ModelError, first_line
from .directory import ModelFiles
from .family import family_of
from .padded import masked_logits, may_pad, tried_inputs
from .trainable import PackedTensors, enable_packing, hidden_states, pack, runs_packed
from .weights import is_head, load_pretrained

if TYPE_CHECKING:
    from .packing import Template


@dataclass(frozen=True, slots=True)
class Part:
    """What goes through the model at a time: B sequences with M masked tokens.

    Attributes:
        packed: the corrupted sequences.
        at: int64 [M], ascending places of the masked tokens in ``packed.input_ids``.
        labels: int64 [M], the ids that were there.
    """

    packed: PackedTensors
    at: torch.Tensor
    labels: torch.Tensor


def load_masked_lm(files: ModelFiles) -> tuple[torch.nn.Module, list[str]]:
    """Load the masked-language model in ``files``: float32, on the CPU, packing enabled where its family has it.

    An encoder without a head, such as a classifier's, gets a new one, whose decoder is the word embeddings where it can
    be.

    Returns:
        The model, and the names of the head's parameters that are new.

    Raises:
        ModelError: it cannot be loaded, its weights lack more than the head, or there is no such model of its type.
    """
    model, missing = load_pretrained(files, torch.float32, task="MaskedLM")
    if missing and getattr(model.config, "legacy", False):
        # DeBERTa's files do not tell which of two heads they have
        other, lacking = load_pretrained(files, torch.float32, task="MaskedLM", legacy=False)
        model, missing = (model, missing) if lacking else (other, lacking)
    for name in missing:
        if not is_head(model, name):
            raise ModelError(f"{files.name}: its weights lack {name}")
    if missing and not has_tied_decoder(model) and _could_tie(model):
        # a decoder of its own, drawn at random, would have to learn every word again
        model.config.tie_word_embeddings = True
        model.tie_weights()
    return enable_packing(model), missing


def has_tied_decoder(model: torch.nn.Module) -> bool:
    """Return whether the decoder of a masked-language model is its word embeddings."""
    decoder = model.get_output_embeddings()
    return decoder is not None and decoder.weight is model.get_input_embeddings().weight


def _could_tie(model: torch.nn.Module) -> bool:
    decoder = model.get_output_embeddings()
    return decoder is not None and decoder.weight.shape == model.get_input_embeddings().weight.shape


class MaskedLoss(torch.nn.Module):
    """A masked-language model as a module from a part of a batch to the sum of its masked tokens' cross-entropies.

    Args:
        model: of ``load_masked_lm``.
        dtype: dtype of the matrix products; float32 is no autocast.
        pads: whether sequences are padded for a model that does not run packed; else those of one length run together.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype, pads: bool = True):
        super().__init__()
        self.model, self.dtype, self.pads = model, dtype, pads

    def forward(self, part: Part) -> torch.Tensor:
        """Return the loss, a float32 scalar: 0, with a graph, where nothing is masked."""
        kind = part.packed.input_ids.device.type
        with torch.autocast(kind, self.dtype, enabled=self.dtype != torch.float32):
            logits = self._logits(part)
        return torch.nn.functional.cross_entropy(logits.float(), part.labels, reduction="sum")

    def _logits(self, part: Part) -> torch.Tensor:
        """Return the logits of the masked tokens, [M, V]."""
        if not runs_packed(self.model):
            return masked_logits(self.model, part.packed, part.at, self.pads)
        hidden = hidden_states(self.model.base_model, part.packed, part.at)
        return family_of(self.model.config).vocabulary_logits(self.model, hidden)


def fit_own_forward(
    model: torch.nn.Module, template: Template, longest: int, name: str, device: str, dtypes: Sequence[torch.dtype]
) -> tuple[bool, torch.dtype]:
    """Try how a model that does not run packed can be trained; what its loss does not use is not trained from then on.

    Args:
        model: of ``load_masked_lm``; moved to the device.
        template: of what it is given.
        longest: tokens of its longest input.
        name: the model's.
        device: where it is trained.
        dtypes: of the matrix products, the one that is wanted most first.

    Returns:
        Whether its sequences may be padded, and the first dtype in which it can be trained.

    Raises:
        ModelError: it cannot be trained.
    """
    pads = may_pad(model.eval(), template, longest, name)
    ids, types = zip(*tried_inputs(template, longest), strict=True)
    batch = pack(ids, types, device, template.typed)
    at = batch.cu_seqlens[:-1]
    part = Part(batch, at, batch.input_ids[at])
    for dtype in dtypes:
        fault = _training_fault(MaskedLoss(model.to(device), dtype, pads), part)
        if fault is None:
            return pads, dtype
    kind = str(dtypes[-1]).removeprefix("torch.")
    raise ModelError(f"{name}: cannot be trained in {kind}: {fault}")


def _training_fault(loss: MaskedLoss, part: Part) -> str | None:
    """Return what keeps a model from being trained; None where nothing does, and parameters without part in it rest."""
    devices = [part.at.device] if part.at.is_cuda else []
    try:
        with torch.random.fork_rng(devices):
            loss.train()(part).backward()
        for parameter in loss.parameters():
            parameter.requires_grad_(parameter.grad is not None)
        return None
    except Exception as error:  # each family its own: lengths, types that do not match, ...
        return first_line(error)
    finally:
        loss.zero_grad(set_to_none=True)


def product_dtype(precision: str, device: str) -> torch.dtype:
    """Return the dtype that a precision of PretrainConfig means on a device."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = processor.has_fast_bfloat16()
    return torch.bfloat16 if fast else torch.float32
