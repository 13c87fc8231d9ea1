"""The hot loop: blocks of sentences through the encoder, every decision certified, to importances and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..core.errors import FastmaskError
from ..core.memo import Memo
from ..models.encoder import Encoder, OutOfMemory
from ..models.packing import Variants, batch_starts, hash_variants, pack_variants
from .blocks import SentenceBlock
from .cascade import DOUBT, Bands, Evidence, Limits, Targets, decisions, resolve, targets
from .greedy import accept, advance, look_ahead
from .outcome import UnitScores, Verdict
from .variants import FULL, describe

# Share of accepted decisions that are recomputed at the next precision.
AUDIT_SHARE = 1 / 256
# Units wait at a doubt until there is one of them for so many that go on: few large batches cost less than many small.
GOING_ON_PER_DOUBT = 8

Encoders = Callable[[str], Encoder]
"""The encoder of a precision."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What scoring needs to know besides the model.

    Attributes:
        method: "greedy", "prefix" or "leave-one-out".
        threshold: d.
        mask_rate: None, or the cap's rate.
        never_masked: bool [2, V], see ``pieces.never_masked``.
        certify: whether the cascade runs.
        seed: of the audit sample.
    """

    method: str
    threshold: float
    mask_rate: float | None
    never_masked: np.ndarray
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


def audit_sample(key: np.ndarray, indices: np.ndarray, seed: int) -> np.ndarray:
    """bool [V]: a sample of AUDIT_SHARE that depends on seed, unit (key uint64 [V]) and position (int32 [V]) alone."""
    mixed = (key ^ np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ indices.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(32)) < np.uint64(AUDIT_SHARE * 2**32)


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
    """Runs variants of one block at any level, each distinct variant once.

    Where no higher level could be asked, an answer that is not finite is a FastmaskError with the model's ``name``.
    """

    def __init__(
        self, sentences: SentenceBlock, encoder: Encoders, levels: tuple[str, ...], batch_tokens: int, name: str
    ):
        self.block, self.encoder, self.levels, self.batch_tokens = sentences.block, encoder, levels, batch_tokens
        self.name = name
        self.memos: dict[str, tuple[Memo, _Rows]] = {}
        self.memories: dict[str, object] = {}
        self.target = sentences.unit_label.copy()
        self.tokens = 0

    @property
    def spare_tokens(self) -> int:
        """Tokens that a forward at the first level takes at next to no further cost."""
        return self.encoder(self.levels[0]).spare_tokens

    def logits(self, precision: str, variants: Variants) -> np.ndarray:
        """Class logits float64 [V, C]."""
        memo, known = self.memos.setdefault(precision, (Memo(), _Rows()))
        before = memo.used
        slots = memo.slots(hash_variants(self.block, variants))
        fresh, first = np.unique(slots, return_index=True)
        first = first[fresh >= before]
        if len(first):
            known.append(self._run(precision, variants.take(first)))
        return known.values[slots]

    def __call__(self, level: int, units: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Log-odds float64 [V] of each unit's target class at a level of the cascade."""
        return log_odds(self.logits(self.levels[level], describe(self.block, units, indices)), self.target[units])

    def decide(self, level: int, units, indices, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """See ``certify.Ask``."""
        return self.decide_variants(level, describe(self.block, units, indices), limits)

    def decide_variants(self, level: int, variants: Variants, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """z float64 [V] and decisions uint8 [V] of variants that may rest on guesses."""
        z = log_odds(self.logits(self.levels[level], variants), self.target[variants.units])
        return z, decisions(z, limits)

    def _run(self, precision: str, variants: Variants) -> np.ndarray:
        parts = self.forward(precision, variants)
        found = np.concatenate([logits for _, logits in parts])
        out = np.empty_like(found)
        out[np.concatenate([part for part, _ in parts])] = found
        return out

    def forward(self, precision: str, variants: Variants) -> list[tuple[np.ndarray, np.ndarray]]:
        """Every variant through the encoder: for each batch, which variants int64 [B] it had and its logits."""
        encoder = self.encoder(precision)
        if precision not in self.memories:
            self.memories[precision] = encoder.memory()

        def run(part: np.ndarray) -> np.ndarray:
            packed = pack_variants(self.block, variants.take(part))
            return self.finite(precision, self.encoder(precision).logits(packed, self.memories[precision]))

        return self._in_batches(encoder, variants.lengths, run)

    def finite(self, precision: str, answers: np.ndarray) -> np.ndarray:
        """Return answers of a precision; what is not finite is a doubt as long as there is a higher one to ask."""
        if (precision == self.levels[-1] or len(self.levels) == 1) and not np.isfinite(answers).all():
            advice = "; leave out --no-certify, or use float32" if precision in ("float16", "bfloat16") else ""
            raise FastmaskError(f"{self.name}: its answers are not finite numbers in {precision}{advice}")
        return answers

    def _in_batches(self, encoder: Encoder, lengths: np.ndarray, run: Callable) -> list[tuple[np.ndarray, object]]:
        """``run`` on batches of variants of lengths int32 [V] that fill the token budget: (their numbers, result).

        Where memory runs out the budget is halved, for good.
        """
        self.tokens += int(lengths.sum())
        waiting, done = self._split(np.argsort(lengths, kind="stable"), encoder, lengths), []
        while waiting:
            part = waiting.pop(0)
            try:
                done.append((part, run(part)))
            except OutOfMemory as error:
                if len(part) == 1:
                    raise FastmaskError(f"a text of {lengths[part[0]]} tokens does not fit in memory") from error
                # another thread may have found less
                encoder.most_tokens = min(encoder.most_tokens, int(lengths[part].sum()) // 2)
                waiting = self._split(np.concatenate([part, *waiting]), encoder, lengths)
        return done

    def _split(self, order: np.ndarray, encoder: Encoder, lengths: np.ndarray) -> list[np.ndarray]:
        budget = min(self.batch_tokens or encoder.batch_tokens, encoder.most_tokens)
        return np.split(order, batch_starts(lengths[order], budget)[1:])


Doubts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Doubtful answers: units and indices int32 [D], z float64 [D], decisions uint8 [D]."""


class BlockScorer:
    """Scores one block. One thread each; encoders are shared."""

    def __init__(self, sentences: SentenceBlock, ask: Asker, bands: Bands, rules: Rules):
        self.sentences, self.ask, self.bands, self.rules = sentences, ask, bands, rules
        self.block = sentences.block
        self.evidence = Evidence(len(bands.levels))

    def run(self) -> BlockScores:
        """Score every unit, decide every token."""
        predicted, goal = self._classify()
        right = (predicted == self.ask.target) & self._can_be_asked()
        tokens = len(self.block.input_ids)
        blank = np.full(tokens, np.nan), np.zeros(tokens, np.uint8), np.zeros(tokens, bool)
        self.scores = UnitScores(goal, right, *blank)
        units = np.flatnonzero(right & (np.diff(self.block.offsets) > 0)).astype(np.int32)
        if self.rules.method == "greedy":
            self._greedy(units)
        else:
            self._all_at_once(units)
        return self._outcome(self.scores, predicted)

    def _can_be_asked(self) -> np.ndarray:
        """bool [U]: not the units with a variant of no token at all, of which no model says anything.

        That is a single token left out, with no special tokens around it.
        """
        units = np.arange(len(self.block.room), dtype=np.int32)
        return describe(self.block, units, np.zeros(len(units), np.int32)).lengths > 0

    def _classify(self) -> tuple[np.ndarray, Targets]:
        """argmax class int32 [U] of whole sentences, and the units' targets; the class asked about is set, too."""
        units = np.arange(len(self.block.room), dtype=np.int32)
        whole = describe(self.block, units, np.full(len(units), FULL, np.int32))
        logits = self.ask.logits("float32", whole)
        if self.rules.certify:
            top = np.sort(logits, axis=1)
            with np.errstate(invalid="ignore"):  # infinite logits are as doubtful as equal ones
                near = np.flatnonzero(~(top[:, -1] - top[:, -2] > 2 * self.bands.float32))
            if len(near):
                logits[near] = self.ask.logits(self.bands.levels[-1], whole.take(near))
        predicted = logits.argmax(axis=1).astype(np.int32)
        given = self.sentences.unit_label
        self.ask.target = target = np.where(given >= 0, given, predicted)
        eps = self.bands.float32 if self.rules.certify else 0.0
        return predicted, targets(log_odds(logits, target), self.rules.threshold, eps)

    def _first(self, variants: Variants) -> tuple[np.ndarray, np.ndarray]:
        """z and decisions of variants at the first level; the only level has no doubts."""
        limits = self.scores.goal.limits(variants.units, self.bands, 0)
        z, code = self.ask.decide_variants(0, variants, limits)
        if len(self.bands.levels) > 1:
            return z, code
        return z, code & ~np.uint8(DOUBT)

    def _resolve(self, units: np.ndarray, indices: np.ndarray, first: tuple[np.ndarray, np.ndarray]) -> None:
        """Decide tokens ``indices`` of ``units``, of which ``first`` is known, and store z, level and importance."""
        audit = self._audit(units, indices)
        scores = self.scores
        z, level, above = resolve(self.ask, units, indices, first, scores.goal, self.bands, audit, self.evidence)
        at = self.block.offsets[units] + indices
        scores.z[at], scores.level[at] = z, level
        scores.important[at] = ~above if self.rules.method == "leave-one-out" else above

    def _audit(self, units: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return audit_sample(self.sentences.key[units], indices, self.rules.seed)

    def _greedy(self, active: np.ndarray) -> None:
        """All units to their ends: those that are certain go on, the others wait for company at the next precision."""
        doubts: list[Doubts] = []
        while len(active) or doubts:
            if len(active):
                active, found = self._go_on(active)
                doubts += [found] * (len(found[0]) > 0)
            if doubts and GOING_ON_PER_DOUBT * sum(len(units) for units, *_ in doubts) >= len(active):
                settled, indices, z, code = (np.concatenate(parts) for parts in zip(*doubts, strict=True))
                self._resolve(settled, indices, (z, code))
                advance(self.block, settled, *self.scores.decided)
                active, doubts = np.concatenate([active, self._unfinished(settled)]), []

    def _go_on(self, active: np.ndarray) -> tuple[np.ndarray, Doubts]:
        """Ask the next variants of units int32 [A]; those that can go on, and the doubts that the others stopped at."""
        # where every answer is to be compared with the next level none is certain, so that guesses gain nothing
        spare = self.ask.spare_tokens if np.isfinite(self.bands.eps[0]) else 0
        asked = look_ahead(self.block, active, spare)
        z, code = self._first(asked.variants)
        audit = self._audit(asked.variants.units, asked.indices)
        stops = code | np.where(audit, DOUBT, 0).astype(np.uint8)
        decided, at = accept(self.block, asked, z, stops, *self.scores.decided)
        self.evidence.decisions += decided
        stopped = asked.variants.units[at]
        going_on = np.setdiff1d(active, stopped, assume_unique=True)
        return self._unfinished(going_on), (stopped, asked.indices[at], z[at], code[at])

    def _unfinished(self, units: np.ndarray) -> np.ndarray:
        return units[self.block.cursor[units] < np.diff(self.block.offsets)[units]]

    def _all_at_once(self, units: np.ndarray) -> None:
        counts = np.diff(self.block.offsets)[units]
        starts = np.cumsum(counts) - counts
        indices = (np.arange(counts.sum()) - np.repeat(starts, counts)).astype(np.int32)
        units = np.repeat(units, counts)
        if len(indices):
            self._resolve(units, indices, self._first(describe(self.block, units, indices)))

    def _outcome(self, units: UnitScores, predicted: np.ndarray) -> BlockScores:
        rules, s = self.rules, self.sentences
        verdict = Verdict(s, units, self.bands, rules.method == "leave-one-out")
        first_unit = np.searchsorted(s.unit_sentence, np.arange(len(s.sentences)))
        return BlockScores(
            predicted=np.full(len(s.sentences), -1, np.int32) if s.is_aspect else predicted[first_unit],
            prob=verdict.prob(),
            scored=verdict.scored(),
            importance=verdict.importance(),
            chosen=verdict.chosen(self.ask, rules.never_masked, rules.mask_rate, self.evidence),
            evidence=self.evidence,
            tokens=self.ask.tokens,
        )
