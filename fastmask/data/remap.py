"""Masks of finished shards for another tokenizer, through the character spans of the masked tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.config import MAX_TEXT_MB
from ..core.errors import FastmaskError, ModelError
from ..core.labels import LABEL_FIELD
from ..core.panics import panics_told
from ..core.plain import Json
from ..core.words import counted
from ..models.pieces import special_ids_in_text
from ..models.punctuation import Punctuation
from ..shards.reader import ShardSet, open_shards, setting
from ..text.documents import read_rows
from ..text.hashed import HashedInputs, inputs_again
from ..text.ragged_tokens import Tokens, collect, in_words, word_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENTS = 512
"""Documents that are tokenised at a time."""
KEPT = ("row", "sentence", "label", "predicted", "prob", "id")
"""Columns that another tokenizer leaves as they are, the last one where it is there."""
SPANS = ("char_start", "char_end")
FROM_PYTHON = "; remap_masks takes the texts from Python"


def remap_masks(
    shards: str | Path | ShardSet, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the shards' sentences in another tokenizer's tokens, of which each that shares a character is masked.

    A document is tokenised whole. A token belongs to the sentence in which its last character lies; characters between
    two sentences belong to the first. Tokens of no width (some tokenizers make them) go with the token before and are
    never masked, nor are special tokens that stand in a text. Where the shards mask whole words, words of the other
    tokenizer are masked whole, with such tokens, but without punctuation where the shards keep that. Everything is
    streamed, in the order of the shards.

    Args:
        shards: a finished directory.
        tokenizer: a fast one of transformers.
        texts: the documents, one for each row number from 0 on; None reads the shards' inputs again.

    Yields:
        One dictionary per sentence with the shards' columns, as ``SelectiveMaskCollator`` takes it: ``input_ids``,
        ``char_start``, ``char_end``, ``word`` int32 [n]; ``mask_index`` int32 [m] ascending; ``importance`` float32 [n]
        or None: that of the first token that shares a character, of the first masked one if there is any, NaN without
        one; ``mask_prob`` likewise, 0 without one.

    Raises:
        ModelError: the tokenizer gives no character positions.
        InputError: an input is gone or has changed, or was standard input.
        FastmaskError: ``texts`` end too early, or a text is shorter than its masks say.
        OutputError: the shards are unfinished or damaged.
    """
    if not getattr(tokenizer, "is_fast", False):
        name = getattr(tokenizer, "name_or_path", tokenizer)
        raise ModelError(f"{name}: is not a fast tokenizer of transformers, so it gives no character positions")
    opened = shards if isinstance(shards, ShardSet) else open_shards(shards)
    rows, target = (row for batch in opened.batches() for row in batch.to_pylist()), Target(tokenizer, opened.manifest)
    if texts is not None:
        return remapped(rows, enumerate(texts), target)
    inputs = inputs_again(opened.manifest, FROM_PYTHON)
    return _checked(remapped(rows, texts_again(opened.manifest, inputs), target), inputs)


def _checked(sentences: Iterator[dict[str, Any]], inputs: HashedInputs) -> Iterator[dict[str, Any]]:
    yield from sentences
    inputs.check()


