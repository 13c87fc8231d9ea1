"""Method ``leave-one-out``: S(w) = P(y|s) - P(y|s without w); a *large* drop is important, S >= d."""

from __future__ import annotations

import numpy as np

from ...models.packing import Variants
from ..variants import describe
from .classifier import ClassifierBlock, ClassifierMethod


class LeaveOneOutBlock(ClassifierBlock):
    """Scores one block by leaving out one token at a time."""

    importance = "S(w) = P(class) of the sentence - P(class) without w"
    large_is_important = True

    @staticmethod
    def same_variant(sentence: np.ndarray, input_ids: np.ndarray, marked: np.ndarray) -> np.ndarray:
        """See ``ClassifierBlock.same_variant``: it does not matter which of equal tokens in a row is left out."""
        other = (np.diff(input_ids, prepend=-1) != 0) | (np.diff(sentence, prepend=-1) != 0)
        return np.cumsum(other)

    def variants(self, units: np.ndarray, indices: np.ndarray) -> Variants:
        """See ``ClassifierBlock.variants``."""
        return describe(self.block, units, np.diff(self.block.offsets)[units] - 1, removed=indices)


METHOD = ClassifierMethod(LeaveOneOutBlock)
