"""Directories of tiny models with random weights, of any type that transformers has, that share one tokenizer."""

from pathlib import Path

import torch
import transformers
from any_family import FAMILIES, SHAPE, UNSET
from transformers import AutoConfig

from fastmask.train.vocabulary import learn_wordpieces

TEXTS = [f"the {film} was {how} and {film} is {how} too, not {other}!" for film in ("film", "plot", "end", "cast")
         for how, other in (("good", "dull"), ("great", "poor"), ("dull", "fine"), ("poor", "lovely"))]  # fmt: skip
OTHERS = {
    "funnel": {"num_hidden_layers": UNSET, "block_sizes": [1, 1], "n_head": 2, "d_head": 8, "d_inner": 24},
    "distilbert": {"dim": 16, "hidden_dim": 24},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10, "pronunciation_embed_dim": 8,
                 "shape_embed_dim": 8},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
    "perceiver": {"num_latents": 4, "d_latents": 16, "num_self_attends_per_block": 1,
                  "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "qk_channels": 16, "v_channels": 16},
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [8, 8], "attn_layers": ["local"],
                 "attention_head_size": 8, "feed_forward_size": 24, "local_attn_chunk_length": 4, "is_decoder": False},
}  # fmt: skip
"""What tiny configurations of some types need beside the usual sizes and what ``any_family`` has."""


def tiny_config(kind: str, tokenizer, **changes):
    """The configuration of a tiny model of a type, for a tokenizer."""
    known = AutoConfig.for_model(kind)
    sizes = {name: value for name, value in SHAPE.items() if name == "num_labels" or name in dir(known)}
    extra = next((family.extra for family in FAMILIES if family.name == kind), {}) | OTHERS.get(kind, {})
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id,
           "eos_token_id": tokenizer.sep_token_id, "vocab_size": len(tokenizer), "num_labels": 2}  # fmt: skip
    if "mask_token_id" in dir(known):
        ids["mask_token_id"] = tokenizer.mask_token_id
    wanted = sizes | extra | ids | {"decoder_start_token_id": tokenizer.cls_token_id} | changes
    return AutoConfig.for_model(kind, **{name: value for name, value in wanted.items() if value is not UNSET})


def tiny_model(path: Path, kind: str, task: str, **changes) -> str:
    """Save a model of a type for a task, as ``AutoModelFor...`` names it, with a tokenizer; return its directory."""
    tokenizer = learn_wordpieces(TEXTS, 150, 64)
    torch.manual_seed(0)
    config = tiny_config(kind, tokenizer, **changes)
    model = getattr(transformers, f"AutoModel{task and 'For'}{task}").from_config(config).float()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
