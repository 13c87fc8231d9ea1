"""Shards in a notebook: what they show of themselves, and their tokens as a table of pandas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.arrays import within
from ..core.errors import FastmaskError, ModelError
from ..shards.columns import flat, known, list_lengths, numbers, present
from ..shards.reader import ShardSet, setting

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from ..core.urls import Url
    from ..report.highlight import Sentence

SHOWN = 5
"""Sentences that shards show of themselves."""


class NotebookShards(ShardSet):
    """Shards that show totals and their first sentences in a notebook."""

    def _repr_html_(self) -> str:
        """Return them as HTML; without sentences where their tokenizer is gone."""
        from ..report.highlight import environment
        from ..report.terminal import totals_line

        title = totals_line(str(self.path), self.manifest)
        try:
            sentences = first_sentences(self, SHOWN)
        except ModelError as error:
            title, sentences = f"{title}; {error}", []
        html: str = environment().get_template("notebook.html").render(title=title, sentences=sentences)
        return html


def open_shards(out: str | Path | Url, *, check_hashes: bool = False) -> ShardSet:
    """Open the finished shard directory ``out`` for reading.

    Args:
        check_hashes: read every shard once to compare its SHA-256; otherwise its size alone is looked at.

    Raises:
        OutputError: not finished, of another format version, or a shard (named) is missing or damaged.
    """
    return NotebookShards.open(out, check_hashes)


def first_sentences(shards: ShardSet, count: int) -> list[Sentence]:
    """Return the first sentences of shards, to be shown.

    Raises:
        ModelError: their tokenizer is gone or has changed.
    """
    from .api import shard_words
    from .method import method_named
    from .overview import class_names

    words_of, name_of = shard_words(shards.manifest), class_names(shards.manifest)
    large = method_named(setting(shards.manifest, "method")).large_is_important
    return [_sentence(row, words_of, name_of, large) for row in shards.head(count)]


def _sentence(
    row: Mapping[str, Any], words_of: Callable[[list[int]], list[str]], name_of: Callable[[int], str], large: bool
) -> Sentence:
    from ..report.highlight import MOST_TOKENS, Sentence, tokens_of

    ids, importance = row["input_ids"], row["importance"]
    words = words_of(ids[:MOST_TOKENS])
    tokens = tokens_of(words, importance and importance[:MOST_TOKENS], row["mask_index"], large_is_important=large)
    label, predicted = (None if k is None else name_of(k) for k in (row["label"], row["predicted"]))
    return Sentence(row["row"], row["sentence"], tokens, len(ids) - len(tokens), len(ids), len(row["mask_index"]),
                    importance is not None, label, predicted, row["prob"])  # fmt: skip


def to_pandas(out: str | Path | Url, rows: int | None = None) -> pd.DataFrame:
    """Return the tokens of a finished shard directory as a table, one a row.

    Columns: ``row``, ``sentence``, ``position`` in it, ``token`` as the vocabulary has it, ``char_start`` and
    ``char_end`` in the document's text, ``word`` (not in format 1), ``importance`` and ``mask_prob`` (NaN where there
    is none), ``masked``, and of the sentence ``label`` and ``predicted``, classes by name where the run knows names,
    ``prob``, and ``id``, your own, of a run with ``--id-field``.

    Args:
        rows: at most so many sentences, the first ones; None is all. All that is returned is held in memory.

    Raises:
        FastmaskError: pandas is not installed; the directory is not finished or damaged, or its tokenizer is gone.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise FastmaskError("to_pandas: needs pandas; pip install 'fastmask[pandas]'") from error
    from ..models.tokenizer import recorded_tokenizer

    shards = ShardSet.open(out)
    tokenizer = recorded_tokenizer(shards.manifest["tokenizer"])
    parts = [_columns(part, shards.version) for part in _head(shards, rows)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    ids, which = np.unique(columns.pop("input_ids"), return_inverse=True)
    tokens = _categories(which, [str(token) for token in tokenizer.convert_ids_to_tokens(ids.tolist())])
    names: dict[int, str] = dict(enumerate(shards.manifest.get("classes", [])))
    for name in ("label", "predicted"):
        indices, which = np.unique(columns[name], return_inverse=True)
        texts = [None if k < 0 else names.get(k, f"class {k}") for k in indices.tolist()]
        columns[name] = _categories(which, texts)
    frame = pd.DataFrame(columns)
    frame.insert(3, "token", tokens)
    return frame


def _head(shards: ShardSet, rows: int | None) -> list[pa.Table]:
    """Return the tables of shards up to so many rows; one without rows if there are none."""
    found, left = [], len(shards) if rows is None else rows
    for table in shards.tables():
        if left <= 0:
            break
        found.append(table.slice(0, left))
        left -= len(found[-1])
    return found or [shards.to_table().slice(0, 0)]


def _columns(table: pa.Table, version: int) -> dict[str, np.ndarray]:
    lengths = list_lengths(table["input_ids"])
    masked, masks = np.zeros(int(lengths.sum()), bool), list_lengths(table["mask_index"])
    starts = np.cumsum(lengths) - lengths
    masked[np.repeat(starts, masks) + flat(table["mask_index"])] = True
    columns = {name: np.repeat(numbers(table[name]), lengths) for name in ("row", "sentence")}
    columns |= {"position": within(lengths), **{name: flat(table[name]) for name in ("char_start", "char_end")}}
    columns |= {"word": flat(table["word"])} if version > 1 else {}
    columns |= {"importance": _of_tokens(table["importance"], lengths), "masked": masked}
    columns |= {"mask_prob": _of_tokens(table["mask_prob"], lengths)} if version > 1 else {}
    for name, absent in (("label", -1), ("predicted", -1), ("prob", np.nan)):
        values = np.full(len(table), absent, table[name].type.to_pandas_dtype())
        values[present(table[name])] = known(table[name])
        columns[name] = np.repeat(values, lengths)
    if "id" in table.schema.names:
        columns["id"] = np.repeat(np.array(table["id"].to_pylist(), object), lengths)
    return columns | {"input_ids": flat(table["input_ids"])}


def _of_tokens(lists: pa.ChunkedArray, lengths: np.ndarray) -> np.ndarray:
    """Return a number for each token, NaN where its sentence has none: float32 [T]."""
    values = np.full(int(lengths.sum()), np.nan, np.float32)
    values[np.repeat(present(lists), lengths)] = flat(lists)
    return values


def _categories(which: np.ndarray, names: list[str | None]) -> pd.Categorical:
    """Return values ``names[which]``, of few different ones; None is none."""
    import pandas as pd

    codes, categories = pd.factorize(np.array(names, object))
    return pd.Categorical.from_codes(codes[which], categories)
