"""The values that a shard and its manifest may hold: one check for writer, reader and ``verify``.

It looks at whatever columns and rows are given, in a few passes of numpy over them, so that every reader can afford it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..core.plain import Json, short_number
from .columns import flat, known, list_lengths, numbers, present

if TYPE_CHECKING:
    import pyarrow as pa

MOST_IDS = 2**24
"""More ids than any tokenizer has; a table of them still fits in memory."""
MOST_ROWS = 2**60
"""Far beyond any corpus, and sums of it still fit in 64 bits."""
SPANS = ("char_start", "char_end")
OF_TOKENS = ("input_ids", *SPANS, "word")
"""Columns with a value for each token of each sentence."""
OR_NONE = ("importance", "mask_prob")
"""Columns that may have none of a sentence's values, or have them all."""


def entry_fault(entry: Json) -> str | None:
    """Return which of a shard's counts, all of them integers, is impossible, in words; None if none is."""
    for key in ("first_row", "end_row", "rows", "scored", "tokens", "masked", "bytes"):
        if not 0 <= entry[key] < MOST_ROWS:
            return f"{key} cannot be {short_number(entry[key])}"
    for part, whole in (("first_row", "end_row"), ("scored", "rows"), ("masked", "tokens")):
        if entry[part] > entry[whole]:
            return f"{part} cannot be more than {whole}"
    if type(entry["skipped"]) is int and not 0 <= entry["skipped"] <= entry["end_row"] - entry["first_row"]:
        return f"skipped cannot be {short_number(entry['skipped'])}"
    return None


def tokenizer_fault(record: object) -> str | None:
    """Return what in a manifest's ``tokenizer`` is impossible, in words; else None. Old ones have fewer fields."""
    if not isinstance(record, dict):
        return "the tokenizer is damaged"
    size = record.get("vocab_size", MOST_IDS)
    if not _is_id(size, MOST_IDS + 1) or size == 0:
        return "the tokenizer's vocab_size cannot be"
    if "vocab_size" in record and "all_special_ids" not in record:
        return "the tokenizer has a vocab_size, but no all_special_ids"
    special, others = record.get("special_ids", {}), record.get("all_special_ids", [])
    if not isinstance(special, dict) or not isinstance(others, list):
        return "the tokenizer's special ids are damaged"
    if not all(value is None or _is_id(value, size) for value in special.values()):
        return "one of the tokenizer's special_ids is not an id of its vocabulary"
    if not all(_is_id(value, size) for value in others):
        return "one of the tokenizer's all_special_ids is not an id of its vocabulary"
    return None


def _is_id(value: object, size: int) -> bool:
    return type(value) is int and 0 <= value < size


def count_fault(found: dict[str, int], entry: Json) -> str | None:
    """Return the first of some counts that is not the entry's, in words; None where all are."""
    return next((f"has {n} {key} instead of {entry[key]}" for key, n in found.items() if n != entry[key]), None)


def value_fault(part: pa.Table | pa.RecordBatch, entry: Json, vocab_size: int | None) -> str | None:
    """Return the first rule that some rows of a shard, or some columns of them, break; None where they are sound.

    Rules: (row, sentence) ascending, rows within the entry's range; a span and an importance for each id; ids of the
    vocabulary; spans that begin at 0 or later, end where they begin or later, and begin in order within a sentence
    (tokens may share a character); words counted from 0 in a sentence, each token in the word of the one before or in
    the next; labels and classes from 0 on, a prob and a mask_prob of 0 to 1, where there is one; mask_index ascending
    and within its sentence.

    Args:
        part: of the shard format, with any of its columns.
        entry: the shard's in the manifest.
        vocab_size: the tokenizer's; None where the manifest does not say.
    """
    return next(_faults(_Rows(part), entry, vocab_size), None)


