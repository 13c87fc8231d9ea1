"""The words that are masked most often, of all sentences or by class: one pass over the shards, in bounded memory."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import NamedTuple

import numpy as np

from ..models.tokenizer import recorded_tokenizer
from ..report.overview import Word
from ..shards.reader import ShardSet
from .overview import COLUMNS, class_names, most_masked, rows_by_class, texts_of
from .rows import rows_of, some_rows
from .word_counts import MOST_WORDS, WordCounts

ALL = -3
"""The key of all sentences, which is none of a class."""
CLASSES_SHARE = 8
"""Words of each class that are held are so many times fewer."""


class TopWords(NamedTuple):
    """The words of a class, None being that of all sentences, and whether there were too many to count them all."""

    name: str | None
    words: list[Word]
    forgotten: bool


def top_words(shards: ShardSet, count: int, by_class: bool) -> list[TopWords]:
    """Return the ``count`` most masked words of some shards.

    Args:
        by_class: of each class instead, most sentences first.

    Raises:
        FastmaskError: the shards are damaged, or their tokenizer is gone.
    """
    tokenizer = recorded_tokenizer(shards.manifest["tokenizer"])
    counts: dict[int, WordCounts] = {} if by_class else {ALL: WordCounts()}
    sentences: Counter[int] = Counter()
    for batch in shards.batches(COLUMNS + (["word"] if shards.version > 1 else [])):
        rows = rows_of(batch)
        for key, chosen in rows_by_class(batch, counts) if by_class else [(ALL, np.arange(len(batch)))]:
            counts.setdefault(key, WordCounts(MOST_WORDS // CLASSES_SHARE)).add(some_rows(rows, chosen))
            sentences[key] += len(chosen)
    name_of, texts = class_names(shards.manifest), partial(texts_of, tokenizer)
    return [
        TopWords(None if key == ALL else name_of(key), most_masked(held.words(texts), count), held.forgotten)
        for key, held in sorted(counts.items(), key=lambda item: (-sentences[item[0]], item[0]))
    ]
