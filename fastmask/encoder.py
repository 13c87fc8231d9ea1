"""The one interface to torch: packed variants in, class logits out, at a chosen precision.

``PackedEncoder`` is the unpadded forward of the BERT family; ``GenericEncoder`` runs any other sequence classifier
through its own forward, on batches of exactly equal length.
"""

from __future__ import annotations

import copy
import math
from typing import Protocol

import numpy as np
import torch
from fastmask_kernels import launch
from torch import nn

from .errors import FastmaskError
from .families import FamilyWeights, LayerWeights, family_weights
from .memo import Memo
from .records import PackedBatch

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
# Rows of a packed batch, and of its last block, are filled up to multiples of these.
ROW_MULTIPLE = 32
CLS_MULTIPLE = 16
# Activation elements [T, H] of a batch: enough for full matrix products, few enough to stay in a core's cache.
BATCH_ELEMENTS = 1024 * 384
GENERIC_BATCH_TOKENS = 4096
# Past this the remembered rows of a block are dropped and computed again.
FIRST_ROWS_BYTES = 64 << 20


class Encoder(Protocol):
    """What scoring needs of a model; thread-safe.

    Attributes:
        name: which back end this is, for the manifest.
        precision: a key of DTYPES.
        batch_tokens: the token budget that suits it.
    """

    name: str
    precision: str
    batch_tokens: int

    def memory(self) -> object:
        """What ``logits`` may remember from batch to batch of related variants; for one thread at a time."""
        ...

    def logits(self, batch: PackedBatch, memory: object) -> np.ndarray:
        """Class logits float64 [B, C] of the batch's B variants."""
        ...


def _single(layers: list[nn.Linear]) -> nn.Linear:
    """Several linear layers of one input as one: [sum of N, K]."""
    joined = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), device="meta")
    joined.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
    joined.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=False)
    return joined


class _Norm:
    """A layer norm's parameters, float32 for the numba kernels and the working dtype otherwise."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype):
        self.weight, self.bias = (p.detach().to(dtype).contiguous() for p in (norm.weight, norm.bias))
        self.eps = norm.eps


class _Block:
    """Everything of a transformer block after its attention, weights laid out once."""

    def __init__(self, ops, weights: LayerWeights, activation: str, norm_dtype: torch.dtype):
        self.ops = ops
        self.attention_output = ops.linear(weights.attention_output)
        self.attention_norm = _Norm(weights.attention_norm, norm_dtype)
        self.intermediate = ops.linear(weights.intermediate, activation)
        self.output = ops.linear(weights.output)
        self.output_norm = _Norm(weights.output_norm, norm_dtype)

    def feed_forward(self, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Attention context and block input [T, H] -> block output [T, H]."""
        norm = self.attention_norm
        x = self.ops.residual_layernorm(self.attention_output(context), x, norm.weight, norm.bias, norm.eps)
        norm = self.output_norm
        return self.ops.residual_layernorm(self.output(self.intermediate(x)), x, norm.weight, norm.bias, norm.eps)


class _FullBlock(_Block):
    """A block that updates every row."""

    def __init__(self, ops, weights: LayerWeights, activation: str, norm_dtype: torch.dtype, heads: int):
        super().__init__(ops, weights, activation, norm_dtype)
        self.heads = heads
        self.qkv = ops.linear(_single([weights.query, weights.key, weights.value]))

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, qkv=None) -> torch.Tensor:
        qkv = self.qkv(x) if qkv is None else qkv
        context = self.ops.varlen_attention(qkv, cu_seqlens, max_seqlen, self.heads)
        return self.feed_forward(context, x)


class _ClsBlock(_Block):
    """The last block, for the first row of each sequence only.

    With one query a sequence, q . (K x) = (K' q) . x and sum p (V x) = V (sum p x): the key and value matrices are
    applied once a sequence instead of once a token. The key bias shifts all scores alike and drops out of the softmax.
    """

    def __init__(self, ops, weights: LayerWeights, activation: str, norm_dtype: torch.dtype, heads: int):
        super().__init__(ops, weights, activation, norm_dtype)
        self.heads, self.wide = heads, norm_dtype
        hidden = weights.query.in_features
        self.query = ops.linear(weights.query)
        self.key = weights.key.weight.detach().to(norm_dtype).view(heads, -1, hidden) * (hidden // heads) ** -0.5
        self.value = weights.value.weight.detach().to(norm_dtype).view(heads, -1, hidden).transpose(1, 2).contiguous()
        self.value_bias = weights.value.bias.detach().to(norm_dtype)

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int) -> torch.Tensor:
        index = cu_seqlens[:-1].long()
        # repeated up to a multiple, for the same reason as in PackedEncoder.logits
        first = x[nn.functional.pad(index, (0, -len(index) % CLS_MULTIPLE))]
        batch, hidden = first.shape
        query = self.query(first).to(self.wide).view(batch, self.heads, -1).transpose(0, 1)
        projected = torch.bmm(query, self.key).transpose(0, 1).contiguous()
        rows = self.ops.cls_attention(projected, x, cu_seqlens, max_seqlen, self.heads)
        context = torch.bmm(rows.transpose(0, 1), self.value).transpose(0, 1).reshape(batch, hidden) + self.value_bias
        return self.feed_forward(context.to(x.dtype), first)


