"""Configurations: frozen, validated once, written whole into the manifest. The command line's defaults are these."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace

from .errors import FastmaskError

METHODS = ("greedy", "prefix", "leave-one-out", "masker", "random")
# The masker's rate (paper section 2.4), where a method always has a cap and none is given.
DEFAULT_RATE = 0.15
MAX_TEXT_MB = 64
PRECISIONS = ("auto", "float32", "float16", "bfloat16")
KERNELS = ("auto", "torch", "triton")
_DEVICE = re.compile(r"[a-z]+(:(0|[1-9]\d*))?")


def demand(ok: bool, what: str, reason: str) -> None:
    """Raises FastmaskError, ``what: reason``, unless ``ok``."""
    if not ok:
        raise FastmaskError(f"{what}: {reason}")


def require(ok: bool, option: str, value, reason: str) -> None:
    """The same about the value of a field, named as the command line does."""
    demand(ok, f"{flag(option)} {value}", reason)


def flag(option: str) -> str:
    """The command line's name of a field."""
    return f"--{option.replace('_', '-')}"


def _check_devices(device: str) -> None:
    """That there are such names; whether there are such devices is for the engine to say."""
    names = device.split(",")
    well_formed = all(_DEVICE.fullmatch(name) for name in names)
    require(well_formed, "device", device, "auto, cpu, cuda, cuda:N, or several with commas between, cuda:0,cuda:1")
    if len(names) > 1:
        require(len({name.partition(":")[0] for name in names}) == 1, "device", device, "several must be of one kind")
        # workers share a processor, so that several need no GPU
        if set(names) != {"cpu"}:
            numbered = all(":" in name for name in names) and len(set(names)) == len(names)
            require(numbered, "device", device, "number several and name each once, as in cuda:0,cuda:1")


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """Everything that ``fastmask score`` can be told (DESIGN section 6).

    Attributes:
        model: directory of an ``AutoModelForSequenceClassification`` checkpoint; None is the embedded classifier. For
            ``masker``: of an ``AutoModelForTokenClassification`` one with two classes, and not None.
        method: one of METHODS.
        threshold: d of the paper's rule, in probability.
        mask_rate: at most ``max(1, int(mask_rate * n))`` masks in a sentence of n tokens; None is no
            cap, but DEFAULT_RATE for ``masker`` and ``random``.
        like: for ``random``: a finished shard directory whose mask counts are copied sentence by sentence.
        stop_words: "english", "none", or a file with one word a line.
        segment: "sentence" (spaCy's rule sentencizer) or "line" (each document is one sentence).
        text_field, label_field: column names of structured input.
        max_length: longest variant in tokens, special tokens included.
        precision: precision of the first pass; "auto" takes the fastest the device has.
        certify: recheck doubtful decisions at higher precision (DESIGN section 4).
        device: "auto", "cpu", or a torch device such as "cuda" or "cuda:1"; or several of one kind, separated by
            commas, which score shards side by side.
        kernels: which encoder back end runs the forward pass.
        batch_tokens: token budget of one forward batch; 0 leaves it to the encoder.
        shard_rows: documents a shard.
        encoding: of text inputs.
        on_error: "fail" or "skip" a bad row.
        max_text_mb: a line, cell or row of more megabytes is a bad one; 0 is no limit.
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
    max_text_mb: int = MAX_TEXT_MB
    seed: int = 0
    threads: int = 0

    def __post_init__(self):
        require(self.method in METHODS, "method", self.method, f"choose one of {', '.join(METHODS)}")
        require(self.precision in PRECISIONS, "precision", self.precision, f"choose one of {', '.join(PRECISIONS)}")
        require(self.kernels in KERNELS, "kernels", self.kernels, f"choose one of {', '.join(KERNELS)}")
        require(self.method != "masker" or self.model is not None, "method", self.method, "name the masker by --model")
        if self.method == "masker" and self.mask_rate is None:
            object.__setattr__(self, "mask_rate", DEFAULT_RATE)
        _check_devices(self.device)
        require(self.segment in ("sentence", "line"), "segment", self.segment, "choose sentence or line")
        require(self.on_error in ("fail", "skip"), "on_error", self.on_error, "choose fail or skip")
        require(-1.0 <= self.threshold <= 1.0, "threshold", self.threshold, "a probability difference, -1 to 1")
        require(self.mask_rate is None or 0 < self.mask_rate <= 1, "mask_rate", self.mask_rate, "above 0, at most 1")
        require(self.like is None or self.method == "random", "like", self.like, "only with --method random")
        require(self.like is None or self.mask_rate is None, "like", self.like, "not together with --mask-rate")
        require(self.max_length >= 8, "max_length", self.max_length, "at least 8")
        require(self.shard_rows >= 1, "shard_rows", self.shard_rows, "at least 1")
        for option in ("batch_tokens", "max_text_mb", "seed", "threads"):
            require(0 <= getattr(self, option) < 2**63, option, getattr(self, option), "0 to 2**63 - 1")

    @property
    def devices(self) -> tuple[str, ...]:
        """The names in ``device``."""
        return tuple(self.device.split(","))

    def control_of(self, out: str) -> ScoreConfig:
        """The configuration of the random twin of a run into ``out``: the same sentences, as many masks each."""
        return replace(self, method="random", like=out, mask_rate=None)

    @property
    def limit_again(self) -> int:
        """The ``max_text_mb`` that reads a finished run's texts again: where none was skipped, all were let through."""
        return self.max_text_mb if self.on_error == "skip" else 0

    def as_dict(self) -> dict:
        """The configuration as a JSON-ready dictionary, for the manifest.

        ``max_text_mb`` is in it only where it may change the result of a run: older ones, without it, go on.
        """
        settings = asdict(self)
        if self.on_error == "fail" or self.max_text_mb == MAX_TEXT_MB:
            del settings["max_text_mb"]
        return settings


