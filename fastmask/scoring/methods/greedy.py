"""Method ``greedy``: the paper's rule. Tokens that are not important are kept, and each token is scored after them.

Variants are s' wi with s' the tokens kept before (paper section 2.2). All units of a block are asked in the same
rounds; a unit that meets a doubt waits until enough others do, then their doubts are settled together.

*Verified speculation*: a unit's next variant depends on its decisions so far. A guess about them gives several variants
to ask at once; the answers up to the first wrong guess count, the others are dropped.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from ...core.arrays import JIT
from ...models.packing import NOTHING, Block, Variants, around, write_row
from ..asking import Asker
from ..blocks import SentenceBlock
from ..cascade import ABOVE, DOUBT, Bounds
from ..method import Rules, audit_sample
from ..variants import describe
from .classifier import ClassifierBlock, ClassifierMethod

# Doubts are settled when at least one unit in so many waits: few large batches cost less than many small ones.
WALKING_PER_DOUBT = 8


class Walk(NamedTuple):
    """How far each of U units has been decided: int32 [U] each. The buffers themselves are the block's ``kept``."""

    kept_count: np.ndarray  # tokens in its buffer
    cursor: np.ndarray  # its next token


class Decided(NamedTuple):
    """What is known of the block's T tokens: float64, uint8, bool [T]; see ``ClassifierBlock``."""

    z: np.ndarray
    level: np.ndarray
    above: np.ndarray


class Round(NamedTuple):
    """What a round asks about A active units, V >= A variants."""

    units: np.ndarray  # int32 [A]
    starts: np.ndarray  # int64 [A + 1]: each unit's variants, for consecutive tokens from its cursor on
    keeps: np.ndarray  # bool [A], the guess: that all these tokens are kept, or that all are left out
    table: np.ndarray  # int32 [V, 5], the variants; see ``Variants``
    lengths: np.ndarray  # int32 [V]
    indices: np.ndarray  # int32 [V], the tokens they score

    @property
    def variants(self) -> Variants:
        """Return the V variants."""
        return Variants(self.table, self.lengths)


@nb.njit(**JIT)
def _plan(block: Block, walk: Walk, active: np.ndarray, budget: int, starts: np.ndarray, keeps: np.ndarray) -> None:
    """Set how many tokens each active unit is asked about: as many as fit in its share of the budget, at least one."""
    share = budget // len(active)
    starts[0] = 0
    for a in range(len(active)):
        unit = active[a]
        taken, room = walk.kept_count[unit], block.room[unit]
        left = block.offsets[unit + 1] - block.offsets[unit] - walk.cursor[unit]
        keeps[a] = 2 * taken >= walk.cursor[unit]
        # a full buffer makes all later variants the same
        most = min(left, max(1, room - taken))
        length = around(block, unit) + min(taken + 1, room)
        depth, spent = 1, length
        while depth < most:
            length += keeps[a]
            spent += length
            if spent > share:
                break
            depth += 1
        starts[a + 1] = starts[a] + depth


@nb.njit(**JIT)
def _fill(block: Block, walk: Walk, asked: Round) -> None:
    for a in range(len(asked.units)):
        unit = asked.units[a]
        taken, limit = walk.kept_count[unit], block.room[unit]
        for v in range(asked.starts[a], asked.starts[a + 1]):
            ahead = v - asked.starts[a]
            asked.indices[v] = walk.cursor[unit] + ahead
            first = walk.cursor[unit] if asked.keeps[a] else asked.indices[v]
            count = min(taken + 1 + (ahead if asked.keeps[a] else 0), limit)
            write_row(asked.table, v, unit, min(taken, limit), first, NOTHING, count)
            asked.lengths[v] = count + around(block, unit)


def look_ahead(block: Block, walk: Walk, active: np.ndarray, budget: int) -> Round:
    """Return the next variant of every active unit int32 [A], and more of them as far as ``budget`` tokens go.

    The guess for a unit is what most of its tokens were decided to be so far.
    """
    starts, keeps = np.empty(len(active) + 1, np.int64), np.empty(len(active), bool)
    _plan(block, walk, active, budget, starts, keeps)
    v = int(starts[-1])
    asked = Round(active, starts, keeps, np.empty((v, 5), np.int32), np.empty(v, np.int32), np.empty(v, np.int32))
    _fill(block, walk, asked)
    return asked


@nb.njit(**JIT)
def _step(block: Block, walk: Walk, unit: int, decided: Decided) -> None:
    """Apply the decision at a unit's cursor: append or leave out, advance; a full buffer decides all later tokens."""
    start, n, i = block.offsets[unit], block.offsets[unit + 1] - block.offsets[unit], walk.cursor[unit]
    at = start + i
    if walk.kept_count[unit] >= block.room[unit]:
        decided.z[at : start + n] = decided.z[at]
        decided.level[at : start + n] = decided.level[at]
        decided.above[at : start + n] = decided.above[at]
        walk.cursor[unit] = n
        return
    if not decided.above[at]:
        block.kept[start + walk.kept_count[unit]] = i
        walk.kept_count[unit] += 1
    walk.cursor[unit] = i + 1


@nb.njit(**JIT)
def advance(block: Block, walk: Walk, units: np.ndarray, decided: Decided) -> None:
    """Apply the decisions at the cursors of ``units`` int32 [A] to their buffers; a full buffer decides to the end."""
    for unit in units:
        _step(block, walk, unit, decided)