class FirstRows:
    """Rows before the first attention, by (token, position, type): each is computed once and then looked up."""

    def __init__(self):
        self._forget()

    def _forget(self) -> None:
        self._memo, self._x, self._qkv = Memo(), GrowingRows(), GrowingRows()

    def rows(self, triples: np.ndarray, compute) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings [T, H] and query, key and value rows [T, 3 * H] of triples int32 [3, T].

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
        index = torch.from_numpy(slots)
        return self._x.values[index], None if self._qkv.values is None else self._qkv.values[index]


class GrowingRows:
    """A matrix that grows by rows, in amortised constant time a row; ``values`` may have spare rows at its end."""

    def __init__(self):
        self.values: torch.Tensor | None = None
        self._count = 0

    @property
    def bytes(self) -> int:
        """Memory held."""
        return 0 if self.values is None else self.values.nbytes

    def append(self, rows: torch.Tensor) -> None:
        """Add rows [R, N] after those there are."""
        end = self._count + len(rows)
        if self.values is None or end > len(self.values):
            grown = rows.new_empty(2 * end, rows.shape[1])
            if self.values is not None:
                grown[: self._count] = self.values[: self._count]
            self.values = grown
        self.values[self._count : end] = rows
        self._count = end


def _keys(triples: np.ndarray) -> np.ndarray:
    """uint64 [T], different for different triples int32 [3, T]: a product by an odd number loses nothing."""
    ids, positions, types = triples.astype(np.uint64)
    keys = (ids | positions << np.uint64(32) | types << np.uint64(56)) * np.uint64(0x9E3779B97F4A7C15)
    return keys ^ keys >> np.uint64(32)


