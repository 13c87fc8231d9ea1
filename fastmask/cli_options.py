"""The options of every command, from the fields of the configurations: each default is stated there alone."""

from __future__ import annotations

import click

from .config import CONFIGS, KERNELS, METHODS, PRECISIONS, TRAINED_DTYPES, FinetuneConfig, ScoreConfig
from .config_masker import HELP as MASKER_HELP
from .config_masker import MaskerConfig
from .config_pretrain import BATCH_SIZE, EPOCHS, PRETRAIN_PRECISIONS, PretrainConfig
from .config_tools import EXPORT_FORMATS, EvaluateConfig, ExportConfig
from .options import options_of

SCORE_HELP = {
    "model": "Classifier, or masker: a directory or a hub id; without it the embedded English sentiment classifier.",
    "method": "How importance is measured.",
    "threshold": "d of the paper's rule: a smaller drop in P(class) marks a token as important.",
    "mask_rate": "At most max(1, int(RATE * n)) masks in a sentence of n tokens; 0.15 for masker and random.",
    "like": "For --method random: a shard directory whose number of masks per sentence is copied.",
    "stop_words": "Never masked: english, none, or a file with one word a line.",
    "segment": "sentence: documents are cut into sentences; line: each is one sentence.",
    "text_field": "Column or key of the text.",
    "label_field": "Column or key of the label; where it is absent the classifier's own answer is the class.",
    "max_length": "Longest classifier input in tokens.",
    "precision": "Precision of the first pass; masks do not depend on it.",
    "certify": "Recheck doubtful decisions at higher precision.",
    "device": "auto, cpu, cuda or cuda:N; several, such as cuda:0,cuda:1, score shards side by side.",
    "kernels": "Back end of the forward pass.",
    "batch_tokens": "Token budget of one forward batch; 0 is what suits the model.",
    "shard_rows": "Documents a shard.",
    "encoding": "Encoding of text inputs.",
    "on_error": "What to do about a bad row.",
    "max_text_mb": "A line, cell or row of more megabytes is a bad one; 0 is no limit.",
    "seed": "Of the random method and the audit sample.",
    "threads": "Scoring threads; 0 is one per core.",
}
_CHOICES = {
    "method": METHODS,
    "precision": PRECISIONS,
    "kernels": KERNELS,
    "segment": ("sentence", "line"),
    "on_error": ("fail", "skip"),
}
_SPECIAL = {name: {"type": click.Choice(values)} for name, values in _CHOICES.items()}
_SPECIAL["certify"] = {"flag": "--certify/--no-certify"}
score_options = options_of(ScoreConfig, SCORE_HELP, **_SPECIAL)
FINETUNE_HELP = {
    "dev": "Labelled file that chooses the best epoch; may be repeated.",
    "test": "Labelled file that is only measured, at the end; may be repeated.",
    "init": "Model to start from: a directory or a hub id.",
    "config": "Train a new model of this shape, with a vocabulary learned from the texts.",
    "new_head": "Draw the classification head anew, even where the model has one.",
    "classes": "Class name, once for each class in index order.",
    "vocab_size": "Wordpieces to learn, with --config.",
    "epochs": "Passes over the training data.",
    "batch_size": "Texts a step.",
    "lr": "Peak learning rate of AdamW.",
    "warmup": "Share of the steps that warm up; the rest decays linearly.",
    "weight_decay": "Of AdamW.",
    "max_length": "Longest input in tokens.",
    "dtype": "Of the saved weights.",
    **{name: SCORE_HELP[name] for name in ("text_field", "label_field", "encoding", "on_error")},
    "device": "auto, cpu or cuda.",
    "seed": "Of everything that is random.",
    "overwrite": "Replace OUT.",
}
finetune_options = options_of(
    FinetuneConfig,
    FINETUNE_HELP,
    config={"type": click.Choice(tuple(CONFIGS))},
    dtype={"type": click.Choice(TRAINED_DTYPES)},
    on_error=_SPECIAL["on_error"],
)
PRETRAIN_HELP = {
    "init": "Model to start from, a directory or a hub id; an encoder without a masked-language-model head gets one.",
    "batch_size": f"Sequences a step, over all processes; {BATCH_SIZE} without it and --batch-tokens.",
    "batch_tokens": "Instead: tokens a step.",
    "part_tokens": "Tokens of one forward and backward pass; larger steps accumulate gradients.",
    "max_steps": "Optimizer steps.",
    "epochs": f"Instead: passes over the data; {EPOCHS} without either.",
    "save_every": "Steps between checkpoints.",
    "eval": "Shards to measure the held-out loss on at each checkpoint; may be repeated.",
    **{name: FINETUNE_HELP[name] for name in ("lr", "warmup", "weight_decay")},
    "max_length": "Longest sequence in tokens; a document's sentences are joined up to it.",
    "pack": "Let documents share a sequence.",
    "precision": "Of the matrix products; auto is bfloat16 where the device is fast at it.",
    **{name: FINETUNE_HELP[name] for name in ("device", "seed")},
    "overwrite": "Begin again if OUT was made with another configuration.",
}
pretrain_options = options_of(
    PretrainConfig,
    PRETRAIN_HELP,
    init={"required": True},
    precision={"type": click.Choice(PRETRAIN_PRECISIONS)},
)
EXPORT_HELP = {
    "to": "NVIDIA's BERT files (needs h5py), JSON lines, or MosaicML shards.",
    "max_length": "Tokens of a sequence, special tokens included.",
    "max_predictions": "Masks of a sequence that are kept.",
    "seed": "Of the corruption.",
    "overwrite": "Replace DIR.",
}
export_options = options_of(ExportConfig, EXPORT_HELP, to={"type": click.Choice(EXPORT_FORMATS), "required": True})
EVALUATE_HELP = {
    "arms": "NAME=PATH of a fine-tuned model or of a file with a predicted class a line; PATH may be a pattern with *, "
    "and the option comes once for every seed. The first NAME is the first baseline.",
    "test": "Labelled file to compare on.",
    "json": "Also write the report to this file.",
    "picture": "Also draw it, to a .png, .svg or .pdf (needs matplotlib).",
    "max_length": "Longest input of a model in tokens.",
    **{name: SCORE_HELP[name] for name in ("text_field", "label_field", "encoding")},
    "resamples": "Draws of the bootstrap.",
    "seed": "Of those draws.",
}
evaluate_options = options_of(
    EvaluateConfig, EVALUATE_HELP, arms={"flag": "--arm", "required": True}, test={"required": True}
)
masker_options = options_of(MaskerConfig, MASKER_HELP, dtype={"type": click.Choice(TRAINED_DTYPES)})
MODEL_FIELDS = ("model", "method", "threshold", "mask_rate", "stop_words", "max_length", "precision")
explain_options = options_of(ScoreConfig, {name: SCORE_HELP[name] for name in MODEL_FIELDS}, **_SPECIAL)
