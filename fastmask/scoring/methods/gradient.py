"""Method ``gradient``: how much the classifier's answer depends on a token's embedding, to first order.

    importance(w) = | dz_y / de(w) . e(w) |

e(w) is what the word embeddings give for the token (before position, type and norm), y the label, or where there is
none the classifier's own answer, and z_y the log-odds of y: unlike P(y|s) they do not flatten where the classifier is
sure, unlike a logit they are what decides. Typhoon (arXiv 2303.15619) masks by such gradients, taken of its fine-tuning
loss and summed by type of token; a number for each token of each sentence, the log-odds and the cap are ours.

One forward and one backward a sentence give all its tokens. Ranks about the cap go through the cascade, as the masker's
do; so does the class where it decides whether a sentence is scored, or what is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...core.config import DEFAULT_RATE
from ...core.records import PackedBatch
from ...models.module_encoder import SaliencyEncoder
from ...models.packing import bounds_of
from ..asking import Asker, in_order, log_odds, rows_of_tokens
from ..blocks import SentenceBlock
from ..cascade import Bounds, probability
from ..method import BlockScores, Method, Rules
from ..ranking import Ranking
from ..variants import seen, whole
from .classifier import of_sentences, with_sure_argmax

if TYPE_CHECKING:
    from ..backend import Backend


class Gradient(Method):
    """Masks the tokens of the largest importance; a text of several aspects by the largest of each token."""

    encoder = SaliencyEncoder
    importance = "|dz/de . e|, how far the token's embedding moves the classifier's answer"
    large_is_important = True
    ranks_by_importance = True
    default_rate = DEFAULT_RATE

    def fastest(self, backend: Backend) -> str:
        """Return float32: a lower precision leaves the ranks of most sentences in doubt."""
        return "float32"

    def pair(
        self, block: SentenceBlock, ask: Asker, level: int, rules: Rules, whole_units: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``Method.pair``: importances and log-odds, float64 [2 K]."""
        units = block.block.units if whole_units is None else whole_units
        own = ask.logits("float32", whole(block.block, units)).argmax(axis=1)
        target = np.full(len(block.unit_label), -1)
        target[units] = np.where(block.unit_label[units] >= 0, block.unit_label[units], own)
        low, high = (token_values(block, ask, ask.levels[at], units, target)[1].ravel() for at in (level, level + 1))
        return low, high

    def score(self, block: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules) -> BlockScores:
        """See ``Method.score``."""
        questions = _Gradients(block, ask, bounds, rules, rows=2)
        units = questions.classify()
        evidence = questions.settled()
        importance = questions.largest(questions.values[0])
        return BlockScores(
            **units,
            importance=np.where(np.isfinite(importance), importance, 0.0).astype(np.float32),
            chosen=questions.chosen,
            evidence=evidence,
            tokens=ask.tokens,
        )


def token_values(
    sentences: SentenceBlock, ask: Asker, precision: str, units: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the classifier says of whole units int32 [U], each cut on the right at its room.

    Args:
        target: int [all units], the class asked about; -1 for the classifier's own answer at this precision.

    Returns:
        at int64 [K], the units' tokens; float64 [2, K]: their importances, and the log-odds of their unit's class; and
        logits float64 [U, C].
    """
    variants = whole(sentences.block, units)

    def of(encoder: SaliencyEncoder, packed: PackedBatch, part: np.ndarray) -> np.ndarray:
        return encoder.saliency(packed, target[units[part]])

    parts = ask.answers(precision, variants, of)
    at, rows = rows_of_tokens(sentences.block, variants, parts)
    logits = in_order([(part, rows[bounds_of(variants.take(part))[:-1], 1:]) for part, rows in parts])
    classes = np.where(target[units] < 0, logits.argmax(axis=1), target[units])
    z = np.repeat(log_odds(logits, classes), variants.table[:, 4])
    return at, np.stack([rows[:, 0], z]), logits


class _Gradients(Ranking):
    """The questions which tokens are masked; ``values`` are those of ``token_values``."""

    def classify(self) -> dict[str, np.ndarray]:
        """Ask about all units at the first level, and settle which of them count; return ``of_sentences``."""
        s, units = self.sentences, self.sentences.block.units
        self.target = s.unit_label
        logits = self.ask_units(0, units)
        first = logits.argmax(axis=1)
        if self.rules.certify:
            logits = with_sure_argmax(logits, self.asker, whole(s.block, units), self.bounds.eps[0])
        predicted = logits.argmax(axis=1).astype(np.int32)
        self.target = np.where(s.unit_label >= 0, s.unit_label, predicted)
        other = np.flatnonzero((s.unit_label < 0) & (predicted != first))
        if len(other):
            self.ask_units(0, other.astype(np.int32))
        right = predicted == self.target
        self.read = seen(s.block) & right[self.unit]
        return of_sentences(s, predicted, probability(log_odds(logits, self.target)), right)

    def ask(self, level: int, chosen: np.ndarray) -> None:
        """See ``Questions.ask``."""
        self.ask_units(level, np.unique(self.unit[chosen]))

    def ask_units(self, level: int, units: np.ndarray) -> np.ndarray:
        """Answer all tokens of units int32 [U] at a level; return logits float64 [U, C]."""
        precision = self.bounds.levels[level]
        at, values, logits = token_values(self.sentences, self.asker, precision, units, self.target)
        self.values[:, at], self.level[at] = values, level
        return logits


METHOD = Gradient()
