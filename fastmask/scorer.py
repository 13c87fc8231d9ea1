"""A model made ready for a configuration: tokenizer, template, engine or random control, and their identity."""

from __future__ import annotations

import hashlib

from .certify import Bands, bands_of
from .config import ScoreConfig
from .control import RandomControl
from .decide import stop_token_table, stop_words
from .encode import TextEncoder
from .errors import ModelError
from .meter import NoMeter
from .models import ModelFiles, load_tokenizer, resolve_model
from .records import EncodedSentences, ScoredSentences


class Scorer:
    """A model made ready for a configuration; scores shards in sequence, carrying the bands from one to the next.

    Raises:
        ModelError, FastmaskError: the model cannot be loaded or does not fit the configuration.
    """

    def __init__(self, config: ScoreConfig, is_aspect: bool = False, meter=None):
        self.config, self.files = config, resolve_model(config.model)
        files = self.files
        self.tokenizer = load_tokenizer(files)
        self.encoder = TextEncoder(str(files.dir))
        self.class_names = {name: index for index, name in enumerate(files.class_names)}
        self.control = RandomControl(config) if config.method == "random" else None
        self.num_labels = None if self.control else files.num_labels
        self.bands: Bands | None = None
        self.meter = meter or NoMeter()
        self.engine = None if self.control else self._engine(is_aspect)

    def _engine(self, is_aspect: bool):
        import torch

        from .engine import Engine
        from .models import load_classifier
        from .template import template_of

        config, tokenizer = self.config, self.tokenizer.backend_tokenizer
        stop_tokens = stop_token_table(tokenizer.get_vocab(), stop_words(config.stop_words))
        template = template_of(tokenizer, self.files.name, is_aspect)
        model = load_classifier(self.files, torch.float32)
        positions = usable_positions(model.config)
        if positions is not None and config.max_length > positions:
            raise ModelError(f"--max-length {config.max_length}: {self.files.name} takes at most {positions} tokens")
        return Engine(model, template, config, stop_tokens, self.meter.advance)

    def score_shard(self, shard: EncodedSentences) -> ScoredSentences:
        """The shard's scores and masks; ``bands`` moves on."""
        if self.control:
            self.meter.advance(1.0, len(shard.input_ids))
            return self.control.mask_shard(shard)
        scored, self.bands = self.engine.score_shard(shard, self.bands)
        return scored

    def resume_after(self, entry: dict | None) -> None:
        """Take the state that follows a shard from its entry in the journal or manifest; None is the beginning."""
        if self.engine:
            self.bands = bands_of(entry["certificate"], self.engine.levels) if entry else None

    def stop(self) -> None:
        """Make a running ``score_shard`` in another thread end soon."""
        if self.engine:
            self.engine.stop()

    def identity(self) -> dict:
        """Model, tokenizer and other inputs of the decisions as the manifest has them."""
        files: ModelFiles = self.files
        model = None if self.control else {"name": files.name, "weights_sha256": files.weights_sha256}
        tokenizer = {
            "name": files.name,
            "local": files.is_local,
            "vocabulary_sha256": files.tokenizer_sha256,
            "special_ids": special_ids(self.tokenizer),
        }
        words = sorted(stop_words(self.config.stop_words))
        return {
            "model": model,
            "tokenizer": tokenizer,
            "stop_words_sha256": hashlib.sha256("\n".join(words).encode()).hexdigest(),
            "like": self.control.identity() if self.control else None,
        }

    def describe(self) -> dict:
        """What runs and decides the last bits of a result: a run does not go on where another of these began."""
        return {"device": "cpu", "kernels": "none"} if self.control else self.engine.describe()


def special_ids(tokenizer) -> dict[str, int | None]:
    """Ids of a transformers tokenizer's special tokens by role; None where it has none."""
    roles = ("cls", "sep", "mask", "pad", "unk", "bos", "eos")
    return {role: getattr(tokenizer, f"{role}_token_id", None) for role in roles}


def usable_positions(model_config) -> int | None:
    """Longest input of a model in tokens; None where its positions are not a table."""
    positions = getattr(model_config, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    offset = model_config.model_type in ("roberta", "xlm-roberta", "camembert")
    return positions - (model_config.pad_token_id + 1 if offset else 0)
