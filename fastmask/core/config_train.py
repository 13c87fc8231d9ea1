"""Settings of the three trainers, as ``config`` has those of the other commands. Defaults are the paper's."""

from __future__ import annotations

from dataclasses import dataclass

from .config import (
    MASKS,
    RUNNING,
    ExportConfig,
    ScoreConfig,
    Unsaid,
    above_zero,
    at_least,
    check_fields,
    demand,
    not_negative,
    on_disk,
    option,
    required,
    shared,
    shares_of,
    within,
)

# Models that are made from scratch, by their shape.
CONFIGS = {
    # 3 MB in float16 with 8,192 wordpieces
    "small": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512},
}
BATCH_SIZE, EPOCHS = 112, 1
"""What pre-training takes where neither of two options is given."""
OPTIMIZER = "Optimizer"
MODEL = "The new model"
CHECKPOINTS = "Checkpoints"
TRACKERS = ("tensorboard", "wandb", "trackio")
UNSETTLING = ("out", "overwrite", "save_every", "track")
"""Options of trainers that leave the result as it is."""


def rates_of(schedule: str) -> tuple[float, ...]:
    """Return the rates of a mask schedule, FIRST:LAST; none where a part is not a number."""
    return shares_of(schedule, ":")


def kept_fault(shares: tuple[float, ...]) -> str:
    """Return what is wrong with the shares of the steps after which a model is kept, in words; "" if nothing is."""
    fine = shares and all(0 < share < 1 for share in shares) and list(shares) == sorted(set(shares))
    return "" if fine else "shares of the steps between 0 and 1, ascending, as 0.125, 0.25, 0.5"


def _rates_fault(schedule: str) -> str:
    rates = rates_of(schedule)
    fine = len(rates) == 2 and all(0 < rate <= 1 for rate in rates)
    return "" if fine else "two shares of the tokens, above 0, at most 1, as 0.30:0.05"


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """The settings of ``fastmask finetune``. A training file that is named k times counts k times."""

    train: tuple[str, ...] = required("Labelled files.", flag="TRAIN")
    out: str = required("Directory of the model.", flag="-o --out", check=on_disk)
    dev: tuple[str, ...] = option((), "Labelled file on which the best epoch is chosen; may be repeated.")
    test: tuple[str, ...] = option((), "Labelled file on which the saved model is measured; may be repeated.")
    init: str | None = option(None, "Model to start from: a directory or a hub id.")
    config: str | None = option(None, "Shape of a new model with a vocabulary learned from the texts, instead of "
                                "--init.", choices=tuple(CONFIGS), group=MODEL)  # fmt: skip
    new_head: bool = option(False, "Start with a new classification head even where the model has one.", group=MODEL)
    classes: tuple[str, ...] = option(
        (),
        "Name of a class; once for each class, in the order of their indices. Default: as the labels have them.",
        group=MODEL,
    )
    vocab_size: int = option(8192, "Size of the vocabulary that --config learns.", check=at_least(100), group=MODEL)
    epochs: int = option(10, "Passes over the training data.", check=at_least(1))
    batch_size: int = option(32, "Texts in a step.", check=at_least(1))
    lr: float = option(2e-5, "Peak learning rate of AdamW.", check=above_zero)
    warmup: float = option(0.1, "Share of the steps in which the learning rate grows; in the rest it falls linearly.",
                           check=within(0, 1, "a share, 0 to 1"), group=OPTIMIZER)  # fmt: skip
    weight_decay: float = option(0.01, "Weight decay of AdamW.", check=not_negative, group=OPTIMIZER)
    max_length: int = shared(ScoreConfig, "max_length", Unsaid(256))
    dtype: str = option("float32", "Dtype of the saved weights.", choices=("float32", "float16"), group=MODEL)
    text_field: str = shared(ScoreConfig, "text_field")
    label_field: str = shared(ScoreConfig, "label_field")
    encoding: str = shared(ScoreConfig, "encoding")
    on_error: str = shared(ScoreConfig, "on_error")
    max_text_mb: int = shared(ScoreConfig, "max_text_mb")
    device: str = option("auto", "Device to train on.", choices=("auto", "cpu", "cuda"), group=RUNNING)
    seed: int = option(13, "Seed of initial weights, order and dropout.", check=at_least(0))
    overwrite: bool = option(False, "Replace OUT if it is there.")

    def __post_init__(self) -> None:
        check_fields(self)
        demand((self.init is None) != (self.config is None), "--init, --config", "give one of the two")
        demand(not (self.new_head and self.config), "--new-head", "only with --init")
        distinct = len(set(self.classes)) == len(self.classes)
        demand(distinct and len(self.classes) != 1, "--classes", "at least two names, all different")


