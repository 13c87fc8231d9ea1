"""What the methods that ask a classifier share: whole sentences, targets, decisions, ranks (paper section 2.2)."""

from __future__ import annotations

import numpy as np

from ...core.errors import FastmaskError
from ...models.packing import Variants
from ..asking import Asker, log_odds
from ..blocks import SentenceBlock
from ..cascade import ABOVE, DOUBT, Bounds, Evidence, decisions, probability, settle, star, targets, uncertified
from ..method import BlockScores, Known, Method, Recalled, Rules, Stored, audit_sample
from ..policy import agreeing, choose
from ..rounding import ROOM_FOR_ROUNDING, ROUNDING, grown, known_log_odds, of_first, slope
from ..variants import joined, seen, whole

# Of the variants of a calibration every fourth is compared: neighbours differ by a token, and err alike.
CALIBRATION_STRIDE = 4


class ClassifierMethod(Method):
    """A method that asks a classifier about variants; ``of_block`` scores one block by it."""

    def __init__(self, of_block: type[ClassifierBlock]):
        self.of_block, self.large_is_important, self.uses_known = of_block, of_block.large_is_important, True
        self.fixed_threshold, self.importance = of_block.fixed_threshold, of_block.importance

    def pair(
        self, block: SentenceBlock, ask: Asker, level: int, rules: Rules, whole_units: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``Method.pair``: log-odds of the units' labels, or of the classifier's own where there is none."""
        own = ask.logits("float32", whole(block.block, block.block.units)).argmax(axis=1)
        target = np.where(block.unit_label >= 0, block.unit_label, own)
        if whole_units is None:
            asked = self.of_block(block, ask, uncertified(ask.levels[level]), rules).all_variants()
            variants = asked.take(np.arange(0, len(asked), CALIBRATION_STRIDE))
        else:
            variants = whole(block.block, whole_units)
        low, high = (ask.log_odds(at, variants, target[variants.units]) for at in (level, level + 1))
        return low, high

    def score(self, block: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules) -> BlockScores:
        """See ``Method.score``."""
        return self.of_block(block, ask, bounds, rules).run()

    def rescore(self, block: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules, known: Known) -> BlockScores:
        """See ``Method.rescore``."""
        wider = bounds.eps[0] * (1 + ROOM_FOR_ROUNDING), *bounds.eps[1:]
        return self.of_block(block, ask, Bounds(bounds.levels, wider), rules).run(known)

    def recall(self, stored: Stored, threshold: float, was: float) -> Recalled:
        """See ``Method.recall``. Of the same threshold the importances tell the decisions (``policy.agreeing``).

        An error eps in z is one of at most eps e^eps q (1 - q) in q = P(y|v); what all variants of a sentence share has
        no part in ranks. Of several aspects it is not known which one an importance is of: q (1 - q) <= 1/4.
        """
        s, lengths = stored, np.diff(stored.offsets)
        if self.large_is_important and s.is_aspect.any():
            raise FastmaskError(
                "the smallest S(w) of aspects is stored, and this method goes by the largest; score again"
            )
        p, spread = np.repeat(s.prob, lengths), np.repeat(s.is_aspect, lengths)
        error = slope(p - s.importance, spread) * grown(s.bounds.eps[0]) + np.abs(s.importance) * ROUNDING
        whole_error = slope(p, spread) * grown(s.bounds.float32)
        counts = np.repeat(s.scored, lengths) & s.seen
        with np.errstate(invalid="ignore"):
            marked = (s.importance >= threshold) if self.large_is_important else (s.importance < threshold)
            near = ~(np.abs(s.importance - threshold) > error + whole_error)
        value = np.where(counts, -s.importance if self.large_is_important else s.importance, np.inf)
        error = np.where(counts, np.where(spread, error + whole_error, error), 0.0)
        same = self.of_block.same_variant(np.repeat(np.arange(len(lengths)), lengths), s.input_ids, marked)
        same = np.where(spread, np.arange(len(same)) + len(same), same)
        value, error = of_first(value, same), of_first(error, same)
        in_doubt = counts & near if threshold != was else np.zeros(len(marked), bool)
        return Recalled(counts & marked, in_doubt, value - error, value + error, same)


class ClassifierBlock:
    """Scores one block of S sentences with U units, whose texts have T tokens; one thread each.

    Attributes:
        importance: S(w) in words.
        large_is_important: whether a token is important when its S(w) is at least d; else when it is less.
        target: int32 [U], the class asked about; right: bool [U], units that count: labelled ones only where the
            classifier agrees.
        goal: the units' targets.
        z: float64 [T], log-odds of the unit's class on each token's variant, NaN where not asked.
        level: uint8 [T], the cascade level of z.
        above: bool [T], whether z is above the target.
    """

    importance = ""
    large_is_important = False
    fixed_threshold = ""

    @staticmethod
    def same_variant(sentence: np.ndarray, input_ids: np.ndarray, marked: np.ndarray) -> np.ndarray:
        """Return int64 [T], equal for tokens that are surely scored by the same variant.

        Args:
            sentence: int [T]; input_ids: int32 [T]; marked: bool [T], by their scores.
        """
        return np.arange(len(sentence))

    def __init__(self, sentences: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules):
        self.sentences, self.ask, self.bounds, self.rules = sentences, ask, bounds, rules
        self.block = sentences.block
        self.evidence = Evidence(len(bounds.levels))
        lengths = np.diff(self.block.offsets)
        self.unit = np.repeat(self.block.units, lengths)  # [T]
        self.index = (np.arange(len(self.unit)) - self.block.offsets[self.unit]).astype(np.int32)  # [T]
        self.z = np.full(len(self.unit), np.nan)
        self.level = np.zeros(len(self.unit), np.uint8)
        self.above = np.zeros(len(self.unit), bool)

    def variants(self, units: np.ndarray, indices: np.ndarray) -> Variants:
        """Return the variants that score tokens ``indices`` of ``units``, int32 [V] each."""
        raise NotImplementedError

    def all_variants(self) -> Variants:
        """Return variants as they are asked, or nearly, for every token: errors are measured on them beforehand."""
        return self.variants(self.unit, self.index)

    def run(self, known: Known | None = None) -> BlockScores:
        """Score every unit, decide every token; what is known already is not asked."""
        predicted = self._classify()
        self.right = (predicted == self.target) & self._can_be_asked()
        if known is None:
            self.decide(self.right[self.unit])
        else:
            self.take(known, np.flatnonzero(self.right[self.unit]))
        return self._outcome(predicted)

    def take(self, known: Known, at: np.ndarray) -> None:
        """Decide tokens ``at`` int64 [V] by what is known of them; ask about those of which that is too little."""
        z, error = known_log_odds(known.importance, np.repeat(known.prob, np.diff(self.block.offsets)))
        large = known.importance >= self.rules.threshold
        self.z[at], self.above[at] = z[at], ~large[at]
        self.retrace(at)
        unsure = at[~(error[at] <= ROOM_FOR_ROUNDING * self.bounds.eps[0])]
        if len(unsure):
            level = self.bounds.levels.index("float32")
            self.z[unsure], self.level[unsure] = self.answers(level, unsure), level
        if not known.decided and len(at):
            self.settle(at)

    def retrace(self, at: np.ndarray) -> None:
        """Get ready for variants that hang on decisions, which are known for tokens ``at`` int64 [V]."""

    def decide(self, wanted: np.ndarray) -> None:
        """Decide tokens ``wanted`` bool [T]: fill ``z``, ``level`` and ``above``; all at once."""
        at = np.flatnonzero(wanted)
        if len(at):
            self.z[at] = self.answers(0, at)
            self.settle(at)

    def answers(self, level: int, at: np.ndarray) -> np.ndarray:
        """Return log-odds float64 [V] of the variants that score tokens ``at`` int64 [V], at a level."""
        units = self.unit[at]
        return self.ask.log_odds(level, self.variants(units, self.index[at]), self.target[units])

    def settle(self, at: np.ndarray) -> None:
        """Take the decisions of tokens ``at`` int64 [V], of which the first level's answers are known."""
        self.evidence.decisions += len(at)
        audit = audit_sample(self.sentences.key[self.unit[at]], self.index[at], self.rules.seed)
        self.above[at] = settle(_Decisions(self, at), self.bounds, audit, self.evidence)

    def codes(self, z: np.ndarray, units: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Return decisions uint8 [V] of answers z float64 [V]; without a certificate nothing is a doubt."""
        code = decisions(z, self.goal.limits(units, self.bounds, level))
        return code if self.rules.certify else code & ~np.uint8(DOUBT)

    def exact_answers(self, at: np.ndarray) -> np.ndarray:
        """Return ``answers`` of the last level, and make z* of the tokens' units exact; all is asked in one call."""
        goal, last, units = self.goal, len(self.bounds.levels) - 1, self.unit[at]
        unknown = np.unique(units[np.isnan(goal.exact[units])])
        asked = joined(whole(self.block, unknown), self.variants(units, self.index[at]))
        full, z = np.split(self.ask.log_odds(last, asked, self.target[asked.units]), [len(unknown)])
        self.evidence.compare(last - 1, goal.z_full[unknown], full)
        goal.z_full[unknown], goal.exact[unknown] = full, star(full, goal.threshold)
        return z

    def _can_be_asked(self) -> np.ndarray:
        """Return bool [U]: units that can be asked about, which excludes those with a variant without any token.

        That is a single token left out, with no special tokens around it.
        """
        lengths = np.diff(self.block.offsets)
        at = self.block.offsets[:-1][lengths > 0]
        can = np.zeros(len(lengths), bool)
        can[lengths > 0] = self.variants(self.unit[at], self.index[at]).lengths > 0
        return can

    def _classify(self) -> np.ndarray:
        """Return the argmax class int32 [U] of whole sentences; sets the units' ``target`` and ``goal``."""
        variants, certify = whole(self.block, self.block.units), self.rules.certify
        logits = self.ask.logits("float32", variants)  # [U, C]
        if certify:
            logits = with_sure_argmax(logits, self.ask, variants, self.bounds.float32)
        predicted: np.ndarray = logits.argmax(axis=1).astype(np.int32)
        given = self.sentences.unit_label
        self.target = np.where(given >= 0, given, predicted)
        self.goal = targets(
            log_odds(logits, self.target), self.rules.threshold, self.bounds.float32 if certify else 0.0
        )
        return predicted

    def _outcome(self, predicted: np.ndarray) -> BlockScores:
        s = self.sentences
        ranking = _Ranking(self)
        settle(ranking, self.bounds, None, self.evidence)
        return BlockScores(
            **of_sentences(s, predicted, probability(self.goal.z_full), self.right),
            importance=ranking.importance(),
            chosen=ranking.chosen,
            evidence=self.evidence,
            tokens=self.ask.tokens,
        )

    def _full(self) -> np.ndarray:
        """Return P(y|s) float64 [T] of each token's unit."""
        p: np.ndarray = probability(self.goal.z_full)[self.unit]
        return p


def with_sure_argmax(logits: np.ndarray, ask: Asker, variants: Variants, eps: float) -> np.ndarray:
    """Return logits float64 [V, C] of variants, those of the last level where errors of ``eps`` leave the argmax open.

    Args:
        logits: of a lower level; written to.
    """
    top = np.sort(logits, axis=1)
    with np.errstate(invalid="ignore"):  # infinite logits are as doubtful as equal ones
        near = np.flatnonzero(~(top[:, -1] - top[:, -2] > 2 * eps))
    if len(near):
        logits[near] = ask.logits(ask.levels[-1], variants.take(near))
    return logits


def of_sentences(s: SentenceBlock, predicted: np.ndarray, p: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``predicted``, ``prob`` and ``scored`` of ``BlockScores`` from those of the units.

    Args:
        predicted: int32 [U], the argmax class.
        p: float64 [U], P(y|s); of an aspect text the smallest of units that count is taken, of plain text its own.
        right: bool [U], units that count.
    """
    count, counted = len(s.sentences), right if s.is_aspect else np.ones(len(p), bool)
    prob, scored = np.full(count, np.inf), np.zeros(count, bool)
    np.minimum.at(prob, s.unit_sentence[counted], p[counted])
    scored[s.unit_sentence[right]] = True
    first_unit = np.searchsorted(s.unit_sentence, np.arange(count))
    return {
        "predicted": np.full(count, -1, np.int32) if s.is_aspect else predicted[first_unit],
        "prob": np.where(np.isfinite(prob), prob, np.nan).astype(np.float32),
        "scored": scored,
    }


class _Decisions:
    """The questions whether tokens ``at`` int64 [V] are above their targets, as ``cascade.Questions``."""

    def __init__(self, of: ClassifierBlock, at: np.ndarray):
        self.of, self.at, self.units = of, at, of.unit[at]
        self.values, self.level = of.z[at], of.level[at]

    def ask(self, level: int, chosen: np.ndarray) -> None:
        """See ``Questions.ask``."""
        of, at = self.of, self.at[chosen]
        is_last = level == len(of.bounds.levels) - 1
        self.values[chosen], self.level[chosen] = of.exact_answers(at) if is_last else of.answers(level, at), level
        of.z[at], of.level[at] = self.values[chosen], level

    def decide(self) -> tuple[np.ndarray, np.ndarray]:
        """See ``Questions.decide``."""
        code = self.of.codes(self.values, self.units, self.level)
        return (code & ABOVE) != 0, (code & DOUBT) != 0


class _Ranking:
    """Which tokens are masked, the important ones that come first, as ``cascade.Questions`` about the units' T tokens.

    A sentence's own tokens rank by z, which orders them as S(w) does; tokens of several aspects by the smallest S(w)
    itself, because their P(y|s) are different. Answers are in doubt where ranks about the cap are.

    Attributes:
        items: what is masked as one; important, may_mask, seen: bool over the sentences' tokens; chosen, too: it is
            set by ``decide``.
    """

    def __init__(self, of: ClassifierBlock):
        s = of.sentences
        self.of, self.values, self.level = of, of.z, of.level
        self.token = of.index + s.offsets[s.unit_sentence[of.unit]]  # [T], in the sentences' tokens
        self.counted = of.right[of.unit]
        self.items = of.rules.items(s.offsets, s.word)
        self.important, self.seen = np.zeros((2, s.offsets[-1]), bool)
        can_be, self.marked = self.counted & seen(of.block), ~of.above if of.large_is_important else of.above
        self.seen[self.token[can_be]] = True
        self.important[self.token[can_be & self.marked]] = True
        self.may_mask = of.rules.may_mask(s.input_ids, s.offsets, s.word)
        self.sign = -1.0 if of.large_is_important else 1.0

    def importance(self) -> np.ndarray:
        """Return the smallest S(w) of each of the sentences' tokens, float32; it tells by itself what is important.

        But not where a large one of any aspect is.
        """
        of = self.of
        smallest: np.ndarray = self.smallest(of._full() - probability(of.z)).astype(np.float32)
        if of.sentences.is_aspect and of.large_is_important:
            return smallest
        marked = np.zeros(len(smallest), bool)
        marked[self.token[self.counted & self.marked]] = True
        return agreeing(smallest, marked, of.rules.threshold, of.large_is_important)

    def smallest(self, values: np.ndarray) -> np.ndarray:
        """Return the smallest over a sentence's counted units: float64 [T] -> the sentences' tokens, else inf."""
        out = np.full(self.of.sentences.offsets[-1], np.inf)
        np.minimum.at(out, self.token[self.counted], values[self.counted])
        return out

    def ask(self, level: int, chosen: np.ndarray) -> None:
        """See ``Questions.ask``."""
        of = self.of
        is_exact = of.sentences.is_aspect and level == len(of.bounds.levels) - 1
        self.values[chosen] = of.exact_answers(chosen) if is_exact else of.answers(level, chosen)
        self.level[chosen] = level

    def decide(self) -> tuple[np.ndarray, np.ndarray]:
        """See ``Questions.decide``."""
        # a token that the classifier does not see lends no rank to its word
        low, high = (np.where(self.seen, bound, np.inf) for bound in self._rank_bounds())
        rate = self.of.rules.mask_rate
        self.chosen, ambiguous = choose(self.items, self.important, self.may_mask, low, high, rate)
        return self.chosen[self.token], ambiguous[self.token] & self.counted

    def _rank_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what precision allows to be said of the rank values of the sentences' tokens: lowest and highest."""
        of, z, bounds = self.of, self.values, self.of.bounds
        width = np.array(bounds.eps)[self.level]
        if not of.sentences.is_aspect:
            return self.smallest(-self.sign * z - width), self.smallest(-self.sign * z + width)
        full = probability(of.goal.z_full)
        shift = np.where(np.isnan(of.goal.exact), full * (1 - full) * bounds.float32, 0.0)[of.unit]
        ends = [self.sign * (full[of.unit] - probability(z + side * width)) for side in (1, -1)]
        return self.smallest(np.minimum(*ends) - shift), self.smallest(np.maximum(*ends) + shift)
