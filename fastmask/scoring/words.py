"""What the methods that go by words share: counts of word types in a corpus, and masks from a score for each."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core.config import DEFAULT_RATE, ScoreConfig
from ..core.errors import FastmaskError
from ..core.records import EncodedSentences, ScoredSentences
from ..text.tokens import TextEncoder
from .cascade import Bounds
from .method import Method, Progress, Rules, never_masked
from .policy import Items, choose, ragged_positions
from .word_types import WordTypes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TYPES = 1 << 19
"""Word types that are counted; when there are more, the rarer half is forgotten."""
MOST_CLASSES = 100
_TOGETHER = 4096
"""Lines of statistics that are parsed together."""


class Counts(NamedTuple):
    """What is counted of a corpus with V word types.

    Attributes:
        words: the types; types: finds them.
        times: int64 [V], how often each stands there.
        maskable: int64 [V], how many of its tokens may be masked.
        by_class: float64 [K, V], how often in sentences of each class; of aspects, one for each.
        classes: the K classes, ascending.
        tokens: of the corpus.
    """

    words: list[str]
    types: WordTypes
    times: np.ndarray
    maskable: np.ndarray
    by_class: np.ndarray
    classes: list[int]
    tokens: int


class Counting:
    """Counts the words of shards, one after the other.

    Args:
        tokenizer: of their tokens.
        rules: which tokens may be masked.
        most: types that are counted; when there are more, the rarer half is forgotten.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rules: Rules, most: int = MOST_TYPES):
        self.types, self._rules, self._most, self.tokens = WordTypes(tokenizer, {}, True), rules, most, 0
        self._rows = {"count": np.zeros(0), "maskable": np.zeros(0)}
        self._classes: dict[int, np.ndarray] = {}

    def add(self, shard: EncodedSentences) -> None:
        """Count a shard's words."""
        words = Items.of(shard.offsets, shard.word)
        kind = self.types.of(words, shard.input_ids)
        may_mask = self._rules.may_mask(shard.input_ids, shard.offsets, shard.word)
        self.tokens += len(shard.input_ids)
        self._rows["count"] = self._sum(self._rows["count"], kind, None)
        self._rows["maskable"] = self._sum(self._rows["maskable"], kind[words.of_token[may_mask]], None)
        sentence = np.repeat(np.arange(len(shard)), np.diff(words.offsets))
        for label in np.unique(shard.unit_label[shard.unit_label >= 0]).tolist():
            times = np.bincount(shard.unit_sentence[shard.unit_label == label], minlength=len(shard))
            before = self._classes.get(label, np.zeros(0))
            self._classes[label] = self._sum(before, kind, times[sentence])
        if len(self._classes) > MOST_CLASSES:
            raise FastmaskError(f"the labels have more than {MOST_CLASSES} classes; words are compared by fewer")
        if len(self.types.index) > self._most:
            self._forget()

    def _sum(self, before: np.ndarray, kind: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """Add to the sums of each type, float64, which whole numbers up to 2**53 are exact in."""
        known = kind >= 0
        size = len(self.types.index)
        added = np.bincount(kind[known], None if weights is None else weights[known], minlength=size)
        found: np.ndarray = added + np.pad(before, (0, size - len(before)))
        return found

    def _forget(self) -> None:
        """Keep the more frequent half; of those that are as frequent, what was met first."""
        kept = np.sort(np.argsort(-self._rows["count"], kind="stable")[: self._most // 2])
        words = list(self.types.index)
        self.types.index.clear()
        self.types.index.update((words[k], number) for number, k in enumerate(kept.tolist()))
        self.types.forget()
        for rows in (self._rows, self._classes):
            for name, row in rows.items():
                rows[name] = np.pad(row, (0, len(words) - len(row)))[kept]  # type: ignore[index]

    def counts(self) -> Counts:
        """Return what was counted by now."""
        size, classes = len(self.types.index), sorted(self._classes)
        rows = (np.pad(self._classes[one], (0, size - len(self._classes[one]))) for one in classes)
        by_class = np.array([*rows]).reshape(len(classes), size)
        times, maskable = (self._rows[name].astype(np.int64) for name in ("count", "maskable"))
        return Counts(list(self.types.index), self.types, times, maskable, by_class, classes, self.tokens)


@dataclass(frozen=True, slots=True)
class WordScores:
    """Scores of V word types, float64 [V]; NaN for a word that is never masked by them.

    Attributes:
        score: large is important.
        mask_prob: the probability to mask each token of the type; None where the method gives none.
        more: what else the statistics say of some words, by text.
    """

    score: np.ndarray
    mask_prob: np.ndarray | None = None
    more: dict[str, dict[str, Any]] | None = None

    def lines(self, counts: Counts) -> bytes:
        """Return them as lines of JSON, the highest score first: what the plan keeps."""
        words, more, encode = counts.words, self.more or {}, json.JSONEncoder(ensure_ascii=False).encode
        columns = {"score": self.score} | ({} if self.mask_prob is None else {"mask_prob": self.mask_prob})
        numbers = [["null" if x != x else repr(x) for x in one.astype(np.float32).tolist()] for one in columns.values()]
        added = (f", {encode(more[word])[1:-1]}" if word in more else "" for word in words)
        line = '{"word": %s, "count": %d' + "".join(f', "{name}": %s' for name in columns) + "%s}\n"
        lines = [line % row for row in zip(map(encode, words), counts.times.tolist(), *numbers, added, strict=True)]
        by_word = np.array(sorted(range(len(words)), key=words.__getitem__), np.int64)
        order = np.argsort(np.where(np.isnan(self.score), np.inf, -self.score)[by_word], kind="stable")
        return "".join(map(lines.__getitem__, by_word[order].tolist())).encode("utf-8", "surrogatepass")


class WordScorer:
    """Turns counts of a corpus into scores of its words: what a method that goes by words has of its own."""

    def scores(self, counts: Counts, encoder: TextEncoder) -> WordScores:
        """Return the scores of the words counted.

        Args:
            encoder: of the corpus; what it knows is not tokenized again.

        Raises:
            FastmaskError: the corpus or a file has not what is needed.
        """
        raise NotImplementedError

    def labelled(self) -> Generator[EncodedSentences] | None:
        """Return texts that are counted before the corpus, and whose labels count instead of its own; None: these do.

        Raises:
            InputError: while they are read.
        """
        return None

    def identity(self) -> dict[str, Any]:
        """Return hashes of what else decides the scores."""
        return {}


class WordMethod(Method):
    """A method that scores words: a sentence's best ones are masked, at most its rate."""

    asks_model = False
    keeps_other_labels = True
    large_is_important = True
    default_rate = DEFAULT_RATE

    def without_model(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase, progress: Progress) -> WordMasks:
        """See ``Method.without_model``."""
        rules = rules_of(config, tokenizer, self.rate(config))
        return WordMasks(self.scorer(config, tokenizer), tokenizer, rules, progress)

    def from_statistics(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase, progress: Progress) -> WordMasks:
        """See ``Method.from_statistics``."""
        return WordMasks(WordScorer(), tokenizer, rules_of(config, tokenizer, self.rate(config)), progress)

    def scorer(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase) -> WordScorer:
        """Return what scores words."""
        raise NotImplementedError


def rules_of(config: ScoreConfig, tokenizer: PreTrainedTokenizerBase, rate: float | None) -> Rules:
    """Return the rules of a method without a model."""
    never = never_masked(config, tokenizer)
    return Rules(config.threshold, rate, never, config.certify, config.seed, config.unit == "word")


class WordMasks:
    """Masks shards by scores of their words; a ``CorpusScorer``.

    Args:
        scorer: see ``WordScorer``.
        tokenizer: of the tokens.
        rules: what is masked as one and what never, and the rate.
        progress: see ``method.Progress``.
    """

    remark = None
    levels: tuple[str, ...] = ()

    def __init__(self, scorer: WordScorer, tokenizer: PreTrainedTokenizerBase, rules: Rules, progress: Progress):
        self.scorer, self.tokenizer, self.rules, self.progress = scorer, tokenizer, rules, progress
        self.types = WordTypes(tokenizer, {}, False)

    def calibrate(self, shards: Iterator[EncodedSentences]) -> None:
        """Return None: there are no errors to bound."""

    def statistics(self, shards: Iterator[EncodedSentences], encoder: TextEncoder) -> bytes:
        """See ``CorpusScorer.statistics``: a line of JSON a word type."""
        counting, labelled = Counting(self.tokenizer, self.rules), self.scorer.labelled()
        if labelled:
            with closing(labelled):
                for shard in labelled:
                    counting.add(shard)
            shards = (replace(shard, unit_label=np.full_like(shard.unit_label, -1)) for shard in shards)
        for shard in shards:
            counting.add(shard)
        self.types, counts = counting.types, counting.counts()
        self.types.grows = False
        return self.scorer.scores(counts, encoder).lines(counts)

    def prepare(self, statistics: bytes) -> None:
        """See ``CorpusScorer.prepare``."""
        index: dict[str, int] = {}
        score: list[float | None] = []
        prob: list[float | None] = []
        lines = statistics.splitlines()
        for first in range(0, len(lines), _TOGETHER):
            for row in json.loads(b"[%s]" % b",".join(lines[first : first + _TOGETHER])):
                index[row["word"]] = len(score)
                score.append(row["score"])
                prob.append(row.get("mask_prob", -1.0))
        # the last ones are those of words without a type: UNKNOWN and NO_TEXT count from the end
        self.word_score = np.array([*score, None, None], np.float64)
        self.word_prob = np.array([*prob, None, None], np.float64) if -1.0 not in prob else None
        self.types.renumber(index)

    def score(self, shard: EncodedSentences, bounds: Bounds | None) -> ScoredSentences:
        """Return the scores and masks of a shard."""
        words = Items.of(shard.offsets, shard.word)
        kind = self.types.of(words, shard.input_ids)[words.of_token]
        may_mask = self.rules.may_mask(shard.input_ids, shard.offsets, shard.word)
        score, n = self.word_score[kind], len(shard)
        has_one = ~np.isnan(score)
        rank = np.where(has_one, -score, np.inf)
        items = self.rules.items(shard.offsets, shard.word)
        chosen, _ = choose(items, has_one, may_mask, rank, rank, self.rules.mask_rate)
        self.progress(1.0, len(shard.input_ids))
        prob = None
        if self.word_prob is not None:
            prob = np.where(may_mask & has_one, self.word_prob[kind], 0.0).astype(np.float32)
        return ScoredSentences(
            shard,
            np.full(n, -1, np.int32),
            np.full(n, np.nan, np.float32),
            np.where(has_one, score, 0.0).astype(np.float32),
            np.ones(n, bool),
            *ragged_positions(shard.offsets, chosen),
            mask_prob=prob,
        )

    def identity(self) -> dict[str, Any]:
        """See ``ShardScorer.identity``."""
        return {"like": None, **self.scorer.identity()}

    def describe(self) -> dict[str, Any]:
        """See ``ShardScorer.describe``."""
        return {"device": "cpu", "kernels": "none"}

    def stop(self) -> None:
        """Do nothing: a shard takes a moment."""