class PackedEncoder:
    """Unpadded forward of a BERT, RoBERTa, DistilBERT or ELECTRA classifier; no padding, no attention mask.

    Args:
        weights: the model in the families' common shape, float32.
        precision: a key of DTYPES.
        device: torch device name.
    """

    def __init__(self, weights: FamilyWeights, precision: str, device: str = "cpu"):
        self.precision, dtype = precision, DTYPES[precision]
        hidden = weights.layers[0].query.in_features
        width = math.gcd(hidden, weights.word.shape[1])  # ELECTRA's embeddings have a width of their own
        ops = self.ops = launch.select_ops(device, dtype, width, hidden // weights.heads)
        self.name = f"packed/{ops.name}"
        self.batch_tokens = max(4 * ROW_MULTIPLE, BATCH_ELEMENTS // hidden // ROW_MULTIPLE * ROW_MULTIPLE)
        self.wide = wide = torch.float64 if precision == "float64" else torch.float32
        self.tables = [t.detach().to(wide).contiguous() for t in (weights.word, weights.position, weights.token_type)]
        self.position_offset = weights.position_offset
        self.embedding_norm = _Norm(weights.embedding_norm, wide)
        self.projection = None if weights.projection is None else ops.linear(weights.projection)
        blocks = [_FullBlock] * (len(weights.layers) - 1) + [_ClsBlock]
        self.blocks = [
            block(ops, layer, weights.activation, wide, weights.heads)
            for block, layer in zip(blocks, weights.layers, strict=True)
        ]
        self._lay_out_head(weights)

    def _lay_out_head(self, weights: FamilyWeights) -> None:
        copies = [p.detach().to(self.wide) for layer in (weights.head, weights.classifier) for p in layer.parameters()]
        self.head = copies[:2], copies[2:]
        self.head_activation = {"tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu}[
            weights.head_activation
        ]

    def memory(self) -> FirstRows:
        """Embeddings and first query, key and value rows, which variants of a sentence have in common."""
        return FirstRows()

    @torch.inference_mode()
    def logits(self, batch: PackedBatch, memory: FirstRows | None = None) -> np.ndarray:
        """Class logits float64 [B, C]."""
        rows, whole = len(batch), _rounded_up(batch, self.tables[1].shape[0] - self.position_offset)
        sequences = torch.from_numpy(whole.cu_seqlens), whole.max_seqlen
        x, qkv = (memory or FirstRows()).rows(self._triples(whole), self._first_rows)
        x = self.blocks[0](x, *sequences) if qkv is None else self.blocks[0](x, *sequences, qkv)
        for block in self.blocks[1:]:
            x = block(x, *sequences)
        dense, classifier = self.head
        pooled = self.head_activation(nn.functional.linear(x[:rows].to(self.wide), *dense))
        return nn.functional.linear(pooled, *classifier).double().numpy()

    def _triples(self, batch: PackedBatch) -> np.ndarray:
        """int32 [3, T]: token, position and type ids, which are all that a row depends on before attention."""
        lengths = np.diff(batch.cu_seqlens)
        positions = np.arange(len(batch.input_ids), dtype=np.int32) - np.repeat(batch.cu_seqlens[:-1], lengths)
        types = np.minimum(batch.token_type_ids, self.tables[2].shape[0] - 1)
        return np.stack([batch.input_ids, positions + np.int32(self.position_offset), types]).astype(np.int32)

    def _first_rows(self, triples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings [R, H] of int32 [3, R]; query, key and value rows [R, 3 * H] if the first block wants them."""
        count = triples.shape[1]
        x = self._embed(np.pad(triples, ((0, 0), (0, -count % ROW_MULTIPLE)), mode="edge"))
        first = self.blocks[0]
        return x[:count], first.qkv(x)[:count] if isinstance(first, _FullBlock) else None

    def _embed(self, triples: np.ndarray) -> torch.Tensor:
        ids = torch.from_numpy(triples)
        norm = self.embedding_norm
        x = self.ops.embed(*ids, *self.tables, norm.weight, norm.bias, norm.eps)
        return x if self.projection is None else self.projection(x)


def _rounded_up(batch: PackedBatch, longest: int) -> PackedBatch:
    """The batch with a last variant or more of filler tokens, to a multiple of ROW_MULTIPLE rows.

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


class GenericEncoder:
    """Any sequence classifier through its own forward, on runs of equal length, so that nothing is ever padded."""

    def __init__(self, model: nn.Module, precision: str, device: str = "cpu"):
        self.precision = precision
        self.name = f"generic/{model.config.model_type}"
        self.batch_tokens = GENERIC_BATCH_TOKENS
        self.device = device
        self.model = model.to(device=device, dtype=DTYPES[precision]).eval()
        self.typed = getattr(model.config, "type_vocab_size", 0) > 1

    def memory(self) -> None:
        """Nothing."""

    @torch.inference_mode()
    def logits(self, batch: PackedBatch, memory: None = None) -> np.ndarray:
        """Class logits float64 [B, C]."""
        lengths = np.diff(batch.cu_seqlens)
        order = np.argsort(lengths, kind="stable")
        bounds = np.flatnonzero(np.diff(lengths[order])) + 1
        out = None
        for group in np.split(order, bounds):
            found = self._equal_length(batch, batch.cu_seqlens[group], int(lengths[group[0]]))
            out = np.empty((len(batch), found.shape[1])) if out is None else out
            out[group] = found
        return out

    def _equal_length(self, batch: PackedBatch, starts: np.ndarray, length: int) -> np.ndarray:
        index = starts[:, None] + np.arange(length)
        inputs = {"input_ids": torch.from_numpy(batch.input_ids[index].astype(np.int64)).to(self.device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if self.typed:
            inputs["token_type_ids"] = torch.from_numpy(batch.token_type_ids[index].astype(np.int64)).to(self.device)
        return self.model(**inputs).logits.double().cpu().numpy()


def build_encoder(model: nn.Module, precision: str, device: str = "cpu", kernels: str = "auto") -> Encoder:
    """The encoder for a model at a precision.

    Args:
        model: a float32 ``AutoModelForSequenceClassification`` in eval mode; it is not written to.
        precision: a key of DTYPES.
        device: torch device name.
        kernels: "auto" or "torch"; "triton" is not there yet.

    Raises:
        FastmaskError: for kernels that are not there.
    """
    if kernels == "triton":
        raise FastmaskError("--kernels triton: the Triton path is not part of this version; use auto or torch")
    weights = family_weights(model)
    if weights is None or device != "cpu":
        return GenericEncoder(copy.deepcopy(model), precision, device)
    return PackedEncoder(weights, precision, device)
