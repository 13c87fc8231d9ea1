"""Inputs to encoded shards: read, segment and encode, ahead of the consumer.

One thread is enough: spaCy and the tokenizer run only where their answer is not known already (``segment``,
``encode``), which is faster than several processes that run them everywhere.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice

import numpy as np

from ..core.background import run_ahead
from ..core.config import ScoreConfig
from ..core.labels import ANY_CLASSES, LABEL_FIELD, Classes
from ..core.languages import ENGLISH
from ..core.memory import give_back_what_is_free
from ..core.records import Document, EncodedSentences
from .documents import check_label, check_text, read_rows
from .sentences import Segmenter
from .streams import Place, Stamp
from .tokens import TextEncoder

_SHARDS_AHEAD = 2
_LONG = 1 << 21  # characters
STOP_SECONDS = 2.0
"""How long to wait for the thread at the end: one that waits for standard input cannot be woken, and is abandoned."""


def encoded_shards(
    paths: Sequence[str],
    config: ScoreConfig,
    encoder: TextEncoder,
    classes: Classes = ANY_CLASSES,
    *,
    wanted: Container[int] | None = None,
    places: Sequence[Place] | None = None,
    stamps: Mapping[str, Stamp] | None = None,
) -> Generator[tuple[int, EncodedSentences]]:
    """Yield (k, sentences of the rows [k * shard_rows, (k + 1) * shard_rows)) for each shard k, in order.

    A shard without a sentence is yielded, too; the last one ends with the last row. At most two shards are prepared
    ahead, in a thread that ends when the generator is closed.

    Args:
        classes: where the labels are looked up.
        wanted: shards to yield; None: all.
        places: where each shard begins, so that nothing else is read; None: unknown, everything is.
        stamps: as ``read_rows`` takes them.

    Raises:
        InputError: as ``read_rows`` and ``TextEncoder.encode``, after the shards before the fault.
    """
    shards = _shards(paths, config, encoder, classes, wanted, places, stamps)
    return run_ahead(shards, _SHARDS_AHEAD, patience=STOP_SECONDS)


def encode_texts(
    texts: Iterable[str | tuple[str, str | int | None]],
    encoder: TextEncoder,
    *,
    segment: str = "sentence",
    language: str = ENGLISH,
    classes: Classes = ANY_CLASSES,
    first_row: int = 0,
) -> EncodedSentences:
    """Return sentences of texts in memory, each a string or (string, label); numbered from ``first_row``.

    Raises:
        InputError: a NUL, half of a surrogate pair, or a label that is not one of the classes; its line is
            the number of the text, from 1.
    """
    documents = []
    for row, item in enumerate(texts, first_row):
        text, label = (item, None) if isinstance(item, str) else item
        check_text(text, "<texts>", row + 1, "text")
        label = check_label(label, "<texts>", row + 1, LABEL_FIELD)
        documents.append(Document(row, text, label, None, "<texts>", row + 1))
    segmenter = Segmenter(segment, language)
    spans = [segmenter.split(document.text) for document in documents]
    return encoder.encode(
        documents,
        spans,
        classes=classes,
        first_row=first_row,
        end_row=first_row + len(documents),
    )


def _shards(paths, config: ScoreConfig, encoder, classes, wanted, places, stamps) -> Generator:
    skipped: list[str] = []
    segmenter = Segmenter(config.segment, config.language)
    for shard, batch in _batches(paths, config, wanted, places, stamps, skipped):
        first_row = shard * config.shard_rows
        end_row = first_row + len(batch)
        documents = [document for document in batch if document is not None]
        if is_long := max((len(document.text) for document in documents), default=0) > _LONG:
            give_back_what_is_free()
        spans = [segmenter.split(d.text) if d.aspects is None else () for d in documents]
        encoded = encoder.encode(
            documents,
            spans,
            classes=classes,
            label_field=config.corpus_label_field,
            first_row=first_row,
            end_row=end_row,
            skipped=skipped,
            on_error=config.on_error,
        )
        if config.id_field is not None:
            ids = {document.row: document.id for document in documents}
            encoded = replace(encoded, id=np.array([ids[row] for row in encoded.row.tolist()], object))
        del batch, documents, spans  # the texts are not wanted any more while the shard is
        if is_long:
            give_back_what_is_free()
        yield shard, encoded
        del encoded


def _batches(paths, config: ScoreConfig, wanted, places, stamps, skipped: list[str]) -> Generator:
    """Yield (k, its rows) for each shard k that is wanted; ``skipped`` has the messages about them until the next."""
    for first, end in _runs(wanted, places):
        rows = read_rows(
            paths,
            text_field=config.text_field,
            label_field=config.corpus_label_field,
            id_field=config.id_field,
            encoding=config.encoding,
            on_error=config.on_error,
            max_text_mb=config.max_text_mb,
            start_row=first * config.shard_rows,
            place=places[first] if places and first else None,
            skipped=skipped,
            stamps=stamps,
        )
        for shard in count(first) if end is None else range(first, end):
            batch = list(islice(rows, config.shard_rows))
            if not batch:
                break
            if wanted is None or shard in wanted:
                yield shard, batch
            del batch
            skipped.clear()


def _runs(wanted, places) -> Iterator[tuple[int, int | None]]:
    """Yield (first, end) of each run of shards that are read one after the other; None: to the last one."""
    if places is None:
        yield 0, None
    elif wanted is None:
        yield 0, len(places)
    else:
        begun = None
        for shard in range(len(places) + 1):
            is_wanted = shard < len(places) and shard in wanted
            if is_wanted and begun is None:
                begun = shard
            elif not is_wanted and begun is not None:
                yield begun, shard
                begun = None
