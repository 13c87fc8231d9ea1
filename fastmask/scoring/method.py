"""The protocol of methods, the ways to choose masks; the rest of scoring knows them by this alone. See ``methods/``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from ..core.config import METHODS, SPECIAL_OPTIONS, ScoreConfig, demand
from ..core.errors import FastmaskError
from ..core.plain import Json
from ..core.records import EncodedSentences, ScoredSentences
from ..core.words import counted
from ..models.decoded_words import unmaskable
from ..models.pieces import Finder, not_masked
from ..models.punctuation import Punctuation
from ..models.weights import CLASSIFIER
from ..shards.reader import setting
from ..text.stop_words import stop_words
from .cascade import Bounds, Evidence
from .policy import Items

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..models.module_encoder import ModuleEncoder
    from ..text.tokens import TextEncoder
    from .asking import Asker
    from .backend import Backend
    from .blocks import SentenceBlock

# Share of certain decisions that are recomputed at the next precision.
AUDIT_SHARE = 1 / 256
Progress = Callable[[float, int], None]
"""Called with (share of the shard, real tokens) after each block, from any thread."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide masks, besides the model.

    Attributes:
        threshold: d.
        mask_rate: None, or the cap's rate.
        never_masked: what finds them, see ``pieces.not_masked``.
        certify: whether the cascade runs.
        seed: of the audit sample.
        by_word: whether whole words are masked.
    """

    threshold: float
    mask_rate: float | None
    never_masked: np.ndarray | Finder
    certify: bool
    seed: int
    by_word: bool = False

    def items(self, offsets: np.ndarray, word: np.ndarray) -> Items:
        """Return what is masked as one in sentences int64 [S + 1] with words int32 [T]."""
        return Items.of(offsets, word if self.by_word else None)

    def may_mask(self, input_ids: np.ndarray, offsets: np.ndarray, word: np.ndarray) -> np.ndarray:
        """Return bool [T]: which tokens int32 [T], of sentences int64 [S + 1] and words int32 [T], are ever masked."""
        return ~not_masked(self.never_masked, input_ids, offsets, word)


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


class Stored(NamedTuple):
    """What finished shards tell of S sentences with T tokens, to choose other masks by.

    Attributes:
        offsets: int64 [S + 1]; input_ids, importance: int32, float64 [T].
        prob: float64 [S], NaN where there is none; scored, is_aspect: bool [S].
        seen: bool [T], tokens that the model may have seen.
        decided: bool [T], tokens that decided masks of the run, themselves or of their words.
        bounds: error bounds of the run.
    """

    offsets: np.ndarray
    input_ids: np.ndarray
    importance: np.ndarray
    prob: np.ndarray
    scored: np.ndarray
    is_aspect: np.ndarray
    seen: np.ndarray
    decided: np.ndarray
    bounds: Bounds


class Known(NamedTuple):
    """What is known of S sentences with T tokens, each without aspects, before a model is asked.

    Attributes:
        importance: float64 [T]; prob: float64 [S].
        decided: whether the importances tell the decisions at the threshold that is in force.
    """

    importance: np.ndarray
    prob: np.ndarray
    decided: bool


class Recalled(NamedTuple):
    """What decides masks, as far as stored scores tell; see ``policy.choose``.

    Attributes:
        important, in_doubt: bool [T]; low, high: float64 [T].
        same: int64 [T], equal where two tokens of a sentence have the very same rank.
    """

    important: np.ndarray
    in_doubt: np.ndarray
    low: np.ndarray
    high: np.ndarray
    same: np.ndarray


class ShardScorer(Protocol):
    """Makes scores and masks of shards: each a function of its sentences, the bounds and the configuration."""

    levels: tuple[str, ...]
    """Precisions of the cascade, cheapest first; none where no model is asked."""

    @property
    def remark(self) -> str | None:
        """Return a line for the user, or None."""
        ...

    def calibrate(self, shards: Iterator[EncodedSentences]) -> Bounds | None:
        """Return the run's error bounds, from the first shards of its corpus; None where nothing has any."""
        ...

    def score(self, shard: EncodedSentences, bounds: Bounds | None) -> ScoredSentences:
        """Return a shard's scores and masks, and in its certificate what speaks against the bounds, if anything."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what decides the masks besides model, tokenizer, texts and configuration, for the manifest."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what runs, for the manifest."""
        ...

    def stop(self) -> None:
        """End running ``score`` calls soon, with Stopped."""
        ...


