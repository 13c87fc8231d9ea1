"""Method ``entropy``: transformers' masked logits in float64, a token at a time; the rule, whole runs, refusals."""

import copy
import json
from pathlib import Path

import any_family
import numpy as np
import pytest
import torch
from encoder_samples import CONFIGS
from helpers import encoded, fastmask, golden, masks_of, refusal, rows_of, split, write_jsonl
from ranking_samples import CLS, FIRST_ID, MASK, SEP, engine_of, rule, sentences_of
from transformers import AutoModelForMaskedLM, AutoTokenizer

from fastmask.scoring.engine import score_certain
from fastmask.shards.reader import open_shards

# the last one runs by its own forward
FAMILIES = ("bert", "roberta", "distilbert", "electra-projected", "modernbert", "albert")
PARTLY_FLOAT32 = ("modernbert",)
"""transformers' modules of these take a step in float32 whatever they are converted to."""


def model_of(family: str):
    torch.manual_seed(0)
    albert = next(one for one in any_family.FAMILIES if one.name == "albert").config(vocab_size=200)
    return AutoModelForMaskedLM.from_config(albert if family == "albert" else CONFIGS[family]).float().eval()


@torch.inference_mode()
def entropies(model, words, cls=CLS, sep=SEP, mask=MASK, max_length=128) -> list[float]:
    """Of each token of a sentence that the model sees, by the model's own forward of one text, in its own dtype."""
    ids, found = [cls, *words[: max_length - 2], sep], []
    for place in range(1, len(ids) - 1):
        hidden = torch.tensor([[*ids[:place], mask, *ids[place + 1 :]]])
        p = model(hidden, attention_mask=torch.ones_like(hidden)).logits[0, place].double().softmax(0).numpy()
        found.append(-sum(p * np.log(p)))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_transformers(family):
    model, sentences = model_of(family), [*sentences_of(20, 12), list(range(FIRST_ID, 40))]
    options = {"calibration": 8, "max_length": 20, "precision": "float32"}
    scored, _ = score_certain(engine_of("entropy", model, **options), encoded(sentences))
    exact = copy.deepcopy(model).double()
    found = split(scored.sentences.offsets, scored.importance)
    for words, ours, masks in zip(sentences, found, masks_of(scored), strict=True):
        values = entropies(exact, words, max_length=20)
        np.testing.assert_allclose(ours, [*values, *[0] * (len(words) - len(values))], atol=1e-5)
        assert masks == rule(values, words)
    assert scored.scored.all() and np.isnan(scored.prob).all() and (scored.predicted == -1).all()


ANYHOW = {
    "bfloat16": {"precision": "bfloat16"}, "float32": {"precision": "float32"}, "small batches": {"batch_tokens": 7},
    "one batch": {"batch_tokens": 1 << 20}, "threads": {"threads": 3},
}  # fmt: skip


@pytest.mark.parametrize("how", ANYHOW)
def test_masks_depend_on_no_batch_thread_or_precision(how):
    model, sentences = model_of("bert"), sentences_of(30, 14)
    expected, _ = score_certain(engine_of("entropy", model), encoded(sentences))
    found, _ = score_certain(engine_of("entropy", model, **ANYHOW[how]), encoded(sentences))
    assert masks_of(found) == masks_of(expected)


def test_labels_and_aspects_play_no_part():
    model, sentences = model_of("bert"), sentences_of(4, 8)
    expected, _ = score_certain(engine_of("entropy", model), encoded(sentences))
    aspects = [[([7, 8], 0)], [], [([9], 1), ([11], 0)], [([7], 2)]]
    for shard in (encoded(sentences, labels=[9, 8, 7, -1]), encoded(sentences, aspects=aspects)):
        found, _ = score_certain(engine_of("entropy", model), shard)
        assert masks_of(found) == masks_of(expected) and found.scored.all()


@pytest.fixture(scope="module")
def trained(mr_tiny, tmp_path_factory) -> str:
    """A masked-language model on a tokenizer that is known, with random weights that differ enough."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    config = AutoModelForMaskedLM.from_pretrained(mr_tiny).config
    config.initializer_range = 0.2
    AutoModelForMaskedLM.from_config(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(mr_tiny).save_pretrained(path)
    return str(path)


def test_a_run_follows_the_rule(trained, golden_dir, tmp_path):
    texts = [{"text": row["text"], "label": "any"} for row in golden(golden_dir, "mr_tiny_0.05")[:8]]
    corpus, out = write_jsonl(tmp_path / "corpus.jsonl", texts), tmp_path / "out"
    result = fastmask("score", corpus, "-o", out, "--method", "entropy", "--model", trained, "--stop-words", "none",
                      "--shard-rows", 3, "--control", tmp_path / "twin")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    model = AutoModelForMaskedLM.from_pretrained(trained, dtype=torch.float64).eval()
    special = AutoTokenizer.from_pretrained(trained)
    for row, other in zip(rows_of(out), rows_of(tmp_path / "twin"), strict=True):
        words = row["input_ids"]
        values = entropies(model, words, special.cls_token_id, special.sep_token_id, special.mask_token_id)
        assert row["mask_index"] == rule(values, words, np.zeros(model.config.vocab_size, bool))
        np.testing.assert_allclose(row["importance"], values, atol=1e-5)
        assert row["predicted"] is None and row["prob"] is None and len(other["mask_index"]) == len(row["mask_index"])
    (out / "shard-00001.parquet").unlink()
    assert "made again, identical" in fastmask("verify", out, "--repair").stdout
    assert open_shards(out).manifest["config"]["mask_rate"] == 0.15
    assert fastmask("inspect", out, "--rows", 3).exit_code == 0


def test_refusals(trained, mr_tiny, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": "A film."}])
    asked = "score", corpus, "-o", tmp_path / "out", "--method", "entropy"
    assert "--method entropy: name its model by --model" in refusal(fastmask(*asked))
    assert "mr-tiny: is not a trained masked-language model, its weights lack cls." in refusal(
        fastmask(*asked, "--model", mr_tiny)
    )
    path = Path(trained, "tokenizer_config.json")
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "mask_token": None}))
    try:
        assert "its tokenizer has no mask token" in refusal(fastmask(*asked, "--model", trained))
    finally:
        path.write_text(json.dumps(settings))
