"""ModernBERT packed: transformers' float64 answer, what it fails without, its longest input, and every command."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from encoder_samples import MODERN, VOCABULARY, WIDE, by_transformers
from helpers import fastmask, rows_of, write_jsonl
from pretrain_samples import save_model
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    ModernBertConfig,
)

from fastmask.core.records import PackedBatch
from fastmask.models.encoder import PackedEncoder, build_encoder
from fastmask.models.family_reader import family_weights
from fastmask.models.family_rules import fast_path_fault

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = [3, 1, 40, 16, 17, 31, 5, 127, 128, 15]
BIASES = {f"{name}_bias": True for name in ("norm", "attention", "mlp", "classifier")}
CONFIG = ModernBertConfig(**MODERN, **WIDE, **BIASES)
LAYERS = len(CONFIG.layer_types)


def model_of(kind=AutoModelForSequenceClassification, config=CONFIG, **changes):
    """A model whose every weight is random and large: attention looks at few tokens, and no norm or bias is as new."""
    torch.manual_seed(0)
    model = kind.from_config(type(config).from_dict(config.to_dict() | changes)).float().eval()
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, std=0.3, mean=float("norm.weight" in name))
    return model


def batch_of(lengths, seed=0) -> PackedBatch:
    bounds = np.cumsum([0, *lengths]).astype(np.int32)
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, bounds[-1]).astype(np.int32)
    return PackedBatch(ids, np.zeros_like(ids), bounds, max(lengths))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_float64_is_transformers_and_float32_is_near(pooling):
    model, batch = model_of(classifier_pooling=pooling), batch_of(LENGTHS)
    exact = by_transformers(model, batch, torch.float64)
    noise = np.abs(by_transformers(model, batch, torch.float32) - exact).max()
    assert np.ptp(exact, axis=0).min() > 1
    assert np.abs(build_encoder(model, "float64").logits(batch) - exact).max() < 1e-12
    encoder = build_encoder(model, "float32")
    assert encoder.name == "packed/numba+onednn"
    assert np.abs(encoder.logits(batch) - exact).max() <= 2 * noise


@torch.inference_mode()
def test_a_masker_is_transformers():
    model, batch = model_of(AutoModelForTokenClassification), batch_of(LENGTHS)
    found = build_encoder(model, "float64").logits(batch)
    texts = (torch.from_numpy(batch.input_ids[a:b]).long()[None] for a, b in pairwise(batch.cu_seqlens))
    exact = torch.cat([model.double()(text).logits[0] for text in texts])
    assert np.abs(found - exact.numpy()).max() < 1e-12


def test_configurations_of_older_versions():
    """As the published models have them; mmBERT names a kind of positions, too."""
    old = CONFIG.to_dict() | {"position_embedding_type": "sans_pos", "global_attn_every_n_layers": 2}
    for name in ("layer_types", "rope_parameters"):
        del old[name]
    old |= {"global_rope_theta": 5000.0, "local_rope_theta": 300.0}
    model, batch = model_of(config=ModernBertConfig.from_dict(old)), batch_of(LENGTHS)
    weights = family_weights(model)
    assert [(one.window, one.theta) for one in weights.layers] == [(None, 5000.0), (8, 300.0)] * 2
    exact = by_transformers(model, batch, torch.float64)
    assert np.abs(PackedEncoder(weights, "float64").logits(batch) - exact).max() < 1e-12


@pytest.mark.parametrize(
    ("change", "field"),
    [({"classifier_activation": "silu"}, "classifier_activation"), ({"local_attention": -2}, "local_attention"),
     ({"hidden_size": 66, "num_attention_heads": 2}, "head_dim"), ({"hidden_activation": "silu"}, "hidden_activation"),
     ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": -1.0}}}, "rope_parameters"),
     ({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}, "rope_parameters")],
)  # fmt: skip
def test_what_is_not_understood_goes_through_transformers(change, field):
    assert fast_path_fault(ModernBertConfig(**MODERN | WIDE | change)) == field


def with_layer(weights, index, **changes):
    layers = list(weights.layers)
    layers[index] = dataclasses.replace(layers[index], **changes)
    return dataclasses.replace(weights, layers=tuple(layers))


WRONG = {
    "no-window": lambda weights: with_layer(weights, 1, window=None),
    "narrower": lambda weights: with_layer(weights, 2, window=7),
    "window-of-a-global-block": lambda weights: with_layer(weights, 0, window=8),
    "local-base": lambda weights: with_layer(weights, 1, theta=160_000.0),
    "global-base": lambda weights: with_layer(weights, 0, theta=10_000.0),
    "last-base": lambda weights: with_layer(weights, LAYERS - 1, theta=10_000.0),
    "pooling": lambda weights: dataclasses.replace(weights, pooling="mean"),
    "head-norm": lambda weights: dataclasses.replace(weights, head_norm=None),
}


@pytest.mark.parametrize("what", WRONG)
def test_each_part_matters(what):
    """Were it left out or another, the tests against transformers would fail by far."""
    model, batch = model_of(), batch_of(LENGTHS)
    weights = family_weights(model)
    assert [layer.window for layer in weights.layers] == [None, 8, 8, None]
    right, wrong = (PackedEncoder(one, "float64").logits(batch) for one in (weights, WRONG[what](weights)))
    assert np.abs(right - wrong).max() > 1e-3


def test_the_longest_input():
    """The position limit and the window of the published models."""
    sizes = {"hidden_size": 32, "num_attention_heads": 1, "intermediate_size": 32, "num_hidden_layers": 2}
    model = model_of(**sizes, layer_types=None, max_position_embeddings=8192, local_attention=128)
    batch = batch_of([8192, 4096, 2048, 1024, 512, 256, 128, 3])
    exact = by_transformers(model, batch, torch.float64)
    noise = np.linalg.norm(by_transformers(model, batch, torch.float32) - exact)
    assert np.linalg.norm(build_encoder(model, "float32").logits(batch) - exact) <= 2 * noise


# --- commands ---

WORDS = {"good": 1, "bad": 0, "fine": 1, "dull": 0}
SMALL = MODERN | WIDE | {"vocab_size": 8192, "num_labels": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory, mr_tiny):
    """A folder with a bare encoder, a masked-language model and a classifier, and texts whose class one word tells."""
    folder = tmp_path_factory.mktemp("modern")
    kinds = {"bare": AutoModel, "mlm": AutoModelForMaskedLM, "classifier": AutoModelForSequenceClassification}
    for name, kind in kinds.items():
        torch.manual_seed(0)
        save_model(folder / name, kind.from_config(ModernBertConfig(**SMALL)), mr_tiny)
    rows = [{"text": f"the film was {word} and long .", "label": label} for word, label in WORDS.items()] * 4
    write_jsonl(folder / "rows.jsonl", rows)
    return folder


def ran(*arguments) -> str:
    result = fastmask(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stderr


@pytest.mark.parametrize(("init", "new"), [("bare", 4), ("mlm", 2)])
def test_finetune_and_evaluate(place, tmp_path, init, new):
    tuned, rows = tmp_path / "tuned", place / "rows.jsonl"
    said = ran("finetune", rows, "--init", place / init, "-o", tuned, "--epochs", 1, "--max-length", 32)
    names = next(line for line in said.splitlines() if "the classification head is new" in line)
    assert names.count(".weight") + names.count(".bias") == new
    ran("evaluate", "--arm", f"a={tuned}", "--test", rows, "-q")
    assert json.loads((tuned / "config.json").read_text())["architectures"] == ["ModernBertForSequenceClassification"]


def test_a_new_head_is_drawn_as_the_model_draws_it(place, tmp_path):
    from safetensors.torch import load_file

    common = ("--init", place / "classifier", "--epochs", 1, "--lr", 1e-12, "--max-length", 32, "-q")
    ran("finetune", place / "rows.jsonl", "-o", tmp_path / "tuned", "--new-head", *common)
    old, new = (load_file(path / "model.safetensors") for path in (place / "classifier", tmp_path / "tuned"))
    assert torch.allclose(new["model.layers.0.attn.Wqkv.weight"], old["model.layers.0.attn.Wqkv.weight"])
    assert (new["head.norm.weight"] - 1).abs().max() < 1e-6 and new["classifier.bias"].abs().max() < 1e-6
    # the class's own rule: 1 / sqrt(H) for the classifier, initializer_range / sqrt(2 L) for the layer before it
    assert new["classifier.weight"].std() == pytest.approx(64**-0.5, rel=0.25)
    assert new["head.dense.weight"].std() == pytest.approx(0.15 / 8**0.5, rel=0.25)
    assert not torch.allclose(new["classifier.weight"], old["classifier.weight"])


def test_pretrain_from_an_encoder_and_a_masked_lm(place, tmp_path):
    model, rows = place / "classifier", place / "rows.jsonl"
    masks = tmp_path / "masks"
    ran("score", rows, "--model", model, "-o", masks, "--method", "random", "--mask-rate", 0.3, "-q")
    for init in ("bare", "mlm"):
        out = tmp_path / init
        ran("pretrain", masks, "--init", place / init, "-o", out, "--max-steps", 2, "--batch-size", 8, "-q")
        assert AutoModelForMaskedLM.from_pretrained(out).config.model_type == "modernbert"


@torch.inference_mode()
def logits_by_hand(folder, kind, text):
    """A model's logits of a text in float64, by its own tokenizer and forward."""
    model = kind.from_pretrained(folder, dtype=torch.float64).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    return model(**inputs).logits[0]


