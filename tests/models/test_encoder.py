"""Packed and generic encoders against transformers' own float64 answer; whole runs with each architecture."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from encoder_samples import COMMON, CONFIGS, DISTIL, VOCABULARY, WIDE, by_transformers, model_of
from helpers import rows_of, write_jsonl
from tokenizers import ByteLevelBPETokenizer, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import ModelError
from fastmask.core.records import PackedBatch
from fastmask.models.encoder import PackedEncoder, build_encoder
from fastmask.models.generic import GenericEncoder
from fastmask.pipeline import score_corpus


def batch_of(lengths, seed=0) -> PackedBatch:
    """Random ids; the second half of each sequence has token type 1."""
    rng = np.random.default_rng(seed)
    bounds = np.cumsum([0, *lengths]).astype(np.int32)
    types = [(np.arange(n) >= (n + 1) // 2).astype(np.int32) for n in lengths]
    ids = rng.integers(5, VOCABULARY, bounds[-1]).astype(np.int32)
    return PackedBatch(ids, np.concatenate(types), bounds, max(lengths))


LENGTHS = [3, 1, 2, 16, 17, 31, 5, 127, 128, 15]


@pytest.mark.parametrize("family", CONFIGS)
def test_logits_are_transformers(family):
    model, batch = model_of(CONFIGS[family]), batch_of(LENGTHS)
    exact = by_transformers(model, batch, torch.float64)
    floor = 2 * np.finfo(np.float32).eps * np.abs(exact).max()
    noise = np.abs(by_transformers(model, batch, torch.float32) - exact).max()
    assert np.ptp(exact, axis=0).min() > 0.01  # the answer does depend on the text
    encoder = build_encoder(model, "float32")
    assert isinstance(encoder, PackedEncoder)
    assert encoder.ops.name == ("torch" if "odd" in family else "numba+onednn")
    assert np.abs(encoder.logits(batch) - exact).max() <= 2 * noise + floor
    assert np.abs(build_encoder(model, "float64").logits(batch) - exact).max() < 1e-9


@pytest.mark.parametrize("family", ["bert", "distilbert-odd", "electra-projected", "modernbert"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_cheap_precisions_are_near(family, precision):
    model, batch = model_of(CONFIGS[family]), batch_of(LENGTHS)
    exact = by_transformers(model, batch, torch.float64)
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    noise = np.abs(by_transformers(model, batch, dtype) - exact).max()
    found = build_encoder(model, precision).logits(batch)
    assert found.dtype == np.float64 and np.abs(found - exact).max() <= 2 * noise


@pytest.mark.parametrize("family", ["bert", "electra-odd", "modernbert-mean"])
def test_a_sequence_has_one_answer_in_any_company(family):
    model, batch = model_of(CONFIGS[family]), batch_of(LENGTHS)
    encoder = build_encoder(model, "float64")
    together = encoder.logits(batch)
    for n, (a, b) in enumerate(pairwise(batch.cu_seqlens)):
        alone = PackedBatch(batch.input_ids[a:b], batch.token_type_ids[a:b], np.array([0, b - a], np.int32), int(b - a))
        np.testing.assert_allclose(encoder.logits(alone)[0], together[n], atol=1e-12)


def test_models_are_not_written_to():
    model = model_of(CONFIGS["electra-projected"])
    before = {name: p.clone() for name, p in model.state_dict().items()}
    for precision in ("bfloat16", "float64"):
        build_encoder(model, precision).logits(batch_of([4, 9]))
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_an_embedding_narrower_than_a_vector():
    """ELECTRA's embedding size is its own: the numba kernel needs a multiple of 16 there, too."""
    model = model_of(ElectraConfig(**COMMON, **WIDE, embedding_size=40))
    encoder = build_encoder(model, "float32")
    assert encoder.ops.name == "torch"
    batch = batch_of(LENGTHS)
    exact = by_transformers(model, batch, torch.float64)
    noise = np.abs(by_transformers(model, batch, torch.float32) - exact).max()
    assert np.abs(encoder.logits(batch) - exact).max() <= 2 * noise + 5e-7


