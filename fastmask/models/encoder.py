"""The one interface to torch: packed variants in, class logits out, at a chosen precision.

``PackedEncoder`` is the unpadded forward of the families that are known here; ``generic.GenericEncoder`` runs any
other classifier. A token classifier gives logits of every row instead.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from fastmask_kernels import launch
from fastmask_kernels.layouts import Sequences
from torch import nn

from ..core.errors import FastmaskError
from ..core.memo import Memo
from ..core.records import PackedBatch
from .family_reader import family_weights
from .family_rules import position_ids
from .family_weights import FamilyWeights
from .generic import SPARE_TOKENS, GenericEncoder
from .layers import DTYPES, blocks_of, make_head

OutOfMemory = torch.OutOfMemoryError
"""What an encoder raises when a batch does not fit on its device."""
# Packed batches are filled up to a multiple of so many rows.
ROW_MULTIPLE = 32
# Activation elements [T, H] of a batch: enough for full matrix products, few enough to stay in a core's cache.
BATCH_ELEMENTS = 1024 * 384
# Past this the remembered rows of a block are dropped and computed again.
FIRST_ROWS_BYTES = 64 << 20


class Encoder(Protocol):
    """A model at one precision, on the processor or on a device; thread-safe.

    Attributes:
        name: which back end this is, for the manifest.
        precision: a key of DTYPES.
        batch_tokens: the token budget that suits it.
        spare_tokens: how many tokens a batch may have at next to no further cost.
        most_tokens: what memory allows of a batch; lowered when it runs out.
    """

    name: str
    precision: str
    batch_tokens: int
    spare_tokens: int
    most_tokens: int


class HostEncoder(Encoder, Protocol):
    """An encoder of batches that are packed by the processor; the other kind is ``gpu.DeviceEncoder``."""

    def memory(self) -> object:
        """Return what ``logits`` may remember from batch to batch of related variants; for one thread at a time."""
        ...

    def logits(self, batch: PackedBatch, memory: Any) -> np.ndarray:
        """Return class logits float64 [B, C] of B variants, or [T, C] of T tokens by a token classifier."""
        ...


Compute = Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor | None]]


class FirstRows:
    """Rows before the first attention, by (token, position, type): each is computed once and then looked up."""

    def __init__(self):
        self._forget()

    def _forget(self) -> None:
        self._memo, self._x, self._qkv = Memo(), GrowingRows(), GrowingRows()

    def rows(self, triples: np.ndarray, compute: Compute) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return embeddings [T, H] and query, key and value rows [T, 3 * H] of triples int32 [3, T].

        ``compute`` makes those of triples that were not met before.
        """
        if self._x.bytes + self._qkv.bytes > FIRST_ROWS_BYTES:
            self._forget()
        known = self._memo.used
        slots = self._memo.slots(_keys(triples))
        fresh, first = np.unique(slots, return_index=True)
        new = first[np.searchsorted(fresh, known) :]
        if len(new):
            x, qkv = compute(triples[:, new])
            self._x.append(x)
            if qkv is not None:
                self._qkv.append(qkv)
        return self._x.take(slots), self._qkv.take(slots) if self._qkv.bytes else None


class GrowingRows:
    """A matrix that grows by rows, in amortised constant time a row."""

    def __init__(self) -> None:
        self._values: torch.Tensor | None = None  # may have spare rows at its end
        self._count = 0

    @property
    def bytes(self) -> int:
        """Return how many bytes it holds."""
        return 0 if self._values is None else self._values.nbytes

    def take(self, chosen: np.ndarray) -> torch.Tensor:
        """Return the rows at ``chosen`` int64 [R], which have been appended: [R, N]."""
        assert self._values is not None
        return self._values[torch.from_numpy(chosen)]

    def append(self, rows: torch.Tensor) -> None:
        """Add rows [R, N] after those there are."""
        end = self._count + len(rows)
        if self._values is None or end > len(self._values):
            grown = rows.new_empty(2 * end, rows.shape[1])
            if self._values is not None:
                grown[: self._count] = self._values[: self._count]
            self._values = grown
        self._values[self._count : end] = rows
        self._count = end


def _keys(triples: np.ndarray) -> np.ndarray:
    """Return uint64 [T], different for different triples int32 [3, T]: a product by an odd number loses nothing."""
    ids, positions, types = triples.astype(np.uint64)
    keys = (ids | positions << np.uint64(32) | types << np.uint64(56)) * np.uint64(0x9E3779B97F4A7C15)
    return keys ^ keys >> np.uint64(32)


