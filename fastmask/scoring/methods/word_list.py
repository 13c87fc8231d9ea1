"""Method ``word-list``: words like those of a list that a user gives (Lad et al. 2022, "Using Selective Masking as a
Bridge between Pre-training and Fine-tuning").

The **task score** of a word is its largest cosine to a word of the list, by ``--vectors`` or the mean of the model's
input embeddings over the word's pieces. A sentence's words with the highest scores are masked, at most ``--mask-rate``.
``mask_prob`` of a token of a word with task score s is

    min(1, c f(s)),   f(s) = 1 if s >= 0.5, else 0.1    (step)
                             max(0, s)                  (linear)
                             exp(5 s)                   (exponential)

and 0 where there is no score or the token is never masked; c is such that the mean over all tokens of the corpus is
``--mask-rate`` (as near as can be, where so many tokens may not be masked). The paper's constants are not public: 0.5,
0.1 and 5 are ours, and so is the scaling. A word without a vector has no score, but a word of the list has 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.config import SENTIMENT, ScoreConfig
from ...core.errors import InputError
from ...models.directory import ASSETS
from ...text.stop_words import words_in
from ...text.tokens import TextEncoder
from ...text.words import word_form
from ..similar import largest_cosines, vectors_of
from ..words import Counts, WordMethod, WordScorer, WordScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEP_AT, STEP_BELOW, STEEPNESS = 0.5, 0.1, 5.0
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "step": lambda score: np.where(score >= STEP_AT, 1.0, STEP_BELOW),
    "linear": lambda score: np.maximum(score, 0.0),
    "exponential": lambda score: np.exp(STEEPNESS * score),
}


class WordList(WordMethod):
    """Masks words that are like those of a list."""

    importance = "likeness of the word to the nearest one of the list, a cosine"
    gives_probabilities = True
    options = frozenset({"words", "mask_function", "vectors"})
    needs = frozenset({"words"})
    # mask_prob is scaled to what may be masked
    counted_by = frozenset({"mask_rate", "stop_words", "keep_punctuation", "unit"})

    def scorer(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase) -> WordScorer:
        """See ``WordMethod.scorer``."""
        rate = self.rate(config)
        assert rate is not None
        return _Scorer(config, tokenizer, rate)


class _Scorer(WordScorer):
    def __init__(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase, rate: float):
        assert config.words is not None  # it is needed
        path = str(ASSETS / "sentiment_words.txt") if config.words == SENTIMENT else config.words
        self.words = sorted(map(word_form, words_in(path, "words")))
        if not self.words:
            raise InputError(path, None, None, "has no word in it")
        self.function, self.rate = FUNCTIONS[config.mask_function or "linear"], rate
        self.vectors = vectors_of(config, tokenizer)

    def identity(self) -> dict[str, Any]:
        """See ``WordScorer.identity``."""
        return {"words_sha256": hashlib.sha256("\n".join(self.words).encode()).hexdigest(), **self.vectors.identity()}

    def scores(self, counts: Counts, encoder: TextEncoder) -> WordScores:
        """See ``WordScorer.scores``."""
        score = largest_cosines(counts.words, self.words, "the words of --words", self.vectors, encoder)
        weight = np.where(np.isnan(score), 0.0, self.function(np.nan_to_num(score)))
        return WordScores(score, scaled(weight, counts.maskable, self.rate * counts.tokens))


def scaled(weight: np.ndarray, tokens: np.ndarray, wanted: float) -> np.ndarray:
    """Return min(1, c * weight) with c such that sum(tokens * that) is wanted; 1 for all with a weight if none is.

    Args:
        weight: float64 [V], at least 0; tokens: int64 [V].
    """
    has_weight = weight > 0
    if tokens[has_weight].sum() <= wanted:
        return has_weight.astype(np.float64)
    order = np.argsort(-weight, kind="stable")
    heavy, many = weight[order], tokens[order].astype(np.float64)
    # the k heaviest are at 1, and the others share the rest: the first k where none of these goes beyond 1
    at_one = np.append(0.0, np.cumsum(many))[:-1]
    left = np.cumsum((heavy * many)[::-1])[::-1]
    at_one, left, heavy = (values[left > 0] for values in (at_one, left, heavy))
    factor = (wanted - at_one) / left
    first = int(np.argmax(factor * heavy <= 1))
    found: np.ndarray = np.minimum(1.0, factor[first] * weight)
    return found


METHOD = WordList()