def test_scores_explanations_and_a_masker(place, tmp_path):
    model, rows, masks, masker = place / "classifier", place / "rows.jsonl", tmp_path / "masks", tmp_path / "masker"
    ran("score", rows, "--model", model, "-o", masks, "--method", "prefix", "--stop-words", "none", "--threshold", 0.02,
        "-q")  # fmt: skip
    found, texts = rows_of(masks), [json.loads(line)["text"] for line in rows.read_text().splitlines()]
    assert any(row["mask_index"] for row in found)
    for row in found[:4]:
        prob = logits_by_hand(model, AutoModelForSequenceClassification, texts[row["row"]]).softmax(-1)
        assert row["prob"] == pytest.approx(prob[row["label"]].item(), abs=1e-6)
    assert "film" in fastmask("explain", texts[0], "--model", model).stdout
    ran("train-masker", masks, "--init", place / "mlm", "-o", masker, "--epochs", 1, "--dev-share", 0.5, "-q")
    again = tmp_path / "again"
    ran("score", rows, "--method", "masker", "--model", masker, "-o", again, "--mask-rate", 0.3, "--stop-words", "none",
        "-q")  # fmt: skip
    for row in rows_of(again)[:4]:
        logits = logits_by_hand(masker, AutoModelForTokenClassification, texts[row["row"]])
        expected = logits.softmax(-1)[1:-1, 1].numpy()
        np.testing.assert_allclose(row["importance"], expected, atol=1e-5)
