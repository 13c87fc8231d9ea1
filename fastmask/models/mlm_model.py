"""Masked-language models of packed families: loading, and the loss with decoder rows at masked positions only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fastmask_kernels import processor

from ..core.errors import ModelError
from .directory import ModelFiles
from .family import FAMILIES, family_of
from .trainable import PackedTensors, enable_packing, hidden_states, runs_packed
from .weights import load_pretrained


@dataclass(frozen=True, slots=True)
class Part:
    """What goes through the model at a time: B sequences with M masked tokens.

    Attributes:
        packed: the corrupted sequences.
        at: int64 [M], places of the masked tokens in ``packed.input_ids``.
        labels: int64 [M], the ids that were there.
    """

    packed: PackedTensors
    at: torch.Tensor
    labels: torch.Tensor


def load_masked_lm(files: ModelFiles) -> tuple[torch.nn.Module, list[str]]:
    """The masked-language model in ``files``, float32, on the CPU, packing enabled.

    An encoder without a head, such as a classifier's, gets a new one whose decoder is the word embeddings.

    Returns:
        The model, and the names of the head's parameters that are new.

    Raises:
        ModelError: it cannot be loaded, its weights lack more than the head, or its family does not run packed.
    """
    model, missing = load_pretrained(files, torch.float32, task="MaskedLM")
    if not runs_packed(model):
        kind = model.config.model_type
        raise ModelError(f"{files.name}: a model of type {kind}; {', '.join(FAMILIES)} can be pre-trained")
    for name in missing:
        if not name.startswith(family_of(model.config).names.vocabulary):
            raise ModelError(f"{files.name}: its weights lack {name}")
    if missing and not model.config.tie_word_embeddings:
        # a decoder of its own, drawn at random, would have to learn every word again
        model.config.tie_word_embeddings = True
        model.tie_weights()
    return enable_packing(model), missing


class MaskedLoss(torch.nn.Module):
    """A masked-language model as a module from a part of a batch to the sum of its masked tokens' cross-entropies.

    Args:
        model: of ``load_masked_lm``.
        dtype: dtype of the matrix products; float32 is no autocast.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, part: Part) -> torch.Tensor:
        """float32 scalar; 0, with a graph, where nothing is masked."""
        kind = part.packed.input_ids.device.type
        with torch.autocast(kind, self.dtype, enabled=self.dtype != torch.float32):
            hidden = hidden_states(self.model.base_model, part.packed).index_select(0, part.at)
            logits = family_of(self.model.config).vocabulary_logits(self.model, hidden)
        return torch.nn.functional.cross_entropy(logits.float(), part.labels, reduction="sum")


def product_dtype(precision: str, device: str) -> torch.dtype:
    """The dtype that a precision of PretrainConfig means on a device."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = processor.has_fast_bfloat16()
    return torch.bfloat16 if fast else torch.float32
