"""Whole shards: calibration of the error bounds, one thread a block, results in corpus order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.arrays import take_ragged
from ..core.config import ScoreConfig
from ..core.records import EncodedSentences, ScoredSentences
from ..models.family_weights import FamilyWeights
from ..models.packing import Template
from ..models.pieces import Finder
from .backend import Backend
from .blocks import SentenceBlock, distinct_sentences
from .cascade import Bounds, Evidence, calibrated, uncertified, widened_by
from .method import BlockScores, Known, Method, Progress, Rules, ShardScorer
from .policy import ragged_positions

if TYPE_CHECKING:
    from torch import nn

# Sentences of a calibration: some of their variants are compared at the first two levels, and every third sentence,
# whole, at float32 and float64, too.
CALIBRATION_SENTENCES = 160
CALIBRATION_STRIDE = 3


def cascade(config: ScoreConfig, fastest: str) -> tuple[str, ...]:
    """Return the precisions of the decision cascade, cheapest first: one alone when it is not certified."""
    first = fastest if config.precision == "auto" else config.precision
    if not config.certify:
        return (first,)
    return ("float32", "float64") if first == "float32" else (first, "float32", "float64")


Result = tuple[SentenceBlock, BlockScores]


class Engine:
    """Scores shards of one corpus with one model; a ``ShardScorer``.

    Args:
        method: how tokens are scored and decided.
        model: float32 model in eval mode, not written to.
        template: its special tokens.
        config: the run's configuration.
        never_masked: what finds them, see ``pieces.not_masked``.
        progress: see ``method.Progress``.
        calibration: sentences to calibrate with; a corpus of fewer starts at float32.
    """

    def __init__(
        self,
        method: Method,
        model: FamilyWeights | nn.Module,
        template: Template,
        config: ScoreConfig,
        never_masked: np.ndarray | Finder,
        progress: Progress = lambda share, tokens: None,
        calibration: int = CALIBRATION_SENTENCES,
    ):
        self.method, self.config, self.progress, self.calibration = method, config, progress, calibration
        self.backend = Backend(model, template, config, method.encoder)
        self.levels = self.backend.levels(cascade(config, method.fastest(self.backend)))
        rate, by_word = method.rate(config), config.unit == "word"
        self.rules = Rules(config.threshold, rate, never_masked, config.certify, config.seed, by_word)

    def stop(self) -> None:
        """End running ``score`` calls soon, with Stopped."""
        self.backend.stop()

    @property
    def remark(self) -> str | None:
        """See ``Backend.remark``."""
        return self.backend.remark

    def identity(self) -> dict[str, Any]:
        """See ``ShardScorer.identity``: nothing else."""
        return {"like": None}

    def describe(self) -> dict[str, Any]:
        """Return what runs, for the manifest."""
        return self.backend.describe(self.levels[0])

    def calibrate(self, shards: Iterator[EncodedSentences]) -> Bounds:
        """Return the error bounds of a run over a corpus that begins with some shards, of which no more are taken
        than are needed.

        float32 is compared with float64 on whole sentences, the first level with float32 on some variants, of the first
        ``calibration`` sentences that can be scored.
        """
        if not self.config.certify:
            return uncertified(self.levels[0])
        blocks, enough = self._sample(shards)
        float32, max_error = self.levels.index("float32"), np.zeros(len(self.levels))
        with self.backend.pool() as pool:
            if "float64" in self.levels:
                max_error[float32] = self._largest_error(pool, blocks, float32, CALIBRATION_STRIDE)
            if float32 and enough:
                max_error[0] = self._largest_error(pool, blocks, 0, None)
        begin = 0 if enough else float32
        return calibrated(self.levels[begin:], max_error[begin:])

    def _sample(self, shards: Iterator[EncodedSentences]) -> tuple[list[SentenceBlock], bool]:
        """Return blocks of the first ``calibration`` sentences that can be scored, and whether there are so many."""
        blocks, missing = [], self.calibration
        for shard in shards:
            chosen = distinct_sentences(self._read(shard), self.rules.by_word)[0][:missing]
            blocks += self.backend.blocks(self._read(shard), chosen, for_calibration=True)
            missing -= len(chosen)
            if not missing:
                break
        return blocks, not missing

    def _largest_error(
        self, pool: ThreadPoolExecutor, blocks: list[SentenceBlock], level: int, stride: int | None
    ) -> float:
        """Return the largest error of a level against the next: on every ``stride``-th whole unit, or on everything."""

        def pair(block: SentenceBlock) -> tuple[np.ndarray, np.ndarray]:
            units = None if stride is None else block.block.units[::stride]
            return self.method.pair(block, self.backend.asker(block, self.levels), level, self.rules, units)

        evidence = Evidence(len(self.levels))
        for low, high in pool.map(pair, blocks):
            evidence.compare(level, low, high)
        return float(evidence.max_error[level])

    def _read(self, shard: EncodedSentences) -> EncodedSentences:
        """Return the shard as the method reads it."""
        return shard if self.method.reads_units else shard.texts_alone()

    def score(self, shard: EncodedSentences, bounds: Bounds | None) -> ScoredSentences:
        """Return the scores and masks of one shard; see ``ShardScorer.score``."""
        assert bounds is not None  # what ``calibrate`` gave

        def score(block: SentenceBlock) -> BlockScores:
            return self.method.score(block, self.backend.asker(block, bounds.levels), bounds, self.rules)

        return self._scored(shard, bounds, score)

    def rescore(self, shard: EncodedSentences, bounds: Bounds, known: Known) -> ScoredSentences:
        """Return the scores and masks of sentences without aspects of which some scores are known.

        Args:
            shard: of the sentences.
            bounds: of this engine's levels, before which there may be the level that the known scores are of.
            known: what is known of them.
        """
        levels = bounds.levels[bounds.levels.index(self.levels[0]) :]  # what was known is not asked again

        def score(block: SentenceBlock) -> BlockScores:
            ask = self.backend.asker(block, levels)
            ask.levels = bounds.levels
            _, importance = take_ragged(shard.offsets, known.importance, block.sentences)
            here = Known(importance, known.prob[block.sentences], known.decided)
            return self.method.rescore(block, ask, bounds, self.rules, here)

        return self._scored(shard, bounds, score)

    def _scored(
        self, shard: EncodedSentences, bounds: Bounds, score: Callable[[SentenceBlock], BlockScores]
    ) -> ScoredSentences:
        """Return a shard's scores, each block of it scored by a function."""
        read = self._read(shard)
        distinct, original = distinct_sentences(read, self.rules.by_word)
        if not len(distinct):
            return _assemble(shard, original, [], {})

        def scored(block: SentenceBlock) -> Result:
            scores = score(block)
            self.progress(len(block.sentences) / len(distinct), scores.tokens)
            return block, scores

        with self.backend.pool() as pool:
            results = list(pool.map(scored, self.backend.blocks(read, distinct)))
        evidence = Evidence(len(bounds.levels))
        for _, scores in results:
            evidence.merge(scores.evidence)
        return _assemble(shard, original, results, evidence.certificate(bounds, self.backend.batch_tokens_halved()))


