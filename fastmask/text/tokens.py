"""From sentences to ragged wordpiece ids with character spans."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain, count, islice, pairwise, starmap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..core.arrays import offsets_of
from ..core.errors import InputError
from ..core.labels import ANY_CLASSES, LABEL_FIELD, NO_LABEL, Classes
from ..core.panics import panics_told
from ..core.records import Document, EncodedSentences
from .cuts import Cuts, splits_at_spaces
from .ragged_tokens import NOTHING, Tokens, collect, in_words, lengths_of, word_numbers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH_CHARS = 1 << 18  # bounds the memory of the lists in between
_CACHE_BYTES = 1 << 25
_WORD_BYTES = 96  # what a short word costs as a dictionary key, with its row in the table
_TOKEN_BYTES = 13


class TextEncoder:
    """Encodes texts with a model's tokenizer, without special tokens.

    Args:
        tokenizer: the backend of what ``models.load_tokenizer`` returns, which has truncation and padding off.
        name: the model's, for errors.
    """

    def __init__(self, tokenizer: Tokenizer, name: str = "the model"):
        self._tokenizer, self._name = tokenizer, name
        self._words = _WordTable(tokenizer, name) if splits_at_spaces(tokenizer) else None
        self._cuts = Cuts.of(tokenizer, any_space=bool(self._words))

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Return tokens of the texts; no span begins or ends with whitespace."""
        tokenize = self._words.tokenize if self._words else self._tokenize_batch
        lengths = lengths_of(texts)
        if lengths.max(initial=0) <= self._cuts.least:
            return _end_to_end(tokenize(texts[batch]) for batch in _batches(lengths))
        pieces = np.array([(n, *span) for n, text in enumerate(texts) for span in self._cuts.spans(text)])
        batches = map(pieces.__getitem__, _batches(pieces[:, 2] - pieces[:, 1]))
        tokens = (tokenize([texts[n][start:end] for n, start, end in batch.tolist()]) for batch in batches)
        return _of_texts(_end_to_end(tokens), pieces, len(texts))

    def _tokenize_batch(self, texts: Sequence[str]) -> Tokens:
        with panics_told(self._name):
            tokens = collect(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        return in_words(tokens, texts)

    def encode(
        self,
        documents: Sequence[Document],
        spans: Sequence[np.ndarray | Sequence[tuple[int, int]]],
        *,
        classes: Classes = ANY_CLASSES,
        label_field: str = LABEL_FIELD,
        first_row: int,
        end_row: int,
        skipped: Iterable[str] = (),
        on_error: str = "fail",
    ) -> EncodedSentences:
        """Encode documents cut at ``spans``; an aspect document is one sentence whatever its spans.

        Sentences without a token are left out, and the others keep their numbers.

        Args:
            classes: where the labels are looked up.
            first_row, end_row, skipped: handed on; with ``on_error="skip"`` bad labels add to skipped.

        Raises:
            InputError: a label that is not one of the classes.
        """
        messages = list(skipped)
        rows = []
        for document, document_spans in zip(documents, spans, strict=True):
            try:
                labels = _class_indices(document, classes, label_field)
            except InputError as fault:
                if on_error != "skip":
                    raise
                messages.append(str(fault))
                continue
            if document.aspects is not None:
                document_spans = ((0, len(document.text)),)
            rows.append((document, labels, np.asarray(document_spans, np.int32).reshape(-1, 2)))
        return self._encode_rows(rows, first_row, end_row, tuple(messages))

    def _encode_rows(self, rows: list[tuple], first_row: int, end_row: int, skipped: tuple[str, ...]):
        """Encode rows (document, labels, spans int32 [n, 2]). What is of each sentence is in arrays: there are many."""
        sentences = _Sentences.of([spans for _, _, spans in rows])
        tokens = self._tokenize_rows([document.text for document, _, _ in rows], sentences)
        lengths = np.diff(tokens.offsets)
        has_token = lengths > 0
        number, sentence = sentences.text[has_token], sentences.number[has_token]
        kept = [rows[n] for n in np.unique(number).tolist()]
        has_aspects = any(document.aspects is not None for document, _, _ in kept)
        labels = (NO_LABEL if has_aspects or not labels else labels[0] for _, labels, _ in rows)
        label = np.fromiter(labels, np.int32, len(rows))[number]
        offsets = offsets_of(lengths[has_token])
        return EncodedSentences(
            row=np.fromiter((document.row for document, _, _ in rows), np.int64, len(rows))[number],
            sentence=sentence,
            offsets=offsets,
            input_ids=tokens.ids,
            char_start=tokens.start,
            char_end=tokens.end,
            word=word_numbers(tokens.begins, offsets),
            label=label,
            **(self._aspect_units(kept) if has_aspects else _text_units(label)),
            is_aspect=has_aspects,
            first_row=first_row,
            end_row=end_row,
            skipped=skipped,
        )

    def _tokenize_rows(self, texts: list[str], sentences: _Sentences) -> Tokens:
        """Return tokens of the sentences, those of a text one after the other, in the text's characters.

        They are the whole text's, so that joined sentences read as it does: the space before one is not lost. Under
        BERT's scheme no token has a space or goes beyond a sentence, and sentences are tokenized one by one.
        """
        if self._words:
            batches = _batches(sentences.end - sentences.start)
            tokens = _end_to_end(self.tokenize(sentences.cut(texts, batch)) for batch in batches)
            return _moved(tokens, np.repeat(sentences.start, np.diff(tokens.offsets)))
        is_first = sentences.number == 0
        texts = [texts[n] for n in sentences.text[is_first].tolist()]
        return _divided(self.tokenize(texts), texts, np.where(is_first, 0, sentences.start), np.cumsum(is_first) - 1)

    def _aspect_units(self, rows) -> dict[str, np.ndarray]:
        # rows with aspects have one sentence each
        units = [(n, label) for n, row in enumerate(rows) for label in row[1]]
        terms = self.tokenize([aspect.term for row in rows for aspect in row[0].aspects])
        return {
            "unit_sentence": np.array([sentence for sentence, _ in units], np.int32),
            "unit_label": np.array([label for _, label in units], np.int32),
            "context_offsets": terms.offsets,
            "context_ids": terms.ids,
        }


class _Sentences(NamedTuple):
    """N sentences: int32 [N], the text that each is of, its number in it, and where it starts and ends there."""

    text: np.ndarray
    number: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, spans: Sequence[np.ndarray]) -> _Sentences:
        """Return those of texts with spans int32 [n, 2]."""
        counts = np.fromiter(map(len, spans), np.int64, len(spans))
        text = np.repeat(np.arange(len(spans), dtype=np.int32), counts)
        first = np.repeat((np.cumsum(counts) - counts).astype(np.int32), counts)
        start, end = np.concatenate([np.empty((0, 2), np.int32), *spans]).T
        return cls(text, np.arange(len(text), dtype=np.int32) - first, start, end)

    def cut(self, texts: Sequence[str], these: slice) -> list[str]:
        """Return some of them, out of the texts."""
        columns = (column[these].tolist() for column in (self.text, self.start, self.end))
        return [texts[number][start:end] for number, start, end in zip(*columns, strict=True)]


