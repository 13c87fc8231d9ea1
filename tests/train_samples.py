"""What tests of training share: small models, a toy task."""

import json
from pathlib import Path

import numpy as np
from transformers import (
    AlbertConfig,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
)

SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 64, "vocab_size": 97, "num_labels": 3}  # fmt: skip
# a window of 4 to each side; ids that the vocabulary has
MODERN = {"local_attention": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
          "sep_token_id": 2, "initializer_range": 0.2}  # fmt: skip
FAMILIES = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE, type_vocab_size=1),
    "electra": ElectraConfig(**SHAPE, embedding_size=16),
    "distilbert": DistilBertConfig(vocab_size=97, num_labels=3, dim=24, n_layers=2, n_heads=3, hidden_dim=40,
                                   max_position_embeddings=64),
    "modernbert": ModernBertConfig(**SHAPE, **MODERN, classifier_pooling="cls"),
    "modernbert-mean": ModernBertConfig(**SHAPE, **MODERN, classifier_pooling="mean"),
    "albert": AlbertConfig(**SHAPE, embedding_size=16),
}  # fmt: skip


GOOD, BAD = ("good", "great", "lovely", "fun"), ("bad", "awful", "dull", "poor")


def toy_file(path: Path, rows: int, seed: int, names=(0, 1)) -> str:
    """Rows whose class is told by one word among fillers."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(rows):
        label = number % 2
        words = list(rng.choice(["the", "film", "was", "a", "plot", "and"], rng.integers(1, 9)))
        words.insert(rng.integers(0, len(words) + 1), rng.choice(GOOD if label else BAD))
        lines.append(json.dumps({"text": " ".join(words), "label": names[label]}))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def weights_of(out: str) -> bytes:
    return (Path(out) / "model.safetensors").read_bytes()
