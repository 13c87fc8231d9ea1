"""Models and runs that the tests of ``pretrain`` share."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from train_samples import MODERN
from transformers import (
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 64, "vocab_size": 97}  # fmt: skip

FAMILIES = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**SHAPE, type_vocab_size=1),
    "electra": ElectraConfig(**SHAPE, embedding_size=16),
    "distilbert": DistilBertConfig(vocab_size=97, dim=24, n_layers=2, n_heads=3, hidden_dim=40,
                                   max_position_embeddings=64),
    "modernbert": ModernBertConfig(**SHAPE, **MODERN),
}  # fmt: skip


def without_dropout(config):
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def save_model(path: Path, model, tokenizer_of: str) -> str:
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tokenizer_of) / name, path)
    return str(path)


def weights(out) -> dict[str, torch.Tensor]:
    return load_file(Path(out) / "model.safetensors")


def largest_difference(left, right) -> float:
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def log_of(out) -> list[dict]:
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


PROCESS = """
from pathlib import Path
from fastmask.cli import main
try:
    main()
finally:  # a thread of the group may abort a process that ends before it
    assert not any("gloo" in task.read_text() for task in Path("/proc/self/task").glob("*/comm"))
"""
"""The command in a process that fails if a thread of its group is left at its end."""
