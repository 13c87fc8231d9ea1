"""Files -> labelled examples: rows, classes, token ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import FastmaskError, InputError
from ..core.labels import LABEL_FIELD, NO_LABEL, Classes, Label, is_fraction, whole_number
from ..core.panics import panics_told
from ..core.records import Document

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Row:
    """One text or (aspect, text) pair, its label, and where that was read."""

    text: str
    aspect: str | None
    label: Label
    source: str
    line: int
    field: str = LABEL_FIELD


@dataclass(frozen=True, slots=True)
class Examples:
    """N encoded rows.

    Attributes:
        input_ids, token_types: N arrays, int32 [n_i] each, special tokens included.
        lengths: int64 [N], the n_i.
        labels: int64 [N].
        is_typed: whether the model is given the token types.
    """

    input_ids: list[np.ndarray]
    token_types: list[np.ndarray]
    lengths: np.ndarray
    labels: np.ndarray
    is_typed: bool

    def __len__(self) -> int:
        return len(self.labels)


def labelled_rows(documents: Iterable[Document], label_field: str = LABEL_FIELD) -> Iterator[Row]:
    """Yield one row for each document, or one for each of its aspects.

    Raises:
        InputError: a document has neither a label nor aspects.
    """
    for document in documents:
        where = document.source, document.line
        if document.aspects is None and document.label is None:
            raise _unlabelled(*where, label_field)
        if document.aspects is None:
            yield Row(document.text, None, document.label, *where, label_field)
            continue
        for aspect in document.aspects:
            yield Row(document.text, aspect.term, aspect.polarity, *where, "aspects")


def _unlabelled(source: str, line: int, field: str) -> InputError:
    return InputError(source, line, field, f"no label (none, empty or {NO_LABEL}); here every row needs one")


def find_classes(rows: Iterable[Row]) -> Classes:
    """Return the classes of the rows' labels: LABEL_0.. for 0, 1, .., else one class named after each label.

    Names are in alphabetical order, numbers before them by size.

    Raises:
        InputError: a row without a label, or with a number that is not whole.
        FastmaskError: there is only one class, or two differ by case alone.
    """
    given: set[int | str] = set()
    for row in rows:
        number = whole_number(row.label)
        if number == NO_LABEL:
            raise _unlabelled(row.source, row.line, row.field)
        if is_fraction(row.label):
            reason = f"{row.label} is a number that is not whole, expected a class index or name"
            raise InputError(row.source, row.line, row.field, reason)
        given.add(str(row.label) if number is None else number)
    if len(given) < 2:
        raise FastmaskError("the training files hold fewer than two classes")
    numbers = sorted(label for label in given if isinstance(label, int))
    texts = sorted(label for label in given if isinstance(label, str))
    _check_case(texts)
    if not texts and numbers == list(range(len(numbers))):
        return Classes(tuple(f"LABEL_{index}" for index in numbers))
    return Classes((*map(str, numbers), *texts), numbers_are_names=bool(numbers))


def _check_case(names: Iterable[str]) -> None:
    alike = defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    for group in alike.values():
        if len(group) > 1:
            said = " and ".join(f'"{name}"' for name in group)
            raise FastmaskError(f"the labels {said} differ by case alone; name the classes by --classes")


def class_index(row: Row, classes: Classes) -> int:
    """Return the row's label as a class index.

    Raises:
        InputError: it is neither the name nor the index of a class, or says that there is no label.
    """
    index = classes.index(row.label, row.source, row.line, row.field)
    if index == NO_LABEL:
        raise _unlabelled(row.source, row.line, row.field)
    return index


def has_pairs(rows: Iterable[Row]) -> bool:
    """Return whether there are (aspect, text) pairs among the rows."""
    return any(row.aspect is not None for row in rows)


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], classes: Classes, max_length: int, is_typed: bool
) -> Examples:
    """Encode rows as ``[CLS] text [SEP]`` or ``[CLS] aspect [SEP] text [SEP]``, cut at ``max_length`` as in scoring.

    Args:
        is_typed: whether the model is given token types.

    Raises:
        InputError: a label that is not a class, or a text without a token for a model without special tokens.
        FastmaskError: rows with and without aspects together.
    """
    labels = np.array([class_index(row, classes) for row in rows], np.int64)
    pairs = has_pairs(rows)
    if pairs and any(row.aspect is None for row in rows):
        raise FastmaskError("rows with aspects and rows with labels cannot be mixed in one file")
    inputs = [(row.aspect, row.text) if pairs else row.text for row in rows]
    ids, types = [], []
    with panics_told(tokenizer.name_or_path):
        encodings = tokenizer.backend_tokenizer.encode_batch(inputs)
    for row, encoding in zip(rows, encodings, strict=True):
        if not len(encoding):
            reason = "there is no token in the text, and the model has no special tokens: its input would be empty"
            raise InputError(row.source, row.line, None, reason)
        kept = _kept(encoding, max_length)
        ids.append(np.array(encoding.ids, np.int32)[kept])
        types.append(np.array(encoding.type_ids, np.int32)[kept] * is_typed)
    return Examples(ids, types, np.array([len(row) for row in ids], np.int64), labels, is_typed)


def _kept(encoding: Encoding, max_length: int) -> slice | np.ndarray:
    """Return the tokens of an input to keep: of one too long the last of the text go first, then of the aspect."""
    excess = len(encoding) - max_length
    if excess <= 0:
        return slice(None)
    parts = np.array([-1 if part is None else part for part in encoding.sequence_ids])
    last_first = np.lexsort((np.arange(len(parts)), parts))[::-1]
    return np.sort(last_first[excess:])
