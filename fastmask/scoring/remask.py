"""``fastmask remask``: other masks from the scores of finished shards.

The masks are those that ``score`` would choose. Stored scores are as exact as the precision that decided, so that some
may be too near to a new threshold, or to each other, to be told apart: about these sentences the model is asked again.
Where no sentence is in doubt it is not even loaded, and a method that goes by words never asks one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from math import nan

import numpy as np

from .. import __version__
from ..core.arrays import within
from ..core.config import RemaskConfig, ScoreConfig
from ..core.errors import FastmaskError, ModelError, OutputError
from ..core.plain import Json
from ..core.records import ScoredSentences
from ..core.words import counted
from ..models.directory import resolve_model
from ..models.template import template_of
from ..models.tokenizer import recorded_tokenizer
from ..report.progress import Meter
from ..shards.reader import open_shards
from ..shards.schema import header_of, inherited, manifest_path
from ..shards.statistics import read_statistics, recorded
from ..shards.writer import RunDirectory
from ..text.tokens import TextEncoder
from .again import Again, bounds_in, check_weights, joined_certificate
from .cascade import TIE, Bounds, is_made_with, merged_certificate, widened_by
from .method import CorpusScorer, Recalled, Rules, ShardScorer, Stored, load_method, never_masked
from .policy import choose, ragged_positions
from .scorer import stop_words_identity
from .stored import scored_of

log = logging.getLogger(__name__)


def remask_shards(config: RemaskConfig, meter: Meter | None = None) -> tuple[Json, int]:
    """Write a finished directory's scores with other masks.

    Returns:
        the manifest, and how many sentences have masks that ``score`` might choose otherwise: none, unless
        ``config.certify`` is off.

    Raises:
        OutputError: the shards are unfinished, damaged or of format 1, or ``out`` is taken or cannot be written.
        ModelError: the shards' tokenizer is gone or has changed, or the model, where it has to be asked.
        InputError: so are the texts, where the model has to read their aspects.
        FastmaskError: an option means nothing to the method, or its masks do not follow from scores.
    """
    if os.path.realpath(config.out) == os.path.realpath(config.shards):
        raise OutputError(f"--out {config.out}: is the directory of the shards")
    again = _Remask(config, meter or Meter())
    if manifest_path(config.out).exists() and not config.overwrite:  # nothing is asked for what is there
        with again.opened() as run:
            if run.manifest is not None:
                return run.manifest, 0
    in_doubt = again.count()
    if sum(in_doubt) and config.certify:
        again.again.find(sum(in_doubt), again.is_aspect)
    with again.opened() as run:
        if run.manifest is None:
            again.write(run, in_doubt)
        assert run.manifest is not None
        return run.manifest, 0 if config.certify else sum(in_doubt)


class _Remask:
    """Makes shards of shards, with other masks.

    Attributes:
        alone: what chooses masks where no model is asked; else None.
        again: what asks the model.
        is_aspect: whether the shards' texts have aspects, as far as ``count`` has seen.
    """

    def __init__(self, config: RemaskConfig, meter: Meter):
        self.config, self.meter, self.path = config, meter, config.shards
        self.source = open_shards(config.shards)
        self.source.check_words()
        self.manifest = self.source.manifest
        if "remapped" in self.manifest:
            raise FastmaskError(
                f"{self.path}: was made by fastmask remap; remask what it was made from, then remap that"
            )
        self.old = _config_of(self.path, self.manifest)
        self.new = config.changed(self.old)
        self.method = load_method(self.new)
        if self.new.threshold != self.old.threshold and self.method.fixed_threshold:
            raise FastmaskError(f"--threshold {config.threshold}: {self.method.fixed_threshold}")
        self._take_model()
        self.was, self.rules = (
            Rules(one.threshold, one.mask_rate, never_masked(one, self.tokenizer), True, one.seed, one.unit == "word")
            for one in (self.old, self.new)
        )
        self.told = bounds_in(self.manifest["certificate"]) or Bounds(("float64",), (TIE,))
        self.alone, self.is_aspect = None if self.method.asks_model else self._alone(), False
        settings = self.manifest, self.method, self.new, self.tokenizer
        decided = self.new.threshold == self.old.threshold
        self.again = Again(self.source, *settings, self.told, decided, meter)
        self._rooms: dict[bool, int] = {}

    def _take_model(self) -> None:
        """Load the tokenizer, and put the model's new name in the place of the old one where it has moved."""
        if self.config.model is not None:
            files = resolve_model(self.config.model)
            check_weights(self.path, self.manifest, files)
            tokenizer = {**self.manifest["tokenizer"], "name": files.name, "local": files.is_local}
            model = self.manifest["model"] and {**self.manifest["model"], "name": files.name}
            self.manifest = {**self.manifest, "tokenizer": tokenizer, "model": model}
        try:
            self.tokenizer = recorded_tokenizer(self.manifest["tokenizer"])
        except ModelError as error:
            raise ModelError(f"{error}; --model names the directory where it is now") from error

    def _alone(self) -> ShardScorer | None:
        """Return what makes masks of texts and of what was counted of them; it counts again if that would differ."""
        self.counts_again = bool(self._changed() & self.method.counted_by)
        make = self.method.without_model if self.counts_again else self.method.from_statistics
        alone = make(self.new, self.tokenizer, lambda share, tokens: None)
        for name, value in alone.identity().items() if alone else ():
            if self.manifest.get(name) != value:
                raise FastmaskError(f"{self.path}: what its masks follow from has changed ({name}); score again")
        return alone

    def _changed(self) -> set[str]:
        """Return the names of the settings that are others than those of the shards."""
        names = (one.name for one in fields(ScoreConfig))
        changed = {name for name in names if getattr(self.new, name) != getattr(self.old, name)}
        words = stop_words_identity(self.new)
        return changed | ({"stop_words"} if any(self.manifest.get(name) != words[name] for name in words) else set())

    def opened(self) -> RunDirectory:
        """Open the directory of the new shards."""
        kept = {key: one for key, one in header_of(self.manifest).items() if key not in ("format_version", "config")}
        made_of = {"remasked": {"shards": [entry["sha256"] for entry in self.manifest["shards"]]}}
        identity = {**kept, **stop_words_identity(self.new), "fastmask_version": __version__, **made_of}
        return RunDirectory.open(self.config.out, self.new.as_dict(), identity, self.config.overwrite)

    def count(self) -> list[int]:
        """Return how many sentences of each shard are in doubt."""
        if self.alone:
            return [0] * len(self.manifest["shards"])
        return [int(self._masked(scored, self.told, self.old.threshold)[1].sum()) for _, scored in self._stored()]

    def _stored(self, wanted: Collection[int] | None = None) -> Iterator[tuple[Json, ScoredSentences]]:
        """Yield the entries and contents of the shards, or of those that are wanted."""
        for entry, skipped in self.source.entries():
            if wanted is None or entry["index"] in wanted:
                yield entry, scored_of(self.source.table(entry["index"]), entry, skipped)

    def write(self, run: RunDirectory, in_doubt: list[int]) -> None:
        """Write what is missing, and the manifest."""
        missing, asks = run.missing(len(in_doubt)), self.config.certify and sum(in_doubt) > 0
        if asks and run.plan is not None:
            self.again.check_plan(run.path, run.plan)
        if asks and (number := sum(in_doubt[index] for index in missing)):
            total = counted(self.manifest["totals"]["rows"], "sentence")
            log.info(f"asking the model again about {number:,} of {total}, whose masks the scores do not tell")
        if run.plan is None:
            run.write_plan(self.again.plan() if asks else self._told(), self._statistics())
        self._prepare(run)
        documents = self.manifest["totals"]["documents"]
        with self.meter.running(documents, 0) if asks else nullcontext():
            self._write_all(run, missing, asks)
        run.finish(self._result(run))

    def _told(self) -> Json:
        return {"error_bounds": self.manifest["certificate"].get("error_bounds")}

    def _statistics(self) -> bytes | None:
        """Return what the new run has counted of the corpus; None where its method counts nothing."""
        if not isinstance(self.alone, CorpusScorer):
            return None
        if self.counts_again:
            shards = (scored.sentences for _, scored in self._stored(range(len(self.manifest["shards"]))))
            encoder = TextEncoder(self.tokenizer.backend_tokenizer, self.manifest["tokenizer"]["name"])
            return self.alone.statistics(shards, encoder)
        if (found := read_statistics(self.source.path, self.manifest["certificate"])) is None:
            raise OutputError(f"{self.path}: its manifest says nothing of the statistics of its words")
        return found

    def _prepare(self, run: RunDirectory) -> None:
        if isinstance(self.alone, CorpusScorer):
            self.alone.prepare(read_statistics(run.path, run.plan or {}) or b"")

    def _write_all(self, run: RunDirectory, missing: list[int], asks: bool) -> None:
        """Write shards that are missing, then again those that later answers contradict, as ``score`` does."""
        assert run.plan is not None
        planned = bounds_in(run.plan)
        bounds = planned and widened_by(planned, [one["certificate"] for one in run.entries.values()])
        wanted = missing
        while wanted:
            for entry, made in self._made(wanted, asks, planned, bounds):
                run.write_shard(entry["index"], made, entry)
            certificates = {index: one["certificate"] for index, one in run.entries.items()}
            bounds = planned and widened_by(planned, certificates.values())
            wanted = [index for index, one in certificates.items() if bounds and not is_made_with(one, bounds)]

    def _made(
        self, wanted: Collection[int], asks: bool, planned: Bounds | None, bounds: Bounds | None
    ) -> Iterator[tuple[Json, ScoredSentences]]:
        """Yield the entries and new contents of shards, made with bounds or with wider ones that were found to hold."""
        units = self.again.units(wanted) if asks else None
        for entry, scored in self._stored(wanted):
            if self.alone is not None or bounds is None:
                yield entry, self._by_itself(scored)
                continue
            # a bound that was too narrow may have decided what the shards hold, too
            made, in_doubt = self._masked(scored, bounds, self.old.threshold if bounds == planned else nan)
            of_shard = next(units) if units else None
            if asks and in_doubt.any():
                made = self.again.ask(made, in_doubt, of_shard, bounds, trusted=bounds == planned)
            elif not is_made_with(made.certificate, bounds):
                made = replace(made, certificate=joined_certificate(made.certificate, {}, bounds, 0))
            bounds = widened_by(bounds, [made.certificate])
            yield entry, made

    def _by_itself(self, scored: ScoredSentences) -> ScoredSentences:
        assert self.alone is not None
        made = self.alone.score(scored.sentences, None)
        return replace(made, certificate=scored.certificate)

    def _result(self, run: RunDirectory) -> Json:
        """Return what the manifest has of how the shards were made."""
        assert run.plan is not None
        certificate, more = self.manifest["certificate"], inherited(self.manifest)
        if "asked_with" in run.plan:
            made = [run.entries[index]["certificate"] for index in sorted(run.entries)]
            bounds = bounds_in(run.plan)
            assert bounds is not None
            certificate = merged_certificate(made) | {"error_bounds": widened_by(bounds, made).as_dict()}
            more["environment"] = {**more["environment"], "asked_with": run.plan["asked_with"]}
        return {"certificate": {**certificate, **recorded(run.plan)}, **more}

    def _masked(self, scored: ScoredSentences, bounds: Bounds, was: float) -> tuple[ScoredSentences, np.ndarray]:
        """Return a shard with the masks that its scores tell, and bool [S]: sentences of which they do not."""
        s, (stored, unknown) = scored.sentences, self._recalled(scored, bounds)
        recalled = self.method.recall(stored, self.new.threshold, was)
        may_mask, items = self.rules.may_mask(s.input_ids, s.offsets, s.word), self.rules.items(s.offsets, s.word)
        marked, rate = recalled.important, self.new.mask_rate
        chosen, ambiguous = choose(items, marked, may_mask, recalled.low, recalled.high, rate)
        open_ = recalled.in_doubt & items.any(may_mask)[items.of_token]
        mask_offsets, mask_index = ragged_positions(s.offsets, chosen)
        in_doubt = unknown | _in_doubt(s.offsets, recalled, open_, ambiguous)
        return replace(scored, mask_offsets=mask_offsets, mask_index=mask_index), in_doubt

    def _recalled(self, scored: ScoredSentences, bounds: Bounds) -> tuple[Stored, np.ndarray]:
        """Return what a shard tells, and bool [S]: texts of which it is not known how much the model saw.

        That hangs on the length of their aspects, which shards do not hold.
        """
        s = scored.sentences
        lengths, is_aspect = np.diff(s.offsets), scored.scored & (scored.predicted < 0) & self.method.reads_units
        room = self._room(bool(is_aspect.any()))
        self.is_aspect |= bool(is_aspect.any())
        importance, prob = (one.astype(np.float64) for one in (scored.importance, scored.prob))
        items = self.was.items(s.offsets, s.word)
        decided = items.any(self.was.may_mask(s.input_ids, s.offsets, s.word))[items.of_token]
        numbers = s.offsets, s.input_ids, importance, prob, scored.scored, is_aspect, within(lengths) < room, decided
        return Stored(*numbers, bounds), is_aspect & (2 * lengths > room)

    def _room(self, is_pair: bool) -> int:
        """Return how many tokens of a text, or of an aspect and its text, the model sees."""
        if is_pair not in self._rooms:
            template = template_of(self.tokenizer.backend_tokenizer, self.manifest["tokenizer"]["name"], is_pair)
            self._rooms[is_pair] = template.longest_context(self.new.max_length)
        return self._rooms[is_pair]


def _config_of(path: str, manifest: Json) -> ScoreConfig:
    if unknown := manifest["config"].keys() - {field.name for field in fields(ScoreConfig)}:
        raise OutputError(f"{path}: made with --{min(unknown)}, which this fastmask does not know")
    return ScoreConfig(**manifest["config"])


def _in_doubt(offsets: np.ndarray, recalled: Recalled, open_: np.ndarray, ambiguous: np.ndarray) -> np.ndarray:
    """Return bool [S]: sentences with an open decision, or rank; ranks that are the very same are not open."""
    sentence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pairs = np.unique(np.stack([sentence[ambiguous], recalled.same[ambiguous]]), axis=1)[0]
    found = np.zeros(len(offsets) - 1, bool)
    found[pairs[:-1][pairs[1:] == pairs[:-1]]] = True
    found[sentence[open_]] = True
    return found
