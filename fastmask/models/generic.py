"""Any classifier of transformers through its own forward, the way it would run on one text alone."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ..core.records import PackedBatch
from .layers import DTYPES

BATCH_TOKENS = 4096
# Fewer rows than these leave a processor's cores waiting for the weights.
SPARE_TOKENS = 256
# As a padding id: no token has it.
NO_TOKEN = -1


class GenericEncoder:
    """Any classifier through its own forward, on runs of equal length, so that nothing is ever padded.

    Args:
        model: a sequence or token classifier of this encoder's own.
        precision: a key of DTYPES.
        device: torch device name.
        typed: whether the model's tokenizer gives token types.

    Attributes:
        runs_packed: whether texts of all lengths run together, exactly, because the model's family is known here.
    """

    spare_tokens = SPARE_TOKENS
    runs_packed = False

    def __init__(self, model: nn.Module, precision: str, device: str = "cpu", typed: bool = True):
        self.precision, self.device = precision, device
        self.name = f"generic/{model.config.model_type}"
        self.batch_tokens, self.most_tokens = BATCH_TOKENS, sys.maxsize
        self.model = model.to(device=device, dtype=DTYPES[precision]).eval()
        self.typed = typed
        config = model.config.get_text_config()
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = NO_TOKEN  # texts of one length can run together all the same

    def memory(self) -> None:
        """Return nothing: there is nothing to remember."""

    @torch.inference_mode()
    def logits(self, batch: PackedBatch, memory: None = None) -> np.ndarray:
        """See ``Encoder.logits``."""
        ids, types = (torch.from_numpy(a).long().to(self.device) for a in (batch.input_ids, batch.token_type_ids))
        parts = [
            (places, rows.double().cpu().numpy())
            for places, rows in forward_alike(self.model, ids, types if self.typed else None, batch.cu_seqlens)
        ]
        out = np.empty((sum(len(places) for places, _ in parts), parts[0][1].shape[-1]))
        for places, rows in parts:
            out[places] = rows
        return out


def forward_alike(
    model: nn.Module, ids: torch.Tensor, types: torch.Tensor | None, bounds: np.ndarray
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Run a classifier's own forward on texts laid end to end, those of one length together, so that nothing is padded.

    Most families cannot be padded on the right without another answer: they read the last token, or beside each other.

    Args:
        model: a sequence or token classifier.
        ids, types: int64 [T]; no types where the model is not to be given any.
        bounds: int [B + 1], where each text starts; the last is T.

    Yields:
        int64 [N], numbers of texts, or of tokens from a token classifier, and their logits [N, C].
    """
    accepted = inspect.signature(model.forward).parameters
    for group in _alike(model.config.get_text_config(), ids, bounds):
        index = bounds[group][:, None] + np.arange(bounds[group[0] + 1] - bounds[group[0]])
        at = torch.from_numpy(index).long().to(ids.device)
        inputs = {"input_ids": ids[at]}
        if "attention_mask" in accepted:
            inputs["attention_mask"] = torch.ones_like(at)
        if types is not None and "token_type_ids" in accepted:
            inputs["token_type_ids"] = types[at]
        logits = model(**inputs, return_dict=True).logits
        yield (index.ravel(), logits.flatten(0, 1)) if logits.ndim == 3 else (group, logits)


def _alike(config, ids: torch.Tensor, bounds: np.ndarray) -> list[np.ndarray]:
    """Return groups of texts that can run together, int64 numbers each."""
    if getattr(config, "pad_token_id", None) is None:  # decoders then take one text only
        return list(np.arange(len(bounds) - 1)[:, None])
    kinds = [np.diff(bounds)]
    if config.is_encoder_decoder:
        # they classify by the last end token, and want as many of them in each text of a batch
        ends = np.isin(ids.cpu().numpy(), np.atleast_1d(config.eos_token_id or []))
        kinds.append(np.add.reduceat(ends, bounds[:-1], dtype=np.int64))
    order = np.lexsort(kinds[::-1])
    return np.split(order, np.flatnonzero(np.diff(np.stack(kinds)[:, order]).any(axis=0)) + 1)
