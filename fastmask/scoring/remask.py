"""``fastmask remask``: other masks from the scores of finished shards, without a model.

The masks are those that ``score`` would choose, or there are none: stored scores are as exact as the precision that
decided, so that some may be too near to a new threshold, or to each other, to be told apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from ..core.arrays import offsets_of, within
from ..core.config import RemaskConfig, ScoreConfig
from ..core.errors import FastmaskError, OutputError
from ..core.plain import Json
from ..core.records import EncodedSentences, ScoredSentences
from ..models.template import template_of
from ..models.tokenizer import recorded_tokenizer
from ..shards.columns import flat, known, list_lengths, numbers, present
from ..shards.reader import open_shards
from ..shards.schema import header_of, inherited
from ..shards.writer import RunDirectory
from .cascade import TIE, Bounds
from .method import Recalled, Rules, Stored, load_method, never_masked
from .policy import choose, ragged_positions
from .scorer import stop_words_identity

if TYPE_CHECKING:
    import pyarrow as pa


def remask_shards(config: RemaskConfig) -> tuple[Json, int]:
    """Write a finished directory's scores with other masks.

    Returns:
        the manifest, and how many sentences have masks that ``score`` might choose otherwise: none, unless
        ``config.certify`` is off.

    Raises:
        OutputError: the shards are unfinished, damaged or of format 1, or ``out`` is taken or cannot be written.
        ModelError: the shards' tokenizer is gone or has changed.
        FastmaskError: an option means nothing to the method, or the stored scores do not tell.
    """
    if os.path.realpath(config.out) == os.path.realpath(config.shards):
        raise OutputError(f"--out {config.out}: is the directory of the shards")
    again = _Remask(config)
    in_doubt = sum(doubts for _, _, doubts in again.shards())
    if in_doubt and config.certify:
        raise FastmaskError(
            f"{config.shards}: its scores do not tell the masks of {in_doubt:,} sentences: tokens are too near to "
            "each other or to the threshold; score again, or give --no-certify to take the scores as they are"
        )
    with RunDirectory.open(config.out, again.new.as_dict(), again.identity(), config.overwrite) as run:
        if run.manifest is None:
            again.write(run)
        assert run.manifest is not None
        return run.manifest, in_doubt


class _Remask:
    """Makes shards of shards, with other masks."""

    def __init__(self, config: RemaskConfig):
        self.source, self.path = open_shards(config.shards), config.shards
        self.source.check_words()
        self.manifest = self.source.manifest
        if "remapped" in self.manifest:
            raise FastmaskError(
                f"{self.path}: was made by fastmask remap; remask what it was made from, then remap that"
            )
        self.old = _config_of(self.path, self.manifest)
        self.new = config.changed(self.old)
        self.method, self.tokenizer = load_method(self.new), recorded_tokenizer(self.manifest["tokenizer"])
        if self.new.threshold != self.old.threshold and self.method.fixed_threshold:
            raise FastmaskError(f"--threshold {config.threshold}: {self.method.fixed_threshold}")
        self.was, self.rules = (
            Rules(one.threshold, one.mask_rate, never_masked(one, self.tokenizer), True, one.seed, one.unit == "word")
            for one in (self.old, self.new)
        )
        make = self.method.without_model if self.method.is_control else lambda *_: None
        self.at_random = make(self.new, self.tokenizer, lambda share, tokens: None)
        if self.at_random and self.at_random.identity()["like"] != self.manifest.get("like"):
            raise FastmaskError(f"--like {self.new.like}: has changed since the shards were made")

    def identity(self) -> Json:
        """Return what decides the masks besides the configuration."""
        kept = {key: one for key, one in header_of(self.manifest).items() if key not in ("format_version", "config")}
        made_of = {"remasked": {"shards": [entry["sha256"] for entry in self.manifest["shards"]]}}
        return {**kept, **stop_words_identity(self.new), "fastmask_version": __version__, **made_of}

    def write(self, run: RunDirectory) -> None:
        """Write what is missing, and the manifest."""
        if run.plan is None:
            run.write_plan({})
        missing = run.missing(len(self.manifest["shards"]))
        for entry, scored, _ in self.shards(set(missing)):
            run.write_shard(entry["index"], scored, entry)
        run.finish({"certificate": self.manifest["certificate"], **inherited(self.manifest)})

    def shards(self, wanted: set[int] | None = None) -> Iterator[tuple[Json, ScoredSentences, int]]:
        """Yield of each shard, or of those wanted: its entry, what is to be in it, how many sentences are in doubt."""
        for entry, skipped in self.source.entries():
            if wanted is None or entry["index"] in wanted:
                yield entry, *self._masked(_scored(self.source.table(entry["index"]), entry, skipped))

    def _masked(self, scored: ScoredSentences) -> tuple[ScoredSentences, int]:
        s = scored.sentences
        if self.at_random is not None:
            made = self.at_random.score(s, None)
            masks = made.mask_offsets, made.mask_index
            return replace(_with(scored, masks), mask_prob=made.mask_prob), 0
        recalled = self.method.recall(self._stored(scored), self.new.threshold, self.old.threshold)
        may_mask, items = self.rules.may_mask(s.input_ids, s.offsets, s.word), self.rules.items(s.offsets, s.word)
        marked, rate = recalled.important, self.new.mask_rate
        chosen, ambiguous = choose(items, marked, may_mask, recalled.low, recalled.high, rate)
        open_ = recalled.in_doubt & items.any(may_mask)[items.of_token]
        return _with(scored, ragged_positions(s.offsets, chosen)), _in_doubt(s.offsets, recalled, open_, ambiguous)

    def _stored(self, scored: ScoredSentences) -> Stored:
        s = scored.sentences
        lengths, is_aspect = np.diff(s.offsets), scored.scored & (scored.predicted < 0) & self.method.reads_units
        name, is_pair = self.manifest["tokenizer"]["name"], bool(is_aspect.any())
        room = template_of(self.tokenizer.backend_tokenizer, name, is_pair).longest_context(self.new.max_length)
        if (long := is_aspect & (2 * lengths > room)).any():
            raise FastmaskError(
                f"{self.path}: row {s.row[long][0]}: its shards do not tell how much of so long a text with an "
                "aspect the classifier saw; score again"
            )
        seen = within(lengths) < room
        importance, prob = (one.astype(np.float64) for one in (scored.importance, scored.prob))
        items = self.was.items(s.offsets, s.word)
        decided = items.any(self.was.may_mask(s.input_ids, s.offsets, s.word))[items.of_token]
        bounds = _bounds_of(self.manifest)
        return Stored(s.offsets, s.input_ids, importance, prob, scored.scored, is_aspect, seen, decided, bounds)


def _config_of(path: str, manifest: Json) -> ScoreConfig:
    if unknown := manifest["config"].keys() - {field.name for field in fields(ScoreConfig)}:
        raise OutputError(f"{path}: made with --{min(unknown)}, which this fastmask does not know")
    return ScoreConfig(**manifest["config"])


def _bounds_of(manifest: Json) -> Bounds:
    eps = manifest["certificate"].get("error_bounds") or {"float64": TIE}
    return Bounds(tuple(eps), tuple(eps.values()))


def _in_doubt(offsets: np.ndarray, recalled: Recalled, open_: np.ndarray, ambiguous: np.ndarray) -> int:
    """Return in how many sentences a decision, or a rank, is open; ranks that are the very same are not."""
    sentence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pairs = np.unique(np.stack([sentence[ambiguous], recalled.same[ambiguous]]), axis=1)[0]
    of_ranks = pairs[:-1][pairs[1:] == pairs[:-1]]
    return len(np.union1d(sentence[open_], of_ranks))


def _with(scored: ScoredSentences, masks: tuple[np.ndarray, np.ndarray]) -> ScoredSentences:
    return replace(scored, mask_offsets=masks[0], mask_index=masks[1])


def _scored(table: pa.Table, entry: Json, skipped: tuple[str, ...]) -> ScoredSentences:
    """Return a shard as the writer took it, but for the units."""
    n, lengths = len(table), list_lengths(table["input_ids"])
    scored = present(table["importance"])
    importance = np.zeros(int(lengths.sum()), np.float32)
    importance[np.repeat(scored, lengths)] = flat(table["importance"])
    mask_prob = flat(table["mask_prob"]) if n and present(table["mask_prob"]).all() else None
    sentences = EncodedSentences(
        row=numbers(table["row"]),
        sentence=numbers(table["sentence"]),
        offsets=offsets_of(lengths),
        **{name: flat(table[name]) for name in ("input_ids", "char_start", "char_end", "word")},
        label=_or(table["label"], -1),
        unit_sentence=np.empty(0, np.int32),
        unit_label=np.empty(0, np.int32),
        context_offsets=np.zeros(1, np.int64),
        context_ids=np.empty(0, np.int32),
        is_aspect=False,
        first_row=entry["first_row"],
        end_row=entry["end_row"],
        skipped=skipped,
    )
    masks = offsets_of(list_lengths(table["mask_index"])), flat(table["mask_index"])
    predicted, prob = _or(table["predicted"], -1), _or(table["prob"], np.nan)
    return ScoredSentences(sentences, predicted, prob, importance, scored, *masks, entry["certificate"], mask_prob)


def _or(values: pa.ChunkedArray, nothing: float) -> np.ndarray:
    """Return a column's numbers, with one in the place of null."""
    there = known(values)
    found = np.full(len(values), nothing, there.dtype)
    found[present(values)] = there
    return found
