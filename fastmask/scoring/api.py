"""``fastmask.score``: from texts in memory to records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise, tee
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.config import ScoreConfig
from ..core.errors import FastmaskError
from ..core.panics import panics_told
from ..core.plain import Json
from ..core.records import EncodedSentences, ScoredSentences
from ..models.tokenizer import recorded_tokenizer
from ..report.highlight import Sentence, surfaces, tokens_of
from ..text.frontend import encode_texts
from .engine import score_certain
from .scorer import Scorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Text = str | tuple[str, str | int | None]
"""A text, or a text and its label."""
DECODED = 128
"""Tokens that are decoded at a time."""
CONTEXT = 16
"""Tokens before those that are decoded with them: more than a character or a word's mark is made of."""


@dataclass(frozen=True, slots=True, eq=False)
class SentenceRecord:
    """A scored sentence of n tokens, as ``fastmask.score`` yields it.

    Attributes:
        row: number of the text.
        sentence: number of the sentence in it.
        text: the text the spans refer to.
        tokens: the n wordpieces.
        spans: their (start, end) characters in the text.
        importance: float32 [n], S(w), or None where the sentence was not scored.
        mask_index: int32 [m], positions to mask, ascending.
        label: given class, or None.
        predicted: argmax class.
        prob: P(y|s).
        large_is_important: whether a large importance is an important token's; else a small one is.
    """

    row: int
    sentence: int
    text: str
    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    importance: np.ndarray | None
    mask_index: np.ndarray
    label: int | None
    predicted: int | None
    prob: float | None
    large_is_important: bool = False

    def _repr_html_(self) -> str:
        """Return the sentence with its masked tokens marked, for a notebook."""
        words = surfaces(self.text, self.spans)
        large = self.large_is_important
        tokens = tokens_of(words, self.importance, self.mask_index.tolist(), large_is_important=large)
        left_out, masks = len(words) - len(tokens), len(self.mask_index)
        label, predicted = (None if k is None else f"class {k}" for k in (self.label, self.predicted))
        scored = self.importance is not None
        return Sentence(self.row, self.sentence, tokens, left_out, len(words), masks, scored, label, predicted,
                        self.prob).to_html()  # fmt: skip


def score(
    texts: Iterable[Text], model: str | None = None, method: str = "greedy", **options: Any
) -> Iterator[SentenceRecord]:
    """Score texts in memory: one record per sentence, in order.

    Args:
        texts: strings, or (string, label) pairs.
        model: directory or hub id; None is the embedded English sentiment classifier.
        method: one of config.METHODS.
        options: other fields of ScoreConfig.

    Raises:
        FastmaskError: with one line for the user.
    """
    if isinstance(texts, str):
        raise FastmaskError("texts: is one string; give a list of strings")
    return records_of(texts, Scorer(ScoreConfig(model=model, method=method, **options)))


def shard_words(manifest: Json) -> Callable[[list[int]], list[str]]:
    """Return the function from token ids to the text that each adds, by the tokenizer of a run's manifest.

    Raises:
        ModelError: that tokenizer is gone or has changed.
    """
    return partial(added_texts, recorded_tokenizer(manifest["tokenizer"]))


def added_texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """Return what each token adds to the decoded text, a block at a time: a long sentence costs what it holds."""
    words: list[str] = []
    for start in range(0, len(ids), DECODED):
        first, end = max(0, start - CONTEXT), min(start + DECODED, len(ids))
        parts = (ids[first:stop] for stop in range(start, end + 1))
        with panics_told(tokenizer.name_or_path):
            texts = [tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in parts]
        # bytes that are no whole character yet are decoded to a replacement, which the next token takes back
        whole = [text.rstrip("\ufffd") for text in texts]
        whole[-1] = texts[-1] if end == len(ids) else whole[-1]
        words += [after[len(before) :] for before, after in pairwise(whole)]
    return words


def records_of(texts: Iterable[Text], scorer: Scorer) -> Iterator[SentenceRecord]:
    """Score texts with a model that is loaded; see ``score``."""
    texts, bounds = iter(texts), None
    if scorer.reads_corpus:
        texts, again = tee(texts)
        scorer.prepare(scorer.statistics(shard for _, shard in _encoded(again, scorer)))
    for batch, shard in _encoded(texts, scorer):
        plain = [item if isinstance(item, str) else item[0] for item in batch]
        if bounds and bounds.levels != scorer.engine.levels:  # there were too few sentences to begin at the cheapest
            bounds = None
        scored, bounds = score_certain(scorer.engine, shard, bounds)
        yield from _unpack(scored, plain, scorer.tokenizer, scorer.method.large_is_important)


def _encoded(texts: Iterator[Text], scorer: Scorer) -> Iterator[tuple[list[Text], EncodedSentences]]:
    """Yield as many texts as a shard holds at a time, and their sentences."""
    config, first = scorer.config, 0
    while batch := list(islice(texts, config.shard_rows)):
        for number, text in enumerate(batch, first):
            if not isinstance(text[0] if isinstance(text, tuple | list) and len(text) == 2 else text, str):
                raise FastmaskError(f"texts: number {number} is {text!r:.100}; give strings or (string, label) pairs")
        yield (
            batch,
            encode_texts(
                batch,
                scorer.encoder,
                segment=config.segment,
                language=config.language,
                classes=scorer.classes,
                first_row=first,
            ),
        )
        first += len(batch)


def _unpack(
    scored: ScoredSentences, texts: list[str], tokenizer: PreTrainedTokenizerBase, large_is_important: bool
) -> Iterator[SentenceRecord]:
    s = scored.sentences
    for n in range(len(s)):
        at = slice(s.offsets[n], s.offsets[n + 1])
        row = int(s.row[n])
        yield SentenceRecord(
            row=row,
            sentence=int(s.sentence[n]),
            text=texts[row - s.first_row],
            tokens=tuple(tokenizer.convert_ids_to_tokens(s.input_ids[at].tolist())),
            spans=tuple(zip(s.char_start[at].tolist(), s.char_end[at].tolist(), strict=True)),
            importance=scored.importance[at] if scored.scored[n] else None,
            mask_index=scored.mask_index[scored.mask_offsets[n] : scored.mask_offsets[n + 1]],
            label=_known(s.label[n]),
            predicted=_known(scored.predicted[n]),
            prob=None if np.isnan(scored.prob[n]) else float(scored.prob[n]),
            large_is_important=large_is_important,
        )


def _known(index: np.int32) -> int | None:
    return None if index < 0 else int(index)
