"""Whole shards: encoders of every level, calibration of the bands, one thread a block, results in corpus order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from fastmask_kernels import launch

from .blocks import BLOCK_TOKENS, Plan, SentenceBlock, plan_blocks, take_ragged
from .certify import Bands, Evidence, calibrated
from .config import ScoreConfig
from .decide import ragged_positions
from .encoder import Encoder, build_encoder
from .errors import FastmaskError
from .records import EncodedSentences, ScoredSentences
from .score import Asker, BlockScorer, BlockScores, Rules
from .variants import FULL, Template

# Whole sentences compared at float32 and float64, and units whose every variant is compared at the first two levels.
CALIBRATION_FLOAT64 = 24
CALIBRATION_UNITS = 48
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


class Engine:
    """Scores shards of one corpus with one model.

    Args:
        model: float32 sequence classifier in eval mode, not written to.
        template: its special tokens.
        config: the run's configuration.
        stop_tokens: bool [V], vocabulary entries that are never masked.
        progress: called with (sentences, real tokens) after each block, from any thread.
    """

    def __init__(
        self,
        model,
        template: Template,
        config: ScoreConfig,
        stop_tokens: np.ndarray,
        progress: Callable[[int, int], None] = lambda sentences, tokens: None,
    ):
        if config.device not in ("auto", "cpu"):
            raise FastmaskError(
                f"--device {config.device}: scoring runs on the CPU in this version; use cpu or auto"
            )
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
        self._names = self.levels if "float32" in self.levels else (*self.levels, "float32")
        self._encoders: dict[str, Encoder] = {}
        self._lock = threading.Lock()
        self.threads = config.threads or os.cpu_count() or 1

    def encoder(self, level: int) -> Encoder:
        """The encoder of a cascade level, built when first asked for; uncertified runs have float32 one past the end."""
        name = self._names[level]
        with self._lock:
            if name not in self._encoders:
                self._encoders[name] = build_encoder(self.model, name, "cpu", self.config.kernels)
            return self._encoders[name]

    def describe(self) -> dict:
        """What ran, for the manifest: back end of the first level and the cascade."""
        return {"kernels": self.encoder(0).name, "cascade": list(self.levels)}

    def score_shard(
        self, shard: EncodedSentences, bands: Bands | None
    ) -> tuple[ScoredSentences, Bands | None]:
        """Score one shard; a pure function of the shard, the bands and the configuration.

        Args:
            shard: its sentences.
            bands: those in force before it; None calibrates on this shard first.

        Returns:
            the scores, and the bands for the next shard: wider when evidence against them was found (the shard is then
            scored again with the wider ones).
        """
        plan = self._plan(shard)
        with self._pool() as pool:
            if not plan.blocks:
                return self._assemble(shard, plan.original, [], [], {}), bands
            if bands is None:
                bands = self._calibrate(pool, shard)
            retries = 0
            while True:
                scores = list(pool.map(lambda block: self._score(block, bands), plan.blocks))
                evidence = self._merged(scores)
                if not self.config.certify or not evidence.refutes(bands):
                    break
                bands, retries = bands.widened(evidence.max_error), retries + 1
                plan = self._plan(shard)
        certificate = _certificate(bands, evidence, retries)
        return self._assemble(shard, plan.original, plan.blocks, scores, certificate), bands

    def _plan(self, shard: EncodedSentences, block_tokens: int = BLOCK_TOKENS) -> Plan:
        return plan_blocks(shard, self.template, self.config.method, self.config.max_length, block_tokens)

    def _pool(self) -> ThreadPoolExecutor:
        """Worker threads that each run their torch products on one core: a batch a core scales better than one batch on all."""
        return ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))

    def _decide(self, block: SentenceBlock, bands: Bands) -> BlockScores:
        return BlockScorer(block, self.encoder, bands, self.rules).run()

    def _score(self, block: SentenceBlock, bands: Bands) -> BlockScores:
        scores = self._decide(block, bands)
        self.progress(len(block.sentences), scores.tokens)
        return scores

    def _merged(self, scores: list[BlockScores]) -> Evidence:
        total = Evidence(len(self.levels))
        for block in scores:
            total.merge(block.evidence)
        return total

    def _calibrate(self, pool: ThreadPoolExecutor, shard: EncodedSentences) -> Bands:
        """Bands from this shard: float32 against float64 on whole sentences, the first level against float32 on variants."""
        bands = Bands.uncalibrated(self.levels)
        if not self.config.certify:
            return bands
        sample = _sample(shard, CALIBRATION_UNITS)
        blocks = self._plan(sample, CALIBRATION_BLOCK).blocks
        evidence = Evidence(len(self.levels))
        low = self.levels.index("float32")
        for pair in pool.map(lambda block: self._full_pair(block, low), blocks):
            evidence.compare(low, *pair)
        bands = calibrated(self.levels, evidence.max_error)
        if low == 0:
            return bands
        open_bands = Bands(self.levels, (float("inf"), *bands.eps[1:]))
        evidence.merge(self._merged(list(pool.map(lambda block: self._decide(block, open_bands), blocks))))
        return calibrated(self.levels, evidence.max_error)

    def _full_pair(self, block: SentenceBlock, low: int) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds of some whole sentences of a block at a level and the next: float64 [V] each."""
        count = len(block.block.room)
        units = np.arange(0, count, max(1, count // CALIBRATION_FLOAT64), dtype=np.int32)
        full = np.full(len(units), FULL, np.int32)
        ask = Asker(block, self.encoder, self.config.batch_tokens)
        ask.target = np.maximum(block.unit_label, 0)
        return ask(low, units, full), ask(low + 1, units, full)

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


def _sample(shard: EncodedSentences, count: int) -> EncodedSentences:
    """About ``count`` sentences spread evenly over the shard's lengths, with their units."""
    from dataclasses import replace

    order = np.argsort(np.diff(shard.offsets), kind="stable")
    order = order[np.isin(order, shard.unit_sentence)]
    chosen = np.sort(
        order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(np.int64))]
    )
    units = np.flatnonzero(np.isin(shard.unit_sentence, chosen))
    offsets, index = take_ragged(shard.offsets, np.arange(len(shard.input_ids)), chosen)
    context_offsets, context_ids = take_ragged(shard.context_offsets, shard.context_ids, units)
    return replace(
        shard,
        row=shard.row[chosen],
        sentence=shard.sentence[chosen],
        offsets=offsets,
        input_ids=shard.input_ids[index],
        char_start=shard.char_start[index],
        char_end=shard.char_end[index],
        label=shard.label[chosen],
        unit_sentence=np.searchsorted(chosen, shard.unit_sentence[units]).astype(np.int32),
        unit_label=shard.unit_label[units],
        context_offsets=context_offsets,
        context_ids=context_ids,
    )


def _certificate(bands: Bands, evidence: Evidence, retries: int) -> dict:
    """The cascade's record of one shard, JSON-ready; ``eps`` is what the next shard starts with."""
    return {
        "levels": list(bands.levels),
        "eps": [eps if np.isfinite(eps) else None for eps in bands.eps],
        "decisions": evidence.decisions,
        "rechecked": evidence.rechecked.tolist(),
        "pairs": evidence.pairs.tolist(),
        "max_error": evidence.max_error.tolist(),
        "audited": evidence.audited,
        "flips": evidence.flips,
        "rescored": retries,
    }
