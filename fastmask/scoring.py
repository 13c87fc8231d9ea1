"""The hot loop: blocks of sentences through the encoder, every decision certified, to importances and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .blocks import SentenceBlock
from .certify import Bands, Evidence, Targets, resolve, targets
from .encoder import Encoder
from .memo import Memo
from .variants import FULL, advance, batch_starts, hash_variants, pack_variants
from .verdict import UnitScores, Verdict

# Share of accepted decisions that are recomputed at the next precision.
AUDIT_SHARE = 1 / 256

Encoders = Callable[[str], Encoder]
"""The encoder of a precision."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What scoring needs to know besides the model.

    Attributes:
        method: "greedy", "prefix" or "leave-one-out".
        threshold: d.
        mask_rate: None, or the cap's rate.
        stop_tokens: bool [V].
        batch_tokens: token budget of one forward, 0 for the encoder's own.
        certify: whether the cascade runs.
        seed: of the audit sample.
    """

    method: str
    threshold: float
    mask_rate: float | None
    stop_tokens: np.ndarray
    batch_tokens: int
    certify: bool
    seed: int


@dataclass(frozen=True, slots=True)
class BlockScores:
    """One block's outcome: S sentences, T tokens, in the block's order.

    Attributes:
        predicted: int32 [S]; prob: float32 [S], NaN where an aspect text has no aspect predicted right.
        scored: bool [S]; importance: float32 [T]; chosen: bool [T], the tokens to mask.
        evidence: what the cascade saw.
        tokens: how many real tokens went through an encoder.
    """

    predicted: np.ndarray
    prob: np.ndarray
    scored: np.ndarray
    importance: np.ndarray
    chosen: np.ndarray
    evidence: Evidence
    tokens: int


def log_odds(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """log P(y) - log(1 - P(y)): logits float64 [V, C], target int [V] -> float64 [V]."""
    index = np.arange(len(logits))
    others = logits.copy()
    others[index, target] = -np.inf
    top = others.max(axis=1)
    with np.errstate(invalid="ignore"):  # a float16 overflow, which the cascade takes for a doubt
        rest = top + np.log(np.exp(others - top[:, None]).sum(axis=1))
        return logits[index, target] - rest


class _Rows:
    """A float64 matrix that grows by rows, in amortised constant time a row."""

    def __init__(self):
        self.values, self._count = np.empty((0, 0)), 0

    def append(self, rows: np.ndarray) -> None:
        end = self._count + len(rows)
        if end > len(self.values):
            grown = np.empty((2 * end, rows.shape[1]))
            if self._count:
                grown[: self._count] = self.values[: self._count]
            self.values = grown
        self.values[self._count : end] = rows
        self._count = end


class Asker:
    """Runs variants of one block at any level, each distinct variant once."""

    def __init__(self, sentences: SentenceBlock, encoder: Encoders, levels: tuple[str, ...], batch_tokens: int):
        self.block, self.encoder, self.levels, self.batch_tokens = sentences.block, encoder, levels, batch_tokens
        self.memos: dict[str, tuple[Memo, _Rows]] = {}
        self.memories: dict[str, object] = {}
        self.target = sentences.unit_label.copy()
        self.tokens = 0

    def logits(self, precision: str, units: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Class logits float64 [V, C] of variants (units, indices int32 [V])."""
        hashes, lengths = hash_variants(self.block, units, indices)
        memo, known = self.memos.setdefault(precision, (Memo(), _Rows()))
        before = memo.used
        slots = memo.slots(hashes)
        fresh, first = np.unique(slots, return_index=True)
        first = first[fresh >= before]
        if len(first):
            known.append(self._run(precision, units[first], indices[first], lengths[first]))
        return known.values[slots]

    def __call__(self, level: int, units: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Log-odds float64 [V] of each unit's target class at a level of the cascade."""
        return log_odds(self.logits(self.levels[level], units, indices), self.target[units])

    def _run(self, precision, units, indices, lengths) -> np.ndarray:
        order = np.argsort(lengths, kind="stable")
        self.tokens += int(lengths.sum())
        budget = self.batch_tokens or self.encoder(precision).batch_tokens
        if precision not in self.memories:
            self.memories[precision] = self.encoder(precision).memory()
        out = None
        for part in np.split(order, batch_starts(lengths[order], budget)[1:]):
            packed = pack_variants(self.block, units[part], indices[part], lengths[part])
            found = self.encoder(precision).logits(packed, self.memories[precision])
            out = np.empty((len(order), found.shape[1])) if out is None else out
            out[part] = found
        return out


class BlockScorer:
    """Scores one block. One thread each; encoders are shared."""

    def __init__(self, sentences: SentenceBlock, encoder: Encoders, bands: Bands, rules: Rules):
        self.sentences, self.bands, self.rules = sentences, bands, rules
        self.block = sentences.block
        self.ask = Asker(sentences, encoder, bands.levels, rules.batch_tokens)
        self.evidence = Evidence(len(bands.levels))

    def run(self) -> BlockScores:
        """Score every unit, decide every token."""
        predicted, goal = self._classify()
        right = predicted == self.ask.target
        tokens = len(self.block.input_ids)
        blank = np.full(tokens, np.nan), np.zeros(tokens, np.uint8), np.zeros(tokens, bool)
        self.scores = UnitScores(goal, right, *blank)
        units = np.flatnonzero(right & (np.diff(self.block.offsets) > 0)).astype(np.int32)
        if self.rules.method == "greedy":
            self._greedy(units)
        else:
            self._all_at_once(units)
        return self._outcome(self.scores, predicted)

    def _classify(self) -> tuple[np.ndarray, Targets]:
        """argmax class int32 [U] of whole sentences, and the units' targets; the class asked about is set, too."""
        units = np.arange(len(self.block.room), dtype=np.int32)
        full = np.full(len(units), FULL, np.int32)
        logits = self.ask.logits("float32", units, full)
        if self.rules.certify:
            top = np.sort(logits, axis=1)
            near = np.flatnonzero(top[:, -1] - top[:, -2] <= 2 * self.bands.float32).astype(np.int32)
            if len(near):
                logits[near] = self.ask.logits("float64", near, full[near])
        predicted = logits.argmax(axis=1).astype(np.int32)
        given = self.sentences.unit_label
        self.ask.target = target = np.where(given >= 0, given, predicted)
        eps = self.bands.float32 if self.rules.certify else 0.0
        return predicted, targets(log_odds(logits, target), self.rules.threshold, eps)

    def _resolve(self, units: np.ndarray, indices: np.ndarray) -> None:
        """Decide tokens ``indices`` of ``units`` and store z, level and importance."""
        audit = self._audit(units, indices)
        scores = self.scores
        z, level, above = resolve(self.ask, units, indices, scores.goal, self.bands, audit, self.evidence)
        at = self.block.offsets[units] + indices
        scores.z[at], scores.level[at] = z, level
        scores.important[at] = ~above if self.rules.method == "leave-one-out" else above

    def _audit(self, units: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """bool [V]: a sample of AUDIT_SHARE that depends on seed, row, sentence and position alone."""
        mixed = (self.sentences.key[units] ^ np.uint64(self.rules.seed)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ indices.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        return (mixed >> np.uint64(32)) < np.uint64(AUDIT_SHARE * 2**32)

    def _greedy(self, active: np.ndarray) -> None:
        """All units one token further at a time, until none has tokens left."""
        scores = self.scores
        while len(active):
            self._resolve(active, self.block.cursor[active])
            active = advance(self.block, active, scores.z, scores.level, scores.important)

    def _all_at_once(self, units: np.ndarray) -> None:
        counts = np.diff(self.block.offsets)[units]
        starts = np.cumsum(counts) - counts
        indices = (np.arange(counts.sum()) - np.repeat(starts, counts)).astype(np.int32)
        if len(indices):
            self._resolve(np.repeat(units, counts), indices)

    def _outcome(self, units: UnitScores, predicted: np.ndarray) -> BlockScores:
        rules, s = self.rules, self.sentences
        verdict = Verdict(s, units, self.bands, rules.method == "leave-one-out")
        first_unit = np.searchsorted(s.unit_sentence, np.arange(len(s.sentences)))
        return BlockScores(
            predicted=np.full(len(s.sentences), -1, np.int32) if s.is_aspect else predicted[first_unit],
            prob=verdict.prob(),
            scored=verdict.scored(),
            importance=verdict.importance(),
            chosen=verdict.chosen(self.ask, rules.stop_tokens, rules.mask_rate, self.evidence),
            evidence=self.evidence,
            tokens=self.ask.tokens,
        )
