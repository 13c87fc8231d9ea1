"""Method ``entropy``: how unsure a masked-language model is of a token, with that token alone hidden.

    importance(w) = - sum over the vocabulary of p(v) ln p(v),   p = the model's prediction at w

where [MASK] stands in the place of w and the sentence is otherwise whole: n variants a sentence, in nats. The larger,
the more there is to learn at w. That a mask should go where the prediction is least sure is an idea of several papers;
one hidden token at a time, all others in sight, and the cap are ours.
"""

from __future__ import annotations

import numpy as np

from ...core.config import DEFAULT_RATE
from ...core.records import PackedBatch
from ...models.module_encoder import FillingEncoder
from ...models.weights import MASKED_LM
from ..asking import Asker, in_order
from ..blocks import SentenceBlock
from ..cascade import Bounds
from ..method import BlockScores, Known, Method, Rules
from ..ranking import Ranking
from ..variants import seen, whole

# Of the tokens of a calibration every fourth is compared: neighbours err alike.
CALIBRATION_STRIDE = 4


class Entropy(Method):
    """Masks the tokens of the largest entropy; labels and aspects play no part."""

    task = MASKED_LM
    encoder = FillingEncoder
    has_default_model = False
    keeps_other_labels = True
    reads_units = False
    importance = "entropy of the model's guesses where the token is hidden, in nats"
    large_is_important = True
    ranks_by_importance = True
    uses_known = True
    default_rate = DEFAULT_RATE

    def pair(
        self, block: SentenceBlock, ask: Asker, level: int, rules: Rules, whole_units: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``Method.pair``: entropies."""
        questions = _Entropies(block, ask, Bounds(ask.levels, (0.0,) * len(ask.levels)), rules)
        wanted = seen(block.block) & (True if whole_units is None else np.isin(questions.unit, whole_units))
        at = np.flatnonzero(wanted)[::CALIBRATION_STRIDE]
        low, high = (questions.entropies(each, at) for each in (level, level + 1))
        return low, high

    def score(self, block: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules) -> BlockScores:
        """See ``Method.score``."""
        questions = _Entropies(block, ask, bounds, rules)
        questions.read = seen(block.block)
        questions.ask(0, np.flatnonzero(questions.read))
        evidence = questions.settled()
        return questions.outcome(evidence, questions.largest(questions.values[0]))

    def rescore(self, block: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules, known: Known) -> BlockScores:
        """See ``Method.rescore``; rounding to float32 is far below any precision's error bound."""
        questions = _Entropies(block, ask, bounds, rules)
        questions.read = seen(block.block)
        questions.values[0] = np.where(questions.read, known.importance, -np.inf)
        evidence = questions.settled()
        return questions.outcome(evidence, questions.largest(questions.values[0]))


class _Entropies(Ranking):
    """The questions which tokens are masked; each is a variant of its own."""

    whole_units = False

    def ask(self, level: int, chosen: np.ndarray) -> None:
        """See ``Questions.ask``."""
        if len(chosen):
            self.values[0, chosen], self.level[chosen] = self.entropies(level, chosen), level

    def entropies(self, level: int, at: np.ndarray) -> np.ndarray:
        """Return the entropies float64 [K] at tokens ``at`` int64 [K], by a level."""
        block = self.sentences.block
        variants = whole(block, self.unit[at])
        places = self.index[at] + len(block.prefix)

        def of(encoder: FillingEncoder, packed: PackedBatch, part: np.ndarray) -> np.ndarray:
            found: np.ndarray = encoder.entropies(packed, packed.cu_seqlens[:-1].astype(np.int64) + places[part])
            return found

        return in_order(self.asker.answers(self.bounds.levels[level], variants, of))


METHOD = Entropy()
