"""The device path in Triton's interpreter: transformers' logits, the processor's masks, the released scripts' masks."""

import os

import numpy as np
import pytest
import torch
from encoder_samples import COMMON, CONFIGS, WIDE, by_transformers, model_of
from fastmask_kernels import launch
from helpers import TEXT_TEMPLATE, encoded, encoder_of, fastmask, golden, masks_of, real_engine, rows_of
from transformers import BertConfig

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError
from fastmask.models.device import choose_device
from fastmask.models.encoder import build_encoder
from fastmask.models.gpu import DeviceEncoder, send
from fastmask.models.packing import NOTHING, Template, pack_variants
from fastmask.scoring.asking import log_odds
from fastmask.scoring.backend import Backend
from fastmask.scoring.blocks import make_blocks, make_pools
from fastmask.scoring.engine import score_certain
from fastmask.scoring.variants import describe
from fastmask.text.frontend import encode_texts

DEVICE = os.environ.get("FASTMASK_TEST_DEVICE", "cpu")
"""Where the Triton kernels run: "cuda", or the CPU in Triton's interpreter."""
# special tokens that no family takes for padding
TEXT = Template(np.array([5], np.int32), np.empty(0, np.int32), np.array([6], np.int32), 0)
PAIR = Template(*(np.array(ids, np.int32) for ids in ([5], [6, 6], [6])), 1)
TRITON = {"device": DEVICE, "kernels": "triton"}
LENGTHS = [1, 2, 15, 17, 33, 70]
FAMILIES = ["bert", "roberta", "distilbert", "electra-projected", "bert-one-layer"]
CASES = [(family, precision) for family in FAMILIES for precision in ("float16", "float32", "float64")]
CASES += [("modernbert-two-layers", "float16"), ("modernbert-mean", "float64")]


def block_and_variants(template=TEXT, max_length=66):
    """Leave-one-out variants and whole sentences of random text, cut at 66 tokens."""
    rng = np.random.default_rng(0)
    sentences = [rng.integers(7, 200, n).tolist() for n in LENGTHS]
    aspects = [[([7, 8, 9], 0)]] * len(sentences) if len(template.middle) else None
    shard = encoded(sentences, aspects=aspects)
    (block,) = make_blocks(shard, np.arange(len(sentences)), template, max_length, 1 << 20)
    units, lengths = np.repeat(block.block.units, 4), np.diff(block.block.offsets)
    removed = np.stack([np.minimum([NOTHING, 0, 1, 10**6], [NOTHING, n - 1, n - 1, n - 1]) for n in lengths]).ravel()
    left = lengths[units] - (removed < NOTHING)
    return block, describe(block.block, units, left, removed=removed)


def asker_of(model, block, levels, template=TEXT):
    return Backend(model, template, ScoreConfig(**TRITON)).asker(block, levels)


@pytest.mark.parametrize(("family", "precision"), CASES)
def test_logits_are_transformers(family, precision):
    template = PAIR if family in ("bert", "electra-projected") else TEXT
    model, (block, variants) = model_of(CONFIGS[family]), block_and_variants(template)
    batch = pack_variants(block.block, variants)
    exact = by_transformers(model, batch, torch.float64)
    noise = np.abs(by_transformers(model, batch, getattr(torch, precision)) - exact).max()
    found = asker_of(model, block, ("float16", "float32", "float64"), template).logits(precision, variants)
    assert found.dtype == np.float64 and np.abs(found - exact).max() <= 2 * noise + 1e-12 + 5e-7 * (
        precision != "float64"
    )


@pytest.mark.parametrize(("family", "precision"), [("bert", "float32"), ("bert", "float64"), ("modernbert", "float64")])
def test_log_odds_are_those_of_the_logits(family, precision):
    model, (block, variants) = model_of(CONFIGS[family]), block_and_variants()
    asker = asker_of(model, block, (precision,))
    target = (np.arange(len(LENGTHS), dtype=np.int32) % 3)[variants.units]
    z = log_odds(asker.logits(precision, variants), target)
    np.testing.assert_allclose(asker.log_odds(0, variants, target), z, atol=1e-5)


