"""Method ``prefix``: token i is scored by the sentence up to it, w0..wi, nothing left out (paper section 2.2)."""

from __future__ import annotations

import numpy as np

from ...models.packing import Variants
from ..variants import describe
from .classifier import ClassifierBlock, ClassifierMethod


class PrefixBlock(ClassifierBlock):
    """Scores one block by prefixes."""

    importance = "S(w) = P(class) of the sentence - P(class) of its beginning up to w"

    def variants(self, units: np.ndarray, indices: np.ndarray) -> Variants:
        """See ``ClassifierBlock.variants``."""
        return describe(self.block, units, indices + 1)


METHOD = ClassifierMethod(PrefixBlock)