class PackedEncoder:
    """Unpadded forward of a classifier of sequences or of tokens, of one of the families that are known here.

    Args:
        weights: the model in the families' common shape, float32.
        precision: a key of DTYPES.
        kernels: "auto", or "torch" for plain torch operations.
    """

    spare_tokens = SPARE_TOKENS

    def __init__(self, weights: FamilyWeights, precision: str, kernels: str = "auto"):
        self.precision, dtype = precision, DTYPES[precision]
        self.most_tokens = sys.maxsize
        hidden = weights.hidden
        width = math.gcd(hidden, weights.word.shape[1])  # ELECTRA's embeddings have a width of their own
        ops = self.ops = launch.cpu_ops(dtype, width, hidden // weights.heads, kernels)
        self.name = f"packed/{ops.name}"
        self.batch_tokens = max(4 * ROW_MULTIPLE, BATCH_ELEMENTS // hidden // ROW_MULTIPLE * ROW_MULTIPLE)
        self.wide = wide = torch.float64 if precision == "float64" else torch.float32
        self.tables = [t.to(wide).contiguous() for t in (weights.word, weights.position, weights.token_type)]
        self.position_offset = weights.position_offset
        self.longest, self.every_row = weights.longest, weights.pooling == "none"
        self.embedding_norm = weights.embedding_norm.to(wide)
        self.projection = None if weights.projection is None else ops.linear(weights.projection)
        self.blocks = blocks_of(weights, ops, wide)
        self.head = make_head(weights, wide)

    def memory(self) -> FirstRows:
        """Return a memory of embeddings and first query, key and value rows, which variants have in common."""
        return FirstRows()

    @torch.inference_mode()
    def logits(self, batch: PackedBatch, memory: FirstRows | None = None) -> np.ndarray:
        """See ``Encoder.logits``."""
        rows = len(batch.input_ids) if self.every_row else len(batch)
        whole = _rounded_up(batch, self.longest)
        sequences = Sequences(torch.from_numpy(whole.cu_seqlens), whole.max_seqlen)
        x, qkv = (memory or FirstRows()).rows(self._triples(whole), self._first_rows)
        return self.head(self.blocks(x, sequences, qkv)[:rows]).double().numpy()

    def _triples(self, batch: PackedBatch) -> np.ndarray:
        """Return token, position and type ids, int32 [3, T]: all that a row depends on before attention."""
        positions = position_ids(batch.input_ids, batch.cu_seqlens, self.position_offset)
        positions, types = (
            np.minimum(ids, len(table) - 1)  # a table of one row is every token's
            for ids, table in zip((positions, batch.token_type_ids), self.tables[1:], strict=True)
        )
        return np.stack([batch.input_ids, positions, types]).astype(np.int32)

    def _first_rows(self, triples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return embeddings [R, H] of int32 [3, R], and, if the first block wants them, its inputs [R, 3 * H]."""
        count = triples.shape[1]
        x = self._embed(np.pad(triples, ((0, 0), (0, -count % ROW_MULTIPLE)), mode="edge"))
        qkv = self.blocks.first_qkv(x)
        return x[:count], None if qkv is None else qkv[:count]

    def _embed(self, triples: np.ndarray) -> torch.Tensor:
        ids = torch.from_numpy(triples)
        x = self.ops.embed(*ids, *self.tables, *self.embedding_norm)
        return x if self.projection is None else self.projection(x)


def _rounded_up(batch: PackedBatch, longest: int) -> PackedBatch:
    """Return the batch with a last variant or more of filler tokens, to a multiple of ROW_MULTIPLE rows.

    oneDNN makes, and keeps, code for every number of rows it meets; few different ones keep both time and memory low.
    """
    tokens = len(batch.input_ids)
    missing = -tokens % ROW_MULTIPLE
    if not missing:
        return batch
    filler = [*range(tokens + longest, tokens + missing, longest), tokens + missing]
    blank = np.zeros(missing, np.int32)
    return PackedBatch(
        np.concatenate([batch.input_ids, blank]),
        np.concatenate([batch.token_type_ids, blank]),
        np.concatenate([batch.cu_seqlens, np.array(filler, np.int32)]),
        max(batch.max_seqlen, min(missing, longest)),
    )


def build_encoder(
    model: FamilyWeights | nn.Module, precision: str, device: str = "cpu", kernels: str = "auto", typed: bool = True
) -> Encoder:
    """Return the encoder for a model at a precision.

    Args:
        model: a float32 sequence or token classifier: weights, or a module in eval mode; not written to.
        precision: a key of DTYPES.
        device: torch device name.
        kernels: "auto" is the fastest that the device has; "torch", "triton".
        typed: whether the model's tokenizer gives token types.

    Raises:
        FastmaskError: the model has no Triton path.
    """
    if isinstance(model, FamilyWeights):
        weights = model
    elif (found := family_weights(model)) is not None:
        weights = found
    elif kernels == "triton":
        raise FastmaskError(f"--kernels triton: there are none for {model.config.model_type} models; use auto")
    else:
        return GenericEncoder(copy.deepcopy(model), precision, device, typed)
    if device == "cpu" and kernels != "triton":
        return PackedEncoder(weights, precision, kernels)
    from .gpu import DeviceEncoder

    return DeviceEncoder(weights.to(device), precision, device, kernels)
