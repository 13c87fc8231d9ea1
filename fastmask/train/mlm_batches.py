"""Training sequences to the batches of a step: corrupted, sorted by length, packed into parts, ahead of time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..data.corruption import corrupt
from ..data.sequences import Example
from ..models.mlm_model import Part
from ..models.trainable import pack

if TYPE_CHECKING:
    from ..data.stream import TrainingStream
    from ..models.packing import Template

AHEAD = 2
"""Batches that wait for the model."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's share of a step: its parts, numbers of real tokens and of masked ones, and the stream after it."""

    parts: tuple[Part, ...]
    tokens: int
    masked: int
    position: dict


@dataclass(frozen=True, slots=True)
class Builder:
    """Makes parts of examples.

    Attributes:
        seed: of the corruption.
        mask_id, ordinary: id of [MASK], and int32 [K] the ids that may replace a token.
        part_tokens: about how many tokens a part has.
        device: where the tensors go.
        template: what token types the model is given, and whether.
        shares: of masked tokens that become [MASK], become a random one, and stay unchanged.
    """

    seed: int
    mask_id: int
    ordinary: np.ndarray
    part_tokens: int
    device: str
    template: Template
    shares: tuple[float, ...]

    def parts(self, items: list[tuple[int, Example]]) -> tuple[Part, ...]:
        """Return ``(epoch, example)`` pairs, in any order of length, as parts of sequences of similar length."""
        corrupted = [ids for epoch, group in groupby(items, itemgetter(0))
                     for ids in self._corrupted(epoch, [example for _, example in group])]  # fmt: skip
        lengths = np.array([len(ids) for ids in corrupted])
        order = np.argsort(-lengths, kind="stable")
        begins = np.cumsum(lengths[order]) - lengths[order]
        total = int(lengths.sum())
        # equal shares: a small last part would keep the device as busy as a full one. An eighth more is let be: a step
        # of as many tokens goes over them by its last sequence, and would be two parts of half the size
        share = begins * max(1, -(-total // (self.part_tokens * 9 // 8))) // total
        groups = np.split(order, np.flatnonzero(np.diff(share)) + 1)
        return tuple(self._part([items[i][1] for i in rows], [corrupted[i] for i in rows]) for rows in groups)

    def _corrupted(self, epoch: int, examples: list[Example]) -> list[np.ndarray]:
        """Return the corrupted ids, one int32 [n] for each example."""
        lengths = np.array([len(example) for example in examples])
        keys = (np.concatenate([getattr(example, name) for example in examples])
                for name in ("row", "sentence", "position"))  # fmt: skip
        ids = np.concatenate([example.input_ids for example in examples])
        out = corrupt(ids, _places(examples, lengths), *keys, seed=self.seed, epoch=epoch, mask_id=self.mask_id,
                      ordinary=self.ordinary, shares=self.shares)  # fmt: skip
        return np.split(out, np.cumsum(lengths)[:-1])

    def _part(self, examples: list[Example], corrupted: list[np.ndarray]) -> Part:
        import torch

        at = _places(examples, np.array([len(ids) for ids in corrupted]))
        labels = np.concatenate([example.input_ids for example in examples])[at].astype(np.int64)
        packed = pack(corrupted, [self._types(len(ids)) for ids in corrupted], self.device, self.template.typed)
        return Part(packed, *(torch.from_numpy(array).to(self.device) for array in (at, labels)))

    def _types(self, length: int) -> np.ndarray:
        """Token types int32 [length] of a sequence: a special token, text, a special token."""
        types = np.full(length, self.template.content_type, np.int32)
        if len(self.template.prefix):
            types[0] = self.template.types[0]
        if len(self.template.suffix):
            types[-1] = self.template.types[-1]
        return types


def _places(examples: list[Example], lengths: np.ndarray) -> np.ndarray:
    """Return the masked places in the examples laid end to end, int64 [M]."""
    begins = np.cumsum(lengths) - lengths
    masks = [len(example.at) for example in examples]
    return np.concatenate([example.at for example in examples]).astype(np.int64) + np.repeat(begins, masks)


def batches_of(
    stream: TrainingStream, builder: Builder, size: int | None, tokens: int | None, scales: Iterator[float]
) -> Generator[Batch]:
    """Yield batches: of ``size`` sequences each, or of as many as it takes to reach ``tokens`` tokens.

    Args:
        stream: of this rank.
        builder: makes their parts.
        size, tokens: of this rank's share of a step; one is None.
        scales: of the probabilities, where the stream samples masks: one a batch.
    """
    items = iter(stream)
    for scale in scales:
        stream.scale = scale
        taken = list(islice(items, size)) if size else list(_reaching(items, tokens or 0))
        real, masked = (sum(len(value) for value in values) for values in
                        ([e for _, e in taken], [e.at for _, e in taken]))  # fmt: skip
        yield Batch(builder.parts(taken), real, masked, stream.state_dict())


def held_out_parts(stream: TrainingStream, builder: Builder) -> Iterator[Part]:
    """Yield this rank's sequences, each once, corrupted as in epoch 0: the same at every measurement."""
    items, several = ((0, example) for example in stream.epoch(0)), 8 * builder.part_tokens
    while taken := list(_reaching(items, several)):
        yield from builder.parts(taken)


def _reaching(items: Iterator[tuple[int, Example]], tokens: int) -> Iterator[tuple[int, Example]]:
    """Yield items until they have so many tokens, or there are no more."""
    for item in items:
        yield item
        tokens -= len(item[1])
        if tokens <= 0:
            return