@nb.njit(**JIT)
def _accept(
    block: Block,
    walk: Walk,
    asked: Round,
    answer: np.ndarray,
    code: np.ndarray,
    decided: Decided,
    stopped: np.ndarray,
) -> tuple[int, int]:
    accepted = blocked = 0
    for a in range(len(asked.units)):
        unit = asked.units[a]
        for v in range(asked.starts[a], asked.starts[a + 1]):
            at = block.offsets[unit] + walk.cursor[unit]
            decided.z[at], decided.level[at] = answer[v], 0
            if code[v] & DOUBT:
                stopped[blocked] = unit
                blocked += 1
                break
            above = (code[v] & ABOVE) != 0
            decided.above[at] = above
            accepted += 1
            _step(block, walk, unit, decided)
            if above == asked.keeps[a]:
                break
    return accepted, blocked


def accept(
    block: Block, walk: Walk, asked: Round, answer: np.ndarray, code: np.ndarray, decided: Decided
) -> tuple[int, np.ndarray]:
    """Advance units by a round's answers: certain ones count, up to the first wrong guess.

    Args:
        answer, code: float64, uint8 [V], log-odds and decision of each variant asked.
        decided: filled where decided; its z at the cursors of those that have stopped, too.

    Returns:
        how many tokens were decided, and int32 [<= A]: the units that have stopped at a doubt.
    """
    stopped = np.empty(len(asked.units), np.int32)
    accepted, blocked = _accept(block, walk, asked, answer, code, decided, stopped)
    return accepted, stopped[:blocked]


@nb.njit(**JIT)
def _kept_before(block: Block, walk: Walk, units: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    for v in range(len(units)):
        start = block.offsets[units[v]]
        out[v] = np.searchsorted(block.kept[start : start + walk.kept_count[units[v]]], indices[v])


class GreedyBlock(ClassifierBlock):
    """Scores one block by the paper's rule."""

    importance = "S(w) = P(class) of the sentence - P(class) of the tokens kept before w, and w"
    fixed_threshold = "method greedy scores a token after those that it kept, which hangs on the threshold; score again"

    @staticmethod
    def same_variant(sentence: np.ndarray, input_ids: np.ndarray, marked: np.ndarray) -> np.ndarray:
        """See ``ClassifierBlock.same_variant``: equal tokens after the same buffer."""
        kept_before = np.cumsum(~marked) - ~marked
        keys = np.stack([sentence, kept_before, input_ids])
        return np.unique(keys, axis=1, return_inverse=True)[1].ravel()

    def __init__(self, sentences: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules):
        super().__init__(sentences, ask, bounds, rules)
        self.walk = Walk(*np.zeros((2, len(self.block.room)), np.int32))
        self.decided = Decided(self.z, self.level, self.above)

    def variants(self, units: np.ndarray, indices: np.ndarray) -> Variants:
        """See ``ClassifierBlock.variants``. Buffers keep positions in ascending order, so past variants are known."""
        before = np.empty(len(units), np.int32)
        _kept_before(self.block, self.walk, units, indices, before)
        return describe(self.block, units, before + 1, kept=before, following=indices)

    def all_variants(self) -> Variants:
        """See ``ClassifierBlock.all_variants``: as if every token was kept, so that all are known beforehand."""
        return describe(self.block, self.unit, self.index + 1)

    def decide(self, wanted: np.ndarray) -> None:
        """Decide all tokens of the units that have one in ``wanted``, round after round."""
        active, waiting = np.unique(self.unit[wanted]), np.empty(0, np.int32)
        while len(active) or len(waiting):
            if len(active):
                active, stopped = self._round(active)
                waiting = np.concatenate([waiting, stopped])
            if len(waiting) and WALKING_PER_DOUBT * len(waiting) >= len(active):
                self.settle(self.block.offsets[waiting] + self.walk.cursor[waiting])
                advance(self.block, self.walk, waiting, self.decided)
                active, waiting = np.concatenate([active, self._unfinished(waiting)]), waiting[:0]

    def retrace(self, at: np.ndarray) -> None:
        """See ``ClassifierBlock.retrace``: fill the buffers as these decisions did."""
        active = np.unique(self.unit[at])
        while len(active):
            advance(self.block, self.walk, active, self.decided)
            active = self._unfinished(active)

    def _round(self, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ask the next variants of units int32 [A]; return the unfinished ones without a doubt, and those with one."""
        # where every answer is to be compared with the next level none is certain, so that guesses gain nothing
        spare = self.ask.spare_tokens if np.isfinite(self.bounds.eps[0]) else 0
        asked = look_ahead(self.block, self.walk, active, spare)
        units = asked.variants.units
        z = self.ask.log_odds(0, asked.variants, self.target[units])
        code = self.codes(z, units, np.zeros(len(z), np.uint8))
        audit = audit_sample(self.sentences.key[units], asked.indices, self.rules.seed)
        code |= np.where(audit, DOUBT, 0).astype(np.uint8)
        accepted, stopped = accept(self.block, self.walk, asked, z, code, self.decided)
        self.evidence.decisions += accepted
        return self._unfinished(np.setdiff1d(active, stopped, assume_unique=True)), stopped

    def _unfinished(self, units: np.ndarray) -> np.ndarray:
        unfinished: np.ndarray = units[self.walk.cursor[units] < np.diff(self.block.offsets)[units]]
        return unfinished


METHOD = ClassifierMethod(GreedyBlock)
