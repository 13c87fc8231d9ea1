"""Tiny models of many families with random weights, and what transformers says of a text alone."""

import inspect
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from fastmask.models.packing import Template

VOCABULARY = 40
PAD, BOS, EOS, CLS, UNKNOWN = range(5)
FIRST_WORD = 5
SHAPE = {
    "vocab_size": VOCABULARY, "num_labels": 3, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "d_kv": 8, "num_heads": 2, "d_ff": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "n_inner": 24,
    "num_key_value_heads": 2, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "embedding_size": 16, "max_seq_len": 64,
    "d_inner": 24,
}  # fmt: skip
"""Sizes by all the names that families have for them."""


def ints(*ids) -> np.ndarray:
    return np.array(ids, np.int32)


def template(prefix, suffix, types=None, typed=True) -> Template:
    words = np.arange(FIRST_WORD, FIRST_WORD + 8, dtype=np.int32)
    return Template(prefix, ints(), suffix, 0, types, typed, words)


AROUND = template(ints(BOS), ints(EOS))
UNSET = "unset"
NOTHING = template(ints(), ints(), typed=False)
BEFORE = template(ints(BOS), ints(), typed=False)
AFTER = template(ints(), ints(EOS), typed=False)
XLNET = template(ints(), ints(EOS, CLS), ints(0, 2))


@dataclass(frozen=True)
class Family:
    """A model type, the special tokens around its texts, and what else its configuration needs."""

    name: str
    template: Template
    extra: dict = field(default_factory=dict)

    def config(self, **changes):
        known = AutoConfig.for_model(self.name)
        sizes = {name: value for name, value in SHAPE.items() if name == "num_labels" or name in dir(known)}
        wanted = sizes | self.extra | changes
        return AutoConfig.for_model(self.name, **{name: value for name, value in wanted.items() if value is not UNSET})

    def model(self, **changes):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(self.config(**changes)).float().eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.4)
        return model


NO_PAD = {"pad_token_id": None}
FAMILIES = [
    Family("albert", AROUND),
    Family("big_bird", AROUND),
    Family("convbert", AROUND),
    Family("data2vec-text", AROUND),
    Family("deberta-v2", AROUND, {"relative_attention": True, "pos_att_type": ["c2p"], "position_biased_input": False}),
    Family("esm", AROUND, {"mask_token_id": UNKNOWN}),
    Family("fnet", AROUND),
    Family("ibert", AROUND),
    Family("longformer", AROUND, {"attention_window": 8}),
    Family("luke", AROUND, {"entity_vocab_size": 10, "entity_emb_size": 8}),
    Family("mobilebert", AROUND, {"intra_bottleneck_size": 16}),
    Family("modernbert", AROUND),
    Family("mpnet", AROUND),
    Family("roberta-prelayernorm", AROUND),
    Family("roformer", AROUND),
    Family("xlm", AROUND),
    Family("xlm-roberta-xl", AROUND),
    Family("gpt2", NOTHING, NO_PAD),
    Family("gpt2", NOTHING, {"pad_token_id": EOS}),
    Family("gpt_neox", NOTHING, NO_PAD),
    Family("bloom", NOTHING, NO_PAD),
    Family("mpt", NOTHING, NO_PAD),
    Family("opt", BEFORE),
    Family("llama", BEFORE, NO_PAD),
    Family("gemma", BEFORE),
    Family("qwen2", NOTHING, {"pad_token_id": PAD}),
    Family("qwen3", NOTHING, NO_PAD),
    Family("mixtral", BEFORE, NO_PAD | {"num_local_experts": 2}),
    Family("t5", AFTER, {"decoder_start_token_id": PAD}),
    Family("bart", AROUND, {"decoder_start_token_id": EOS}),
    Family("mbart", AROUND, {"decoder_start_token_id": EOS}),
    Family("xlnet", XLNET, {"max_position_embeddings": UNSET}),
]


@torch.inference_mode()
def alone(model, special: Template, content) -> np.ndarray:
    """The classes' probabilities of one text, by the model's own forward, in the dtype that it has."""
    ids = np.concatenate([special.prefix, ints(*content), special.suffix])
    types = np.insert(special.types, len(special.prefix), np.zeros(len(content)))
    accepted = inspect.signature(model.forward).parameters
    inputs = {"attention_mask": np.ones_like(ids), "token_type_ids": types}
    given = {name: torch.from_numpy(value).long()[None] for name, value in inputs.items() if name in accepted}
    if not special.typed:
        given.pop("token_type_ids", None)
    return torch.softmax(model(torch.from_numpy(ids).long()[None], **given).logits[0].double(), -1).numpy()