def score_certain(
    scorer: ShardScorer, shard: EncodedSentences, bounds: Bounds | None = None
) -> tuple[ScoredSentences, Bounds | None]:
    """Return the scores of a shard that stands alone, and the error bounds that they hold with.

    Args:
        bounds: to begin with; None calibrates on this shard. They grow where they were exceeded.
    """
    bounds = scorer.calibrate(iter([shard])) if bounds is None else bounds
    while True:
        scored = scorer.score(shard, bounds)
        wider = bounds and widened_by(bounds, [scored.certificate])
        if wider == bounds:
            return scored, bounds
        bounds = wider


def _assemble(
    shard: EncodedSentences, original: np.ndarray, results: list[Result], certificate: dict[str, Any]
) -> ScoredSentences:
    """Return the blocks' scores in corpus order; a repeated sentence takes those of its first occurrence."""
    n, t = len(shard), len(shard.input_ids)
    predicted, prob = np.full(n, -1, np.int32), np.full(n, np.nan, np.float32)
    scored, importance, chosen = np.zeros(n, bool), np.zeros(t, np.float32), np.zeros(t, bool)
    for block, found in results:
        at = block.sentences
        predicted[at], prob[at], scored[at] = found.predicted, found.prob, found.scored
        _, tokens = take_ragged(shard.offsets, np.arange(t), at)
        importance[tokens], chosen[tokens] = found.importance, found.chosen
    offsets, tokens = take_ragged(shard.offsets, np.arange(t), original)
    masks = ragged_positions(offsets, chosen[tokens])
    return ScoredSentences(
        shard, predicted[original], prob[original], importance[tokens], scored[original], *masks, certificate
    )
