"""Count what a page tells about a finished directory: one pass over its shards, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.arrays import within
from ..core.config import ScoreConfig
from ..core.panics import panics_told
from ..core.plain import Json
from ..models.tokenizer import recorded_tokenizer
from ..report.overview import LEAST_USES, PLACES, Bin, Compared, Group, Overview, Place, Word
from ..report.page import check_replaceable, write_page
from ..report.page import page as page_of
from ..shards.columns import known, present
from ..shards.manifest import CERTIFICATE, type_fault
from ..shards.reader import ShardSet, open_shards, setting
from .agreement import compare_shards
from .api import added_texts
from .histogram import Histogram
from .method import Method, method_named
from .rows import Rows, rows_of
from .samples import Samples
from .word_counts import MOST_WORDS, WordCounts

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

STEPS = 20
"""Bins of the share of a sentence that is masked, besides that of none."""
MOST_CLASSES = 1000
WORDS_SHOWN = 25
NO_CLASS = -1
OTHERS = -2
COLUMNS = ["row", "sentence", "input_ids", "importance", "mask_index", "label", "predicted", "prob"]


def overview(out: str, compare: str | None = None, *, most_words: int = MOST_WORDS) -> Overview:
    """Return what a page tells about a finished directory.

    Args:
        compare: another directory of the same sentences.
        most_words: different words to count; beyond that the rarest half is forgotten.

    Raises:
        FastmaskError: one is not finished or is damaged, its tokenizer is gone, or they have other sentences.
    """
    shards = open_shards(out)
    tokenizer = recorded_tokenizer(shards.manifest["tokenizer"])
    compared = _compared(out, compare, tokenizer) if compare else None
    method = method_named(setting(shards.manifest, "method"))
    counts, samples = _Counts(most_words), Samples()
    for batch in shards.batches(COLUMNS + (["word"] if shards.version > 1 else [])):
        rows, classes = rows_of(batch), _Classes(batch)
        counts.add(rows, classes)
        samples.add(rows, classes.label, classes.predicted, classes.prob)
    return _overview(shards, method, counts, samples, tokenizer, compared)


def write_overview(out: str, page: str, compare: str | None = None) -> None:
    """Write a page about a finished directory, in place of another page.

    Raises:
        FastmaskError: as ``overview``; or the page cannot be written, or another file is there.
    """
    check_replaceable(Path(page))
    write_page(page_of(overview(out, compare)), Path(page))


def _overview(
    shards: ShardSet,
    method: Method,
    counts: _Counts,
    samples: Samples,
    tokenizer: PreTrainedTokenizerBase,
    compared: Compared | None,
) -> Overview:
    manifest, name_of, large = shards.manifest, class_names(shards.manifest), method.large_is_important
    words = counts.words.words(partial(texts_of, tokenizer))
    return Overview(
        name=str(shards.path),
        manifest=manifest,
        sound_certificate=type_fault(manifest["certificate"], CERTIFICATE) is None,
        large_is_important=large,
        threshold=setting(manifest, "threshold") if method.default_rate is None else None,
        reading=_reading(method, manifest),
        by_word=shards.version > 1,
        masked_sentences=int(counts.shares[1:].sum()),
        shares=counts.shares.tolist(),
        importance=[Bin(*one) for one in counts.importance.bins()],
        not_finite=counts.importance.not_finite,
        most=most_masked(words, WORDS_SHOWN),
        above=_above(words),
        words=len(words),
        forgotten=counts.words.forgotten,
        classes=_groups(counts.classes, name_of),
        places=[Place(k + 1, *pair) for k, pair in enumerate(counts.places.T.tolist()) if pair[0]],
        samples=samples.sentences(partial(added_texts, tokenizer), name_of, large_is_important=large),
        compared=compared,
    )


def class_names(manifest: Json) -> Callable[[int], str]:
    """Return the function from a class's index to its name, a name made of it where the manifest has none."""
    names = {NO_CLASS: "no class", OTHERS: "all others", **dict(enumerate(manifest.get("classes", [])))}
    return lambda index: names.get(index, f"class {index}")


def _reading(method: Method, manifest: Json) -> str:
    """Return how to read the importances of a run, as a sentence."""
    rate, threshold = (setting(manifest, name) for name in ("mask_rate", "threshold"))
    said = method.reading(ScoreConfig(mask_rate=rate, threshold=threshold))
    return f"{said[0].upper()}{said[1:]}." if said else "This method gives tokens no importance."


class _Classes:
    """Given class and the classifier's, int64 [S], NO_CLASS where there is none; P(y|s) float64 [S], or NaN."""

    def __init__(self, batch: pa.RecordBatch):
        self.label, self.predicted = (_filled(batch[name], NO_CLASS, np.int64) for name in ("label", "predicted"))
        self.prob = _filled(batch["prob"], np.nan, np.float64)
        self.of = np.where(self.label != NO_CLASS, self.label, self.predicted)


