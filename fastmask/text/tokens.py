"""Sentences to ragged wordpiece ids with character spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, count, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..core.errors import InputError
from ..core.labels import ANY_CLASSES, LABEL_FIELD, Classes
from ..core.panics import panics_told
from ..core.records import Document, EncodedSentences

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH_CHARS = 1 << 20  # bounds the memory of the lists in between
_GROUP = 1 << 14  # sentences whose texts are there together
_CACHE_BYTES = 1 << 25
_WORD_BYTES = 96  # what a short word costs as a dictionary key, with its row in the table


class Tokens(NamedTuple):
    """Ragged tokens of N texts: offsets int64 [N + 1]; ids, start, end int32 [T], spans in each text."""

    offsets: np.ndarray
    ids: np.ndarray
    start: np.ndarray
    end: np.ndarray


class TextEncoder:
    """Encodes texts with a model's tokenizer, without special tokens.

    Args:
        tokenizer: the backend of what ``models.load_tokenizer`` returns, which has truncation and padding off.
        name: the model's, for errors.
    """

    def __init__(self, tokenizer: Tokenizer, name: str = "the model"):
        self._tokenizer, self._name = tokenizer, name
        self._words = _WordTable(tokenizer, name) if _splits_at_spaces(tokenizer) else None

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokens of the texts; no span begins or ends with whitespace."""
        if not self._words:
            return _end_to_end(map(self._tokenize_batch, _batches(texts)))
        if max(map(len, texts), default=0) <= _BATCH_CHARS:
            return _end_to_end(map(self._words.tokenize, _batches(texts)))
        pieces = [(number, *span) for number, text in enumerate(texts) for span in _pieces(text)]
        tokens = [self._words.tokenize(batch) for batch in _batches([texts[n][start:end] for n, start, end in pieces])]
        return _of_texts(_end_to_end(tokens), pieces, len(texts))

    def _tokenize_batch(self, texts: Sequence[str]) -> Tokens:
        with panics_told(self._name):
            tokens = _collect(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        return _trim_spaces(tokens, texts)

    def encode(
        self,
        documents: Sequence[Document],
        spans: Sequence[Sequence[tuple[int, int]]],
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
            rows += [(document, labels, n, start, end) for n, (start, end) in enumerate(document_spans)]
        return self._encode_rows(rows, first_row, end_row, tuple(messages))

    def _encode_rows(self, rows, first_row: int, end_row: int, skipped: tuple[str, ...]) -> EncodedSentences:
        tokens = self._tokenize_rows(rows)
        lengths = np.diff(tokens.offsets)
        kept = [row for row, length in zip(rows, lengths.tolist(), strict=True) if length]
        lengths = lengths[lengths > 0]
        has_aspects = any(row[0].aspects is not None for row in kept)
        label = np.fromiter((-1 if has_aspects else row[1][0] for row in kept), np.int32, len(kept))
        return EncodedSentences(
            row=np.fromiter((row[0].row for row in kept), np.int64, len(kept)),
            sentence=np.fromiter((row[2] for row in kept), np.int32, len(kept)),
            offsets=_offsets(lengths),
            input_ids=tokens.ids,
            char_start=tokens.start,
            char_end=tokens.end,
            label=label,
            **(self._aspect_units(kept) if has_aspects else _text_units(label)),
            is_aspect=has_aspects,
            first_row=first_row,
            end_row=end_row,
            skipped=skipped,
        )

    def _tokenize_rows(self, rows) -> Tokens:
        """Tokens of the sentences in ``rows``, those of a document one after the other, in the document's characters.

        They are the whole document's, so that joined sentences read as it does: the space before one is not lost. Under
        BERT's scheme no token has a space or goes beyond a sentence, and sentences are tokenized one by one.
        """
        starts = np.fromiter((row[3] for row in rows), np.int32, len(rows))
        if self._words:
            groups = (rows[start : start + _GROUP] for start in range(0, len(rows), _GROUP))
            tokens = _end_to_end(self.tokenize([row[0].text[row[3] : row[4]] for row in group]) for group in groups)
            base = np.repeat(starts, np.diff(tokens.offsets))
            for spans in (tokens.start, tokens.end):  # made here, and large
                spans += base
            return tokens
        is_first = np.fromiter((row[2] == 0 for row in rows), bool, len(rows))
        texts = [row[0].text for row in rows if row[2] == 0]
        return _divided(self.tokenize(texts), texts, np.where(is_first, 0, starts), np.cumsum(is_first) - 1)

    def _aspect_units(self, rows) -> dict[str, np.ndarray]:
        units = [(n, label) for n, row in enumerate(rows) for label in row[1]]
        terms = self.tokenize([aspect.term for row in rows for aspect in row[0].aspects])
        return {
            "unit_sentence": np.array([sentence for sentence, _ in units], np.int32),
            "unit_label": np.array([label for _, label in units], np.int32),
            "context_offsets": terms.offsets,
            "context_ids": terms.ids,
        }


def _end_to_end(parts: Iterable[Tokens]) -> Tokens:
    columns = [list(column) for column in zip(*parts, strict=True)] or [[], [], [], []]
    counts = [np.diff(offsets) for offsets in columns.pop(0)]
    # one column after the other, so that little is there twice
    flat = (np.concatenate([_EMPTY, *columns.pop(0)]) for _ in range(3))
    return Tokens(_offsets(np.concatenate([_EMPTY, *counts])), *flat)


def _pieces(text: str) -> Iterable[tuple[int, int]]:
    """Yield the spans of a text cut at spaces, which are left out, to pieces of some _BATCH_CHARS characters."""
    start = 0
    while len(text) - start > _BATCH_CHARS and (space := text.find(" ", start + _BATCH_CHARS)) >= 0:
        yield start, space
        start = space + 1
    yield start, len(text)


def _of_texts(tokens: Tokens, pieces: Sequence[tuple[int, int, int]], texts: int) -> Tokens:
    """Return tokens of pieces, each (number of its text, start, end), as those of the texts."""
    number, starts, _ = np.array(pieces, np.int64).T
    base = np.repeat(starts.astype(np.int32), np.diff(tokens.offsets))
    offsets = tokens.offsets[np.searchsorted(number, np.arange(texts + 1))]
    return Tokens(offsets, tokens.ids, tokens.start + base, tokens.end + base)


_EMPTY = np.empty(0, np.int32)
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


def _text_units(label: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "unit_sentence": np.arange(len(label), dtype=np.int32),
        "unit_label": label.copy(),
        "context_offsets": np.zeros(len(label) + 1, np.int64),
        "context_ids": _EMPTY,
    }


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _batches(texts: Sequence[str]) -> Iterable[Sequence[str]]:
    bounds, chars = [0], 0
    for number, text in enumerate(texts, 1):
        chars += len(text)
        if chars >= _BATCH_CHARS:
            bounds.append(number)
            chars = 0
    bounds.append(len(texts))
    return (texts[start:end] for start, end in pairwise(bounds) if start < end)


def _class_indices(document: Document, classes: Classes, label_field: str) -> list[int]:
    """The class of a text, or of each of its aspects; NO_LABEL where there is none."""
    where = document.source, document.line
    if document.aspects is None:
        return [classes.index(document.label, *where, label_field)]
    return [classes.index(aspect.polarity, *where, "aspects") for aspect in document.aspects]


def _splits_at_spaces(tokenizer) -> bool:
    """Whether the pieces of a text between spaces can be tokenized one by one: BERT's scheme."""
    from tokenizers import models, normalizers, pre_tokenizers

    normalizer = tokenizer.normalizer
    return (
        isinstance(tokenizer.model, models.WordPiece)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(normalizer, normalizers.BertNormalizer | None)
        and not any(_sees_spaces(token, normalizer) for token in tokenizer.get_added_tokens_decoder().values())
    )


def _sees_spaces(token, normalizer) -> bool:
    """Whether an added token may be found, or not, by what is beyond a space."""
    normal = normalizer.normalize_str(token.content) if token.normalized and normalizer else ""
    return token.lstrip or token.rstrip or token.single_word or any(map(str.isspace, token.content + normal))


def _collect(encodings) -> Tokens:
    offsets = _offsets(np.fromiter(map(len, encodings), np.int64, len(encodings)))
    total = int(offsets[-1])
    ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, total)
    bounds = chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))
    spans = np.fromiter(bounds, np.int32, 2 * total).reshape(-1, 2)
    return Tokens(offsets, ids, spans[:, 0].copy(), spans[:, 1].copy())


