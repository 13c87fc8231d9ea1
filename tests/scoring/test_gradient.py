"""Method ``gradient``: values by finite differences and by Captum, the rule by hand, its certificate, whole runs."""

import copy
import dataclasses
from importlib.util import find_spec
from itertools import pairwise

import any_family
import numpy as np
import pytest
import torch
from encoder_samples import CONFIGS, VOCABULARY, model_of
from helpers import encoded, fastmask, golden, masks_of, refusal, rows_of, split, write_jsonl
from ranking_samples import CLS, FIRST_ID, SEP, STOP, TEXT_TEMPLATE, engine_of, rule, sentences_of
from test_units import policy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError
from fastmask.core.records import PackedBatch
from fastmask.models.module_encoder import SaliencyEncoder
from fastmask.pipeline import score_corpus
from fastmask.scoring.engine import score_certain
from fastmask.shards.reader import open_shards

FAMILIES = ("bert", "roberta", "distilbert", "electra-projected", "modernbert-mean")
# one whose layers are the same, one with a norm at once, one that fills texts up, a decoder, one that reads columns
OTHERS = {one.name: one for one in any_family.FAMILIES
          if one.name in ("albert", "deberta-v2", "longformer", "gpt2", "xlnet")}  # fmt: skip

PARTLY_FLOAT32 = ("modernbert-mean", "longformer")
"""transformers' modules of these take a step in float32 whatever they are converted to."""


def log_odds(logits: torch.Tensor, target: int) -> torch.Tensor:
    others = [logits[c] for c in range(len(logits)) if c != target]
    return logits[target] - torch.logsumexp(torch.stack(others), 0)


def embedded_by(model) -> torch.nn.Module:
    """What gives the embeddings: of ModernBERT and DeBERTa the norm that follows at once, so that length is lost."""
    norms = {"modernbert": "model.embeddings.norm", "deberta-v2": "deberta.embeddings.LayerNorm"}
    kind = model.config.model_type
    return model.get_submodule(norms[kind]) if kind in norms else model.get_input_embeddings()


def by_differences(model, ids: list[int], target: int, step=1e-3) -> list[float]:
    """|dz/de . e| of each token in float64: how z changes where a token's embedding gets longer."""

    def z(place: int, factor: float) -> float:
        def longer(module, given, rows):
            rows = rows.clone()
            rows.view(-1, rows.shape[-1])[place] *= factor
            return rows

        handle = embedded_by(model).register_forward_hook(longer)
        with torch.inference_mode():
            found = log_odds(model(torch.tensor([ids])).logits[0], target).item()
        handle.remove()
        return found

    def slope(place: int) -> float:
        near, far = (z(place, 1 + many * step) - z(place, 1 - many * step) for many in (1, 2))
        return abs(8 * near - far) / (12 * step)

    return [slope(place) for place in range(len(ids))]


def by_autograd(model, ids: list[int], target: int, types=None) -> list[float]:
    """The same by torch, on transformers' own forward of one text that is given as embeddings."""
    embeddings = model.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, token_type_ids=types).logits[0]
    (slope,) = torch.autograd.grad(log_odds(logits, target), embeddings)
    return (slope * embeddings.detach()).sum(-1).abs()[0].tolist()


def by_captum(model, ids: list[int], target: int, types=None) -> list[float]:
    from captum.attr import LayerGradientXActivation

    def forward(given):
        return log_odds(model(given, token_type_ids=types).logits[0], target)[None]

    found = LayerGradientXActivation(forward, model.get_input_embeddings()).attribute(torch.tensor([ids]))
    return found.sum(-1).abs()[0].tolist()


OTHER_IMPLEMENTATIONS = [by_autograd, *([by_captum] if find_spec("captum") else [])]  # captum is in the extra bench


def packed(texts: list[list[int]]) -> PackedBatch:
    ids = np.concatenate(texts).astype(np.int32)
    bounds = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return PackedBatch(ids, np.zeros_like(ids), bounds, max(map(len, texts)))


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_values_are_those_of_finite_differences(name):
    if name in FAMILIES:
        model, template, first = model_of(CONFIGS[name]), TEXT_TEMPLATE, FIRST_ID
    else:
        model, template, first = OTHERS[name].model(), OTHERS[name].template, any_family.FIRST_WORD
    model = model.double()
    rng = np.random.default_rng(1)
    texts = [rng.integers(first, model.config.vocab_size, n).tolist() for n in (4, 6, 4, 1)]
    for precision, close in (("float64", 1e-3 if name in PARTLY_FLOAT32 else 1e-7), ("float32", 1e-3)):
        found = SaliencyEncoder(model, precision, "cpu", template).saliency(packed(texts), np.array([0, 2, -1, 1]))
        for text, target, (a, b) in zip(texts, (0, 2, None, 1), pairwise(packed(texts).cu_seqlens), strict=True):
            with torch.inference_mode():
                logits = model(torch.tensor([text])).logits[0].numpy()
            np.testing.assert_allclose(found[a:b, 1:], np.tile(logits, (b - a, 1)), atol=close)
            expected = by_differences(model, text, int(logits.argmax()) if target is None else target)
            np.testing.assert_allclose(found[a:b, 0], expected, atol=close * max(1, max(expected)))


