"""Models of transformers as they are, for what the packed encoders do not give: gradients, and the vocabulary's logits.

A family that is known here runs unpadded (``trainable``), any other by its own forward (``generic``).
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ..core.errors import FastmaskError
from ..core.records import PackedBatch
from .family import family_of
from .generic import GenericEncoder, forward_alike
from .packing import Template
from .trainable import PackedTensors, class_logits, enable_packing, hidden_states, pack, runs_packed

# Activation elements [T, H] of a batch on a processor: a few times this is kept for the backward pass.
BATCH_ELEMENTS = 1024 * 384
DEVICE_BATCH_TOKENS = 16384
# Logits of a vocabulary that are held at a time.
VOCABULARY_ELEMENTS = 1 << 22


class ModuleEncoder(GenericEncoder):
    """A module at a precision; thread-safe.

    Args:
        model: float32, not written to.
        precision: a key of DTYPES.
        device: torch device name.
        template: its special tokens.
    """

    def __init__(self, model: nn.Module, precision: str, device: str, template: Template):
        super().__init__(copy.deepcopy(model), precision, device, template.typed)
        self.runs_packed = runs_packed(self.model)
        enable_packing(self.model).requires_grad_(False)
        self.name = f"{'packed' if self.runs_packed else 'generic'}/{self.model.config.model_type}"
        hidden = getattr(self.model.config.get_text_config(), "hidden_size", None) or 1024
        self.batch_tokens = DEVICE_BATCH_TOKENS if device != "cpu" else max(128, BATCH_ELEMENTS // hidden)

    def tensors(self, batch: PackedBatch) -> PackedTensors:
        """Return a batch as ``trainable`` takes it."""
        ids, types = (np.split(array, batch.cu_seqlens[1:-1]) for array in (batch.input_ids, batch.token_type_ids))
        return pack(ids, types, self.device, self.typed)

    def own_forward(self, batch: PackedTensors) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """See ``generic.forward_alike``."""
        bounds = batch.cu_seqlens.cpu().numpy()
        return forward_alike(self.model, batch.input_ids, batch.token_type_ids if self.typed else None, bounds)


class SaliencyEncoder(ModuleEncoder):
    """A sequence classifier that tells, too, how its answer depends on the embedding of each token."""

    def __init__(self, model: nn.Module, precision: str, device: str, template: Template):
        super().__init__(model, precision, device, template)
        self._read = threading.local()
        words = self.model.get_input_embeddings()
        for module in self.model.modules():
            # encoder-decoders read by other modules of the same weight
            if module is words or (isinstance(module, nn.Embedding) and module.weight is words.weight):
                module.register_forward_hook(self._keep)
            elif isinstance(module, nn.LayerNorm):
                module.register_forward_hook(self._keep_norm)

    @torch.inference_mode()
    def logits(self, batch: PackedBatch, memory: None = None) -> np.ndarray:
        """See ``Encoder.logits``."""
        return class_logits(self.model, self.tensors(batch)).double().cpu().numpy()

    def saliency(self, batch: PackedBatch, target: np.ndarray) -> np.ndarray:
        """Return |dz/de . e| of each token's embedding e, and the logits of the token's text: float64 [T, 1 + C].

        z is the log-odds of the text's class ``target`` int [B]; of the largest logit where that is -1. e is what the
        word embeddings give, before position, type and norm; of several readings of the tokens, the first. Where
        nothing but a norm reads that, e is what the norm gives: z would not depend on e's length, and dz/de . e be 0.

        Raises:
            FastmaskError: the model does not read its tokens by word embeddings.
        """
        tensors, lengths = self.tensors(batch), np.diff(batch.cu_seqlens)
        out = np.empty((0, 0))
        with torch.enable_grad():
            self._read.first = self._read.norm = None
            for texts, at, logits in self._forward(tensors, batch.cu_seqlens[:-1].astype(np.int64), lengths):
                logits = logits.double()
                z = _log_odds(logits, torch.from_numpy(target[texts]).long().to(self.device))
                values = self._products(z.sum(), tensors.input_ids[torch.from_numpy(at).to(self.device)])
                if not len(out):
                    out = np.empty((len(batch.input_ids), 1 + logits.shape[1]))
                out[at.ravel(), 0] = values.flatten().cpu().numpy()
                out[at.ravel(), 1:] = np.repeat(logits.detach().cpu().numpy(), lengths[texts], axis=0)
                self._read.first = self._read.norm = None
        return out

    def _forward(
        self, batch: PackedTensors, starts: np.ndarray, lengths: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, torch.Tensor]]:
        """Yield texts that the model reads together, where in the batch their tokens are as it does, and logits."""
        if self.runs_packed:
            yield np.arange(len(starts)), np.arange(len(batch.input_ids))[None], class_logits(self.model, batch)
            return
        for texts, logits in self.own_forward(batch):
            yield texts, starts[texts][:, None] + np.arange(lengths[texts[0]]), logits

    def _keep(self, module: nn.Module, given: tuple, rows: torch.Tensor) -> torch.Tensor | None:
        """Put a leaf of the graph in the place of the embeddings that a forward pass reads first."""
        if not torch.is_grad_enabled() or self._read.first is not None or not isinstance(rows, torch.Tensor):
            return None
        self._read.first = given[0], rows.detach().requires_grad_()
        return self._read.first[1]

    def _keep_norm(self, module: nn.Module, given: tuple, rows: torch.Tensor) -> None:
        """Keep the norm of the embeddings that were read first, if there is one."""
        if torch.is_grad_enabled() and self._read.first is not None and given[0] is self._read.first[1]:
            self._read.norm = rows

    def _products(self, z: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return |dz/de . e| float64 [B, L] of tokens ids int64 [B, L], which the last forward pass has read."""
        given, rows = self._read.first or (ids[:0], None)
        # some families read a text a column, or fill it up
        turned = given.shape != ids.shape and given.shape[::-1] == ids.shape
        if rows is None or not torch.equal((given.mT if turned else given)[:, : ids.shape[1]], ids):
            raise FastmaskError("the model does not read its tokens by word embeddings that --method gradient knows")
        if self._read.norm is not None and _readers(z, rows) == 1:
            rows = self._read.norm
        (slope,) = torch.autograd.grad(z, rows)
        products = (slope.double() * rows.detach().double()).sum(-1).abs()
        return (products.mT if turned else products)[:, : ids.shape[1]]


