"""Masks by a number for each token: a sentence's largest under the cap, certified. What several methods share."""

from __future__ import annotations

import numpy as np

from .asking import Asker
from .blocks import SentenceBlock
from .cascade import Bounds, Evidence, settle
from .method import BlockScores, Rules, audit_sample
from .policy import choose


class Ranking:
    """The questions which tokens of S sentences are masked, as ``cascade.Questions`` about their units' T tokens.

    A subclass gives the answers. A token of several units ranks by the largest of its numbers.

    Attributes:
        whole_units: whether an answer is about all tokens of a unit, so that a doubt about one is about all.
        values: float64 [k, T]; the first row ranks, and all are compared as evidence; -inf where not asked.
        level: uint8 [T]. read: bool [T], tokens that were asked about and count.
        items: what is masked as one. may_mask: bool, of the sentences' own tokens.
        unit, index: int32 [T], each token's unit and its position there.
        chosen: bool, the tokens to mask among the sentences' own; set by ``decide``.
    """

    whole_units = True

    def __init__(self, sentences: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules, rows: int = 1):
        self.sentences, self.asker, self.bounds, self.rules = sentences, ask, bounds, rules
        block = sentences.block
        self.unit = np.repeat(block.units, np.diff(block.offsets))
        self.index = (np.arange(len(self.unit)) - block.offsets[self.unit]).astype(np.int32)
        self._token = self.index + sentences.offsets[sentences.unit_sentence[self.unit]]
        self.items = rules.items(sentences.offsets, sentences.word)
        self.may_mask = rules.may_mask(sentences.input_ids, sentences.offsets, sentences.word)
        self.values = np.full((rows, len(self.unit)), -np.inf)
        self.level = np.zeros(len(self.unit), np.uint8)
        self.read = np.zeros(len(self.unit), bool)

    def ask(self, level: int, chosen: np.ndarray) -> None:
        """See ``Questions.ask``."""
        raise NotImplementedError

    def settled(self) -> Evidence:
        """Ask again what is in doubt; return the evidence. The first level's answers are there."""
        evidence = Evidence(len(self.bounds.levels))
        evidence.decisions += int(self.read.sum())
        keys, index = self.sentences.key[self.unit], 0 * self.index if self.whole_units else self.index
        settle(self, self.bounds, audit_sample(keys, index, self.rules.seed) & self.read, evidence)
        return evidence

    def decide(self) -> tuple[np.ndarray, np.ndarray]:
        """See ``Questions.decide``."""
        width = np.array(self.bounds.eps)[self.level]
        important, near = self.important(width)
        with np.errstate(invalid="ignore"):  # no bound, and answers that are not there
            low, high = (-self.largest(self.values[0] + side * width) for side in (1, -1))
        rate = self.rules.mask_rate
        self.chosen, ambiguous = choose(self.items, important, self.may_mask, low, high, rate)
        doubt = self.read & (near | ambiguous[self._token])
        if self.whole_units:
            doubt = self.read & (np.bincount(self.unit[doubt], minlength=len(self.sentences.key)) > 0)[self.unit]
        return self.chosen[self._token], doubt

    def important(self, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the sentences' own tokens are worth a mask, bool; and bool [T], answers that leave it open.

        Args:
            width: float64 [T], how far each answer may be from the exact one.
        """
        important = np.zeros(len(self.may_mask), bool)
        important[self._token[self.read]] = True
        return important, ~np.isfinite(self.values[0])

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Return the largest over a sentence's units: float64 [T] -> its own tokens, -inf where nothing was asked."""
        out = np.full(len(self.may_mask), -np.inf)
        np.maximum.at(out, self._token[self.read], values[self.read])
        return out

    def outcome(self, evidence: Evidence, importance: np.ndarray) -> BlockScores:
        """Return the block's scores where labels play no part: importance float64 of the sentences' own tokens."""
        count = len(self.sentences.sentences)
        return BlockScores(
            predicted=np.full(count, -1, np.int32),
            prob=np.full(count, np.nan, np.float32),
            scored=np.diff(self.sentences.offsets) > 0,
            importance=np.where(np.isfinite(importance), importance, 0.0).astype(np.float32),
            chosen=self.chosen,
            evidence=evidence,
            tokens=self.asker.tokens,
        )
