"""``fastmask inspect``: what is in a finished directory, or how far two agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

from ..core.plain import Json
from ..report.certificate import in_short
from ..report.screen import shown
from ..report.terminal import MOST_WORDS, agreement, empty_rows, masked_scores, sentence_text, summary, word_table
from ..shards.manifest import CERTIFICATE, is_certificate, type_fault
from ..shards.reader import ShardSet, open_shards, setting
from .agreement import compare_shards
from .api import shard_words
from .method import method_named
from .top_words import TopWords, top_words

if TYPE_CHECKING:
    from rich.console import Console


def inspect(console: Console, out: str, rows: int, compare: str | None, top: int = 0, by_class: bool = False) -> None:
    """Show a directory's totals, most masked words and first sentences, or its agreement with another one.

    Raises:
        FastmaskError: one is not finished or damaged, its tokenizer is gone, or they have other sentences.
    """
    if compare:
        _compare(console, out, compare)
        return
    shards = open_shards(out)
    console.print(summary(shards.manifest, certified(shards.manifest)))
    for group in top_words(shards, top, by_class) if top else ():
        console.print("", word_table(group.name, group.words), sep="\n")
        if group.forgotten:
            console.print("there are more words than are counted: the rarest are not", style="dim")
    if rows:
        _show_rows(console, shards, rows)


def _show_rows(console: Console, shards: ShardSet, rows: int) -> None:
    words_of = shard_words(shards.manifest)
    large = method_named(setting(shards.manifest, "method")).large_is_important
    for row in shards.head(rows):
        words = words_of(row["input_ids"])
        own = f" {shown(row['id'])}" if shards.has_ids else ""
        console.print(f"\n{row['row']}.{row['sentence']}{own}", style="dim", end="  ", markup=False)
        console.print(sentence_text(words, row["importance"], row["mask_index"], large_is_important=large))
        console.print(masked_scores(words, row["importance"], row["mask_index"], _unscored(shards.manifest, row)))


def facts(out: str, rows: int = 0, top: int = 0, by_class: bool = False) -> Json:
    """Return what ``inspect`` shows of a directory, JSON-ready; docs/look.md has the keys.

    Raises: as ``inspect``.
    """
    shards = open_shards(out)
    manifest = shards.manifest
    environment, totals = manifest["environment"], manifest["totals"]
    found = {
        "directory": str(shards.path),
        **{name: manifest[name] for name in ("format_version", "fastmask_version", "config", "model", "totals")},
        "masked_share": totals["masked"] / totals["tokens"] if totals["tokens"] else 0.0,
        "empty": empty_rows(manifest),
        **{name: environment.get(name) for name in ("device", "precision")},
        "classes": manifest.get("classes", []),
        "certified": certified(manifest),
        **{name: manifest[name] for name in ("certificate", "skipped")},
    }
    if top:
        found["top"] = [_words_of(group) for group in top_words(shards, top, by_class)]
    if rows:
        words_of = shard_words(manifest)
        found["rows"] = [_plain(row) | {"tokens": words_of(row["input_ids"])} for row in shards.head(rows)]
    return found


def _plain(row: Mapping[str, Any]) -> Json:
    """Return a row with null for what JSON has no number for."""

    def number(value: Any) -> Any:
        return None if isinstance(value, float) and not isfinite(value) else value

    return {name: [*map(number, value)] if isinstance(value, list) else number(value) for name, value in row.items()}


def _words_of(group: TopWords) -> Json:
    words = [
        {"word": one.text, "masked": one.masked, "uses": one.uses, "share": one.masked / one.uses}
        for one in group.words
    ]
    return {"class": group.name, "words": words, "all_counted": not group.forgotten}


def certified(manifest: Json) -> str:
    """Return in words what a run's certificate says."""
    certificate = manifest["certificate"]
    sound = type_fault(certificate, CERTIFICATE) is None and is_certificate(certificate)
    highest = manifest["environment"].get("highest_precision")
    return in_short(certificate, manifest["config"], highest) if sound else "the certificate cannot be read"


def _unscored(manifest: Json, row: Mapping[str, Any]) -> str:
    """Return in words why a row has no importance, if it is known."""
    label, predicted = row["label"], row["predicted"]
    if label is None or predicted is None or label == predicted:
        return "not scored"
    names = dict(enumerate(manifest.get("classes", [])))
    said, given = (names.get(index, f"class {index}") for index in (predicted, label))
    return f"not scored: the classifier takes it for {shown(said)}, its label is {shown(given)}"


def _compare(console: Console, first: str, second: str) -> None:
    console.print(agreement(first, second, compare_shards(first, second), _word_of(first)))


def agreement_facts(first: str, second: str) -> Json:
    """Return how far two directories agree, JSON-ready; raises as ``inspect`` does."""
    found, word_of = compare_shards(first, second), _word_of(first)
    only = [[{"word": word_of(ids), "masked": count} for ids, count in words[:MOST_WORDS]] for words in found.only]
    masks = dict(zip(("first", "second", "both"), found.masks, strict=True))
    return {"directories": [first, second], **asdict(found), "masks": masks, "only": only}


def _word_of(out: str) -> Callable[[tuple[int, ...]], str]:
    """Return the function from a word's token ids to its text, by the tokenizer of a directory."""
    words_of = shard_words(open_shards(out).manifest)
    return lambda ids: "".join(words_of(list(ids))).strip()
