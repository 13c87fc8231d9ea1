"""From scored units to sentences: union over aspects, stop words, certified rate cap (paper section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..models.pieces import not_masked
from .blocks import SentenceBlock
from .cascade import Ask, Bands, Evidence, Targets, probability
from .policy import cap_of, select
from .variants import seen


@dataclass(slots=True)
class UnitScores:
    """What is known of a block's U units and their T tokens.

    Attributes:
        goal: the units' targets.
        right: bool [U], units that count (labelled ones only where the classifier agrees).
        z: float64 [T], log-odds of the unit's class on each token's variant, NaN where not asked.
        level: uint8 [T], the cascade level of z.
        important: bool [T].
    """

    goal: Targets
    right: np.ndarray
    z: np.ndarray
    level: np.ndarray
    important: np.ndarray

    @property
    def decided(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """z, level and important, which decisions are written to."""
        return self.z, self.level, self.important


class Verdict:
    """Turns a block's unit scores into per-sentence decisions, asking for more precision where a rate cap needs it."""

    def __init__(self, sentences: SentenceBlock, units: UnitScores, bands: Bands, large_is_important: bool):
        self.sentences, self.units, self.bands = sentences, units, bands
        self.sign = -1.0 if large_is_important else 1.0
        lengths = np.diff(sentences.block.offsets)
        self.unit = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        self.index = (np.arange(len(self.unit)) - sentences.block.offsets[self.unit]).astype(np.int32)
        self.token = self.index + sentences.offsets[sentences.unit_sentence[self.unit]]
        self.counted = units.right[self.unit]
        self.shared = sentences.is_aspect

    def _smallest(self, values: np.ndarray) -> np.ndarray:
        """Smallest over a sentence's counted units: unit tokens float64 [T] -> sentence tokens, else inf."""
        out = np.full(self.sentences.offsets[-1], np.inf)
        np.minimum.at(out, self.token[self.counted], values[self.counted])
        return out

    def importance(self) -> np.ndarray:
        """S(w) float32 of the sentences' tokens, inf where not scored."""
        units = self.units
        full = probability(units.goal.z_full)[self.unit]
        return self._smallest(full - probability(units.z)).astype(np.float32)

    def prob(self) -> np.ndarray:
        """P(y|s) float32 [S]: of plain text always, of aspect text the smallest over its counted units, else NaN."""
        p = probability(self.units.goal.z_full)
        counted = self.units.right if self.shared else np.ones(len(p), bool)
        out = np.full(len(self.sentences.sentences), np.inf)
        np.minimum.at(out, self.sentences.unit_sentence[counted], p[counted])
        return np.where(np.isfinite(out), out, np.nan).astype(np.float32)

    def scored(self) -> np.ndarray:
        """bool [S]: sentences with a counted unit."""
        out = np.zeros(len(self.sentences.sentences), bool)
        out[self.sentences.unit_sentence[self.units.right]] = True
        return out

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds float64 of the rank value of the sentences' tokens: what precision allows to be said.

        A sentence's own tokens rank by z, which orders them as S(w) does; tokens of several aspects by S(w) itself,
        whose P(y|s) are different.
        """
        units, z = self.units, self.units.z
        width = np.array(self.bands.eps)[units.level]
        if not self.shared:
            return self._smallest(-self.sign * z - width), self._smallest(-self.sign * z + width)
        full = probability(units.goal.z_full)
        shift = np.where(np.isnan(units.goal.exact), full * (1 - full) * self.bands.float32, 0.0)[self.unit]
        ends = [self.sign * (full[self.unit] - probability(z + side * width)) for side in (1, -1)]
        return self._smallest(np.minimum(*ends) - shift), self._smallest(np.maximum(*ends) + shift)

    def chosen(self, ask: Ask, never_masked: np.ndarray, mask_rate: float | None, evidence: Evidence) -> np.ndarray:
        """The tokens to mask, bool over the sentences' tokens; what a rate cap makes it recompute is ``evidence``."""
        s = self.sentences
        important = np.zeros(s.offsets[-1], bool)
        important[self.token[self.counted & self.units.important & seen(s.block)]] = True
        candidate = important & ~not_masked(never_masked, s.input_ids, s.offsets)
        if mask_rate is None:
            return candidate
        cap = cap_of(np.diff(s.offsets), mask_rate)
        while True:
            chosen, ambiguous = select(s.offsets, *self._bounds(), candidate, cap)
            if not self._refine(ask, ambiguous, evidence):
                return chosen

    def _refine(self, ask: Ask, ambiguous: np.ndarray, evidence: Evidence) -> bool:
        """Recompute the ambiguous tokens' variants one level up; False when there is nothing left to refine."""
        units, last = self.units, len(self.bands.levels) - 1
        wanted = np.flatnonzero(ambiguous[self.token] & self.counted & (units.level < last))
        if not len(wanted):
            return False
        for level in np.unique(units.level[wanted])[::-1]:
            at = wanted[units.level[wanted] == level]
            higher = ask(int(level) + 1, self.unit[at], self.index[at])
            evidence.compare(int(level), units.z[at], higher)
            evidence.rechecked[level + 1] += len(at)
            units.z[at], units.level[at] = higher, level + 1
            if level + 1 == last and self.shared:
                units.goal.exact_star(ask, last, self.unit[at], evidence)
        return True