@runtime_checkable
class CorpusScorer(ShardScorer, Protocol):
    """A ``ShardScorer`` whose shards follow from statistics of the whole corpus, too."""

    def statistics(self, shards: Iterator[EncodedSentences], encoder: TextEncoder) -> bytes:
        """Return the statistics of a corpus, lines of JSON, from all its shards in order, and what encoded these.

        Raises:
            FastmaskError: there is nothing in the corpus that the method could go by.
        """
        ...

    def prepare(self, statistics: bytes) -> None:
        """Take the statistics that ``score`` goes by from now on."""
        ...


class Method:
    """A way to choose masks. A subclass is one file in ``methods/``, which names it ``METHOD``.

    Attributes:
        asks_model: whether a model decides; else its tokenizer alone is used.
        task: its model's, one of ``weights``' three.
        encoder: what it asks its model with, where that is a module of transformers; None for what is fastest.
        has_default_model: whether the embedded classifier serves where no model is named.
        keeps_other_labels: whether labels that are no classes of the model are kept as they are.
        needs_labels: whether it goes by labels alone, so that one that is neither a class nor a number is refused.
        reads_units: whether labels and aspects play a part; else texts are read alone.
        is_control: whether it chooses at random, so that a control of it would be another one.
        importance: what the importance of a token is, in words.
        large_is_important: whether a large importance is an important token's; else a small one is.
        ranks_by_importance: whether it masks what has the largest importance, whatever that is.
        gives_probabilities: whether its shards have a ``mask_prob``, to draw masks by.
        fixed_threshold: why stored scores cannot be decided by another threshold, in words; "" where they can.
        default_rate: the rate cap where none is given; None is no cap.
        options: fields of ScoreConfig that have a meaning for it, of those that mean nothing to others.
        needs: which of these must be given.
        uses_known: whether it has ``rescore``, which asks about single tokens; else ``score`` asks about all of them.
        counted_by: settings that statistics of a corpus follow from, besides the corpus and what they are made of.
    """

    asks_model = True
    task = CLASSIFIER
    encoder: type[ModuleEncoder] | None = None
    has_default_model = True
    keeps_other_labels = False
    needs_labels = False
    reads_units = True
    is_control = False
    importance = ""
    large_is_important = False
    ranks_by_importance = False
    gives_probabilities = False
    fixed_threshold = "means nothing to this method, which has a rate and no threshold"
    default_rate: float | None = None
    options: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    uses_known = False
    counted_by: frozenset[str] = frozenset()

    def rate(self, config: ScoreConfig) -> float | None:
        """Return the rate cap in force."""
        return self.default_rate if config.mask_rate is None else config.mask_rate

    def reading(self, config: ScoreConfig) -> str:
        """Return how to read the importances of a run, in words; "" where there are none."""
        if not self.importance:
            return ""
        rate = self.rate(config)
        if self.default_rate is not None:
            rule = f"the larger, the more important: the best {rate:.0%} of a sentence are masked"
        elif self.large_is_important:
            rule = f"a large one is important: from {config.threshold} on a token is masked"
        else:
            rule = f"a small one is important: below {config.threshold} a token is masked"
        return f"importance: {self.importance}; {rule}"

    def without_model(
        self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> ShardScorer | None:
        """Return what scores shards where no model is asked; else None."""
        return None

    def from_statistics(
        self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> ShardScorer | None:
        """Return ``without_model`` for statistics that are there: what these were made of is not looked at."""
        return self.without_model(config, tokenizer, progress)

    def fastest(self, backend: Backend) -> str:
        """Return the precision that a cascade begins with."""
        return backend.fastest

    def pair(
        self, block: SentenceBlock, ask: Asker, level: int, rules: Rules, whole_units: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return answers of a level and of the next one, float64 [V] each, as decisions compare them.

        Args:
            whole_units: int32 [U], of these units as a whole; None: of all that is asked about all of them.
        """
        raise NotImplementedError

    def score(self, block: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules) -> BlockScores:
        """Score and decide one block; called from several threads."""
        raise NotImplementedError

    def rescore(self, block: SentenceBlock, ask: Asker, bounds: Bounds, rules: Rules, known: Known) -> BlockScores:
        """Score and decide one block as ``score`` does, but ask about nothing that known scores tell.

        Known scores are answers of the first level, as far as the numbers of a shard can be.
        """
        raise NotImplementedError

    def recall(self, stored: Stored, threshold: float, was: float) -> Recalled:
        """Return what decides masks at a threshold, from scores that were made with another, or the same.

        Raises:
            FastmaskError: stored scores do not tell.
        """
        if not self.ranks_by_importance:
            raise FastmaskError("masks of this method do not follow from stored scores; score again")
        important = np.repeat(stored.scored, np.diff(stored.offsets)) & stored.seen
        error = stored.bounds.eps[0] + np.abs(stored.importance) * 2.0**-24  # what float32 may change of it
        value = np.where(important, -stored.importance, np.inf)
        never, each = np.zeros(len(value), bool), np.arange(len(value))
        return Recalled(important, never, value - error, value + error, each)


def never_masked(config: ScoreConfig, tokenizer: PreTrainedTokenizerBase) -> np.ndarray | Finder:
    """Return what finds the tokens that a run never masks: special ones, stop words, punctuation if it is kept."""
    words = stop_words(config.stop_words, config.language)
    found = unmaskable(tokenizer, words, config.language, config.unit == "word")
    return Punctuation(tokenizer, found) if config.keep_punctuation else found


def method_named(name: str) -> Method:
    """Return the method that is called so.

    Raises:
        FastmaskError: there is none; a run of another version may have had it.
    """
    demand(name in METHODS, f"method {name}", f"choose one of {', '.join(METHODS)}")
    method: Method = import_module(f".methods.{METHODS[name]}", __package__).METHOD
    return method


def load_method(config: ScoreConfig) -> Method:
    """Return the method that a configuration names.

    Raises:
        FastmaskError: the configuration has an option that means nothing to it, or lacks one.
    """
    method = method_named(config.method)
    named = f"--method {config.method}"
    demand(method.has_default_model or config.model is not None, named, "name its model by --model")
    for option, default in SPECIAL_OPTIONS.items():
        value, flag = getattr(config, option), f"--{option.replace('_', '-')}"
        demand(value == default or option in method.options, f"{flag} {value}", f"means nothing to {named}")
        demand(value != default or option not in method.needs, named, f"give {flag}")
    return method


def label_warnings(out: str, manifest: Json) -> Iterator[str]:
    """Yield a line if nine in ten labelled sentences are misclassified, where labels are classes of the model."""
    labelled, wrong = (sum(entry.get(key, 0) for entry in manifest["shards"]) for key in ("labelled", "misclassified"))
    mostly_wrong = labelled and 10 * wrong >= 9 * labelled
    if mostly_wrong and not method_named(setting(manifest, "method")).keeps_other_labels:  # imported only then
        total = counted(labelled, "labelled sentence")
        yield (f"{out}: misclassified, and so without masks: {wrong:,} of {total}; labels and classes "
               "probably do not match")  # fmt: skip


def audit_sample(key: np.ndarray, indices: np.ndarray, seed: int) -> np.ndarray:
    """Return bool [V]: a sample of AUDIT_SHARE that depends on seed, unit (key uint64 [V]) and position (int32 [V])."""
    mixed = (key ^ np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ indices.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(32)) < np.uint64(AUDIT_SHARE * 2**32)