def ends(part: pa.Table | pa.RecordBatch) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return (row, sentence) of the first and of the last row; None where there is none or a column is missing."""
    if not len(part) or not {"row", "sentence"} <= set(part.schema.names):
        return None
    row, sentence = part["row"], part["sentence"]
    first, last = ((row[at].as_py(), sentence[at].as_py()) for at in (0, len(part) - 1))
    return first, last


class _Rows:
    """Rows of a shard with whatever columns there are.

    Attributes:
        columns: a table or record batch.
        names: its columns.
        lengths: tokens of each sentence, int32 [N]; None where no column tells.
        row: int64 [N]; None where it is not there.
    """

    def __init__(self, columns: pa.Table | pa.RecordBatch):
        self.columns, self.names = columns, set(columns.schema.names)
        first = next((name for name in OF_TOKENS if name in self.names), None)
        self.lengths = None if first is None else list_lengths(columns[first])
        self.row = numbers(columns["row"]) if "row" in self.names else None

    def at(self, wrong: np.ndarray, counts: np.ndarray | None = None) -> str:
        """Name the first place in bool [N], or of the values of lists of ``counts`` int32 [N]."""
        place = int(wrong.argmax())
        if counts is not None:
            place = int(np.searchsorted(np.cumsum(counts), place, "right"))
        return f"sentence {place} of those read" if self.row is None else f"row {self.row[place]}"


def _faults(rows: _Rows, entry: Json, vocab_size: int | None) -> Iterator[str]:
    if len(rows.columns):
        yield from _order_faults(rows, entry)
        yield from _length_faults(rows)
        yield from _id_faults(rows, vocab_size)
        yield from _span_faults(rows)
        yield from _word_faults(rows)
        yield from _class_faults(rows)
        yield from _mask_faults(rows)


def _order_faults(rows: _Rows, entry: Json) -> Iterator[str]:
    row = rows.row
    if row is None:
        return
    ahead = row[1:] > row[:-1]
    if "sentence" in rows.names:
        sentence = numbers(rows.columns["sentence"])
        ahead |= (row[1:] == row[:-1]) & (sentence[1:] > sentence[:-1])
        if sentence.min() < 0:
            yield f"{rows.at(sentence < 0)}: a sentence's number is negative"
    else:
        ahead |= row[1:] == row[:-1]
    if not ahead.all():
        yield f"row {row[1:][~ahead][0]}: rows are out of order"
    if not entry["first_row"] <= row[0] <= row[-1] < entry["end_row"]:
        yield f"rows {row[0]} to {row[-1]} are outside {entry['first_row']} to {entry['end_row']}"


def _length_faults(rows: _Rows) -> Iterator[str]:
    for name in {*OF_TOKENS, *OR_NONE} & rows.names if rows.lengths is not None else ():
        wrong = list_lengths(rows.columns[name]) != rows.lengths
        if name in OR_NONE:
            wrong &= present(rows.columns[name])
        if wrong.any():
            yield f"{rows.at(wrong)}: {name} has another length than input_ids"


def _id_faults(rows: _Rows, vocab_size: int | None) -> Iterator[str]:
    if "input_ids" not in rows.names:
        return
    ids, most = flat(rows.columns["input_ids"]).view(np.uint32), vocab_size or 2**31  # as these negative ones are large
    if len(ids) and ids.max() >= most:
        yield f"{rows.at(ids >= most, rows.lengths)}: input_ids has one that is not of the vocabulary"


def _span_faults(rows: _Rows) -> Iterator[str]:
    spans = [flat(rows.columns[name]) for name in SPANS if name in rows.names]
    if not spans or not len(spans[0]):
        return
    for span in spans:
        if span.min() < 0:
            yield f"{rows.at(span < 0, rows.lengths)}: a span is negative"
    if len(spans) == 2 and (wrong := spans[0] > spans[1]).any():
        yield f"{rows.at(wrong, rows.lengths)}: a span ends before it begins"
    if "char_start" in rows.names and rows.lengths is not None:
        back = np.append(False, spans[0][1:] < spans[0][:-1])
        back[_starts(rows.lengths)] = False
        if back.any():
            yield f"{rows.at(back, rows.lengths)}: spans are out of order"


def _word_faults(rows: _Rows) -> Iterator[str]:
    if "word" not in rows.names or rows.lengths is None:
        return
    word = flat(rows.columns["word"])
    step = np.diff(word, prepend=word[:1])
    wrong = (step != 0) & (step != 1)
    first = _starts(rows.lengths)
    wrong[first] = word[first] != 0
    if wrong.any():
        yield f"{rows.at(wrong, rows.lengths)}: word does not count from 0 on in steps of 0 or 1"


def _class_faults(rows: _Rows) -> Iterator[str]:
    for name in {"label", "predicted"} & rows.names:
        if len(values := known(rows.columns[name])) and values.min() < 0:
            yield f"a {name} is negative"
    if "prob" in rows.names and not ((prob := known(rows.columns["prob"])) >= 0).all() & (prob <= 1).all():
        yield "a prob is not between 0 and 1"
    if "mask_prob" in rows.names and not ((prob := flat(rows.columns["mask_prob"])) >= 0).all() & (prob <= 1).all():
        yield "a mask_prob is not between 0 and 1"


def _mask_faults(rows: _Rows) -> Iterator[str]:
    if "mask_index" not in rows.names:
        return
    masks, position = list_lengths(rows.columns["mask_index"]), flat(rows.columns["mask_index"])
    wrong = np.append(False, position[1:] <= position[:-1])[: len(position)]
    wrong[_starts(masks)] = False
    wrong |= position < 0
    if rows.lengths is not None:
        wrong |= position >= np.repeat(rows.lengths, masks)
    if wrong.any():
        yield f"{rows.at(wrong, masks)}: mask_index is not ascending or leaves its sentence"


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Return where the lists that are not empty begin among their values, int64."""
    starts: np.ndarray = np.cumsum(lengths) - lengths
    return starts[lengths > 0]
