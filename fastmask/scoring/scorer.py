"""A model made ready for a configuration: tokenizer, template, engine or random control, and their identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..core.config import ScoreConfig
from ..core.records import EncodedSentences, ScoredSentences
from ..models.directory import ModelFiles, load_tokenizer, resolve_model
from ..models.pieces import special_ids_in_text
from ..models.tokenizer import tokenizer_record
from ..report.meter import NoMeter
from ..text.tokens import TextEncoder
from .cascade import Bands, bands_of
from .control import RandomControl
from .fleet import Fleet
from .loading import load_engine
from .policy import stop_words


class Scorer:
    """A model made ready for a configuration, on one device or several; ``with`` ends what runs for it.

    Raises:
        ModelError, FastmaskError: the model cannot be loaded or does not fit the configuration.
    """

    def __init__(self, config: ScoreConfig, is_aspect: bool = False, meter=None):
        self.config, self.files = config, resolve_model(config.model)
        files = self.files
        self.tokenizer = load_tokenizer(files)
        self.encoder = TextEncoder(self.tokenizer.backend_tokenizer, self.files.name)
        special = special_ids_in_text(self.tokenizer)
        self.control = RandomControl(config, special) if config.method == "random" else None
        # labels of the text are kept as they are where they are not classes of the model
        self.classes = replace(files.classes, keep_others=config.method in ("masker", "random"))
        self.meter = meter or NoMeter()
        self._first_row = 0
        self.engine = None if self.control else self._engine(is_aspect)

    def _engine(self, is_aspect: bool):
        if len(self.config.devices) > 1:
            engine = Fleet(self.config, self.files, is_aspect, self.meter)
        else:
            engine = load_engine(self.config, self.files, self.tokenizer, is_aspect, self._advance)
        if engine.remark:
            self.meter.note(engine.remark)
        return engine

    def _advance(self, share: float, tokens: int) -> None:
        self.meter.advance(self._first_row, share, tokens)

    def score_shard(self, shard: EncodedSentences, bands: Bands | None) -> tuple[ScoredSentences, Bands | None]:
        """The scores and masks of one shard, and the bands for the next; see ``Engine.score_shard``. One device."""
        self._first_row = shard.first_row
        self.meter.shard(shard.first_row, shard.end_row)
        if not self.control:
            return self.engine.score_shard(shard, bands)
        self._advance(1.0, len(shard.input_ids))
        return self.control.mask_shard(shard), None

    def score_shards(
        self, shards: Iterator[tuple[int, EncodedSentences]], entries: Mapping[int, dict]
    ) -> Iterator[tuple[int, ScoredSentences]]:
        """(k, its scores and masks) for each shard k, in the same order.

        Each goes on with the bands that the shard before it ended with.

        Args:
            shards: ascending; where k - 1 is not among them it is in ``entries``.
            entries: of shards that were scored before, from the journal or the manifest, by number.

        Raises:
            FastmaskError: a worker process failed or ended.
        """
        if isinstance(self.engine, Fleet):
            yield from self.engine.score_shards(shards, entries)
            return
        bands = None
        for index, shard in shards:
            if self.engine and index - 1 in entries:
                bands = bands_of(entries[index - 1]["certificate"], self.engine.levels)
            scored, bands = self.score_shard(shard, bands)
            yield index, scored

    def stop(self) -> None:
        """Make scoring that runs in another thread end soon, for good."""
        if self.engine:
            self.engine.stop()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def identity(self) -> dict:
        """Model, tokenizer and other inputs of the decisions as the manifest has them."""
        files: ModelFiles = self.files
        model = None if self.control else {"name": files.name, "weights_sha256": files.weights_sha256}
        words = sorted(stop_words(self.config.stop_words))
        return {
            "model": model,
            "tokenizer": tokenizer_record(files, self.tokenizer),
            "stop_words_sha256": hashlib.sha256("\n".join(words).encode()).hexdigest(),
            "like": self.control.identity() if self.control else None,
        }

    def describe(self) -> dict:
        """What runs and decides the last bits of a result: a run does not go on where another of these began."""
        return {"device": "cpu", "kernels": "none"} if self.control else self.engine.describe()

    def environment(self) -> dict:
        """``describe``, with the devices by name where there are several: how many there are decides nothing."""
        several = {"device": self.config.device} if isinstance(self.engine, Fleet) else {}
        return {**self.describe(), **several}
