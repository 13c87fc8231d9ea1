"""Configurations: frozen, validated once, written whole into the manifest. The command line's defaults are these."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .errors import FastmaskError

METHODS = ("greedy", "prefix", "leave-one-out", "random")
PRECISIONS = ("auto", "float32", "float16", "bfloat16")
KERNELS = ("auto", "torch", "triton")


def _require(ok: bool, option: str, value, reason: str) -> None:
    if not ok:
        raise FastmaskError(f"--{option.replace('_', '-')} {value}: {reason}")


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """Everything that ``fastmask score`` can be told (DESIGN section 6).

    Attributes:
        model: directory of an ``AutoModelForSequenceClassification`` checkpoint; None is the embedded classifier.
        method: one of METHODS.
        threshold: d of the paper's rule, in probability.
        mask_rate: at most ``max(1, int(mask_rate * n))`` masks in a sentence of n tokens; None is no cap.
        like: for ``random``: a finished shard directory whose mask counts are copied sentence by sentence.
        stop_words: "english", "none", or a file with one word a line.
        segment: "sentence" (spaCy's rule sentencizer) or "line" (each document is one sentence).
        text_field, label_field: column names of structured input.
        max_length: longest variant in tokens, special tokens included.
        precision: precision of the first pass; "auto" takes the fastest the device has.
        certify: recheck doubtful decisions at higher precision (DESIGN section 4).
        device: "auto", "cpu" or "cuda".
        kernels: which encoder back end runs the forward pass.
        batch_tokens: token budget of one forward batch; 0 leaves it to the encoder.
        shard_rows: documents a shard.
        encoding: of text inputs.
        on_error: "fail" or "skip" a bad row.
        seed: of the random method and of the audit sample.
        threads: scoring threads; 0 is one per core.
    """

    model: str | None = None
    method: str = "greedy"
    threshold: float = 0.05
    mask_rate: float | None = None
    like: str | None = None
    stop_words: str = "english"
    segment: str = "sentence"
    text_field: str = "text"
    label_field: str = "label"
    max_length: int = 128
    precision: str = "auto"
    certify: bool = True
    device: str = "auto"
    kernels: str = "auto"
    batch_tokens: int = 0
    shard_rows: int = 8192
    encoding: str = "utf-8"
    on_error: str = "fail"
    seed: int = 0
    threads: int = 0

    def __post_init__(self):
        _require(self.method in METHODS, "method", self.method, f"choose one of {', '.join(METHODS)}")
        _require(self.precision in PRECISIONS, "precision", self.precision, f"choose one of {', '.join(PRECISIONS)}")
        _require(self.kernels in KERNELS, "kernels", self.kernels, f"choose one of {', '.join(KERNELS)}")
        _require(self.segment in ("sentence", "line"), "segment", self.segment, "choose sentence or line")
        _require(self.on_error in ("fail", "skip"), "on_error", self.on_error, "choose fail or skip")
        _require(-1.0 <= self.threshold <= 1.0, "threshold", self.threshold, "a probability difference, -1 to 1")
        _require(self.mask_rate is None or 0 < self.mask_rate <= 1, "mask_rate", self.mask_rate, "above 0, at most 1")
        _require(self.like is None or self.method == "random", "like", self.like, "only with --method random")
        _require(self.like is None or self.mask_rate is None, "like", self.like, "not together with --mask-rate")
        _require(self.max_length >= 8, "max_length", self.max_length, "at least 8")
        _require(self.shard_rows >= 1, "shard_rows", self.shard_rows, "at least 1")
        for option in ("batch_tokens", "seed", "threads"):
            _require(0 <= getattr(self, option) < 2**63, option, getattr(self, option), "0 to 2**63 - 1")

    def as_dict(self) -> dict:
        """The configuration as a JSON-ready dictionary, for the manifest."""
        return asdict(self)
