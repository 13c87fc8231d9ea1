"""Any classifier of transformers through its own forward, the way it would run on one text alone."""

from __future__ import annotations

import inspect
import sys

import numpy as np
import torch
from torch import nn

from .layers import DTYPES
from .records import PackedBatch

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
    """

    spare_tokens = SPARE_TOKENS

    def __init__(self, model: nn.Module, precision: str, device: str = "cpu", typed: bool = True):
        self.precision, self.device = precision, device
        self.name = f"generic/{model.config.model_type}"
        self.batch_tokens, self.most_tokens = BATCH_TOKENS, sys.maxsize
        self.model = model.to(device=device, dtype=DTYPES[precision]).eval()
        accepted = inspect.signature(model.forward).parameters
        self.masked, self.typed = "attention_mask" in accepted, typed and "token_type_ids" in accepted
        config = model.config.get_text_config()
        # encoder-decoders classify by the last end token, and want as many of them in each text of a batch
        self.ends = np.atleast_1d(config.eos_token_id or []) if config.is_encoder_decoder else np.empty(0)
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = NO_TOKEN  # decoders without one classify by the last token, but of one text only

    def memory(self) -> None:
        """Nothing."""

    @torch.inference_mode()
    def logits(self, batch: PackedBatch, memory: None = None) -> np.ndarray:
        """See ``Encoder.logits``."""
        out = None
        for group in self._alike(batch):
            length = batch.cu_seqlens[group[0] + 1] - batch.cu_seqlens[group[0]]
            index = batch.cu_seqlens[group][:, None] + np.arange(length)
            found = self._equal_length(batch, index)
            per_token = found.ndim == 3
            count = len(batch.input_ids) if per_token else len(batch)
            out = np.empty((count, found.shape[-1])) if out is None else out
            out[index if per_token else group] = found
        return out

    def _alike(self, batch: PackedBatch) -> list[np.ndarray]:
        """Numbers int64 of the sequences that can run together, group by group."""
        ends = np.add.reduceat(np.isin(batch.input_ids, self.ends), batch.cu_seqlens[:-1], dtype=np.int64)
        kinds = np.stack([np.diff(batch.cu_seqlens), ends])
        order = np.lexsort(kinds[::-1])
        return np.split(order, np.flatnonzero(np.diff(kinds[:, order]).any(axis=0)) + 1)

    def _equal_length(self, batch: PackedBatch, index: np.ndarray) -> np.ndarray:
        """float64 [G, C], or [G, L, C] by a token classifier, of the tokens at ``index`` int [G, L]."""
        inputs = {"input_ids": torch.from_numpy(batch.input_ids[index].astype(np.int64)).to(self.device)}
        if self.masked:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if self.typed:
            inputs["token_type_ids"] = torch.from_numpy(batch.token_type_ids[index].astype(np.int64)).to(self.device)
        return self.model(**inputs, return_dict=True).logits.double().cpu().numpy()
