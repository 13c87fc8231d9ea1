"""Asking on a device: a block's tokens are sent once, each round sends descriptors and reads decisions."""

from __future__ import annotations

import numpy as np

from ..models.gpu import DeviceBlock, read
from ..models.packing import Variants, hash_variants
from .block_scorer import Asker
from .cascade import TIE, Limits


class DeviceAsker(Asker):
    """Runs variants of one block through ``DeviceEncoder``; all batches of a call are under way before one is read."""

    _sent: DeviceBlock | None = None

    def decide_variants(self, level: int, variants: Variants, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """See ``Asker.decide_variants``; variants that are the same tokens go through the encoder once."""
        encoder, target = self.encoder(self.levels[level]), self.target[variants.units].astype(np.int32)
        _, first, of = np.unique(hash_variants(self.block, variants), return_index=True, return_inverse=True)
        distinct = variants.take(first)
        place = np.full(len(distinct), -1, np.int32)

        def run(part: np.ndarray):
            place[:] = -1
            place[part] = np.arange(len(part))
            asked = np.flatnonzero(place[of] >= 0)
            batch = self.encoder(encoder.precision).batch(self._block(encoder), distinct.take(part))
            chosen = Limits(*(values[asked] for values in limits))
            return asked, encoder.decide(batch, place[of[asked]], target[asked], chosen, TIE)

        answers = [answer for _, answer in self._in_batches(encoder, distinct.lengths, run)]
        order = np.concatenate([asked for asked, _ in answers])
        z, code = np.empty(len(variants)), np.empty(len(variants), np.uint8)
        z[order], code[order] = read([found for _, found in answers])
        return self.finite(encoder.precision, z), code

    def forward(self, precision: str, variants: Variants) -> list[tuple[np.ndarray, np.ndarray]]:
        """See ``Asker.forward``."""
        encoder = self.encoder(precision)

        def run(part: np.ndarray):
            batch = self.encoder(precision).batch(self._block(encoder), variants.take(part))
            return encoder.logits(batch).double().t()

        parts = self._in_batches(encoder, variants.lengths, run)
        found = self.finite(precision, read([logits for _, logits in parts]).T)
        ends = np.cumsum([logits.shape[1] for _, logits in parts])[:-1]
        return [(part, rows) for (part, _), rows in zip(parts, np.split(found, ends), strict=True)]

    def _block(self, encoder) -> DeviceBlock:
        if self._sent is None:
            self._sent = DeviceBlock(self.block, encoder.device, encoder.position_offset)
        return self._sent
