"""Method ``difference``: what makes a corpus differ from other text (Wilf et al. 2023, "Difference-Masking").

**Anchors** are the words of the corpus with the largest TF-ICF (term frequency, inverse corpus frequency): with n_w and
n the counts of a word and of all words in the corpus, b_w and b those in ``--background``,

    TF-ICF_w = n_w / n * log((b + 1) / (b_w + 1))

The score of a word is its largest cosine to an anchor, by ``--vectors`` or the mean of the model's input embeddings
over the word's pieces; a sentence's words with the highest scores are masked, at most ``--mask-rate``. Ours: the
smoothing by 1; 20 anchors (``--anchors``), which the paper chooses for each task; what may be an anchor: a word that
is more frequent here than there, has a letter in it but is not one of a to z alone (the "s" of "'s"), and has a token
that may be masked, so that no stop word is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.config import ScoreConfig
from ...core.errors import FastmaskError
from ...text.documents import read_documents
from ...text.hashed import HashedInputs
from ...text.ragged_tokens import word_numbers
from ...text.repeated import RepeatedPieces
from ...text.streams import STDIN
from ...text.tokens import TextEncoder
from ..policy import Items
from ..similar import largest_cosines, vectors_of
from ..word_types import NO_TEXT
from ..words import Counts, WordMethod, WordScorer, WordScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANCHORS = 20
_MOST_HELD = 1 << 20
"""Characters of background that are held."""
_MOST_COUNTED = 1 << 24
"""Characters of different pieces that are held."""


class Difference(WordMethod):
    """Masks words that are like those that mark the corpus."""

    importance = "likeness of the word to the nearest one that marks the corpus, a cosine"
    options = frozenset({"background", "anchors", "vectors"})
    needs = frozenset({"background"})
    counted_by = frozenset({"stop_words", "keep_punctuation", "unit"})  # an anchor may be masked

    def scorer(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase) -> WordScorer:
        """See ``WordMethod.scorer``."""
        return _Scorer(config, tokenizer)


class _Scorer(WordScorer):
    def __init__(self, config: ScoreConfig, tokenizer: PreTrainedTokenizerBase):
        if STDIN in config.background:
            raise FastmaskError("--background -: standard input is for the corpus; name a file")
        self.config, self.tokenizer, self.inputs = config, tokenizer, HashedInputs(config.background)
        self.vectors = vectors_of(config, tokenizer)

    def identity(self) -> dict[str, Any]:
        """See ``WordScorer.identity``."""
        return {"background_files": self.inputs.entries, **self.vectors.identity()}

    def scores(self, counts: Counts, encoder: TextEncoder) -> WordScores:
        """See ``WordScorer.scores``."""
        there, total = self._background(counts, encoder)
        weight = tf_icf(counts.times, there, total)
        can_be = (counts.maskable > 0) & (counts.times * float(total) > there * float(counts.times.sum()))
        can_be &= np.fromiter(map(_is_word, counts.words), bool, len(counts.words))
        order = sorted(np.flatnonzero(can_be).tolist(), key=lambda v: (-weight[v], counts.words[v]))
        anchors = [counts.words[v] for v in order[: self.config.anchors or ANCHORS]]
        if not anchors:
            raise FastmaskError("--background: no word is more frequent in the corpus than there")
        marks = {counts.words[v]: {"tf_icf": float(weight[v])} for v in order[: len(anchors)]}
        score = largest_cosines(counts.words, anchors, "the anchors", self.vectors, encoder)
        return WordScores(score, more=marks)

    def _background(self, counts: Counts, encoder: TextEncoder) -> tuple[np.ndarray, int]:
        """Return how often each word of the corpus stands in the background, int64 [V], and how many words that has."""
        found, total = np.zeros(len(counts.words), np.int64), 0
        for pieces, repeats in self._pieces():
            tokens = encoder.tokenize(pieces)
            words = Items.of(tokens.offsets, word_numbers(tokens.begins, tokens.offsets))
            kind = counts.types.of(words, tokens.ids)
            times = np.repeat(repeats, np.diff(words.offsets))
            total += int(times[kind != NO_TEXT].sum())
            found += np.bincount(kind[kind >= 0], times[kind >= 0], minlength=len(found)).astype(np.int64)
        self.inputs.check()
        return found, total

    def _pieces(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield pieces of the background and how often each is there, int64 [P]; the same piece several times."""
        config, held, texts = self.config, 0, []
        documents = read_documents(config.background, text_field=config.text_field, encoding=config.encoding,
                                   on_error=config.on_error, max_text_mb=config.max_text_mb,
                                   stamps=self.inputs.stamps)  # fmt: skip
        counted = RepeatedPieces(self.tokenizer.backend_tokenizer)
        for text in (document.text for document in documents):
            texts.append(text)
            held += len(text)
            if held > _MOST_HELD:
                counted.add(texts)
                texts, held = [], 0
                if counted.characters > _MOST_COUNTED:
                    yield counted.pieces, counted.times
                    counted.clear()
        counted.add(texts)
        yield counted.pieces, counted.times


def _is_word(form: str) -> bool:
    return any(map(str.isalpha, form)) and not (len(form) == 1 and form.isascii())


def tf_icf(here: np.ndarray, there: np.ndarray, total: int) -> np.ndarray:
    """Return TF-ICF of words, float64 [V]: int64 [V] counts here and there, and of how many words there."""
    found: np.ndarray = here / max(here.sum(), 1) * np.log((total + 1) / (there + 1))
    return found


METHOD = Difference()
