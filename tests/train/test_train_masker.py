"""``train-masker``: packed token logits, labels from shards, held-out documents, metrics by hand, the command."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import fastmask, golden, process, refusal, rows_of, write_jsonl
from train_samples import FAMILIES
from transformers import AutoModelForTokenClassification

from fastmask.core.config import ScoreConfig
from fastmask.core.config_train import MaskerConfig
from fastmask.core.errors import FastmaskError, ModelError, OutputError
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.trainable import enable_packing, pack, token_logits
from fastmask.models.weights import load_masker
from fastmask.pipeline import score_corpus
from fastmask.train.masker import measure, token_counts, token_scores, train_masker
from fastmask.train.tagged import UNLABELLED, TaggedSentences, read_tagged, split_documents

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shards(tmp_path_factory, golden_dir, mr_tiny) -> str:
    """Masks by greedy, of texts with given labels: some of their sentences are not scored."""
    folder = tmp_path_factory.mktemp("shards")
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:50]]
    corpus = write_jsonl(folder / "corpus.jsonl", [*rows, *({"text": "word " * 200, "label": k} for k in (0, 1))])
    score_corpus([corpus], str(folder / "out"), ScoreConfig(model=mr_tiny, shard_rows=20))
    return str(folder / "out")


@pytest.fixture
def config(shards, mr_tiny, tmp_path) -> MaskerConfig:
    return MaskerConfig(shards=(shards,), init=mr_tiny, out=str(tmp_path / "out"), epochs=3, lr=5e-4, batch_size=8)


def tagged(shards, model, max_length=128) -> TaggedSentences:
    files = resolve_model(model)
    return read_tagged([shards], files, load_tokenizer(files), max_length, is_typed=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_token_logits_are_those_of_transformers(family):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = AutoModelForTokenClassification.from_config(copy.deepcopy(FAMILIES[family])).double().eval()
    sequences = [rng.integers(5, 97, length) for length in (1, 7, 33, 5, 17)]
    alone = [model(torch.tensor(ids)[None]).logits[0] for ids in sequences]
    enable_packing(model)
    got = token_logits(model, pack(sequences, [np.zeros(len(ids)) for ids in sequences]))
    torch.testing.assert_close(got, torch.cat(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("max_length", [128, 16])
def test_scored_sentences_and_their_masks(shards, mr_tiny, max_length):
    found, special = tagged(shards, mr_tiny, max_length), load_tokenizer(resolve_model(mr_tiny))
    rows = [row for row in rows_of(shards) if row["importance"] is not None]
    assert 0 < len(rows) < len(rows_of(shards)) and len(found) == len(rows)
    for n, row in enumerate(rows):
        ids = row["input_ids"][: max_length - 2]
        assert found.input_ids[n].tolist() == [special.cls_token_id, *ids, special.sep_token_id]
        tags = [int(position in row["mask_index"]) for position in range(len(ids))]
        assert found.labels[n].tolist() == [UNLABELLED, *tags, UNLABELLED]
        assert found.lengths[n] == len(ids) + 2 <= max_length and found.document[n] == row["row"]
    assert found.lengths.max() == max_length


def test_documents_of_several_directories_are_apart(shards, mr_tiny):
    files = resolve_model(mr_tiny)
    found = read_tagged([shards, shards], files, load_tokenizer(files), 128, is_typed=True)
    once = tagged(shards, mr_tiny).document
    assert found.document.tolist() == [*once, *(once + 52)]


def test_documents_are_held_out_whole():
    document = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 5, 40))
    n = len(document)
    ids = [np.array([i]) for i in range(n)]
    sentences = TaggedSentences(ids, ids, ids, np.ones(n, np.int64), document, is_typed=True)
    for share, count in ((0.1, 4), (0.001, 1), (0.999, 39)):
        train, dev = split_documents(sentences, share, np.random.default_rng(7))
        assert len(set(dev.document)) == count and not set(dev.document) & set(train.document)
        assert sorted(i for part in (train, dev) for (i,) in part.input_ids) == list(range(n))
    again = split_documents(sentences, 0.1, np.random.default_rng(7))[1]
    assert again.document.tolist() == split_documents(sentences, 0.1, np.random.default_rng(7))[1].document.tolist()
    with pytest.raises(FastmaskError, match="one document"):
        split_documents(sentences.take(np.array([0])), 0.1, np.random.default_rng(7))


def test_metrics_by_hand():
    predicted = np.array([1, 1, 0, 1, 1, 0, 1])
    labels = np.array([UNLABELLED, 1, 1, 0, 0, 0, 1])
    assert token_counts(predicted, labels).tolist() == [2, 4, 3]
    assert token_scores(2, 4, 3) == {"precision": 0.5, "recall": 2 / 3, "f1": 4 / 7}
    assert token_scores(0, 0, 0) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_what_is_saved_is_the_best_epoch_and_opens_in_transformers(config, shards, capfd, said):
    metrics = train_masker(replace(config, dev=(shards,)))
    assert capfd.readouterr() == ("", "")
    lines = said.messages
    assert sum(line.startswith("epoch ") for line in lines) == 3 and all("f1 0." in line for line in lines)
    assert json.loads((Path(config.out) / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    f1 = [epoch["dev"]["f1"] for epoch in metrics["epochs"]]
    assert metrics["dev"]["f1"] == max(f1) == f1[metrics["best_epoch"] - 1] > 0.3

    plain = AutoModelForTokenClassification.from_pretrained(config.out, dtype=torch.float32)
    assert plain.config.id2label == {0: "keep", 1: "mask"}
    counts = np.zeros(3, np.int64)
    sentences = tagged(shards, config.out)
    with torch.inference_mode():
        for ids, labels in zip(sentences.input_ids, sentences.labels, strict=True):
            predicted = plain(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].argmax(-1)
            counts += token_counts(predicted.numpy(), labels)
    assert token_scores(*counts.tolist()) == metrics["dev"]
    again = enable_packing(load_masker(resolve_model(config.out), torch.float32))
    assert measure(again, sentences) == metrics["dev"]


def weights_of(out: str) -> bytes:
    return (Path(out) / "model.safetensors").read_bytes()


def test_two_runs_with_one_seed_give_the_same_bytes_and_another_seed_does_not(config):
    outs = [f"{config.out}-{name}" for name in "abc"]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        train_masker(replace(config, out=out, seed=seed, epochs=1))
    assert weights_of(outs[0]) == weights_of(outs[1]) != weights_of(outs[2])


def test_a_masker_goes_on_and_a_classifier_gets_a_new_head(config):
    """A rate of next to nothing leaves the weights where they began."""
    still = replace(config, epochs=1, lr=1e-30, weight_decay=0.0)
    first, second = f"{config.out}-first", f"{config.out}-second"
    train_masker(replace(still, out=first))
    train_masker(replace(still, out=second, init=first, seed=99))
    heads = [load_masker(resolve_model(out), torch.float32).classifier for out in (first, second)]
    assert torch.equal(heads[0].weight, heads[1].weight) and 0.01 < heads[0].weight.std() < 0.03
    assert all(head.bias.abs().max() < 1e-20 for head in heads)


def test_errors(config, corpus_without_scores, tmp_path):
    with pytest.raises(
        ModelError, match=r"was made with the tokenizer of .*mr-tiny, which is not that of .*other; fastmask remap"
    ):
        train_masker(replace(config, init=other_tokenizer(config.init, tmp_path)))
    with pytest.raises(FastmaskError, match="no sentence was scored"):
        train_masker(replace(config, shards=(corpus_without_scores,)))
    with pytest.raises(OutputError, match="nowhere: no such directory"):
        train_masker(replace(config, dev=("nowhere",)))
    with pytest.raises(FastmaskError, match="diverged"):
        train_masker(replace(config, lr=1e30, warmup=0.0, epochs=20))
    (Path(config.out)).mkdir()
    (Path(config.out) / "mine").touch()
    with pytest.raises(OutputError, match="exists already"):
        train_masker(config)


@pytest.fixture(scope="module")
def corpus_without_scores(tmp_path_factory, mr_tiny) -> str:
    folder = tmp_path_factory.mktemp("unscored")
    corpus = write_jsonl(folder / "c.jsonl", [{"text": "A film."}, {"text": "A plot."}])
    score_corpus([corpus], str(folder / "out"), ScoreConfig(model=mr_tiny, method="random"))
    return str(folder / "out")


def other_tokenizer(model: str, folder: Path) -> str:
    other = shutil.copytree(model, folder / "other")
    for file in other.glob("tokenizer.json"):
        file.write_text(file.read_text().replace('"film"', '"filmm"'))
    return str(other)


CHANGES = [{"shards": ()}, {"init": None}, {"dev_share": 0.0}, {"epochs": 0}, {"batch_size": 0}, {"max_length": 4},
           {"seed": -1}, {"lr": 0.0}, {"weight_decay": -1.0}, {"mask_weight": 0.0}, {"warmup": 2.0},
           {"dtype": "int8"}, {"device": "tpu"}]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_bad_options_are_named(config, change):
    (name,) = change
    option = "SHARDS" if name == "shards" else f"--{name.replace('_', '-')}"
    with pytest.raises(FastmaskError, match=f"^{option}( \\S+)?: "):
        replace(config, **change)


def test_the_command(shards, mr_tiny, tmp_path):
    out = tmp_path / "out"
    result = process("train-masker", shards, "--init", mr_tiny, "-o", out, "--epochs", 1, "--batch-size", 16)
    assert result.returncode == 0 and result.stdout == ""
    assert "epoch 1 of 1: loss 0." in result.stderr and "Traceback" not in result.stderr
    assert json.loads((out / "metrics.json").read_text())["config"]["mask_weight"] == 3.0
    assert "--init" in refusal(fastmask("train-masker", shards, "-o", tmp_path / "x"))
