"""The encoder's forward on a device: variants are sent as descriptors, and decisions come back."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch
from fastmask_kernels import launch, reference
from fastmask_kernels.layouts import Sequences, Special, Texts

from ..core.errors import FastmaskError
from .family_rules import position_ids
from .family_weights import FamilyWeights
from .layers import DTYPES, ClassHead, blocks_of, make_head
from .packing import Block, Template, Variants, bounds_of, pack_variants

# A batch of these fills a large GPU; one of the other hardly costs more than an empty one.
BATCH_TOKENS = 65536
SPARE_TOKENS = 8192
INTERPRETED_SPARE_TOKENS = 128


def send(device: torch.device, *arrays: np.ndarray) -> list[torch.Tensor]:
    """Send int32 arrays to the device in one copy that does not wait: tensors of the same shapes, 16-byte aligned."""
    starts = np.cumsum([0, *(-(-array.size // 4) * 4 for array in arrays)]).tolist()
    staging = torch.empty(starts[-1], dtype=torch.int32, pin_memory=device.type == "cuda")
    for start, array in zip(starts, arrays, strict=False):
        staging[start : start + array.size] = torch.from_numpy(array.reshape(-1))
    sent = staging.to(device, non_blocking=True)
    return [sent[s : s + a.size].view(a.shape) for s, a in zip(starts, arrays, strict=False)]


def read(parts: list[torch.Tensor]) -> np.ndarray:
    """Return tensors [*, N] joined along N, on the host: the one place that waits for the device."""
    joined = torch.cat(parts, dim=-1)
    if joined.is_cuda:
        host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
        host.copy_(joined, non_blocking=True)
        torch.cuda.current_stream(joined.device).synchronize()
        return host.numpy()
    return joined.numpy()


class DeviceBlock:
    """A block's tokens on a device, sent once."""

    def __init__(self, block: Block, device: torch.device, first_position: int):
        self.block, self.device, self.first_position = block, device, first_position
        around = block.prefix, block.middle, block.suffix
        if not np.array_equal(block.special_types, Template(*around, int(block.content_type)).types):
            raise FastmaskError("the tokenizer's special tokens have types of their own: use --device cpu")
        small = (array.astype(np.int32) for array in (block.offsets, block.context_offsets))
        special = np.concatenate(around).astype(np.int32)
        self.offsets, self.context_offsets, self.input_ids, self.context_ids, ids = send(
            device, *small, block.input_ids, block.context_ids, special
        )
        prefix, middle, suffix = map(len, around)
        self.special = Special(ids, prefix, middle, suffix, int(block.content_type))
        tokens = special, block.input_ids, block.context_ids
        self.has_padding = first_position > 0 and any((one == first_position - 1).any() for one in tokens)

    def batch(self, variants: Variants, tiles) -> DeviceBatch:
        """Return variants int32 [V, 5] on the device, with the units' buffers as they are now.

        ``tiles`` makes the attention's plan from cu_seqlens int32 [V + 1].
        """
        cu_seqlens = bounds_of(variants)
        numbers = np.repeat(np.arange(len(variants), dtype=np.int32), variants.lengths)
        kept = self.block.kept if variants.table[:, 1].any() else self.block.kept[:0]
        arrays = variants.table, cu_seqlens, numbers, tiles(cu_seqlens), kept
        table, bounds, rows, plan, kept = send(self.device, *arrays)
        texts = Texts(self.offsets, self.input_ids, self.context_offsets, self.context_ids, kept)
        sequences = Sequences(bounds, int(variants.lengths.max()), rows, plan)
        return DeviceBatch(table, texts, self.special, sequences, self._positions(variants))

    def _positions(self, variants: Variants) -> torch.Tensor | None:
        """Return position ids, int32 [T], where padding ids in the text have to be skipped; else None."""
        if not self.has_padding:
            return None
        packed = pack_variants(self.block, variants)
        return send(self.device, position_ids(packed.input_ids, packed.cu_seqlens, self.first_position))[0]


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """V variants on a device, T tokens.

    Attributes:
        table: int32 [V, 5], see ``Variants``; texts, special: what its rows refer to.
        sequences: where each variant lies in the packed batch.
        positions: int32 [T], position ids; None where they count up from the first in each variant.
    """

    table: torch.Tensor
    texts: Texts
    special: Special
    sequences: Sequences
    positions: torch.Tensor | None


