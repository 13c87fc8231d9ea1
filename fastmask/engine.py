"""Whole shards: encoders of every level, calibration of the bands, one thread a block, results in corpus order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from fastmask_kernels import launch

from .blocks import BLOCK_TOKENS, Plan, SentenceBlock, plan_blocks, sample, take_ragged
from .certify import TIE, Bands, Evidence, calibrated
from .config import ScoreConfig
from .decide import ragged_positions
from .encoder import Encoder, build_encoder
from .errors import FastmaskError
from .records import EncodedSentences, ScoredSentences
from .score import Asker, BlockScorer, BlockScores, Rules
from .variants import FULL, Template

# Sentences whose every variant is compared at the first two levels; every third one whole at float32 and float64, too.
CALIBRATION_SENTENCES = 64
CALIBRATION_STRIDE = 3
# Tokens of a calibration block: small, so that every core gets some.
CALIBRATION_BLOCK = 400


def cascade(config: ScoreConfig, device: str) -> tuple[str, ...]:
    """Precision names of the decision cascade, cheapest first: one alone when it is not certified."""
    first = config.precision
    if first == "auto":
        first = "bfloat16" if launch.has_bfloat16(device) else "float32"
    if not config.certify:
        return (first,)
    return ("float32", "float64") if first == "float32" else (first, "float32", "float64")


class Stopped(Exception):
    """Raised in worker threads after ``Engine.stop``."""


class Engine:
    """Scores shards of one corpus with one model.

    Args:
        model: float32 sequence classifier in eval mode, not written to.
        template: its special tokens.
        config: the run's configuration.
        stop_tokens: bool [V], vocabulary entries that are never masked.
        progress: called with (share of the shard, real tokens) after each block, from any thread.
    """

    def __init__(
        self,
        model,
        template: Template,
        config: ScoreConfig,
        stop_tokens: np.ndarray,
        progress: Callable[[float, int], None] = lambda share, tokens: None,
    ):
        if config.device not in ("auto", "cpu"):
            raise FastmaskError(f"--device {config.device}: this version scores on the CPU; use cpu or auto")
        self.model, self.template, self.config, self.progress = model, template, config, progress
        self.levels = cascade(config, "cpu")
        self.rules = Rules(
            config.method,
            config.threshold,
            config.mask_rate,
            stop_tokens,
            config.batch_tokens,
            config.certify,
            config.seed,
        )
        self.threads = config.threads or os.cpu_count() or 1
        self._encoders: dict[str, Encoder] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.encoder(self.levels[0])

    def encoder(self, precision: str) -> Encoder:
        """The encoder of a precision, built when first asked for. Workers ask before every batch, so they stop here."""
        if self._stopped.is_set():
            raise Stopped
        with self._lock:
            if precision not in self._encoders:
                self._encoders[precision] = build_encoder(self.model, precision, "cpu", self.config.kernels)
            return self._encoders[precision]

    def stop(self) -> None:
        """End running ``score_shard`` calls soon, with Stopped."""
        self._stopped.set()

    def describe(self) -> dict:
        """What runs, for the manifest: precision and back end of the first level."""
        return {"device": "cpu", "precision": self.levels[0], "kernels": self._encoders[self.levels[0]].name}

    def score_shard(self, shard: EncodedSentences, bands: Bands | None) -> tuple[ScoredSentences, Bands | None]:
        """Score one shard; a pure function of the shard, the bands and the configuration.

        Args:
            shard: its sentences.
            bands: those in force before it; None calibrates on this shard first.

        Returns:
            the scores, and the bands for the next shard: wider when evidence against them was found (the shard is then
            scored again with the wider ones), None when there was too little to calibrate on.
        """
        if not len(shard.unit_sentence):
            record = Evidence(len(self.levels)).certificate(bands, 0) if bands else {}
            return self._assemble(shard, np.arange(len(shard)), [], [], record), bands
        with self._pool() as pool:
            in_force = bands or self._calibrate(pool, shard)
            rescored = 0
            while True:
                plan = self._plan(shard)
                scores = self._score_all(pool, plan, in_force)
                evidence = self._merged(scores)
                if not self.config.certify or not evidence.refutes(in_force):
                    break
                in_force, rescored = in_force.widened(evidence.max_error), rescored + 1
        record = evidence.certificate(in_force, rescored)
        after = in_force if in_force.levels == self.levels else None
        return self._assemble(shard, plan.original, plan.blocks, scores, record), after

    def _score_all(self, pool: ThreadPoolExecutor, plan: Plan, bands: Bands) -> list[BlockScores]:
        total = sum(len(block.sentences) for block in plan.blocks)

        def score(block: SentenceBlock) -> BlockScores:
            scores = self._decide(block, bands)
            self.progress(len(block.sentences) / total, scores.tokens)
            return scores

        return list(pool.map(score, plan.blocks))

    def _plan(self, shard: EncodedSentences, block_tokens: int = BLOCK_TOKENS) -> Plan:
        return plan_blocks(shard, self.template, self.config.method, self.config.max_length, block_tokens)

    def _pool(self) -> ThreadPoolExecutor:
        """Worker threads with one core each: a batch a core scales better than one batch on all cores."""
        return ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))

    def _decide(self, block: SentenceBlock, bands: Bands) -> BlockScores:
        return BlockScorer(block, self.encoder, bands, self.rules).run()

    def _merged(self, scores: list[BlockScores]) -> Evidence:
        total = Evidence(scores[0].evidence.levels)
        for block in scores:
            total.merge(block.evidence)
        return total

    def _calibrate(self, pool: ThreadPoolExecutor, shard: EncodedSentences) -> Bands:
        """Bands from a sample of this shard: float32 against float64 on sentences, the first level on variants.

        A shard with too few sentences for the latter starts at float32.
        """
        if not self.config.certify:
            return Bands(self.levels, (TIE,))
        few = sample(shard, CALIBRATION_SENTENCES)
        blocks = self._plan(few, CALIBRATION_BLOCK).blocks
        exact = self.levels[self.levels.index("float32") :]
        evidence = Evidence(len(exact))
        for pair in pool.map(lambda block: self._full_pair(block, exact), blocks):
            evidence.compare(0, *pair)
        bands = calibrated(exact, evidence.max_error)
        if exact == self.levels or len(few) < CALIBRATION_SENTENCES:
            return bands
        paired = Bands(self.levels, (float("inf"), *bands.eps))
        seen = self._merged(list(pool.map(lambda block: self._decide(block, paired), blocks)))
        return Bands(self.levels, (*calibrated(self.levels[:2], seen.max_error).eps[:1], *bands.eps))

    def _full_pair(self, block: SentenceBlock, levels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds of some whole sentences of a block at the two levels: float64 [V] each."""
        units = np.arange(0, len(block.block.room), CALIBRATION_STRIDE, dtype=np.int32)
        full = np.full(len(units), FULL, np.int32)
        ask = Asker(block, self.encoder, levels, self.config.batch_tokens)
        ask.target = np.maximum(block.unit_label, 0)
        return ask(0, units, full), ask(1, units, full)

    def _assemble(self, shard, original, blocks, scores, certificate) -> ScoredSentences:
        """Blocks' outcomes in corpus order; equal sentences take the one that was scored."""
        n = len(shard)
        predicted, prob = np.full(n, -1, np.int32), np.full(n, np.nan, np.float32)
        scored = np.zeros(n, bool)
        importance, chosen = np.zeros(len(shard.input_ids), np.float32), np.zeros(len(shard.input_ids), bool)
        for block, found in zip(blocks, scores, strict=True):
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