def test_unknown_activations_go_through_the_models_own_forward():
    model, batch = model_of(BertConfig(**COMMON, **WIDE, hidden_act="silu")), batch_of(LENGTHS)
    encoder = build_encoder(model, "float64")
    assert isinstance(encoder, GenericEncoder) and encoder.name == "generic/bert"
    np.testing.assert_allclose(encoder.logits(batch), by_transformers(model, batch, torch.float64), atol=1e-9)


# --- whole runs ---

SMALL = COMMON | WIDE | {"num_labels": 2, "vocab_size": 8192}
LINES = ["A fine film, and a moving one.", "Dull plot. Bad acting!", "It is what it is"]


def save(folder, config, tokenizer_from) -> str:
    model_of(config).save_pretrained(folder)
    if isinstance(tokenizer_from, str):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(f"{tokenizer_from}/{name}", folder)
    else:
        tokenizer_from.save_pretrained(folder)
    return str(folder)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(LINES * 5, vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer = bpe._tokenizer
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    roles = {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>", **roles)


RUNS = {
    "bert": BertConfig(**SMALL),
    "distilbert": DistilBertConfig(**{DISTIL.get(k, k): v for k, v in SMALL.items()}),
    "electra": ElectraConfig(**SMALL, embedding_size=32),
    "roberta": RobertaConfig(**SMALL, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2),
    "modernbert": ModernBertConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
                                   sep_token_id=2),
    "deberta-v2": DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"], type_vocab_size=0),
}  # fmt: skip


@torch.inference_mode()
def probability_by_hand(folder, text, label) -> float:
    """P(label | text) by the model's own tokenizer and forward, in float64."""
    from transformers import AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    return torch.softmax(model(**inputs).logits[0], -1)[label].item()


@pytest.mark.parametrize("family", RUNS)
def test_every_architecture_scores_a_corpus(family, tmp_path, mr_tiny):
    tokenizer = byte_level_tokenizer() if family == "roberta" else mr_tiny
    model = save(tmp_path / "model", RUNS[family], tokenizer)
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": line} for line in LINES])
    options = {"model": model, "stop_words": "none", "precision": "float32", "segment": "line"}
    manifest = score_corpus([corpus], str(tmp_path / "out"), ScoreConfig(**options, method="prefix"))
    expected = "generic/deberta-v2" if family == "deberta-v2" else "packed/numba+onednn"
    assert manifest["environment"]["kernels"] == expected
    for line, row in zip(LINES, rows_of(tmp_path / "out"), strict=True):
        assert row["prob"] == pytest.approx(probability_by_hand(model, line, row["predicted"]), abs=1e-5)
        # the last prefix is the whole sentence; each other one is the text up to its last token
        assert row["importance"][-1] == pytest.approx(0, abs=1e-6)
        middle = len(row["importance"]) // 2
        prefix = probability_by_hand(model, line[: row["char_end"][middle]], row["predicted"])
        assert row["prob"] - row["importance"][middle] == pytest.approx(prefix, abs=1e-5)


def test_pairs_of_a_byte_level_model(tmp_path):
    """Two separators between the parts, and no token types."""
    config = RobertaConfig(**SMALL, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    model = save(tmp_path / "model", config, byte_level_tokenizer())
    rows = [{"text": "A fine film", "aspects": [{"term": "film", "polarity": n}]} for n in (0, 1)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    options = ScoreConfig(model=model, precision="float32", stop_words="none")
    score_corpus([corpus], str(tmp_path / "out"), options)
    found = [row for row in rows_of(tmp_path / "out") if row["importance"] is not None]
    (row,) = found  # the classifier agrees with one of the labels
    exact = probability_by_hand(model, [("film", "A fine film")], row["row"])
    assert row["prob"] == pytest.approx(exact, abs=1e-5)


def test_longer_than_the_model(tmp_path):
    config = RobertaConfig(**SMALL | {"max_position_embeddings": 40}, type_vocab_size=1, pad_token_id=1)
    model = save(tmp_path / "model", config, byte_level_tokenizer())
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": "film " * 60}])
    with pytest.raises(ModelError, match=r"--max-length 39: .* takes at most 38 tokens"):
        score_corpus([corpus], str(tmp_path / "out"), ScoreConfig(model=model, max_length=39))
    score_corpus([corpus], str(tmp_path / "out"), ScoreConfig(model=model, max_length=38, method="prefix"))
    assert rows_of(tmp_path / "out")[0]["mask_index"]
