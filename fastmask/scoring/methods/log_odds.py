"""Method ``log-odds``: words that stand in the texts of one class more often than in those of the others.

The log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, "Fightin'
Words"), by which KE-MLM (Kawintiranon and Singh 2021) masks. For a class i and all others j, with y_w the count of word
w and n that of all words, a_w the prior and a_0 its sum:

    delta_w = log((y_w^i + a_w) / (n^i + a_0 - y_w^i - a_w)) - log((y_w^j + a_w) / (n^j + a_0 - y_w^j - a_w))
    z_w     = delta_w / sqrt(1 / (y_w^i + a_w) + 1 / (y_w^j + a_w))

The score of a word is |z_w|, of more than two classes the largest of them, each against the rest. The prior is the
count in the whole corpus, texts without a label included. With ``--labelled`` the classes are those of these texts,
which count for the prior, too. Ours: a word whose score is 0 says nothing and is not masked; a text with aspects
counts once for each that has a label.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.config import ScoreConfig
from ...core.errors import FastmaskError
from ...core.records import EncodedSentences
from ...models.directory import resolve_model
from ...text.frontend import encoded_shards
from ...text.hashed import HashedInputs
from ...text.streams import STDIN
from ...text.tokens import TextEncoder
from ..words import Counts, WordMethod, WordScorer, WordScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LogOdds(WordMethod):
    """Masks the words that tell classes apart."""

    importance = "|z|, how surely one class uses the word more than the others"
    needs_labels = True
    options = frozenset({"labelled"})

    def scorer(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase) -> WordScorer:
        """See ``WordMethod.scorer``."""
        return _Scorer(config, tokenizer)


class _Scorer(WordScorer):
    def __init__(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase):
        if STDIN in config.labelled:
            raise FastmaskError("--labelled -: standard input is for the corpus; name a file")
        self.config, self.tokenizer, self.inputs = config, tokenizer, HashedInputs(config.labelled)

    def labelled(self) -> Generator[EncodedSentences] | None:
        """See ``WordScorer.labelled``."""
        return self._labelled() if self.config.labelled else None

    def _labelled(self) -> Generator[EncodedSentences]:
        encoder = TextEncoder(self.tokenizer.backend_tokenizer, self.tokenizer.name_or_path)
        classes = replace(resolve_model(self.config.model).classes, keep_others=True, drop_none=True)
        for _, shard in encoded_shards(
            self.config.labelled, replace(self.config, labelled=()), encoder, classes, stamps=self.inputs.stamps
        ):
            yield shard
        self.inputs.check()

    def identity(self) -> dict[str, Any]:
        """See ``WordScorer.identity``."""
        return {"labelled_files": self.inputs.entries} if self.config.labelled else {}

    def scores(self, counts: Counts, encoder: TextEncoder) -> WordScores:
        """See ``WordScorer.scores``."""
        by_class, prior = counts.by_class, counts.times.astype(np.float64)
        if len(by_class) < 2:
            found = f"all labels are class {counts.classes[0]}" if len(by_class) else "no text has a label"
            raise FastmaskError(f"--method log-odds: compares the words of classes, but {found}")
        total = by_class.sum(axis=0)
        pairs = by_class[:1] if len(by_class) == 2 else by_class  # of two classes each is the other's rest
        score = np.max([np.abs(z_scores(one, total - one, prior)) for one in pairs], axis=0)
        return WordScores(np.where(score > 0, score, np.nan))


def z_scores(one: np.ndarray, rest: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Return z_w of counts in a class and in the rest, with a prior, float64 [V] each; 0 of one word alone."""
    sides = [(count + prior, (count + prior).sum() - count - prior) for count in (one, rest)]
    with np.errstate(divide="ignore", invalid="ignore"):
        (own, others), (own_rest, others_rest) = sides
        delta = np.log(own / others) - np.log(own_rest / others_rest)
        z: np.ndarray = delta / np.sqrt(1 / own + 1 / own_rest)
    return np.where(np.isfinite(z), z, 0.0)


METHOD = LogOdds()
