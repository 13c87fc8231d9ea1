"""Files -> labelled examples: rows, classes, token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FastmaskError, InputError
from ..records import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DROPPED_POLARITY = "conflict"


@dataclass(frozen=True, slots=True)
class Row:
    """One text or (aspect, text) pair, its label if it has one, and where it was read."""

    text: str
    aspect: str | None
    label: str | int | None
    source: str
    line: int


@dataclass(frozen=True, slots=True)
class Examples:
    """N encoded rows.

    Attributes:
        input_ids, token_types: N arrays, int32 [n_i] each, special tokens included.
        lengths: int64 [N], the n_i.
        labels: int64 [N], -1 where there is none.
    """

    input_ids: list[np.ndarray]
    token_types: list[np.ndarray]
    lengths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def labelled_rows(documents: Iterable[Document]) -> Iterator[Row]:
    """One row a document, or one an aspect; the polarity "conflict" is left out (DESIGN section 2).

    Raises:
        InputError: a document has neither a label nor aspects.
    """
    for document in documents:
        where = document.source, document.line
        if document.aspects is not None:
            for aspect in document.aspects:
                if aspect.polarity != DROPPED_POLARITY:
                    yield Row(document.text, aspect.term, aspect.polarity, *where)
        elif document.label is None:
            raise InputError(*where, "label", "is missing; a classifier is trained on labelled text")
        else:
            yield Row(document.text, None, document.label, *where)


def find_classes(rows: Iterable[Row]) -> tuple[str, ...]:
    """Class names for labels as given: names in alphabetical order, or LABEL_0.. up to the largest index.

    Raises:
        FastmaskError: there is only one class.
    """
    given = {row.label if _index(row.label) is None else _index(row.label) for row in rows}
    if all(isinstance(label, int) for label in given):
        names = tuple(f"LABEL_{index}" for index in range(max(given, default=-1) + 1))
    else:
        names = tuple(sorted(str(label) for label in given))
    if len(names) < 2:
        raise FastmaskError("the training files hold fewer than two classes")
    return names


def _index(label: str | int) -> int | None:
    try:
        return int(label)
    except ValueError:
        return None


def class_index(row: Row, class_names: Sequence[str]) -> int:
    """The row's label as a class index, -1 where there is none; names win over numbers.

    Raises:
        InputError: it is neither the name nor the index of a class.
    """
    if row.label is None:
        return -1
    if str(row.label) in class_names:
        return class_names.index(str(row.label))
    index = _index(row.label)
    if index is None or not 0 <= index < len(class_names):
        known = ", ".join(f"{i} {name}" for i, name in enumerate(class_names))
        reason = f'"{row.label}" is not one of the classes: {known}'
        raise InputError(row.source, row.line, "label", reason)
    return index


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], class_names: Sequence[str], max_length: int
) -> Examples:
    """``[CLS] text [SEP]`` or ``[CLS] aspect [SEP] text [SEP]``, cut on the right at ``max_length`` tokens.

    Raises:
        InputError: a label that is not a class.
        FastmaskError: rows with and without aspects together.
    """
    labels = np.array([class_index(row, class_names) for row in rows], np.int64)
    pairs = any(row.aspect is not None for row in rows)
    if pairs and any(row.aspect is None for row in rows):
        raise FastmaskError("rows with aspects and rows with labels cannot be mixed in one file")
    texts = [row.text for row in rows]
    encoded = tokenizer(
        *([[row.aspect for row in rows], texts] if pairs else [texts]),
        truncation=True,
        max_length=max_length,
        return_token_type_ids=True,
        return_attention_mask=False,
    )
    # the cut is this call's: it must not be saved with the tokenizer
    tokenizer.backend_tokenizer.no_truncation()
    ids = [np.array(row, np.int32) for row in encoded["input_ids"]]
    types = [np.array(row, np.int32) for row in encoded["token_type_ids"]]
    return Examples(ids, types, np.array([len(row) for row in ids], np.int64), labels)
