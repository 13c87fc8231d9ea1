"""Whole shards: encoders of every level, calibration of the bands, one thread a block, results in corpus order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..core.config import ScoreConfig
from ..core.records import EncodedSentences, ScoredSentences
from ..models.packing import Template
from .backend import Backend
from .block_scorer import BlockScorer, BlockScores, Rules
from .blocks import SentenceBlock, distinct_sentences, spread, take_ragged
from .cascade import TIE, Bands, Evidence, calibrated
from .policy import ragged_positions
from .variants import FULL

# Sentences whose every variant is compared at the first two levels; every third one whole at float32 and float64, too.
# Some 2,000 variants of review text: fewer give a band below errors that turn up later in a run.
CALIBRATION_SENTENCES = 160
CALIBRATION_STRIDE = 3


def cascade(config: ScoreConfig, fastest: str) -> tuple[str, ...]:
    """Precision names of the decision cascade, cheapest first: one alone when it is not certified."""
    first = fastest if config.precision == "auto" else config.precision
    if not config.certify:
        return (first,)
    return ("float32", "float64") if first == "float32" else (first, "float32", "float64")


Result = tuple[SentenceBlock, BlockScores]


class Engine:
    """Scores shards of one corpus with one model.

    Args:
        model: float32 classifier in eval mode, not written to.
        template: its special tokens.
        config: the run's configuration.
        never_masked: bool [2, V], see ``pieces.never_masked``.
        progress: called with (share of the shard, real tokens) after each block, from any thread.
    """

    def __init__(
        self,
        model,
        template: Template,
        config: ScoreConfig,
        never_masked: np.ndarray,
        progress: Callable[[float, int], None] = lambda share, tokens: None,
    ):
        self.config, self.progress = config, progress
        self.backend = Backend(model, template, config)
        self.levels = self.backend.levels(cascade(config, self._fastest()))
        self.rules = Rules(config.method, config.threshold, config.mask_rate, never_masked, config.certify, config.seed)

    def _fastest(self) -> str:
        """The precision that a cascade begins with."""
        return self.backend.fastest

    def stop(self) -> None:
        """End running ``score_shard`` calls soon, with Stopped."""
        self.backend.stop()

    @property
    def remark(self) -> str | None:
        """See ``Backend.remark``."""
        return self.backend.remark

    def describe(self) -> dict:
        """What runs, for the manifest."""
        return self.backend.describe(self.levels[0])

    def score_shard(self, shard: EncodedSentences, bands: Bands | None) -> tuple[ScoredSentences, Bands | None]:
        """Score one shard; a pure function of the shard, the bands and the configuration.

        Args:
            shard: its sentences.
            bands: those in force before it; None calibrates on this shard first.

        Returns:
            the scores, and the bands for the next shard: wider when evidence against them was found (the shard is then
            scored again with the wider ones), None when there was too little to calibrate on.
        """
        distinct, original = distinct_sentences(shard)
        if not len(distinct):
            record = Evidence(len(self.levels)).certificate(bands, 0, settled=True) if bands else {}
            return self._assemble(shard, original, [], record), bands
        with self.backend.pool() as pool:
            in_force, done = (bands, []) if bands else self._calibrate(pool, shard, distinct)
            rescored = 0
            while True:
                rest = np.setdiff1d(distinct, [n for block, _ in done for n in block.sentences], assume_unique=True)
                results = done + self._score_all(pool, self.backend.blocks(shard, rest), in_force, len(distinct))
                evidence = _merged(results)
                if not self.config.certify or not evidence.refutes(in_force):
                    break
                in_force, done, rescored = in_force.widened(evidence.max_error), [], rescored + 1
        # bands from fewer sentences than a calibration takes are good for these sentences only
        settled = bands is not None or len(distinct) >= CALIBRATION_SENTENCES or not self.config.certify
        record = evidence.certificate(in_force, rescored, settled, self.backend.batch_tokens_halved())
        return self._assemble(shard, original, results, record), in_force if settled else None

    def _score_all(self, pool: ThreadPoolExecutor, blocks, bands: Bands, total: int = 0) -> list[Result]:
        """Score blocks, telling progress as shares of ``total`` sentences."""

        def score(block: SentenceBlock) -> Result:
            scores = self._score_block(block, bands)
            if total:
                self.progress(len(block.sentences) / total, scores.tokens)
            return block, scores

        return list(pool.map(score, blocks))

    def _score_block(self, block: SentenceBlock, bands: Bands) -> BlockScores:
        return BlockScorer(block, self.backend.asker(block, bands.levels), bands, self.rules).run()

    def _calibrate(self, pool: ThreadPoolExecutor, shard: EncodedSentences, distinct) -> tuple[Bands, list[Result]]:
        """Bands from a sample of this shard, and the sample's results as far as they stand.

        float32 is compared with float64 on whole sentences, the first level with float32 on every variant; the latter
        decides those sentences for good. A shard with too few sentences for it starts at float32.
        """
        if len(self.levels) == 1:
            return Bands(self.levels, (TIE,)), []
        sample = spread(shard, distinct, CALIBRATION_SENTENCES)
        exact = self.levels[self.levels.index("float32") :]
        evidence = Evidence(len(exact))
        blocks = self.backend.blocks(shard, sample, for_calibration=True)
        if len(exact) > 1:
            for pair in pool.map(lambda block: self._full_pair(block, exact), blocks):
                evidence.compare(0, *pair)
        bands = calibrated(exact, evidence.max_error)
        if exact == self.levels or len(sample) < CALIBRATION_SENTENCES:
            return bands, []
        paired = Bands(self.levels, (float("inf"), *bands.eps))
        results = self._score_all(pool, blocks, paired)
        first = calibrated(self.levels[:2], _merged(results).max_error).eps[0]
        return Bands(self.levels, (first, *bands.eps)), results

    def _full_pair(self, block: SentenceBlock, levels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds of some whole sentences of a block at the two levels: float64 [V] each."""
        units = np.arange(0, len(block.block.room), CALIBRATION_STRIDE, dtype=np.int32)
        full = np.full(len(units), FULL, np.int32)
        ask = self.backend.asker(block, levels)
        ask.target = np.maximum(block.unit_label, 0)
        return ask(0, units, full), ask(1, units, full)

    def _assemble(self, shard: EncodedSentences, original, results: list[Result], certificate) -> ScoredSentences:
        """Blocks' outcomes in corpus order; equal sentences take the one that was scored."""
        n = len(shard)
        predicted, prob = np.full(n, -1, np.int32), np.full(n, np.nan, np.float32)
        scored = np.zeros(n, bool)
        importance, chosen = np.zeros(len(shard.input_ids), np.float32), np.zeros(len(shard.input_ids), bool)
        for block, found in results:
            at = block.sentences
            predicted[at], prob[at], scored[at] = found.predicted, found.prob, found.scored
            _, tokens = take_ragged(shard.offsets, np.arange(len(shard.input_ids)), at)
            importance[tokens], chosen[tokens] = found.importance, found.chosen
        offsets, tokens = take_ragged(shard.offsets, np.arange(len(shard.input_ids)), original)
        mask_offsets, mask_index = ragged_positions(offsets, chosen[tokens])
        return ScoredSentences(
            shard,
            predicted[original],
            prob[original],
            importance[tokens],
            scored[original],
            mask_offsets,
            mask_index,
            certificate,
        )


def _merged(results: list[Result]) -> Evidence:
    total = Evidence(results[0][1].evidence.levels)
    for _, scores in results:
        total.merge(scores.evidence)
    return total