def _end_to_end(parts: Iterable[Tokens]) -> Tokens:
    parts = iter(parts)
    first, *second = list(islice(parts, 2)) or [NOTHING]
    if not second:
        return first
    # arrays that grow in place: parts and the whole are not there together
    columns = [array(kind) for kind in "iiiib"]
    for part in chain((first, *second), parts):
        for grown, values in zip(columns, (np.diff(part.offsets), *part[1:]), strict=True):
            grown.frombytes(values.astype(grown.typecode).tobytes())
    counts, ids, start, end, begins = map(np.asarray, columns)
    return Tokens(offsets_of(counts), ids, start, end, begins.view(bool))


def _of_texts(tokens: Tokens, pieces: np.ndarray, texts: int) -> Tokens:
    """Return tokens of pieces int64 [P, 3], each (number of its text, start, end), as those of the texts."""
    number, starts, _ = pieces.T
    offsets = tokens.offsets[np.searchsorted(number, np.arange(texts + 1))]
    return _moved(tokens._replace(offsets=offsets), np.repeat(starts.astype(np.int32), np.diff(tokens.offsets)))


def _moved(tokens: Tokens, by: np.ndarray) -> Tokens:
    """Add int32 [T] to the spans of tokens, in place: there are many."""
    for spans in (tokens.start, tokens.end):
        spans += by
    return tokens


