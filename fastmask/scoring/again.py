"""Asking the model of finished shards again, about the sentences whose scores do not tell other masks."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.arrays import take_ragged
from ..core.config import ScoreConfig
from ..core.errors import ModelError, OutputError
from ..core.plain import Json
from ..core.records import EncodedSentences, ScoredSentences
from ..core.words import counted
from ..models.directory import ModelFiles, resolve_model
from ..report.progress import Meter
from ..shards.reader import ShardSet
from ..text.frontend import encoded_shards
from ..text.hashed import HashedInputs, inputs_again
from ..text.tokens import TextEncoder
from .cascade import TIE, Bounds, merged_certificate
from .method import Known, Method
from .stored import plain_units, scored_of, some_of, with_some

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .engine import Engine

PRECISIONS = ("float16", "bfloat16", "float32", "float64")
TAKEN_AS_THEY_ARE = "--no-certify takes the scores as they are"


def bounds_in(fields: Json) -> Bounds | None:
    """Return the error bounds in a plan or certificate."""
    eps = fields.get("error_bounds")
    return Bounds(tuple(eps), tuple(eps.values())) if eps else None


def check_weights(shards: str, manifest: Json, files: ModelFiles) -> None:
    """Raise ModelError unless a model is the one that scored some shards, or these were made without one."""
    model = manifest["model"]
    if model and model.get("weights_sha256") != files.weights_sha256:
        raise ModelError(f"{files.name}: its weights are not those that scored {shards}")


class Again:
    """The model of finished shards, and the texts where shards do not have all that it reads: aspects.

    What cheap precisions left in doubt is asked from float32 on, by ``score``'s own cascade and policy. A run that was
    not certified is asked in its one precision.

    Args:
        source: the shards.
        manifest: theirs, with the names that tokenizer and model have now.
        method, config, tokenizer: of the new masks.
        told: error bounds of the shards' scores.
        decided: whether these tell the decisions: at the threshold that they were taken at.
        meter: see ``progress.Meter``.
    """

    def __init__(
        self,
        source: ShardSet,
        manifest: Json,
        method: Method,
        config: ScoreConfig,
        tokenizer: PreTrainedTokenizerBase,
        told: Bounds,
        decided: bool,
        meter: Meter,
    ):
        self.source, self.manifest, self.method, self.config = source, manifest, method, config
        self.tokenizer, self.told, self.decided, self.meter = tokenizer, told, decided, meter
        self._inputs: HashedInputs | None = None
        self._first_row = 0

    def find(self, in_doubt: int, is_aspect: bool) -> None:
        """Find the model, and the texts if they have aspects; nothing of it is loaded yet.

        Args:
            in_doubt: how many sentences are, for the message.
            is_aspect: whether any of the shards' texts have aspects.

        Raises:
            ModelError: it is not there, or is not the one that scored the shards.
            InputError: the texts are gone or have changed.
        """
        try:
            self.files = resolve_model(self.config.model)
            check_weights(str(self.source.path), self.manifest, self.files)
        except ModelError as error:
            what = f"{self.source.path}: its scores do not tell the masks of {counted(in_doubt, 'sentence')}"
            advice = f"--model names the directory where it is now, {TAKEN_AS_THEY_ARE}"
            raise ModelError(f"{what}, and the model cannot be asked: {error}; {advice}") from error
        self._inputs = inputs_again(self.manifest, f"; {TAKEN_AS_THEY_ARE}") if is_aspect else None

    @cached_property
    def engine(self) -> Engine:
        """Return the engine, loaded when it is first asked for."""
        config = self.config
        precision = "float32" if config.certify else self.told.levels[0]
        kernels = "auto" if config.kernels == "triton" else config.kernels  # the shards may be of another machine
        config = replace(config, precision=precision, kernels=kernels)
        is_aspect = self._inputs is not None
        with self.meter.loading(self.files.name):
            from .loading import load_engine  # torch and the kernels

            how = config, self.files, self.tokenizer, is_aspect, self._advance
            return load_engine(self.method, *how)

    def _advance(self, share: float, tokens: int) -> None:
        self.meter.advance(self._first_row, share, tokens)

    def plan(self) -> Json:
        """Return what a plan has of it: what runs, and the error bounds of the shards and of what is asked.

        Of float32's two the larger one: it is measured here, on the first sentences of the corpus, as ``score`` does.
        """
        own = self.engine.calibrate(self._sentences())
        eps = {level: TIE for level in PRECISIONS if level in {*self.told.levels, *own.levels}}
        for bounds in (self.told, own):
            for level, bound in bounds.as_dict().items():
                eps[level] = max(eps[level], bound)
        return {"error_bounds": eps, "asked_with": self.engine.describe()}

    def check_plan(self, out: Path, plan: Json) -> None:
        """Raise OutputError unless a plan was made with what runs here: the last bits of a result would differ."""
        was, now = plan.get("asked_with"), self.engine.describe()
        if was not in (None, now):
            places = f"the model on {json.dumps(was)}, now it is on {json.dumps(now)}"
            raise OutputError(f"{out}: begun with {places}; --overwrite begins again")

    def units(self, wanted: Collection[int]) -> Iterator[EncodedSentences] | None:
        """Yield the sentences of shards wanted, ascending, with their units; None where shards alone tell these."""
        if self._inputs is None:
            return None
        return self._read(self._inputs, wanted)

    def _sentences(self) -> Iterator[EncodedSentences]:
        entries = self.manifest["shards"]
        tables = (scored_of(self.source.table(entry["index"]), entry, ()) for entry in entries)
        return self.units(range(len(entries))) or (plain_units(scored.sentences) for scored in tables)

    def _read(self, inputs: HashedInputs, wanted: Collection[int]) -> Iterator[EncodedSentences]:
        encoder = TextEncoder(self.tokenizer.backend_tokenizer, self.files.name)
        config = replace(self.config, max_text_mb=self.config.limit_again)
        paths = [entry["name"] for entry in inputs.entries]
        classes, stamps = self.files.classes, inputs.stamps
        for _, shard in encoded_shards(paths, config, encoder, classes, wanted=wanted, stamps=stamps):
            inputs.check()
            yield shard

    def ask(
        self,
        scored: ScoredSentences,
        in_doubt: np.ndarray,
        units: EncodedSentences | None,
        bounds: Bounds,
        *,
        trusted: bool,
    ) -> ScoredSentences:
        """Return a shard with the scores and masks that the model gives for its sentences in doubt, bool [S].

        Args:
            scored: the shard, with new masks.
            units: its sentences as ``units`` yields them; None where these are plain.
            bounds: in force.
            trusted: whether what is certain by the shard's scores need not be asked.

        Raises:
            OutputError: the texts are not divided as they were.
        """
        chosen, s = np.flatnonzero(in_doubt), scored.sentences
        if units is not None and not np.array_equal(units.input_ids, s.input_ids):
            raise OutputError(f"{self.source.path}: its texts are divided in another way by now; score again")
        self._first_row = s.first_row
        self.meter.shard(s.first_row, s.end_row)
        some = some_of(plain_units(s) if units is None else units, chosen)
        asked = self._asked(some, bounds, self._known(scored, chosen) if trusted and units is None else None)
        made = with_some(scored, chosen, asked)
        return replace(made, certificate=joined_certificate(made.certificate, asked.certificate, bounds, len(chosen)))

    def _known(self, scored: ScoredSentences, chosen: np.ndarray) -> Known | None:
        """Return what a shard tells of sentences ``chosen`` int64 [K]; None where all are to be asked."""
        if not self.method.uses_known or not self.config.certify:
            return None
        _, importance = take_ragged(scored.sentences.offsets, scored.importance.astype(np.float64), chosen)
        return Known(importance, scored.prob[chosen].astype(np.float64), self.decided)

    def _asked(self, sentences: EncodedSentences, bounds: Bounds, known: Known | None) -> ScoredSentences:
        eps, own, first = bounds.as_dict(), self.engine.levels, self.told.levels[0]
        levels = own if known is None or first in own else (first, *own)
        bounds = Bounds(levels, (*(eps[level] for level in levels[:-1]), TIE))
        return self.engine.score(sentences, bounds) if known is None else self.engine.rescore(sentences, bounds, known)


def joined_certificate(told: Json, asked: Json, bounds: Bounds, sentences: int) -> dict[str, Any]:
    """Return the certificate of a shard of which some sentences were asked about again.

    Args:
        told, asked: certificates of the shard that it was made of, and of what was asked.
        bounds: that it was made with.
        sentences: how many.
    """
    total, levels = merged_certificate([told, asked]), bounds.levels[:-1]
    total.pop("rechecked_share", None)
    for name in ("pairs", "max_error"):
        total[name] = {level: total[name].get(level, 0) for level in levels}
    total["rechecked"] = {level: total["rechecked"].get(level, 0) for level in bounds.levels[1:]}
    total["asked_again"] = total.get("asked_again", 0) + sentences
    return {**total, "eps": dict(zip(levels, bounds.eps, strict=False))}
