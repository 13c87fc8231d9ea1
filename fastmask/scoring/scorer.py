"""A model made ready for a configuration: tokenizer, method, what scores shards with them, and their identity."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..core.config import ScoreConfig
from ..core.records import EncodedSentences, ScoredSentences
from ..models.directory import load_tokenizer, resolve_model
from ..models.tokenizer import tokenizer_record
from ..models.weights import CLASSIFIER
from ..report.progress import Meter
from ..text.stop_words import stop_words
from ..text.tokens import TextEncoder
from .cascade import Bounds
from .method import CorpusScorer, ShardScorer, load_method

log = logging.getLogger(__name__)


def stop_words_identity(config: ScoreConfig) -> dict[str, Any]:
    """Return what the manifest has of the words themselves."""
    words = sorted(stop_words(config.stop_words, config.language))
    return {"stop_words_sha256": hashlib.sha256("\n".join(words).encode()).hexdigest()}


class Scorer:
    """A model made ready for a configuration; ``with`` ends what runs for it.

    Raises:
        ModelError, FastmaskError: the model cannot be loaded or does not fit the configuration.
    """

    def __init__(self, config: ScoreConfig, is_aspect: bool = False, meter: Meter | None = None):
        self.config, self.method, self.meter = config, load_method(config), meter or Meter()
        self._first_row = 0
        self.files = resolve_model(config.model)
        with self.meter.loading(self.files.name):
            self.tokenizer = load_tokenizer(self.files)
            self.encoder = TextEncoder(self.tokenizer.backend_tokenizer, self.files.name)
            self.engine = self.method.without_model(config, self.tokenizer, self._advance) or self._loaded(is_aspect)
        others, needed = self.method.keeps_other_labels, self.method.needs_labels
        self.classes = replace(self.files.classes, keep_others=others, drop_none=needed)
        for remark in filter(None, (self.engine.remark, self._without_words())):
            log.info(remark)

    def _loaded(self, is_aspect: bool) -> ShardScorer:
        from .loading import load_engine  # torch and the kernels

        engine = load_engine(self.method, self.config, self.files, self.tokenizer, is_aspect, self._advance)
        self.config = engine.config
        return engine

    def _without_words(self) -> str:
        """Return in words that the language has no stop words; "" if it has some, or if they have no part in it."""
        given = self.config.stop_words, self.config.language
        lacks = not self.method.is_control and given[0] == "language" and not stop_words(*given)
        return f"--language {given[1]}: spaCy has no stop words of it, and none are left out" if lacks else ""

    def _advance(self, share: float, tokens: int) -> None:
        self.meter.advance(self._first_row, share, tokens)

    def score(self, shard: EncodedSentences, bounds: Bounds | None) -> ScoredSentences:
        """See ``ShardScorer.score``."""
        self._first_row = shard.first_row
        self.meter.shard(shard.first_row, shard.end_row)
        return self.engine.score(shard, bounds)

    @property
    def reads_corpus(self) -> bool:
        """Return whether shards follow from statistics of the whole corpus, too."""
        return isinstance(self.engine, CorpusScorer)

    def statistics(self, shards: Iterator[EncodedSentences]) -> bytes:
        """See ``CorpusScorer.statistics``."""
        assert isinstance(self.engine, CorpusScorer)
        return self.engine.statistics(shards, self.encoder)

    def prepare(self, statistics: bytes) -> None:
        """See ``CorpusScorer.prepare``."""
        assert isinstance(self.engine, CorpusScorer)
        self.engine.prepare(statistics)

    def stop(self) -> None:
        """Make scoring that runs in another thread end soon, for good."""
        self.engine.stop()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def identity(self) -> dict[str, Any]:
        """Return model, tokenizer and other inputs of the decisions as the manifest has them."""
        files = self.files
        model = {"name": files.name, "weights_sha256": files.weights_sha256} if self.method.asks_model else None
        return {
            "model": model,
            "tokenizer": tokenizer_record(files, self.tokenizer),
            **stop_words_identity(self.config),
            **self.engine.identity(),
        }

    def class_names(self) -> dict[str, list[str]]:
        """Return the names of the classes for the manifest, where the model is a classifier."""
        return {"classes": list(self.files.class_names)} if self.method.task == CLASSIFIER else {}

    def describe(self) -> dict[str, Any]:
        """Return what runs and decides the last bits of a result: a run cannot resume where another of these began."""
        return self.engine.describe()