@dataclass(frozen=True, slots=True)
class MaskerConfig:
    """The settings of ``fastmask train-masker``."""

    shards: tuple[str, ...] = required("Finished shard directories.", flag="SHARDS")
    out: str = required("Directory of the model.", flag="-o --out", check=on_disk)
    init: str | None = option(None, "Model whose encoder to start from: a directory or a hub id; a masker is trained "
                              "further.")  # fmt: skip
    dev: tuple[str, ...] = option((), "Shards on which the best epoch is chosen, instead of held-out documents; may "
                                  "be repeated.")  # fmt: skip
    dev_share: float = option(0.1, "Share of the documents that is held out, to choose the best epoch on.",
                              check=within(0, 1, "a share between 0 and 1", ends="()"))  # fmt: skip
    epochs: int = shared(FinetuneConfig, "epochs")
    batch_size: int = option(32, "Sentences in a step.", check=at_least(1))
    lr: float = shared(FinetuneConfig, "lr", 1e-5)
    warmup: float = shared(FinetuneConfig, "warmup")
    weight_decay: float = shared(FinetuneConfig, "weight_decay")
    mask_weight: float = option(
        3.0, "Weight of a masked token in the loss; others have 1.", check=above_zero, group=OPTIMIZER
    )
    max_length: int = shared(ScoreConfig, "max_length")
    dtype: str = shared(FinetuneConfig, "dtype")
    device: str = shared(FinetuneConfig, "device")
    seed: int = shared(FinetuneConfig, "seed")
    overwrite: bool = shared(FinetuneConfig, "overwrite")

    def __post_init__(self) -> None:
        check_fields(self)
        demand(self.init is not None, "--init", "name the model to start from")


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """The settings of ``fastmask pretrain``; the numbers of a step are over all processes."""

    shards: tuple[str, ...] = shared(MaskerConfig, "shards")
    out: str = required("Directory of the run, and of the model in the end.", flag="-o --out", check=on_disk)
    init: str = required("Model to start from, a directory or a hub id; an encoder without a masked-language-model "
                         "head gets one.")  # fmt: skip
    batch_size: int | None = option(None, f"Sequences in a step, over all processes; {BATCH_SIZE} if neither it nor "
                                    "--batch-tokens is given.", check=at_least(1))  # fmt: skip
    batch_tokens: int | None = option(None, "Tokens in a step, instead of --batch-size.", check=at_least(1))
    part_tokens: int = option(4096, "Tokens in a forward and backward pass, about; a larger step adds up several "
                              "gradients.",
                              check=at_least(1), group=RUNNING)  # fmt: skip
    max_steps: int | None = option(None, "Number of optimizer steps.", check=at_least(1))
    epochs: int | None = option(None, f"Passes over the data instead of --max-steps; {EPOCHS} if neither is "
                                "given.", check=at_least(1))  # fmt: skip
    save_every: int = option(500, "Steps between checkpoints.", check=at_least(1), group=CHECKPOINTS)
    keep: str | None = option(None, "Shares of the steps after which the model is kept, too, as OUT/at-0.5.",
                              check=lambda shares: kept_fault(shares_of(shares)), group=CHECKPOINTS)  # fmt: skip
    eval: tuple[str, ...] = option(
        (), "Held-out shards on which the loss is measured at each checkpoint; may be repeated."
    )
    lr: float = shared(FinetuneConfig, "lr")
    warmup: float = shared(FinetuneConfig, "warmup", 0.2)
    weight_decay: float = shared(FinetuneConfig, "weight_decay")
    max_length: int = option(Unsaid(256), "Longest sequence in tokens; a document's sentences are joined up to it.",
                             check=at_least(8))  # fmt: skip
    pack: bool = option(False, "Fill sequences with more than one document.")
    corrupt: str = shared(ExportConfig, "corrupt")
    sample: bool = option(
        False, "Draw masks by the probabilities (mask_prob) of SHARDS, anew in each epoch.", group=MASKS
    )
    mask_schedule: str | None = option(None, "Share of tokens that --sample masks in the first and in the last step, "
                                       "as in 0.30:0.05; linear between them.", check=_rates_fault,
                                       group=MASKS)  # fmt: skip
    precision: str = option("auto", "Precision of the matrix products; auto is bfloat16 where the device is fast at "
                            "it.", choices=("auto", "float32", "bfloat16"), group=RUNNING)  # fmt: skip
    device: str = shared(FinetuneConfig, "device")
    seed: int = shared(FinetuneConfig, "seed", 0)
    track: str | None = option(None, "Tracker that is sent the losses, learning rate and speed of the steps.",
                               choices=TRACKERS)  # fmt: skip
    overwrite: bool = option(False, "Begin again if OUT was made with another configuration.")

    def __post_init__(self) -> None:
        check_fields(self)
        for pair, given in (("--batch-size, --batch-tokens", (self.batch_size, self.batch_tokens)),
                            ("--max-steps, --epochs", (self.max_steps, self.epochs))):  # fmt: skip
            demand(None in given, pair, "give one of the two")
        demand(self.sample or not self.mask_schedule, f"--mask-schedule {self.mask_schedule}", "only with --sample")
