"""What ``fastmask pretrain`` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from .config import check_training, demand, flag, require

PRETRAIN_PRECISIONS = ("auto", "float32", "bfloat16")
BATCH_SIZE, EPOCHS = 112, 1
_COUNTS = "batch_size", "batch_tokens", "part_tokens", "max_steps", "save_every"


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Everything that ``fastmask pretrain`` can be told; the defaults are the paper's (DESIGN section 2).

    Attributes:
        shards: finished shard directories.
        out: directory of the run: log, checkpoints, and in the end the model.
        init: model to start from: a masked-language model, or any encoder, which gets a new head tied to its
            embeddings.
        batch_size: sequences a step, over all processes; or else
        batch_tokens: tokens a step, over all processes: a step ends with the sequence that reaches the number. With
            neither, BATCH_SIZE sequences.
        part_tokens: tokens of one forward and backward pass; the gradients of a larger step are accumulated.
        max_steps: optimizer steps; or else
        epochs: passes over the data, rounded up to whole steps. With neither, EPOCHS.
        save_every: steps between checkpoints, and between measurements of the held-out loss.
        eval: finished shard directories on which the held-out loss is measured.
        lr, warmup, weight_decay: AdamW; linear warm-up over a share of all steps, then linear decay.
        max_length: longest sequence in tokens, special tokens included.
        pack: let documents share a sequence, a [SEP] after each.
        precision: of the matrix products; "auto" is bfloat16 where the device has instructions for it. Weights,
            gradients and optimizer are float32.
        device: "auto", "cpu" or "cuda".
        seed: of a new head, order, corruption and dropout.
        overwrite: begin again if ``out`` was made with another configuration.
    """

    shards: tuple[str, ...]
    out: str
    init: str
    batch_size: int | None = None
    batch_tokens: int | None = None
    part_tokens: int = 4096
    max_steps: int | None = None
    epochs: int | None = None
    save_every: int = 500
    eval: tuple[str, ...] = ()
    lr: float = 2e-5
    warmup: float = 0.2
    weight_decay: float = 0.01
    max_length: int = 256
    pack: bool = False
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self):
        demand(bool(self.shards), "SHARDS", "name at least one shard directory")
        for pair in (("batch_size", "batch_tokens"), ("max_steps", "epochs")):
            given = [getattr(self, option) is not None for option in pair]
            demand(not all(given), ", ".join(flag(option) for option in pair), "give one of the two")
        for option in _COUNTS:
            value = getattr(self, option)
            require(value is None or 1 <= value < 2**63, option, value, "1 to 2**63 - 1")
        check_training(self)
        demand(self.precision in PRETRAIN_PRECISIONS, "--precision", f"choose {', '.join(PRETRAIN_PRECISIONS)}")