def test_float32_by_three_products_of_halves():
    from fastmask_kernels.triton_ops import HalfProducts

    generator = torch.Generator().manual_seed(0)

    def by_halves(layer, x, activation="none"):
        return HalfProducts(layer.to(DEVICE), activation)(x.to(DEVICE)).cpu()

    for size in (1e-3, 0.05, 30.0):
        layer = torch.nn.Linear(96, 40).requires_grad_(False)
        layer.weight.copy_(torch.randn(40, 96, generator=generator) * size)
        x = torch.randn(33, 96, generator=generator) * 3
        x[:, 5] *= 40  # an outlier column, as encoders have them
        exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
        noise = (layer(x) - exact).abs().max()
        assert (by_halves(layer, x) - exact).abs().max() <= 2 * noise
        exact = torch.nn.functional.gelu(exact)
        assert (by_halves(layer.cpu(), x, "gelu") - exact).abs().max() <= 2 * noise + 1e-6 * size
        layer.cpu()
    assert not torch.isfinite(by_halves(layer, x * 1e4)).all()  # a doubt, not a wrong answer
    layer.weight.zero_()
    assert torch.equal(by_halves(layer, x), layer.bias.cpu().expand(33, -1))


def test_what_is_sent_keeps_its_shape_and_is_aligned():
    arrays = [np.arange(n, dtype=np.int32).reshape(shape) for n, shape in ((10, (2, 5)), (3, (3,)), (0, (0, 4)))]
    sent = send(torch.device(DEVICE), *arrays)
    for array, tensor in zip(arrays, sent, strict=True):
        np.testing.assert_array_equal(tensor.cpu().numpy(), array)
        assert tensor.data_ptr() % 16 == 0 and tensor.is_contiguous()


@pytest.mark.parametrize("tokens", [1, 20, 10**6])
def test_pools_are_even_in_number_and_alike(tokens):
    sentences = [[5] * (1 + n % 7) for n in range(40)]
    pools = make_pools(encoded(sentences), np.arange(40), TEXT_TEMPLATE, 128, tokens)
    assert sorted(n for pool in pools for n in pool.sentences.tolist()) == list(range(40))
    assert len(pools) % 2 == 0 and len(pools) == {1: 40, 20: 8, 10**6: 2}[tokens]
    if tokens > 1:
        sizes = [len(pool.input_ids) for pool in pools]
        assert max(sizes) - min(sizes) <= 7 and max(sizes) <= max(tokens, 7) + 7
    assert len(make_pools(encoded([[5]]), np.arange(1), TEXT_TEMPLATE, 128, tokens)) == 1
    assert make_pools(encoded([]), np.arange(0), TEXT_TEMPLATE, 128, tokens) == []


# --- masks ---


def golden_rows(folder, count):
    """The shortest texts with a mask among the first of the golden file."""
    rows = [row for row in golden(folder, "mr_tiny_0.05")[:120] if any(s["important"] for s in row["sentences"])]
    return sorted(rows, key=lambda row: len(row["text"]))[:count]


@pytest.mark.spacy
def test_golden_masks_on_the_device_path(mr_tiny, golden_dir):
    rows = golden_rows(golden_dir, 5)
    texts = encode_texts([(row["text"], row["label"]) for row in rows], encoder_of(mr_tiny))
    engine = real_engine(mr_tiny, calibration=4, **TRITON)  # so that a few texts go through float16
    scored, bounds = score_certain(engine, texts)
    sentences = [s for row in rows for s in row["sentences"]]
    assert masks_of(scored) == [s["masked"] for s in sentences]
    assert bounds.levels == ("float16", "float32", "float64")
    assert engine.describe()["kernels"].startswith("packed/triton") and engine.describe()["precision"] == "float16"
    probs = [(found, s["prob"]) for found, s in zip(scored.prob, sentences, strict=True) if s["correct"]]
    np.testing.assert_allclose(*np.array(probs).T, atol=1e-5)


