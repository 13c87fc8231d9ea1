"""``finetune`` from end to end: options, what is learned and written, and what a failure leaves."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train_samples import toy_file, weights_of

from fastmask.core.config import Unsaid
from fastmask.core.errors import FastmaskError, InputError, OutputError
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.trainable import enable_packing
from fastmask.models.weights import load_classifier
from fastmask.text.documents import read_documents
from fastmask.train import checkpoint
from fastmask.train.examples import encode_rows, labelled_rows
from fastmask.train.finetune import FinetuneConfig, finetune
from fastmask.train.predict import accuracy, predict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("change", "option"), [
    ({"train": ()}, "TRAIN"), ({"config": None}, "--init"), ({"init": "x"}, "--init"),
    ({"config": "huge"}, "--config"), ({"epochs": 0}, "--epochs"), ({"lr": 0.0}, "--lr"),
    ({"warmup": 1.5}, "--warmup"), ({"dtype": "int8"}, "--dtype"),
    ({"classes": ("a",)}, "--classes"), ({"seed": -1}, "--seed"),
])  # fmt: skip
def test_bad_options_are_named(change, option):
    with pytest.raises(FastmaskError, match=option):
        replace(FinetuneConfig(train=("a",), out="b", config="small"), **change)


@pytest.fixture
def toy(tmp_path) -> FinetuneConfig:
    return FinetuneConfig(
        train=(toy_file(tmp_path / "train.jsonl", 200, 0),), dev=(toy_file(tmp_path / "dev.jsonl", 60, 1),),
        test=(toy_file(tmp_path / "test.jsonl", 60, 2),), config="small", out=str(tmp_path / "out"), epochs=4,
        lr=2e-3, vocab_size=100, max_length=32, classes=("negative", "positive"),
    )  # fmt: skip


def test_finetune_from_scratch_learns_and_writes_a_model_with_its_metrics(toy, capfd, said):
    metrics = finetune(replace(toy, dtype="float16"))
    assert capfd.readouterr() == ("", "")
    lines = said.messages
    assert sum(line.startswith("epoch ") for line in lines) == 4 and not any("\n" in line for line in lines)
    assert json.loads((Path(toy.out) / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert metrics["test"][toy.test[0]]["accuracy"] > 0.95
    best = metrics["epochs"][metrics["best_epoch"] - 1]
    dev = [epoch["dev_accuracy"][toy.dev[0]] for epoch in metrics["epochs"]]
    assert best["dev_accuracy"][toy.dev[0]] == max(dev)

    files = resolve_model(toy.out)
    assert files.class_names == ("negative", "positive") and files.config["dtype"] == "float16"
    model = enable_packing(load_classifier(files, torch.float32))
    rows = list(labelled_rows(read_documents(toy.test)))
    examples = encode_rows(load_tokenizer(files), rows, files.classes, 32, is_typed=True)
    assert accuracy(predict(model, examples), examples.labels) == metrics["test"][toy.test[0]]["accuracy"]
    assert {file.stat().st_mode & 0o777 for file in Path(toy.out).iterdir()} == {0o644}


def test_two_runs_with_one_seed_give_the_same_bytes_and_another_seed_does_not(toy):
    outs = [str(Path(toy.out) / name) for name in "abc"]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        finetune(replace(toy, out=out, seed=seed, epochs=1))
    assert weights_of(outs[0]) == weights_of(outs[1]) != weights_of(outs[2])


def test_finetune_from_a_classifier_keeps_its_classes_and_cuts_at_its_positions(toy, mr_tiny, said):
    config = replace(toy, init=mr_tiny, config=None, classes=(), epochs=1, max_length=Unsaid(256))
    metrics = finetune(config)
    assert metrics["config"]["max_length"] == 128
    assert metrics["classes"] == ["negative", "positive"]
    assert any("cut at 128 tokens" in line for line in said.messages)
    assert not any("head is new" in line for line in said.messages)


def test_finetune_with_other_classes_gets_a_new_head(toy, mr_tiny, tmp_path, said):
    three = tmp_path / "three.jsonl"
    three.write_text("".join(json.dumps({"text": f"a {c} one", "label": c}) + "\n" for c in "xyz"))
    config = replace(toy, train=(str(three),), dev=(), test=(), init=mr_tiny, config=None, classes=())
    metrics = finetune(config)
    assert metrics["classes"] == ["x", "y", "z"] and metrics["best_epoch"] == 4
    assert "the classification head is new: classifier.bias, classifier.weight" in said.messages
    assert resolve_model(toy.out).class_names == ("x", "y", "z")


def test_an_existing_directory_is_kept_unless_told(toy):
    keep = Path(toy.out) / "keep"
    keep.mkdir(parents=True)
    with pytest.raises(OutputError, match="--overwrite"):
        finetune(toy)
    finetune(replace(toy, epochs=1, overwrite=True))
    assert not keep.exists() and weights_of(toy.out)


def test_a_save_that_fails_leaves_what_was_there(toy, mr_tiny, monkeypatch):
    files = resolve_model(mr_tiny)
    model, tokenizer = load_classifier(files, torch.float32), load_tokenizer(files)
    checkpoint.save_model(model, tokenizer, toy.out, torch.float16)
    before = weights_of(toy.out)

    def full(directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_settle", full)
    with pytest.raises(OutputError, match="No space left"):
        checkpoint.save_model(model, tokenizer, toy.out, torch.float32, overwrite=True)
    assert weights_of(toy.out) == before == weights_of(mr_tiny)
    assert not [path for path in Path(toy.out).parent.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_written_is_said_before_training(toy, tmp_path, said):
    rows = tmp_path / "surrogate.jsonl"
    rows.write_text('{"text": "good", "label": "a"}\n{"text": "bad", "label": "\\ud800"}\n')
    line = r'surrogate.jsonl:2: field "label": half of a surrogate pair at character 0'
    with pytest.raises(InputError, match=line):
        finetune(replace(toy, train=(str(rows),), classes=()))
    (tmp_path / "file").write_text("")
    said.clear()
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        finetune(replace(toy, out=str(tmp_path / "file" / "out")))
    assert not said.messages


def test_a_training_file_may_have_any_name(toy, tmp_path):
    name = os.fsdecode(bytes(tmp_path) + b"/\xff.jsonl")
    shutil.copy(toy.train[0], name)
    finetune(replace(toy, train=(name,), epochs=1))
    assert json.loads((Path(toy.out) / "metrics.json").read_text())["config"]["train"] == [name]