def _log_odds(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return log P(y) - log(1 - P(y)) [B] of classes y int64 [B], the argmax where -1: logits [B, C]."""
    classes = torch.where(target < 0, logits.argmax(1), target)
    own = nn.functional.one_hot(classes, logits.shape[1]).bool()
    return logits[own] - logits.masked_fill(own, -torch.inf).logsumexp(1)


def _readers(z: torch.Tensor, leaf: torch.Tensor) -> int:
    """Return how many operations on the way to ``z`` read a leaf of its graph."""
    waiting, known, count = [z.grad_fn], set(), 0
    while waiting:
        for node, _ in waiting.pop().next_functions:
            count += getattr(node, "variable", None) is leaf
            if node is not None and node not in known:
                known.add(node)
                waiting.append(node)
    return count


class FillingEncoder(ModuleEncoder):
    """A masked-language model that tells how unsure it is of a hidden token."""

    def __init__(self, model: nn.Module, precision: str, device: str, template: Template):
        super().__init__(model, precision, device, template)
        self.mask = template.mask
        if not self.runs_packed:  # its own forward gives logits of every token
            self.batch_tokens = max(128, VOCABULARY_ELEMENTS // self.model.config.get_text_config().vocab_size)

    def logits(self, batch: PackedBatch, memory: None = None) -> np.ndarray:
        """Return what a model is tried by, the entropy at each text's last token: float64 [B, 1]."""
        return self.entropies(batch, batch.cu_seqlens[1:].astype(np.int64) - 1)[:, None]

    @torch.inference_mode()
    def entropies(self, batch: PackedBatch, at: np.ndarray) -> np.ndarray:
        """Return the entropy in nats of the prediction at tokens ``at`` int64 [B], each hidden: float64 [B]."""
        ids = batch.input_ids.copy()
        ids[at] = self.mask
        tensors = self.tensors(replace(batch, input_ids=ids))
        if self.runs_packed:
            hidden = hidden_states(self.model.base_model, tensors, torch.from_numpy(at).to(self.device))
            family = family_of(self.model.config)
            some = max(1, VOCABULARY_ELEMENTS // self.model.config.vocab_size)
            parts = [_entropy(family.vocabulary_logits(self.model, rows)) for rows in hidden.split(some)]
            return torch.cat(parts).cpu().numpy()
        entropy = np.empty(len(ids))
        hidden_here = np.zeros(len(ids), bool)
        hidden_here[at] = True
        for places, logits in self.own_forward(tensors):
            wanted = hidden_here[places]
            entropy[places[wanted]] = _entropy(logits[torch.from_numpy(wanted).to(self.device)]).cpu().numpy()
        return entropy[at]


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy in nats, float64 [M], of predictions with logits [M, V]."""
    log_p = logits.double().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)
