"""Every field of a fast family's configuration, changed: scoring's encoders against transformers in float64."""

import dataclasses
import inspect
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from fastmask.core.records import PackedBatch
from fastmask.models.encoder import build_encoder
from fastmask.models.family import FAMILIES
from fastmask.models.family_rules import position_ids
from fastmask.models.generic import GenericEncoder
from fastmask.models.gpu import DeviceBlock
from fastmask.models.packing import Template, make_block
from fastmask.models.trainable import class_logits, enable_packing, pack, runs_packed
from fastmask.scoring.variants import whole

VOCABULARY = 40
SHAPE = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "num_labels": 3}
SHAPE |= {"vocab_size": VOCABULARY, "max_position_embeddings": 24, "initializer_range": 0.5}
MODERN = {"intermediate_size": 24, "local_attention": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODERN |= {"cls_token_id": 1, "sep_token_id": 2}
INNER = {"distilbert": {"hidden_dim": 24}, "electra": {"intermediate_size": 24, "embedding_size": 16}}
INNER |= {"modernbert": MODERN}
ANGLES = {
    kind: {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}
    for kind in ("full_attention", "sliding_attention")
}
# What fields are changed to whose type does not say it, and those that no model has by default.
OTHER = {
    "hidden_act": "silu", "activation": "silu", "pad_token_id": 5, "bos_token_id": 7, "eos_token_id": 7,
    "num_attention_heads": 4, "n_heads": 4, "hidden_size": 32, "dim": 32, "embedding_size": 8, "type_vocab_size": 3,
    "summary_type": "last", "summary_activation": "tanh", "classifier_dropout": 0.9, "chunk_size_feed_forward": 2,
    "problem_type": "single_label_classification", "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0},
    "dtype": "float16", "transformers_version": "4.0.0", "architectures": ["GPT2Model"], "layer_norm_eps": 0.1,
    "vocab_size": 50, "hidden_activation": "silu", "classifier_activation": "silu", "classifier_pooling": "mean",
    "layer_types": ["sliding_attention", "sliding_attention"], "local_attention": 4, "rope_parameters": ANGLES,
}  # fmt: skip
EXTRA = {
    "position_embedding_type": "relative_key", "is_causal": False, "pruned_heads": {"0": [1]}, "use_bias": False,
    "per_layer_config": {"1": {"hidden_act": "relu"}}, "rope_theta": 100.0, "sliding_window": 2, "layer_types": None,
    "activation": "relu", "hidden_act": "relu", "output_attentions": True, "scale_attn_weights": False,
}  # fmt: skip


def base_config(family: str) -> dict:
    return SHAPE | INNER.get(family, {"intermediate_size": 24})


def changes(family: str) -> list[dict]:
    """One field each, and those that only do something together."""
    fields = {field.name: field.default for field in dataclasses.fields(type(AutoConfig.for_model(family)))}
    own = {name: OTHER[name] if name in OTHER else other_than(value) for name, value in fields.items()}
    extra = {name: value for name, value in EXTRA.items() if name not in own}
    together = [{"is_decoder": True, "add_cross_attention": True}, {"is_decoder": True, "is_causal": False}]
    return [{}, *({name: value} for name, value in (own | extra).items()), *together, {"pad_token_id": None}]


def other_than(value):
    if isinstance(value, bool | None):
        return not value
    return value + 1 if isinstance(value, int) else value / 2


def built(family: str, change: dict, kind=AutoModelForSequenceClassification):
    """A float64 model with random weights, or None where transformers makes none of such a configuration."""
    torch.manual_seed(0)
    try:
        model = kind.from_config(AutoConfig.for_model(family, **base_config(family) | change)).double().eval()
    except Exception:  # whatever a value makes transformers raise
        return None
    for name, weight in model.named_parameters():  # new norms and biases are ones and zeros
        torch.nn.init.normal_(weight, std=0.5, mean=float("norm.weight" in name.lower()))
    return model


def texts(model) -> PackedBatch:
    """Ids with padding ids among them, at even lengths, types 0 then 1 where there are two."""
    rng, lengths = np.random.default_rng(1), [4, 12, 2, 20, 8]
    bounds = np.cumsum([0, *lengths]).astype(np.int32)
    ids = rng.integers(0, VOCABULARY, bounds[-1]).astype(np.int32)
    if model.config.pad_token_id is not None:
        ids[[1, 9, 10, 20, 30, 45]] = model.config.pad_token_id
    second = getattr(model.config, "type_vocab_size", 1) > 1
    types = np.concatenate([(np.arange(n) >= n // 2) & second for n in lengths]).astype(np.int32)
    return PackedBatch(ids, types, bounds, max(lengths))


@torch.inference_mode()
def one_by_one(model, batch: PackedBatch) -> np.ndarray | None:
    """What transformers gives for each text alone; None where it gives nothing."""
    out = []
    for a, b in pairwise(batch.cu_seqlens):
        inputs = {"input_ids": torch.from_numpy(batch.input_ids[a:b]).long()[None]}
        if "token_type_ids" in inspect.signature(model.forward).parameters:
            inputs["token_type_ids"] = torch.from_numpy(batch.token_type_ids[a:b]).long()[None]
        try:
            logits = model(**inputs, attention_mask=torch.ones(1, b - a), return_dict=True).logits
        except (TypeError, IndexError, AttributeError):
            return None
        out.append(logits.reshape(-1, logits.shape[-1]).numpy())
    return np.concatenate(out)


SLOW = {"is_decoder", "add_cross_attention", "hidden_act", "position_embedding_type", "pruned_heads", "is_causal"}

OWN = {"distilbert": {"activation"}}
OWN |= {"modernbert": {"hidden_activation", "classifier_activation", "rope_parameters"}}
UNREAD = {"modernbert": {"position_embedding_type"}}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_is_done_or_leaves_the_fast_path(family):
    left = set()
    for change in changes(family):
        model = built(family, change)
        exact = None if model is None else one_by_one(model, texts(model))
        if exact is None:
            assert set(change) & {"add_cross_attention", "per_layer_config", "pad_token_id", "return_dict"}, change
            continue
        encoder = build_encoder(model, "float64")
        np.testing.assert_allclose(encoder.logits(texts(model)), exact, atol=1e-9, err_msg=f"{family} {change}")
        left |= set(change) if isinstance(encoder, GenericEncoder) else set()
    assert left == SLOW - {"hidden_act"} - UNREAD.get(family, set()) | OWN.get(family, {"hidden_act"})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
@pytest.mark.parametrize("change", [{}, {"is_decoder": True}], ids=["plain", "decoder"])
def test_maskers_too(family, change):
    model = built(family, change, AutoModelForTokenClassification)
    encoder = build_encoder(model, "float64")
    np.testing.assert_allclose(encoder.logits(texts(model)), one_by_one(model, texts(model)), atol=1e-9)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_padding_ids_in_a_text_on_a_device(family):
    """float64 there is plain torch; float32 is Triton, interpreted."""
    model = built(family, {"type_vocab_size": 1, "num_attention_heads": 1}).float()
    batch = texts(model)
    exact = one_by_one(model.double(), batch)
    block, variants = as_block(batch)
    for precision, atol in (("float64", 1e-9), ("float32", 1e-4)):
        encoder = build_encoder(model.float(), precision, kernels="triton")
        found = encoder.logits(encoder.batch(DeviceBlock(block, encoder.device, encoder.position_offset), variants))
        np.testing.assert_allclose(found.double().numpy(), exact, atol=atol)


def as_block(batch: PackedBatch):
    """Texts, special tokens and all, as a block's units without any around them."""
    count, none = len(batch), np.empty(0, np.int32)
    room = np.full(count, 24, np.int32)
    template = Template(none, none, none, 0)
    offsets = batch.cu_seqlens.astype(np.int64)
    block = make_block(offsets, batch.input_ids, np.zeros(count + 1, np.int64), none, room, template)
    return block, whole(block, block.units)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_ids_in_a_text_that_is_trained_on(family):
    model = built(family, {}).float()
    assert runs_packed(model)
    batch = texts(model)
    exact = one_by_one(model, batch)
    rows = [batch.input_ids[a:b] for a, b in pairwise(batch.cu_seqlens)]
    types = [batch.token_type_ids[a:b] for a, b in pairwise(batch.cu_seqlens)]
    with torch.inference_mode():
        found = class_logits(enable_packing(model), pack(rows, types))
    np.testing.assert_allclose(found.numpy(), exact, atol=1e-4)


def test_position_ids():
    ids, bounds = np.array([5, 1, 6, 7, 1, 1, 8, 1], np.int32), np.array([0, 4, 7, 8], np.int32)
    assert position_ids(ids, bounds, 0).tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    assert position_ids(ids, bounds, 2).tolist() == [2, 1, 3, 4, 1, 1, 2, 1]
    assert position_ids(ids, bounds, 1).tolist() == [1, 2, 3, 4, 1, 2, 3, 1]  # padding is 0, of which there is none
