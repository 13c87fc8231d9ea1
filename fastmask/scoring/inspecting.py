"""``fastmask inspect``: what is in a finished directory, or how far two agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.config import demand
from ..core.plain import Json
from ..report.screen import shown
from ..report.terminal import agreement, masked_scores, sentence_text, summary
from ..shards.reader import open_shards, setting
from .agreement import compare_shards
from .api import shard_words
from .method import method_named

if TYPE_CHECKING:
    from rich.console import Console


def inspect(console: Console, out: str, rows: int, compare: str | None) -> None:
    """Show a directory's totals and first sentences, or, where another one is given, their agreement.

    Raises:
        FastmaskError: one is not finished or damaged, its tokenizer is gone, or they have other sentences.
    """
    demand(not (rows and compare), "--rows, --compare", "give one of the two")
    if compare:
        _compare(console, out, compare)
        return
    shards = open_shards(out)
    console.print(summary(shards.manifest))
    if not rows:
        return
    words_of = shard_words(shards.manifest)
    large = method_named(setting(shards.manifest, "method")).large_is_important
    for row in shards.head(rows):
        words = words_of(row["input_ids"])
        own = f" {shown(row['id'])}" if shards.has_ids else ""
        console.print(f"\n{row['row']}.{row['sentence']}{own}", style="dim", end="  ", markup=False)
        console.print(sentence_text(words, row["importance"], row["mask_index"], large_is_important=large))
        console.print(masked_scores(words, row["importance"], row["mask_index"], _unscored(shards.manifest, row)))


def _unscored(manifest: Json, row: Mapping[str, Any]) -> str:
    """Return in words why a row has no importance, if it is known."""
    label, predicted = row["label"], row["predicted"]
    if label is None or predicted is None or label == predicted:
        return "not scored"
    names = dict(enumerate(manifest.get("classes", [])))
    said, given = (names.get(index, f"class {index}") for index in (predicted, label))
    return f"not scored: the classifier takes it for {shown(said)}, its label is {shown(given)}"


def _compare(console: Console, first: str, second: str) -> None:
    found, words_of = compare_shards(first, second), shard_words(open_shards(first).manifest)
    console.print(agreement(first, second, found, lambda ids: "".join(words_of(list(ids))).strip()))