TRAINED_DTYPES = ("float32", "float16")
# Models that are made from scratch, by their shape.
CONFIGS = {
    # 3 MB in float16 with 8,192 wordpieces
    "small": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512},
}
_LEAST = {"epochs": 1, "batch_size": 1, "max_length": 8, "seed": 0}


def check_training(config) -> None:
    """Checks the fields that all trainers have: those of _LEAST, of which some may be None, AdamW's, and the device.

    Raises:
        FastmaskError: a value is out of range; its option is named.
    """
    for option, least in _LEAST.items():
        value = getattr(config, option)
        demand(value is None or least <= value < 2**63, flag(option), f"{least} to 2**63 - 1")
    demand(config.lr > 0, "--lr", "above 0")
    demand(config.weight_decay >= 0, "--weight-decay", "at least 0")
    demand(0 <= config.warmup <= 1, "--warmup", "a share, 0 to 1")
    demand(config.device in ("auto", "cpu", "cuda"), "--device", "choose auto, cpu or cuda")


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """Everything that ``fastmask finetune`` can be told; the defaults are the paper's (DESIGN section 2).

    Attributes:
        train: labelled files; one that is named k times counts k times.
        out: directory to write the model to.
        dev: labelled files that choose the best epoch, by the mean of their accuracies; none: the last epoch.
        test: labelled files that are only measured, once, at the end.
        init: model to start from, a classifier or a bare encoder; or else
        config: name of a configuration to train from scratch, one of CONFIGS, with a vocabulary learned from
            ``train``.
        new_head: draw the classification head anew, also where ``init`` has one: then it and all that is random
            after it depend on the seed and the encoder's shape alone.
        classes: class names in index order; () takes those of ``init`` if they fit, else those in ``train``.
        vocab_size: wordpieces to learn, with ``config``.
        epochs, batch_size, lr, warmup, weight_decay: AdamW; linear warm-up over a share of all steps, then
            linear decay.
        max_length: longest input in tokens, special tokens included.
        dtype: dtype of the saved weights; training itself is in float32.
        text_field, label_field, encoding, on_error: how files are read, as for ``fastmask score``.
        device: "auto", "cpu" or "cuda".
        seed: of initial weights, order and dropout.
        overwrite: replace ``out``.
    """

    train: tuple[str, ...]
    out: str
    dev: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    init: str | None = None
    config: str | None = None
    new_head: bool = False
    classes: tuple[str, ...] = ()
    vocab_size: int = 8192
    epochs: int = 10
    batch_size: int = 32
    lr: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int = 256
    dtype: str = "float32"
    text_field: str = "text"
    label_field: str = "label"
    encoding: str = "utf-8"
    on_error: str = "fail"
    device: str = "auto"
    seed: int = 13
    overwrite: bool = False

    def __post_init__(self):
        check_training(self)
        demand(bool(self.train), "TRAIN", "name at least one training file")
        demand((self.init is None) != (self.config is None), "--init, --config", "give one of the two")
        demand(not (self.new_head and self.config), "--new-head", "only with --init")
        demand(self.config is None or self.config in CONFIGS, "--config", f"choose {' or '.join(CONFIGS)}")
        demand(self.dtype in TRAINED_DTYPES, "--dtype", f"choose {' or '.join(TRAINED_DTYPES)}")
        demand(self.on_error in ("fail", "skip"), "--on-error", "choose fail or skip")
        demand(len(self.classes) != 1 and len(set(self.classes)) == len(self.classes), "--classes",
                "at least two names, all different")  # fmt: skip
        demand(self.vocab_size >= 100, "--vocab-size", "at least 100")
