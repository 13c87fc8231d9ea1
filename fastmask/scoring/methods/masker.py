"""Method ``masker``: a token classifier marks what to mask, one forward a sentence (paper section 2.4).

A token is a candidate when its class-1 logit is the larger one, and a sentence's candidates rank by that logit. Both
comparisons go through the cascade: a sentence with a token whose logits, or with two candidates about the cap whose
ranks, are nearer than the precision can tell apart is asked again at the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...core.arrays import within
from ...core.config import DEFAULT_RATE
from ...models.packing import bounds_of
from ..asking import Asker
from ..blocks import SentenceBlock
from ..cascade import TIE, Bounds, Evidence, probability, settle
from ..method import BlockScores, Method, Rules, audit_sample
from ..policy import choose
from ..variants import whole

if TYPE_CHECKING:
    from ..backend import Backend


class Masker(Method):
    """Masks what a token classifier marks.

    Labels and aspects play no part. ``importance`` is P(class 1), 0 for tokens beyond the longest input; every sentence
    with a token counts as scored.
    """

    classifies_tokens = True
    has_default_model = False
    keeps_other_labels = True
    reads_units = False
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
        questions = _Marks(block, ask, bounds, rules)
        questions.ask_sentences(0, block.block.units)
        evidence = Evidence(len(bounds.levels))
        evidence.decisions += int(questions.read.sum())
        chosen = settle(questions, bounds, questions.audit & questions.read, evidence)
        count = len(block.sentences)
        return BlockScores(
            predicted=np.full(count, -1, np.int32),
            prob=np.full(count, np.nan, np.float32),
            scored=np.diff(block.offsets) > 0,
            importance=probability(questions.values[0]).astype(np.float32),
            chosen=chosen,
            evidence=evidence,
            tokens=ask.tokens,
        )


def token_values(
    sentences: SentenceBlock, ask: Asker, precision: str, units: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the masker says of whole sentences ``units`` int32 [U], each cut on the right at its room.

    Returns:
        at int64 [K], the tokens of the block that were read, and float64 [2, K]: by how much the class-1 logit is the
        larger one, and that logit.
    """
    block = sentences.block
    variants = whole(block, units)
    order, rows = (np.concatenate(one) for one in zip(*ask.forward(precision, variants), strict=True))
    packed = bounds_of(variants.take(order)).astype(np.int64)
    starts = np.empty(len(units), np.int64)
    starts[order] = packed[:-1] + len(block.prefix)
    counts = variants.table[:, 4].astype(np.int64)
    inside = within(counts)
    logits = rows[np.repeat(starts, counts) + inside]  # [K, 2]
    with np.errstate(invalid="ignore"):  # a float16 overflow, which is a doubt
        values = np.stack([logits[:, 1] - logits[:, 0], logits[:, 1]])
    return np.repeat(block.offsets[units], counts) + inside, values


class _Marks:
    """The questions which of T tokens of S sentences are masked, as ``cascade.Questions``.

    Attributes:
        values: float64 [2, T], see ``token_values``; -inf where not read. level: uint8 [T]. read, audit: bool [T].
    """

    def __init__(self, sentences: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules):
        self.sentences, self.asker, self.bounds = sentences, ask, bounds
        lengths = np.diff(sentences.offsets)
        self.sentence = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        self.rate, self.items = rules.mask_rate, rules.items(sentences.offsets, sentences.word)
        self.may_mask = rules.may_mask(sentences.input_ids, sentences.offsets)
        self.audit = audit_sample(sentences.key, np.zeros(len(lengths), np.int32), rules.seed)[self.sentence]
        self.values = np.full((2, len(self.sentence)), -np.inf)
        self.read = np.zeros(len(self.sentence), bool)
        self.level = np.zeros(len(self.sentence), np.uint8)

    def ask(self, level: int, chosen: np.ndarray) -> None:
        """See ``Questions.ask``."""
        self.ask_sentences(level, np.unique(self.sentence[chosen]))

    def ask_sentences(self, level: int, units: np.ndarray) -> None:
        """Answer all tokens of sentences int32 [U] at a level."""
        at, values = token_values(self.sentences, self.asker, self.bounds.levels[level], units)
        self.values[:, at], self.read[at], self.level[at] = values, True, level

    def decide(self) -> tuple[np.ndarray, np.ndarray]:
        """See ``Questions.decide``; a doubt about one token is one about its sentence."""
        margin, logit = self.values
        width = np.array(self.bounds.eps)[self.level]
        # a token that is never masked decides about its word, too, if others of that may be
        open_ = self.read & self.items.any(self.may_mask)[self.items.of_token]
        near = open_ & ~((np.abs(margin) > width) & np.isfinite(self.values).all(axis=0))
        with np.errstate(invalid="ignore"):  # no bound, and logits that are not there
            low, high = (np.where(self.read, rank, np.inf) for rank in (-logit - width, -logit + width))
        chosen, ambiguous = choose(self.items, self.read & (margin > TIE), self.may_mask, low, high, self.rate)
        doubtful = np.bincount(self.sentence[near | ambiguous], minlength=len(self.sentences.sentences)) > 0
        return chosen, doubtful[self.sentence] & self.read


METHOD = Masker()