def test_a_model_that_does_not_read_by_embeddings_is_refused():
    model = next(one for one in any_family.FAMILIES if one.name == "ibert").model()
    with pytest.raises(FastmaskError, match="does not read its tokens by word embeddings"):
        SaliencyEncoder(model, "float32", "cpu", TEXT_TEMPLATE).saliency(packed([[7, 8]]), np.array([0]))


def expected_of(model, sentences, labels, max_length=128):
    """Importances and predicted classes of sentences, one at a time in float64."""
    values, classes = [], []
    for words, label in zip(sentences, labels, strict=True):
        ids = [CLS, *words[: max_length - 2], SEP]
        with torch.inference_mode():
            classes.append(int(model(torch.tensor([ids])).logits[0].argmax()))
        values.append(by_autograd(model, ids, classes[-1] if label < 0 else label)[1:-1])
    return values, classes


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_masks_are_those_of_the_rule(name):
    """Sentences with and without labels, some too long; those that the classifier gets wrong get no masks."""
    albert = OTHERS["albert"].config(vocab_size=VOCABULARY)
    model = model_of(CONFIGS["bert"] if name == "bert" else albert)
    sentences = [*sentences_of(), list(range(FIRST_ID, 60))]
    labels = np.random.default_rng(2).integers(-1, 3, len(sentences)).tolist()
    scored, _ = score_certain(engine_of("gradient", model, max_length=32), encoded(sentences, labels))
    values, classes = expected_of(copy.deepcopy(model).double(), sentences, labels, 32)
    right = [label in (-1, predicted) for label, predicted in zip(labels, classes, strict=True)]
    assert scored.scored.tolist() == right and 0 < sum(right) < len(right)
    assert scored.predicted.tolist() == classes
    found = split(scored.sentences.offsets, scored.importance)
    for words, value, ok, masks, ours in zip(sentences, values, right, masks_of(scored), found, strict=True):
        exact = [*(value if ok else [0] * len(value)), *[0] * (len(words) - len(value))]
        np.testing.assert_allclose(ours, exact, atol=1e-4)
        assert masks == (rule(value, words) if ok else [])


ANYHOW = {
    "bfloat16": {"precision": "bfloat16"}, "small batches": {"batch_tokens": 7}, "one batch": {"batch_tokens": 1 << 20},
    "threads": {"threads": 3},
}  # fmt: skip


@pytest.mark.parametrize("how", ANYHOW)
def test_masks_depend_on_no_batch_thread_or_precision(how):
    model, sentences = model_of(CONFIGS["bert"]), sentences_of(60)
    expected, _ = score_certain(engine_of("gradient", model), encoded(sentences))
    found, _ = score_certain(engine_of("gradient", model, **ANYHOW[how]), encoded(sentences))
    assert masks_of(found) == masks_of(expected) and found.predicted.tolist() == expected.predicted.tolist()
    assert sum(expected.certificate["rechecked"].values()) < 0.1 * expected.certificate["decisions"]


def test_words_are_masked_whole_by_their_strongest_token():
    model, sentences = model_of(CONFIGS["bert"]), sentences_of(30)
    rng = np.random.default_rng(5)
    words = [np.cumsum(rng.random(len(one)) < 0.5).tolist() for one in sentences]
    shard = dataclasses.replace(encoded(sentences), word=np.concatenate(words).astype(np.int32))
    scored, _ = score_certain(engine_of("gradient", model, unit="word", mask_rate=0.3), shard)
    values, _ = expected_of(copy.deepcopy(model).double(), sentences, [-1] * len(sentences))
    expected = [policy(word, [True] * len(ids), ~STOP[ids], value, 0.3)
                for ids, word, value in zip(sentences, words, values, strict=True)]  # fmt: skip
    assert masks_of(scored) == expected and any(map(len, expected))