def _filled(column: pa.Array, absent: float, dtype: type) -> np.ndarray:
    values: np.ndarray = np.full(len(column), absent, dtype)
    values[present(column)] = known(column)
    return values


class _Counts:
    """All counts of a directory so far.

    Attributes:
        words: of its words; importance: of its importances.
        shares: int64 [1 + STEPS], sentences by their share of masked tokens.
        places: int64 [2, PLACES + 1], tokens and masked tokens by position; from PLACES on together.
        classes: by class, sentences, tokens, masks, labelled sentences, and those classified right: int64 [5].
    """

    def __init__(self, most_words: int):
        self.words, self.importance = WordCounts(most_words), Histogram()
        self.shares, self.places = np.zeros(1 + STEPS, np.int64), np.zeros((2, PLACES + 1), np.int64)
        self.classes: dict[int, np.ndarray] = {}

    def add(self, rows: Rows, classes: _Classes) -> None:
        """Count some rows."""
        lengths = np.diff(rows.offsets)
        masks = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[rows.masked], minlength=len(lengths))
        self.words.add(rows)
        self.importance.add(rows.importance, rows.masked[np.repeat(rows.scored, lengths)])
        self.shares += np.bincount(-(-STEPS * masks // np.maximum(lengths, 1)), minlength=1 + STEPS)
        place = np.minimum(within(lengths), PLACES)
        self.places += [np.bincount(place[flags], minlength=PLACES + 1) for flags in (slice(None), rows.masked)]
        self._add_classes(classes, lengths, masks)

    def _add_classes(self, classes: _Classes, lengths: np.ndarray, masks: np.ndarray) -> None:
        labelled = (classes.label != NO_CLASS) & (classes.predicted != NO_CLASS)
        right = labelled & (classes.label == classes.predicted)
        columns = np.array([np.ones_like(lengths), lengths, masks, labelled, right])
        for key, chosen in _by_class(classes, self.classes):
            self.classes[key] = self.classes.get(key, 0) + columns[:, chosen].sum(axis=1)


def rows_by_class(batch: pa.RecordBatch, known: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield classes of a batch, the given ones or else the classifier's, and their sentences, int64 [K].

    Args:
        known: the classes before; beyond MOST_CLASSES the others are one.
    """
    return _by_class(_Classes(batch), known)


def _by_class(classes: _Classes, known: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    for one in np.unique(classes.of).tolist():
        yield one if one in known or len(known) < MOST_CLASSES else OTHERS, np.flatnonzero(classes.of == one)


def _groups(classes: dict[int, np.ndarray], name_of: Callable[[int], str]) -> list[Group]:
    """Return the classes, most sentences first; none where no sentence has one."""
    ordered = sorted(classes.items(), key=lambda item: (-item[1][0], item[0]))
    groups = [Group(name_of(key), *counts.tolist()) for key, counts in ordered]
    return [] if classes.keys() <= {NO_CLASS} else groups


def most_masked(words: list[Word], count: int) -> list[Word]:
    """Return the words that are masked most often."""
    return nsmallest(count, (one for one in words if one.masked), key=lambda one: (-one.masked, one.uses, one.text))


def _above(words: list[Word]) -> list[Word]:
    """Return the words of which more is masked than of the corpus, surest first."""
    tokens, masks, uses = (np.array([one[k] for one in words], np.int64) for k in (3, 4, 1))
    sure = _at_least(masks / np.maximum(tokens, 1), uses)
    found = np.flatnonzero((uses >= LEAST_USES) & (sure > masks.sum() / max(1, tokens.sum())))
    return [words[k] for k in sorted(found.tolist(), key=lambda k: (-sure[k], words[k].text))[:WORDS_SHOWN]]


def _at_least(share: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the lower end of Wilson's interval of shares: float64 [W], of int64 [W]."""
    z = 3.29  # 99.9 %: of so many words some are outside of a narrower interval by chance
    spread = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    found: np.ndarray = (share + z * z / (2 * n) - spread) / (1 + z * z / n)
    return found


def _compared(out: str, other: str, tokenizer: PreTrainedTokenizerBase) -> Compared:
    found = compare_shards(out, other)
    only = [[(list(ids), count) for ids, count in words[:WORDS_SHOWN]] for words in found.only]
    first, second = (list(zip((text.strip() for text in texts_of(tokenizer, [ids for ids, _ in words])),
                              (count for _, count in words), strict=True)) for words in only)  # fmt: skip
    return Compared(other, found, (first, second))


def texts_of(tokenizer: PreTrainedTokenizerBase, words: list[list[int]]) -> list[str]:
    """Return the text of each word's token ids."""
    with panics_told(tokenizer.name_or_path):
        texts: list[str] = tokenizer.decode(words, clean_up_tokenization_spaces=False) if words else []
    return texts