def _divided(tokens: Tokens, texts: list[str], starts: np.ndarray, text: np.ndarray) -> Tokens:
    """Divide texts' tokens among sentences, as ``remap_masks`` does: by where a token's last character lies.

    Args:
        starts, text: int [N], where each sentence begins, and in which text; characters before it are those of the
            sentence before.
    """
    # texts one after the other, with a character between them that belongs to neither
    base = _offsets(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    last = np.maximum(tokens.end - 1, 0) + np.repeat(base[:-1], np.diff(tokens.offsets))
    offsets = np.searchsorted(np.maximum.accumulate(last), base[text] + starts)
    return tokens._replace(offsets=np.append(offsets, len(last)))


def _trim_spaces(tokens: Tokens, texts: Sequence[str]) -> Tokens:
    """Byte-level and sentencepiece tokenizers count the space before a word to its first token."""
    characters = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
    is_space = np.isin(characters, _SPACES)
    if not is_space.any():
        return tokens
    is_space = np.append(is_space, False)
    base = _offsets(np.fromiter(map(len, texts), np.int64, len(texts)))[:-1]
    base = np.repeat(base, np.diff(tokens.offsets))
    start, end = tokens.start.copy(), tokens.end.copy()
    # a token may be all spaces, as many as there are: the next other character is looked up
    others = np.flatnonzero(~is_space)
    blank = np.flatnonzero((start < end) & is_space[start + base])
    after = others[np.searchsorted(others, start[blank] + base[blank])] - base[blank]
    start[blank] = np.minimum(after, end[blank])
    blank = np.flatnonzero((start < end) & is_space[end + base - 1])
    before = others[np.searchsorted(others, end[blank] + base[blank]) - 1] + 1 - base[blank]
    end[blank] = np.maximum(before, start[blank])
    return Tokens(tokens.offsets, tokens.ids, start, end)


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
        self._table = Tokens(np.zeros(1, np.int64), _EMPTY, _EMPTY, _EMPTY)
        self._bytes = 0

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        joined = " ".join(texts)
        words = joined.split(" ")
        word = self._numbers(words)
        counts = self._table.offsets[word + 1] - self._table.offsets[word]
        ends = np.cumsum(counts)
        source = np.repeat(self._table.offsets[word] - ends + counts, counts) + np.arange(ends[-1])
        word_start = _offsets(np.fromiter(map(len, words), np.int64, len(words)) + 1)
        text_start = _offsets(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
        # Each text begins at a word; positions in ``joined`` become positions in the text.
        first_word = np.searchsorted(word_start, text_start)
        offsets = np.append(0, ends)[first_word]
        shift = np.repeat(word_start[:-1], counts) - np.repeat(text_start[:-1], np.diff(offsets))
        start, end = (spans[source] + shift for spans in (self._table.start, self._table.end))
        return Tokens(offsets, self._table.ids[source], start.astype(np.int32), end.astype(np.int32))

    def _numbers(self, words: list[str]) -> np.ndarray:
        """Table row of each word, int64; unknown words are added."""
        if self._bytes > _CACHE_BYTES:
            self._clear()
        if unknown := list(set(words).difference(self._index)):
            with panics_told(self._name):
                new = _collect(self._tokenizer.encode_batch(unknown, add_special_tokens=False))
            self._index.update(zip(unknown, count(len(self._index)), strict=False))
            self._bytes += sum(map(len, unknown)) + _WORD_BYTES * len(unknown)
            old = self._table
            offsets = np.append(old.offsets, new.offsets[1:] + old.offsets[-1])
            columns = (np.append(a, b) for a, b in zip(old[1:], new[1:], strict=True))
            self._table = Tokens(offsets, *columns)
        return np.fromiter(map(self._index.__getitem__, words), np.int64, len(words))