class DeviceEncoder:
    """Unpadded forward of a known family on a device; nothing here waits for it.

    A float16 overflow in one sequence makes those that share its attention tile infinite, too: all are doubts then.

    Args:
        weights: the model in the families' common shape, float32, on the device.
        precision: a key of DTYPES.
        device: torch device name; "cpu" is for Triton's interpreter.
        kernels: "auto", "triton" or "torch".

    Raises:
        FastmaskError: the model's shape has no Triton kernel and ``kernels`` is "triton".
    """

    def __init__(self, weights: FamilyWeights, precision: str, device: str, kernels: str = "auto"):
        self.precision, self.device = precision, torch.device(device)
        hidden, classes = weights.hidden, len(weights.classifier.weight)
        try:
            ops = self.ops = launch.device_ops(DTYPES[precision], hidden, hidden // weights.heads, classes, kernels)
        except ValueError as error:
            raise FastmaskError(f"--kernels {kernels}: {error}; use auto") from error
        self.name = f"packed/{ops.name}"
        self.batch_tokens, self.most_tokens = BATCH_TOKENS, sys.maxsize
        self.spare_tokens = SPARE_TOKENS if self.device.type == "cuda" else INTERPRETED_SPARE_TOKENS
        wide = torch.float64 if precision == "float64" else torch.float32
        self.tables = tuple(t.to(wide) for t in (weights.word, weights.position, weights.token_type))
        self.position_offset = weights.position_offset
        self.every_row = weights.pooling == "none"
        self.embedding_norm = weights.embedding_norm.to(wide)
        self.projection = None if weights.projection is None else ops.linear(weights.projection)
        self.blocks = blocks_of(weights, ops, wide)
        self.head = make_head(weights, wide)

    def batch(self, block: DeviceBlock, variants: Variants) -> DeviceBatch:
        """Send at least one variant."""
        return block.batch(variants, self.ops.tiles)

    @torch.inference_mode()
    def logits(self, batch: DeviceBatch) -> torch.Tensor:
        """Return class logits [V, C] of variants or [T, C] of tokens, float32 or float64, still on the device."""
        return self.head(self._rows(batch))

    @torch.inference_mode()
    def log_odds(self, batch: DeviceBatch, row: np.ndarray, target: np.ndarray) -> torch.Tensor:
        """Return the answers to K questions about a batch: float64 [K] log-odds, still on the device.

        Args:
            row: int32 [K], each question's variant in the batch; target: int32 [K], its class.
        """
        assert isinstance(self.head, ClassHead)  # nothing asks a token classifier for log-odds
        rows, wanted = send(self.device, row, target)
        return self.ops.log_odds(self._rows(batch), self.head.parameters, rows, wanted)

    def _rows(self, batch: DeviceBatch) -> torch.Tensor:
        """Return what the head reads: a row of each variant [V, H], or all rows [T, H] for a token classifier."""
        norm, sequences = self.embedding_norm, batch.sequences
        where = batch.table, sequences.cu_seqlens, sequences.row_sequence, batch.texts, batch.special, self.tables
        if batch.positions is None:
            x = self.ops.embed_variants(*where, self.position_offset, *norm)
        else:  # rare enough to do without a kernel
            x = reference.embed_variants(*where, batch.positions, *norm, self.ops.dtype)
        x = x if self.projection is None else self.projection(x)
        x = self.blocks(x, sequences)
        return x if self.every_row else x[: len(batch.table)]