class Target:
    """The tokenizer that masks are made for, and how they are: as the shards' own, of this manifest.

    Attributes:
        tokenizer: a fast one.
        by_word: whether whole words are masked.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, manifest: Json):
        config = manifest["config"]
        self.tokenizer, self.by_word = tokenizer, config.get("unit") == "word"
        self._special = special_ids_in_text(tokenizer)
        self._punctuation = Punctuation(tokenizer) if config.get("keep_punctuation") else None

    def may_mask(self, tokens: Tokens) -> np.ndarray:
        """Return bool [n]: which tokens of a document are not special, and no punctuation where that is kept."""
        allowed = ~np.isin(tokens.ids, self._special)
        return allowed & ~self._punctuation.among(tokens.ids, tokens.offsets) if self._punctuation else allowed


def remapped(
    rows: Iterable[dict[str, Any]], texts: Iterator[tuple[int, str]], target: Target
) -> Iterator[dict[str, Any]]:
    """Yield whole documents' rows in another tokenizer's tokens, as ``remap_masks`` does.

    Args:
        rows: dictionaries with all columns, a document's together.
        texts: (row number, text), also of other documents, in the same order; what is not needed yet is left in it.
    """
    by_document = ((row, list(sentences)) for row, sentences in groupby(rows, key=lambda sentence: sentence["row"]))
    documents, tokenizer = _with_text(by_document, texts), target.tokenizer
    while batch := list(islice(documents, DOCUMENTS)):
        with panics_told(tokenizer.name_or_path):
            encoded = tokenizer(
                [text for text, _ in batch],
                add_special_tokens=False,
                truncation=False,
                return_attention_mask=False,
                return_offsets_mapping=True,
                verbose=False,  # documents longer than the model's inputs are as they should be
            )
        tokens = collect(encoded.encodings)
        tokens = tokens._replace(begins=in_words(tokens, [text for text, _ in batch]).begins)
        for (_, sentences), (start, end) in zip(batch, pairwise(tokens.offsets.tolist()), strict=True):
            own = Tokens(tokens.offsets, *(column[start:end] for column in tokens[1:]))
            yield from _one_document(sentences, own, target)


def covered(start: np.ndarray, end: np.ndarray, mask_start: np.ndarray, mask_end: np.ndarray) -> np.ndarray:
    """Return which spans share a character with any of the masked ones, bool [n].

    Args:
        start, end: int [n], half-open spans in any order.
        mask_start, mask_end: int [m], the same.
    """
    if not len(start) or not len(mask_start):
        return np.zeros(len(start), bool)
    length = max(int(end.max()), int(mask_end.max())) + 1
    # how many masks begin and end at each character; their running sum is how many lie on it
    depth = np.bincount(mask_start, minlength=length) - np.bincount(mask_end, minlength=length)
    before = np.concatenate([[0], np.cumsum(np.cumsum(depth) > 0)])
    shares: np.ndarray = (end > start) & (before[np.maximum(end, start)] > before[start])
    return shares


def texts_again(manifest: Json, inputs: HashedInputs) -> Iterator[tuple[int, str]]:
    """Return (row, text) of the documents that the shards were made from."""
    config = manifest["config"]
    fields = {name: setting(manifest, name) for name in ("text_field", "label_field", "encoding", "on_error")}
    if config.get("labelled"):  # the field is theirs
        fields["label_field"] = LABEL_FIELD
    # what was not skipped was let through
    fields["max_text_mb"] = config.get("max_text_mb", MAX_TEXT_MB) if fields["on_error"] == "skip" else 0
    rows = read_rows([entry["name"] for entry in inputs.entries], stamps=inputs.stamps, **fields)
    return ((document.row, document.text) for document in rows if document is not None)


def _with_text(
    documents: Iterator[tuple[int, list[dict[str, Any]]]], texts: Iterator[tuple[int, str]]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for row, sentences in documents:
        text = next((text for number, text in texts if number == row), None)
        if text is None:
            raise FastmaskError(f"row {row}: there is no text for it")
        end = max((max(sentence["char_end"]) for sentence in sentences if sentence["char_end"]), default=0)
        if end > len(text):
            raise FastmaskError(f"row {row}: its text has {counted(len(text), 'character')}, its tokens go up to {end}")
        yield text, sentences


def _masked(sentences: list[dict[str, Any]], tokens: Tokens, target: Target) -> np.ndarray:
    """Return bool [n]: which of a document's tokens are masked."""
    spans = [_masked_spans(sentence, target.by_word) for sentence in sentences]
    masked = covered(tokens.start, tokens.end, *np.concatenate(spans, axis=1))
    if target.by_word:
        word = np.cumsum(tokens.begins)
        masked = np.isin(word, word[masked])
    found: np.ndarray = masked & target.may_mask(tokens)
    return found


def _masked_spans(sentence: dict[str, Any], by_word: bool) -> np.ndarray:
    """Return starts and ends of the masked characters of a sentence, int32 [2, m]; a word's are one span."""
    at = np.array(sentence["mask_index"], np.int64)
    starts, ends = (np.array(sentence[name], np.int32)[at] for name in SPANS)
    if by_word and len(at):
        word = np.array(sentence["word"], np.int32)[at]
        apart = (np.diff(word) != 0) | (np.diff(at) != 1)  # a token between them that is not masked is left alone
        starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    return np.stack([starts, ends])


def _one_document(sentences: list[dict[str, Any]], tokens: Tokens, target: Target) -> Iterator[dict[str, Any]]:
    """Yield a document's sentences with its n tokens."""
    _, input_ids, char_start, char_end, begins_word = tokens
    masked = _masked(sentences, tokens, target)
    # a sentence without tokens begins where the next one does, and so gets nothing
    nowhere = np.iinfo(np.int32).max
    firsts = [sentence["char_start"][0] if sentence["char_start"] else nowhere for sentence in sentences]
    begins = np.minimum.accumulate(firsts[::-1])[::-1]
    # a running maximum keeps tokens in order whatever spans a tokenizer gives
    last = np.maximum.accumulate(np.maximum(char_end - 1, 0)) if len(char_end) else char_end
    borders = [0, *np.searchsorted(last, begins[1:]).tolist(), len(input_ids)]
    for sentence, (start, end) in zip(sentences, pairwise(borders), strict=True):
        yield {
            **{name: sentence[name] for name in KEPT if name in sentence},
            "importance": _carried(sentence, "importance", np.nan, char_start[start:end], char_end[start:end]),
            "mask_prob": _carried(sentence, "mask_prob", 0.0, char_start[start:end], char_end[start:end]),
            "input_ids": input_ids[start:end],
            "char_start": char_start[start:end],
            "char_end": char_end[start:end],
            "word": word_numbers(begins_word[start:end], np.array([0, end - start])),
            "mask_index": np.flatnonzero(masked[start:end]).astype(np.int32),
        }


def _carried(
    sentence: dict[str, Any], name: str, nothing: float, char_start: np.ndarray, char_end: np.ndarray
) -> np.ndarray | None:
    """Return float32 [n] for n new tokens of a sentence, as ``remap_masks`` says; None where it has no such values."""
    if sentence.get(name) is None:
        return None
    theirs = np.append(np.array(sentence[name], np.float32), np.float32(nothing))
    starts, ends = (np.array(sentence[name], np.int32) for name in SPANS)
    masked = np.append(sentence["mask_index"], len(starts)).astype(np.int64)
    # the old tokens lo to hi - 1 share a character with a new one: spans are in order and do not overlap
    lo, hi = np.searchsorted(ends, char_start, "right"), np.searchsorted(starts, char_end, "left")
    first_masked = masked[np.searchsorted(masked, lo)]
    chosen = np.where(first_masked < hi, first_masked, np.where((lo < hi) & (char_end > char_start), lo, len(starts)))
    return theirs[chosen]