def _text_units(label: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "unit_sentence": np.arange(len(label), dtype=np.int32),
        "unit_label": label.copy(),
        "context_offsets": np.zeros(len(label) + 1, np.int64),
        "context_ids": np.empty(0, np.int32),
    }


def _batches(lengths: np.ndarray) -> Iterable[slice]:
    """Yield slices of some texts of int [N] characters: of _BATCH_CHARS together, the first text not counted."""
    bounds = np.flatnonzero(np.diff(np.cumsum(lengths, dtype=np.int64) // _BATCH_CHARS)) + 1
    return starmap(slice, pairwise([0, *bounds.tolist(), len(lengths)]))


def _class_indices(document: Document, classes: Classes, label_field: str) -> list[int]:
    """Return the class of a text, or of each of its aspects; NO_LABEL where there is none."""
    where = document.source, document.line
    if document.aspects is None:
        return [classes.index(document.label, *where, label_field)]
    return [classes.index(aspect.polarity, *where, "aspects") for aspect in document.aspects]


def _divided(tokens: Tokens, texts: list[str], starts: np.ndarray, text: np.ndarray) -> Tokens:
    """Divide texts' tokens among sentences, as ``remap_masks`` does: by where a token's last character lies.

    Args:
        starts, text: int [N], where each sentence begins, and in which text; characters before it are those of the
            sentence before.
    """
    # texts one after the other, with a character between them that belongs to neither
    base = offsets_of(lengths_of(texts) + 1)
    last = np.repeat(base[:-1], np.diff(tokens.offsets))
    last += np.maximum(tokens.end, 1)
    last -= 1
    offsets = np.searchsorted(np.maximum.accumulate(last, out=last), base[text] + starts)
    return tokens._replace(offsets=np.append(offsets, len(last)))


class _WordTable:
    """Tokens of every distinct piece between spaces, so that each is tokenized once.

    Text repeats its words, and looking them up is several times faster than the tokenizer. The table holds
    the ragged tokens of W words. It is emptied when it has grown past a fixed size; no answer depends on it.
    """

    def __init__(self, tokenizer, name: str):
        self._tokenizer, self._name = tokenizer, name
        self._clear()

    def _clear(self) -> None:
        self._index: dict[str, int] = {}
        self._table = NOTHING
        self._bytes = 0

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Return tokens of the texts."""
        joined = " ".join(texts)
        words = joined.split(" ")
        word = self._numbers(words)
        counts = self._table.offsets[word + 1] - self._table.offsets[word]
        ends = np.cumsum(counts)
        source = np.repeat(self._table.offsets[word] - ends + counts, counts) + np.arange(ends[-1])
        word_start = offsets_of(np.fromiter(map(len, words), np.int64, len(words)) + 1)
        text_start = offsets_of(lengths_of(texts) + 1)
        # Each text begins at a word; positions in ``joined`` become positions in the text.
        first_word = np.searchsorted(word_start, text_start)
        offsets = np.append(0, ends)[first_word]
        shift = np.repeat(word_start[:-1], counts) - np.repeat(text_start[:-1], np.diff(offsets))
        start, end = (spans[source] + shift for spans in (self._table.start, self._table.end))
        ids, begins = self._table.ids[source], self._table.begins[source]
        return Tokens(offsets, ids, start.astype(np.int32), end.astype(np.int32), begins)

    def _numbers(self, words: list[str]) -> np.ndarray:
        """Return the table row of each word, int64; unknown words are added."""
        if self._bytes > _CACHE_BYTES:
            self._clear()
        if unknown := list(set(words).difference(self._index)):
            with panics_told(self._name):
                new = in_words(collect(self._tokenizer.encode_batch(unknown, add_special_tokens=False)), unknown)
            self._index.update(zip(unknown, count(len(self._index)), strict=False))
            self._bytes += sum(map(len, unknown)) + _WORD_BYTES * len(unknown) + _TOKEN_BYTES * len(new.ids)
            old = self._table
            offsets = np.append(old.offsets, new.offsets[1:] + old.offsets[-1])
            columns = (np.append(a, b) for a, b in zip(old[1:], new[1:], strict=True))
            self._table = Tokens(offsets, *columns)
        return np.fromiter(map(self._index.__getitem__, words), np.int64, len(words))
