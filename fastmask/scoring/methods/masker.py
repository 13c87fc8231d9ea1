"""Method ``masker``: a token classifier marks what to mask, one forward a sentence (paper section 2.4).

A token is a candidate when its class-1 logit is the larger one, and a sentence's candidates rank by that logit. Both
comparisons go through the cascade: a sentence with a token whose logits, or with two candidates about the cap whose
ranks, are nearer than the precision can tell apart is asked again at the next one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...core.config import DEFAULT_RATE
from ...models.weights import MASKER
from ..asking import Asker, rows_of_tokens
from ..blocks import SentenceBlock
from ..cascade import TIE, Bounds, probability
from ..method import BlockScores, Method, Recalled, Rules, Stored
from ..policy import agreeing
from ..ranking import Ranking
from ..variants import whole

if TYPE_CHECKING:
    from ..backend import Backend


# Further than two probabilities can lie apart.
_FAR = 2.0
# The smallest importance of a token that the masker marks: P(class 1) is above a half.
_OR_MORE = float(np.nextafter(np.float32(0.5), np.float32(1)))


class Masker(Method):
    """Masks what a token classifier marks.

    Labels and aspects play no part. ``importance`` is P(class 1), 0 for tokens beyond the longest input; every sentence
    with a token counts as scored.
    """

    task = MASKER
    has_default_model = False
    keeps_other_labels = True
    reads_units = False
    importance = "the masker's P(mask); below 0.5 nothing is masked"
    large_is_important = True
    default_rate = DEFAULT_RATE

    def fastest(self, backend: Backend) -> str:
        """Return float32 on the processor: a doubt about one token asks for a whole sentence again.

        With bfloat16 that is a third of them, which eats its gain.
        """
        return backend.fastest if backend.has_pools else "float32"

    def pair(
        self, block: SentenceBlock, ask: Asker, level: int, rules: Rules, whole_units: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``Method.pair``: both values of each token, float64 [2 K]."""
        units = block.block.units if whole_units is None else whole_units
        low, high = (token_values(block, ask, ask.levels[at], units)[1].ravel() for at in (level, level + 1))
        return low, high

    def score(self, block: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules) -> BlockScores:
        """See ``Method.score``."""
        marks = _Marks(block, ask, bounds, rules, rows=2)
        marks.ask_sentences(0, block.block.units)
        evidence = marks.settled()
        found = marks.outcome(evidence, probability(marks.values[1]))
        marked, _ = marks.important(np.zeros(len(marks.read)))
        return replace(found, importance=agreeing(found.importance, marked, _OR_MORE, True))

    def recall(self, stored: Stored, threshold: float, was: float) -> Recalled:
        """See ``Method.recall``; the logits that marked tokens rank by are not stored, and P alone is never certain.

        Nor are decisions of tokens that had no part in the run's masks: they are as good as its first level.
        """
        tokens, p = len(stored.importance), np.clip(stored.importance, 1e-9, 1 - 1e-9)
        in_doubt = ~stored.decided & (np.abs(np.log(p / (1 - p))) <= stored.bounds.eps[0] + 1e-6)
        rank = np.where(stored.importance > 0, -stored.importance, np.inf)
        low, high = rank - _FAR, rank + _FAR
        return Recalled(stored.importance >= _OR_MORE, in_doubt, low, high, np.arange(tokens))


def token_values(
    sentences: SentenceBlock, ask: Asker, precision: str, units: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the masker says of whole sentences ``units`` int32 [U], each cut on the right at its room.

    Returns:
        at int64 [K], the tokens of the block that were read, and float64 [2, K]: the class-1 logit, and by how much it
        is the larger one.
    """
    variants = whole(sentences.block, units)
    at, logits = rows_of_tokens(sentences.block, variants, ask.forward(precision, variants))
    with np.errstate(invalid="ignore"):  # a float16 overflow, which is a doubt
        return at, np.stack([logits[:, 1], logits[:, 1] - logits[:, 0]])


class _Marks(Ranking):
    """The questions which tokens are masked; ``values`` are those of ``token_values``."""

    def ask(self, level: int, chosen: np.ndarray) -> None:
        """See ``Questions.ask``."""
        self.ask_sentences(level, np.unique(self.unit[chosen]))

    def ask_sentences(self, level: int, units: np.ndarray) -> None:
        """Answer all tokens of sentences int32 [U] at a level."""
        at, values = token_values(self.sentences, self.asker, self.bounds.levels[level], units)
        self.values[:, at], self.read[at], self.level[at] = values, True, level

    def important(self, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``Ranking.important``: tokens whose class-1 logit is the larger one."""
        margin = self.values[1]
        near = ~((np.abs(margin) > width) & np.isfinite(self.values).all(axis=0))
        # a token that is never masked decides about its word, too, if others of that may be
        return self.read & (margin > TIE), near & self.items.any(self.may_mask)[self.items.of_token]


METHOD = Masker()
