"""Asking a model about variants of one block: each distinct variant once, in batches, on the processor or a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import torch

from ..core.arrays import within
from ..core.errors import FastmaskError
from ..core.memo import Memo
from ..core.records import PackedBatch
from ..models.encoder import Encoder, GrowingRows, HostEncoder, OutOfMemory
from ..models.gpu import DeviceBlock, DeviceEncoder, read
from ..models.packing import Block, Variants, batch_starts, bounds_of, hash_variants, pack_variants
from .blocks import SentenceBlock

Answer = TypeVar("Answer")
Encoders = Callable[[str], Encoder]
"""The encoder of a precision."""
Rows = list[tuple[np.ndarray, np.ndarray]]
"""Of each batch: which variants int64 [B] it had, and the model's rows: [B, C], or [T, C] of a token classifier."""


def log_odds(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return log P(y) - log(1 - P(y)) float64 [V]: logits float64 [V, C], target y int [V]."""
    index = np.arange(len(logits))
    others = logits.copy()
    others[index, target] = -np.inf
    top = others.max(axis=1)
    with np.errstate(invalid="ignore"):  # a float16 overflow, which the cascade takes for a doubt
        rest = top + np.log(np.exp(others - top[:, None]).sum(axis=1))
        z: np.ndarray = logits[index, target] - rest
    return z


class Asker:
    """Runs variants of one block at any precision of a cascade, on the processor.

    Args:
        sentences: the block.
        encoder: the encoder of a precision; asked before every batch, so that a stop is noticed.
        levels: the cascade's precisions.
        batch_tokens: token budget of a batch; 0 is what suits the encoder.
        name: the model's, for messages.
    """

    def __init__(
        self, sentences: SentenceBlock, encoder: Encoders, levels: tuple[str, ...], batch_tokens: int, name: str
    ):
        self.block, self.encoder, self.levels, self.batch_tokens = sentences.block, encoder, levels, batch_tokens
        self.name = name
        self.tokens = 0
        self._known: dict[str, tuple[Memo, GrowingRows]] = {}
        self._memories: dict[str, object] = {}

    @property
    def spare_tokens(self) -> int:
        """Return how many tokens a forward at the first level takes at next to no further cost."""
        return self.encoder(self.levels[0]).spare_tokens

    def logits(self, precision: str, variants: Variants) -> np.ndarray:
        """Return class logits float64 [V, C]."""
        memo, known = self._known.setdefault(precision, (Memo(), GrowingRows()))
        before = memo.used
        slots = memo.slots(hash_variants(self.block, variants))
        fresh, first = np.unique(slots, return_index=True)
        first = first[fresh >= before]
        if len(first):
            known.append(torch.from_numpy(in_order(self.forward(precision, variants.take(first)))))
        found: np.ndarray = known.take(slots).numpy()
        return found

    def log_odds(self, level: int, variants: Variants, target: np.ndarray) -> np.ndarray:
        """Return float64 [V], the log-odds of classes ``target`` int32 [V] at a level of the cascade."""
        return log_odds(self.logits(self.levels[level], variants), target)

    def forward(self, precision: str, variants: Variants) -> Rows:
        """Return the model's rows of every variant; equal ones are run again.

        Raises:
            FastmaskError: an answer of the highest precision is not finite, or a text does not fit in memory.
        """
        if precision not in self._memories:
            self._memories[precision] = self._on_host(precision).memory()

        def logits(encoder: HostEncoder, packed: PackedBatch, part: np.ndarray) -> np.ndarray:
            return encoder.logits(packed, self._memories[precision])

        return self.answers(precision, variants, logits)

    def answers(
        self, precision: str, variants: Variants, of: Callable[[Any, PackedBatch, np.ndarray], np.ndarray]
    ) -> Rows:
        """Return what ``of`` an encoder, a batch and the numbers int64 [B] of its variants gives, batch by batch.

        Raises:
            FastmaskError: as ``forward`` does.
        """

        def run(part: np.ndarray) -> np.ndarray:
            packed = pack_variants(self.block, variants.take(part))
            return self._finite(precision, of(self._on_host(precision), packed, part))

        return self._in_batches(self.encoder(precision), variants.lengths, run)

    def _on_host(self, precision: str) -> HostEncoder:
        """Return the encoder of a precision, which packs on the processor unless this is a ``DeviceAsker``."""
        return cast(HostEncoder, self.encoder(precision))

    def _finite(self, precision: str, answers: np.ndarray) -> np.ndarray:
        """Return answers of a precision; what is not finite is a doubt as long as there is a higher one to ask."""
        if (precision == self.levels[-1] or len(self.levels) == 1) and not np.isfinite(answers).all():
            advice = "; leave out --no-certify, or use float32" if precision in ("float16", "bfloat16") else ""
            raise FastmaskError(f"{self.name}: its answers are not finite numbers in {precision}{advice}")
        return answers

    def _in_batches(
        self, encoder: Encoder, lengths: np.ndarray, run: Callable[[np.ndarray], Answer]
    ) -> list[tuple[np.ndarray, Answer]]:
        """Return (numbers int64 [B], ``run`` of them) for batches of variants of lengths int32 [V].

        A batch fills the token budget. Where memory runs out the budget is halved, for good.
        """
        self.tokens += int(lengths.sum())
        waiting = self._split(np.argsort(lengths, kind="stable"), encoder, lengths)
        done: list[tuple[np.ndarray, Answer]] = []
        while waiting:
            part = waiting.pop(0)
            try:
                done.append((part, run(part)))
            except OutOfMemory as error:
                if len(part) == 1:
                    raise FastmaskError(f"a text of {lengths[part[0]]} tokens does not fit in memory") from error
                # another thread may have found less
                encoder.most_tokens = min(encoder.most_tokens, int(lengths[part].sum()) // 2)
                waiting = self._split(np.concatenate([part, *waiting]), encoder, lengths)
        return done

    def _split(self, order: np.ndarray, encoder: Encoder, lengths: np.ndarray) -> list[np.ndarray]:
        budget = min(self.batch_tokens or encoder.batch_tokens, encoder.most_tokens)
        return np.split(order, batch_starts(lengths[order], budget)[1:])


class DeviceAsker(Asker):
    """Runs variants of one block through ``DeviceEncoder``: the block's tokens are sent once, each call descriptors.

    All batches of a call are under way before one is read.
    """

    _sent: DeviceBlock | None = None

    def log_odds(self, level: int, variants: Variants, target: np.ndarray) -> np.ndarray:
        """See ``Asker.log_odds``; variants that are the same tokens go through the encoder once."""
        encoder = self.encoder(self.levels[level])
        _, first, number = np.unique(hash_variants(self.block, variants), return_index=True, return_inverse=True)
        distinct = variants.take(first)  # variant v is distinct variant number[v]

        def run(part: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
            row = np.full(len(distinct), -1, np.int32)  # the batch's row of each distinct variant
            row[part] = np.arange(len(part))
            asked = np.flatnonzero(row[number] >= 0)
            device = self._on_device(encoder.precision)
            batch = device.batch(self._block(device), distinct.take(part))
            return asked, device.log_odds(batch, row[number[asked]], target[asked].astype(np.int32))

        answers = [answer for _, answer in self._in_batches(encoder, distinct.lengths, run)]
        z = np.empty(len(variants))
        z[np.concatenate([asked for asked, _ in answers])] = read([found for _, found in answers])
        return self._finite(encoder.precision, z)

    def forward(self, precision: str, variants: Variants) -> Rows:
        """See ``Asker.forward``."""
        encoder = self.encoder(precision)

        def run(part: np.ndarray) -> torch.Tensor:
            device = self._on_device(precision)
            batch = device.batch(self._block(device), variants.take(part))
            return device.logits(batch).double().t()  # [C, B], or [C, T]

        parts = self._in_batches(encoder, variants.lengths, run)
        found = self._finite(precision, read([logits for _, logits in parts]).T)
        ends = np.cumsum([logits.shape[1] for _, logits in parts])[:-1]
        return [(part, rows) for (part, _), rows in zip(parts, np.split(found, ends), strict=True)]

    def _on_device(self, precision: str) -> DeviceEncoder:
        """Return the encoder of a precision as what it is: each one of a ``DeviceAsker``'s is on the device."""
        return cast(DeviceEncoder, self.encoder(precision))

    def _block(self, encoder: DeviceEncoder) -> DeviceBlock:
        if self._sent is None:
            self._sent = DeviceBlock(self.block, encoder.device, encoder.position_offset)
        return self._sent


def in_order(parts: Rows) -> np.ndarray:
    """Return what a row a variant says, float64 [V, ...], in the variants' order."""
    found = np.concatenate([logits for _, logits in parts])
    out = np.empty_like(found)
    out[np.concatenate([part for part, _ in parts])] = found
    return out


def rows_of_tokens(block: Block, variants: Variants, parts: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return what a row a token says of sentences' own tokens; variants are whole sentences, cut at their room.

    Returns:
        at int64 [K], the tokens of the block that were read, and their rows float64 [K, N].
    """
    order, rows = (np.concatenate(one) for one in zip(*parts, strict=True))
    packed = bounds_of(variants.take(order)).astype(np.int64)
    starts, units = np.empty(len(variants), np.int64), variants.units
    starts[order] = packed[:-1]
    starts += block.around[units] - len(block.suffix)
    counts = variants.table[:, 4].astype(np.int64)
    inside = within(counts)
    return np.repeat(block.offsets[units], counts) + inside, rows[np.repeat(starts, counts) + inside]
