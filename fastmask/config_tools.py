"""Settings of the commands that use finished shards and finished models: frozen, validated once, like ``config``."""

from __future__ import annotations

from dataclasses import dataclass

from .config import demand, require

EXPORT_FORMATS = ("nvidia-hdf5", "jsonl", "mds")


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Everything that ``fastmask export`` can be told.

    Attributes:
        shards: the finished shard directory.
        out: directory to write to.
        to: one of EXPORT_FORMATS.
        max_length: tokens of a training sequence, special tokens included.
        max_predictions: masks of a sequence that are kept, the first ones; the other tokens stay as they are.
        seed: of the corruption.
        overwrite: replace ``out``.
    """

    shards: str
    out: str
    to: str
    max_length: int = 512
    max_predictions: int = 80
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self):
        require(self.to in EXPORT_FORMATS, "to", self.to, f"choose one of {', '.join(EXPORT_FORMATS)}")
        require(self.max_length >= 8, "max_length", self.max_length, "at least 8")
        require(self.max_predictions >= 1, "max_predictions", self.max_predictions, "at least 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2**63 - 1")


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """Everything that ``fastmask evaluate`` can be told.

    Attributes:
        arms: ``NAME=PATH``, a fine-tuned model or a file of predictions; PATH may be a pattern with ``*``, and a NAME
            may come again. The first arm is the first baseline.
        test: labelled file.
        json, picture: files to write the report and its picture to.
        max_length: longest input of a model in tokens, special tokens included.
        text_field, label_field, encoding: how ``test`` is read.
        resamples: draws of the bootstrap.
        seed: of those draws.
    """

    arms: tuple[str, ...]
    test: str
    json: str | None = None
    picture: str | None = None
    max_length: int = 256
    text_field: str = "text"
    label_field: str = "label"
    encoding: str = "utf-8"
    resamples: int = 10_000
    seed: int = 0

    def __post_init__(self):
        for arm in self.arms:
            name, equals, path = arm.partition("=")
            demand(bool(name and equals and path), f"--arm {arm}", "give NAME=PATH")
        demand(bool(self.arms), "--arm", "name at least one")
        require(self.max_length >= 8, "max_length", self.max_length, "at least 8")
        require(self.resamples >= 100, "resamples", self.resamples, "at least 100")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
