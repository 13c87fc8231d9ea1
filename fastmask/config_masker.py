"""The configuration of ``fastmask train-masker`` and its help."""

from __future__ import annotations

from dataclasses import dataclass

from .config import TRAINED_DTYPES, check_training, demand

HELP = {
    "init": "Model whose encoder to start from: a directory or a hub id.",
    "dev": "Shards that choose the best epoch, instead of held-out documents; may be repeated.",
    "dev_share": "Share of the documents that is held out to choose the best epoch.",
    "epochs": "Passes over the training data.",
    "batch_size": "Sentences a step.",
    "lr": "Peak learning rate of AdamW.",
    "warmup": "Share of the steps that warm up; the rest decays linearly.",
    "weight_decay": "Of AdamW.",
    "mask_weight": "How many times a masked token counts in the loss.",
    "max_length": "Longest input in tokens.",
    "dtype": "Of the saved weights.",
    "device": "auto, cpu or cuda.",
    "seed": "Of everything that is random.",
    "overwrite": "Replace OUT.",
}


@dataclass(frozen=True, slots=True)
class MaskerConfig:
    """Everything that ``fastmask train-masker`` can be told; the defaults are the paper's (DESIGN section 2).

    Attributes:
        shards: finished shard directories; their scored sentences are learned from.
        out: directory to write the model to.
        init: model whose encoder to start from: a classifier, a bare encoder, or a masker, which goes on.
        dev: shard directories that choose the best epoch by token F1; none: held-out documents of ``shards`` do.
        dev_share: share of the documents that is held out then, at least one.
        epochs, batch_size, lr, warmup, weight_decay: AdamW; linear warm-up over a share of all steps, then linear
            decay.
        mask_weight: weight of a masked token's loss; another token's is 1.
        max_length: longest input in tokens, special tokens included; a longer sentence is cut on the right.
        dtype: dtype of the saved weights; training itself is in float32.
        device: "auto", "cpu" or "cuda".
        seed: of the classifier's initial weights, held-out documents, order and dropout.
        overwrite: replace ``out``.
    """

    shards: tuple[str, ...]
    out: str
    init: str | None = None
    dev: tuple[str, ...] = ()
    dev_share: float = 0.1
    epochs: int = 10
    batch_size: int = 32
    lr: float = 1e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    mask_weight: float = 3.0
    max_length: int = 128
    dtype: str = "float32"
    device: str = "auto"
    seed: int = 13
    overwrite: bool = False

    def __post_init__(self):
        check_training(self)
        demand(bool(self.shards), "SHARDS", "name at least one shard directory")
        demand(self.init is not None, "--init", "name the model to start from")
        demand(0 < self.dev_share < 1, "--dev-share", "a share between 0 and 1")
        demand(self.mask_weight > 0, "--mask-weight", "above 0")
        demand(self.dtype in TRAINED_DTYPES, "--dtype", f"choose {' or '.join(TRAINED_DTYPES)}")
