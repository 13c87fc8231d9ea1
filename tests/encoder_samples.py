"""Small models of every fast family, and what transformers says of a batch."""

from itertools import pairwise

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
)

VOCABULARY = 200
WIDE = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}
ODD = {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 50}
COMMON = {"num_hidden_layers": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 130, "num_labels": 3}
COMMON |= {"initializer_range": 0.15}
DISTIL = {"hidden_size": "dim", "num_attention_heads": "n_heads", "intermediate_size": "hidden_dim"}
DISTIL |= {"num_hidden_layers": "n_layers"}
# sequences are longer than the window, and the blocks are global, local, local, global
MODERN = COMMON | {"num_hidden_layers": 4, "local_attention": 16, "pad_token_id": 0, "bos_token_id": 1}
MODERN |= {"eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
BIASES = {f"{name}_bias": True for name in ("norm", "attention", "mlp", "classifier")}

CONFIGS = {
    "bert": BertConfig(**COMMON, **WIDE),
    "bert-odd": BertConfig(**COMMON, **ODD),
    "bert-gelu_new": BertConfig(**COMMON, **WIDE, hidden_act="gelu_new"),
    "bert-relu": BertConfig(**COMMON, **WIDE, hidden_act="relu"),
    "bert-one-layer": BertConfig(**{**COMMON, "num_hidden_layers": 1}, **WIDE),
    "roberta": RobertaConfig(**COMMON, **WIDE, type_vocab_size=1, pad_token_id=1),
    "roberta-odd": RobertaConfig(**COMMON, **ODD, type_vocab_size=1, pad_token_id=0),
    "camembert": CamembertConfig(**COMMON, **WIDE, type_vocab_size=1, pad_token_id=1),
    "distilbert": DistilBertConfig(**{DISTIL.get(k, k): v for k, v in (COMMON | WIDE).items()}),
    "distilbert-odd": DistilBertConfig(**{DISTIL.get(k, k): v for k, v in (COMMON | ODD).items()}, activation="relu"),
    "electra": ElectraConfig(**COMMON, **WIDE, embedding_size=64),
    "electra-projected": ElectraConfig(**COMMON, **WIDE, embedding_size=32),
    "electra-odd": ElectraConfig(**COMMON, **ODD, embedding_size=20),
    "modernbert": ModernBertConfig(**MODERN, **WIDE),
    "modernbert-mean": ModernBertConfig(**MODERN, **WIDE, classifier_pooling="mean", hidden_activation="relu"),
    "modernbert-two-layers": ModernBertConfig(
        **MODERN | {"num_hidden_layers": 2}, **WIDE, layer_types=["sliding_attention", "full_attention"]
    ),
    "modernbert-odd": ModernBertConfig(**MODERN, **ODD, **BIASES, classifier_activation="tanh"),
}
ONE_TYPE = ("roberta", "camembert", "distilbert", "modernbert")


def model_of(config):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).float().eval()


@torch.inference_mode()
def by_transformers(model, batch, dtype) -> np.ndarray:
    """Each sequence by itself, nothing padded."""
    model, out = model.to(dtype), []
    for a, b in pairwise(batch.cu_seqlens):
        inputs = {"input_ids": torch.from_numpy(batch.input_ids[a:b]).long()[None]}
        if model.config.model_type not in ONE_TYPE:
            inputs["token_type_ids"] = torch.from_numpy(batch.token_type_ids[a:b]).long()[None]
        out.append(model(**inputs).logits[0].double().numpy())
    model.to(torch.float32)
    return np.array(out)