@pytest.mark.parametrize("best", [0, 1])
def test_a_class_that_float32_cannot_tell_is_that_of_float64(best):
    """Classes as good as equal, whose gradients are not."""
    model, words = model_of(CONFIGS["bert"]).double(), list(range(FIRST_ID, FIRST_ID + 20))
    with torch.inference_mode():
        logits = model(torch.tensor([[CLS, *words, SEP]])).logits[0]
        model.classifier.bias -= logits
        model.classifier.bias[best] += 1e-8
    values, classes = expected_of(model, [words], [-1])
    assert classes == [best]
    scored, _ = score_certain(engine_of("gradient", model), encoded([words]))
    assert scored.predicted.tolist() == [best] and masks_of(scored) == [rule(values[0], words)]
    np.testing.assert_allclose(scored.importance, values[0], atol=1e-4)


@pytest.mark.parametrize("implementation", OTHER_IMPLEMENTATIONS)
def test_a_run_follows_the_rule(implementation, mr_tiny, golden_dir, tmp_path):
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:30]]
    corpus, out = write_jsonl(tmp_path / "corpus.jsonl", rows), tmp_path / "out"
    result = fastmask("score", corpus, "-o", out, "--method", "gradient", "--model", mr_tiny, "--stop-words", "none",
                      "--shard-rows", 8, "--control", tmp_path / "twin")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    model = AutoModelForSequenceClassification.from_pretrained(mr_tiny, dtype=torch.float64).eval()
    special = open_shards(out).manifest["tokenizer"]["special_ids"]
    found = rows_of(out)
    for row, other in zip(found, rows_of(tmp_path / "twin"), strict=True):
        ids = [special["cls"], *row["input_ids"], special["sep"]]
        with torch.inference_mode():
            right = int(model(torch.tensor([ids])).logits.argmax()) == row["label"]
        values = implementation(model, ids, row["label"])[1:-1]
        nothing = np.zeros(model.config.vocab_size, bool)
        assert row["mask_index"] == (rule(values, row["input_ids"], nothing) if right else [])
        assert not right or np.abs(np.array(row["importance"]) - values).max() < 1e-4
        assert len(other["mask_index"]) == len(row["mask_index"])
    assert 0 < sum(bool(row["mask_index"]) for row in found) < len(found)
    (out / "shard-00001.parquet").unlink()
    assert "made again, identical" in fastmask("verify", out, "--repair").stdout
    assert fastmask("inspect", out, "--rows", 3).exit_code == 0


def test_a_text_of_several_aspects_takes_the_largest_of_each_token(restaurant_tiny, golden_dir, tmp_path):
    rows = [row for row in golden(golden_dir, "restaurant_tiny_0.05") if len(row["aspects"]) > 1][:12]
    aspects = [[{key: one[key] for key in ("term", "polarity")} for one in row["aspects"]] for row in rows]
    texts = [{"text": row["text"], "aspects": of} for row, of in zip(rows, aspects, strict=True)]
    config = ScoreConfig(model=restaurant_tiny, method="gradient", stop_words="none", mask_rate=0.3)
    score_corpus([write_jsonl(tmp_path / "corpus.jsonl", texts)], str(tmp_path / "out"), config)
    model = AutoModelForSequenceClassification.from_pretrained(restaurant_tiny, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(restaurant_tiny)
    names = {name.lower(): index for index, name in model.config.id2label.items()}
    scored = rows_of(tmp_path / "out")
    for row, found, of in zip(rows, scored, aspects, strict=True):
        best = np.zeros(len(found["input_ids"]))
        for one, expected in zip(of, row["aspects"], strict=True):
            given = tokenizer(one["term"], row["text"], return_tensors="pt", return_token_type_ids=True)
            ids, types = given["input_ids"], given["token_type_ids"]
            if expected["correct"]:
                values = by_autograd(model, ids[0].tolist(), names[one["polarity"]], types)
                best = np.maximum(best, values[-1 - len(best) : -1])
        any_right = any(one["correct"] for one in row["aspects"])
        np.testing.assert_allclose(found["importance"] or np.zeros(len(best)), best, atol=1e-4)
        nothing = np.zeros(model.config.vocab_size, bool)
        assert found["mask_index"] == (rule(best, found["input_ids"], nothing, 0.3) if any_right else [])


def test_refusals(mr_tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": "A film."}])
    asked = "score", corpus, "-o", tmp_path / "out", "--method", "gradient", "--model", mr_tiny
    assert "--kernels triton: there are none for --method gradient" in refusal(fastmask(*asked, "--kernels", "triton"))
