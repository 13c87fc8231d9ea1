"""Method ``masker``: a token classifier marks what to mask, one forward a sentence (paper section 2.4).

A token is a candidate when its class-1 logit is the larger one, and a sentence's candidates rank by that logit. Both
comparisons are certified as the classifier's are (DESIGN section 4): a sentence with a token whose logits, or with two
candidates about the cap whose ranks, are nearer than the precision can tell apart is asked again at the next one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core.records import EncodedSentences, ScoredSentences
from ..models.packing import bounds_of
from ..models.pieces import not_masked
from .block_scorer import Asker, BlockScores, Rules, audit_sample
from .blocks import SentenceBlock
from .cascade import TIE, Bands, Evidence, probability
from .engine import CALIBRATION_STRIDE, Engine
from .policy import cap_of, select
from .variants import FULL, describe


class MaskerEngine(Engine):
    """Masks shards with a token classifier; used as an ``Engine`` is.

    Labels and aspects play no part. ``importance`` is P(class 1), 0 for tokens beyond the longest input; every sentence
    with a token counts as scored.
    """

    def _fastest(self) -> str:
        # a doubt about one token asks for a whole sentence again: a third of them with bfloat16, which eats its gain
        return self.backend.fastest if self.backend.has_pools else "float32"

    def score_shard(self, shard: EncodedSentences, bands: Bands | None) -> tuple[ScoredSentences, Bands | None]:
        """See ``Engine.score_shard``."""
        scored, bands = super().score_shard(_texts_alone(shard), bands)
        return replace(scored, sentences=shard), bands

    def _score_block(self, block: SentenceBlock, bands: Bands) -> BlockScores:
        return BlockMasker(block, self.backend.asker(block, bands.levels), bands, self.rules).run()

    def _full_pair(self, block: SentenceBlock, levels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Both values of the tokens of some whole sentences of a block at the two levels: float64 [V] each."""
        units = np.arange(0, len(block.block.room), CALIBRATION_STRIDE, dtype=np.int32)
        ask = self.backend.asker(block, levels)
        low, high = (token_values(block, ask, level, units)[1] for level in levels)
        return low.ravel(), high.ravel()


def _texts_alone(shard: EncodedSentences) -> EncodedSentences:
    """The sentences as one unit each, without labels and aspects."""
    n = len(shard)
    return replace(
        shard,
        unit_sentence=np.arange(n, dtype=np.int32),
        unit_label=np.full(n, -1, np.int32),
        context_offsets=np.zeros(n + 1, np.int64),
        context_ids=np.empty(0, np.int32),
        is_aspect=False,
    )


def token_values(sentences: SentenceBlock, ask: Asker, precision: str, units: np.ndarray):
    """What the masker says of whole sentences ``units`` int32 [U], each cut on the right at its room.

    Returns:
        at int64 [K], the tokens of the block that were read, and float64 [2, K]: by how much the class-1 logit is the
        larger one, and that logit.
    """
    block = sentences.block
    whole = describe(block, units, np.full(len(units), FULL, np.int32))
    parts = ask.forward(precision, whole)
    order, rows = (np.concatenate(one) for one in zip(*parts, strict=True))
    packed = bounds_of(whole.take(order)).astype(np.int64)
    starts = np.empty(len(units), np.int64)
    starts[order] = packed[:-1] + len(block.template.prefix)
    counts = whole.table[:, 4].astype(np.int64)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    logits = rows[np.repeat(starts, counts) + within]
    with np.errstate(invalid="ignore"):  # a float16 overflow, which is a doubt
        values = np.stack([logits[:, 1] - logits[:, 0], logits[:, 1]])
    return np.repeat(block.offsets[units], counts) + within, values


class BlockMasker:
    """Decides one block of S sentences with T tokens, a unit each."""

    def __init__(self, sentences: SentenceBlock, ask: Asker, bands: Bands, rules: Rules):
        self.sentences, self.ask, self.bands = sentences, ask, bands
        lengths = np.diff(sentences.offsets)
        self.sentence = np.repeat(np.arange(len(lengths)), lengths)
        self.cap = cap_of(lengths, rules.mask_rate)
        self.may_mask = ~not_masked(rules.never_masked, sentences.input_ids, sentences.offsets)
        self.audit = audit_sample(sentences.key, np.zeros(len(lengths), np.int32), rules.seed)
        self.evidence = Evidence(len(bands.levels))
        self.values = np.full((2, len(self.sentence)), -np.inf)
        self.read = np.zeros(len(self.sentence), bool)
        self.level = np.zeros(len(lengths), np.uint8)

    def run(self) -> BlockScores:
        """Masks and importances of every sentence."""
        open_ = np.ones(len(self.cap), bool)
        self._ask(0, open_)
        self.evidence.decisions += int(self.read.sum())
        chosen, doubt = self._decide()
        for low in range(len(self.bands.levels) - 1):
            doubt &= open_
            again = doubt | (self.audit & open_)
            if not again.any():
                break
            before = self.values.copy()
            self._ask(low + 1, again)
            now, still = self._decide()
            self._record(low, again, doubt, before, chosen != now)
            chosen, open_, doubt = now, doubt, still
        return self._outcome(chosen)

    def _ask(self, level: int, sentences: np.ndarray) -> None:
        """The masker's values at a level, of sentences bool [S]."""
        units = np.flatnonzero(sentences).astype(np.int32)
        at, values = token_values(self.sentences, self.ask, self.bands.levels[level], units)
        self.values[:, at], self.read[at], self.level[units] = values, True, level

    def _decide(self) -> tuple[np.ndarray, np.ndarray]:
        """Masks bool [T] by what is known, and doubt bool [S]: sentences of which they are not certain."""
        margin, logit = self.values
        width = np.array(self.bands.eps)[self.level][self.sentence]
        open_ = self.read & self.may_mask
        near = open_ & ~((np.abs(margin) > width) & np.isfinite(self.values).all(axis=0))
        candidate = open_ & (margin > TIE)
        with np.errstate(invalid="ignore"):  # no band, and logits that are not there
            bounds = -logit - width, -logit + width
        chosen, ambiguous = select(self.sentences.offsets, *bounds, candidate, self.cap)
        return chosen, np.bincount(self.sentence[near | ambiguous], minlength=len(self.cap)) > 0

    def _record(self, low: int, again, doubt, before, differs) -> None:
        """Evidence of sentences asked ``again`` bool [S], in doubt or not, at the level after ``low``."""
        asked, doubted = (chosen[self.sentence] & self.read for chosen in (again, doubt))
        self.evidence.compare(low, before[:, asked].ravel(), self.values[:, asked].ravel())
        if np.isfinite(self.bands.eps[low]):
            self.evidence.rechecked[low + 1] += int(doubted.sum())
        self.evidence.audited += int((asked & ~doubted).sum())
        self.evidence.flips += int((differs & asked & ~doubted).sum())

    def _outcome(self, chosen: np.ndarray) -> BlockScores:
        count = len(self.cap)
        return BlockScores(
            predicted=np.full(count, -1, np.int32),
            prob=np.full(count, np.nan, np.float32),
            scored=np.diff(self.sentences.offsets) > 0,
            importance=probability(self.values[0]).astype(np.float32),
            chosen=chosen,
            evidence=self.evidence,
            tokens=self.ask.tokens,
        )