@pytest.mark.spacy
@pytest.mark.parametrize(
    "options", [{"method": "prefix"}, {"method": "leave-one-out", "mask_rate": 0.2, "threshold": -1}]
)
def test_masks_are_the_processors(mr_tiny, golden_dir, options):
    texts = encode_texts([row["text"][:30] for row in golden_rows(golden_dir, 3)], encoder_of(mr_tiny))
    expected, _ = score_certain(real_engine(mr_tiny, precision="float32", **options), texts)
    scored, _ = score_certain(real_engine(mr_tiny, calibration=2, **TRITON, **options, batch_tokens=150), texts)
    assert masks_of(scored) == masks_of(expected) and any(masks_of(scored))


@pytest.mark.spacy
def test_aspects_on_the_device_path(restaurant_tiny, golden_dir, tmp_path):
    import json

    rows = sorted(golden(golden_dir, "restaurant_tiny_0.05"), key=lambda row: len(row["text"]))[:3]
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps({"text": r["text"], "aspects": r["aspects"]}) + "\n" for r in rows))
    result = fastmask("score", corpus, "-o", tmp_path / "out", "--model", restaurant_tiny, "--kernels", "triton", "-q",
                      "--device", DEVICE)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert [row["mask_index"] for row in rows_of(tmp_path / "out")] == [row["masked"] for row in rows]


@pytest.mark.spacy
def test_the_command_takes_the_device_path(mr_tiny, tmp_path):
    (tmp_path / "c.txt").write_text("A fine film , well acted .\nDull plot , and bad acting !\n")
    for out, options in (("device", ("--kernels", "triton", "--device", DEVICE)), ("host", ())):
        result = fastmask("score", tmp_path / "c.txt", "-o", tmp_path / out, "--model", mr_tiny, "-q", *options)
        assert result.exit_code == 0, result.stderr
    found, expected = rows_of(tmp_path / "device"), rows_of(tmp_path / "host")
    assert [row["mask_index"] for row in found] == [row["mask_index"] for row in expected]
    assert any(row["mask_index"] for row in found)


@pytest.mark.spacy
def test_out_of_memory_on_the_device_path(mr_tiny, golden_dir, monkeypatch):
    texts = encode_texts([row["text"][:40] for row in golden_rows(golden_dir, 2)], encoder_of(mr_tiny))
    options = {"method": "prefix", "precision": "float32"}
    expected, _ = score_certain(real_engine(mr_tiny, device="cpu", **options), texts)
    rows = DeviceEncoder._rows

    def small(self, batch):
        if len(batch.sequences.row_sequence) > 24:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return rows(self, batch)

    monkeypatch.setattr(DeviceEncoder, "_rows", small)
    scored, _ = score_certain(real_engine(mr_tiny, **TRITON, **options), texts)
    assert masks_of(scored) == masks_of(expected) and any(masks_of(scored))
    assert 6 <= scored.certificate["batch_tokens_halved"]["float32"] <= 24


# --- what is not there ---


@pytest.mark.parametrize(("name", "words"), [("cuda:7", "CUDA devices were found"), ("gpu", "not the name of a device"),
                                             ("meta", "run on cpu and cuda")])  # fmt: skip
def test_devices_that_are_not_there(name, words):
    with pytest.raises(FastmaskError, match=words):
        choose_device(name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"hidden_size": 36, "num_attention_heads": 3}, "no Triton kernel for heads of 12"),
     ({"hidden_act": "silu"}, "bert models"), ({"num_labels": 65}, "no Triton kernel for 65 classes")],
)  # fmt: skip
def test_models_without_triton_kernels(changes, words):
    model = model_of(BertConfig(**{**COMMON, **WIDE, **changes}))
    with pytest.raises(FastmaskError, match=words):
        build_encoder(model, "float16", DEVICE, "triton")


def test_many_classes_take_torch_operations():
    assert launch.device_ops(torch.float16, 64, 32, 65).name == "torch"
    assert launch.device_ops(torch.float16, 64, 32, 64).name.startswith("triton")
