"""Pickled weights and bare sentencepiece tokenizers are refused everywhere, with the command that converts them."""

import json
import re
from pathlib import Path

import pytest
import torch
from helpers import fastmask, refusal
from pretrain_samples import weights
from tiny_models import TEXTS, tiny_model

from fastmask.core.errors import ModelError
from fastmask.models.directory import resolve_model


@pytest.fixture
def pickled(tmp_path, monkeypatch) -> Path:
    """A classifier as old repositories have it, where the user is."""
    monkeypatch.chdir(tmp_path)
    model = Path(tiny_model(tmp_path / "old", "bert", "SequenceClassification"))
    torch.save(weights(model), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    return model


def commands(model: str) -> list[tuple]:
    """Every command that reads a model, on files that are never looked at."""
    return [
        ("score", "x.txt", "--model", model, "-o", "out"),
        ("explain", "x", "--model", model),
        ("finetune", "x.jsonl", "--init", model, "-o", "out"),
        ("train-masker", "shards", "--init", model, "-o", "out"),
        ("pretrain", "shards", "--init", model, "-o", "out"),
        ("remap", "shards", "--tokenizer", model, "-o", "out"),
        ("evaluate", "--arm", f"a={model}", "--test", "x.jsonl"),
    ]


def test_every_command_tells_how_to_convert_pickles(pickled):
    Path("x.txt").write_text("a film\n")
    Path("x.jsonl").write_text(
        "".join(json.dumps({"text": text, "label": n % 2}) + "\n" for n, text in enumerate(TEXTS))
    )
    assert fastmask("score", "x.txt", "-o", "shards").exit_code == 0
    for command in commands("old"):
        message = refusal(fastmask(*command))
        assert "old: its weights are pickled (pytorch_model.bin), and a pickle can run code" in message
    code = message.partition('python -c "')[2].removesuffix('"')
    exec(code, {})
    assert all(
        torch.equal(tensor, torch.load("old/pytorch_model.bin")[name]) for name, tensor in weights("old-safe").items()
    )
    assert fastmask("explain", "the film was great", "--model", "old-safe", "--max-length", 40).exit_code == 0


def test_a_tokenizer_of_sentencepiece_alone(tmp_path):
    model = Path(tiny_model(tmp_path / "old", "deberta-v2", "SequenceClassification"))
    (model / "spm.model").write_bytes(b"pieces")
    resolve_model(str(model))  # beside tokenizer.json it is not read
    (model / "tokenizer.json").unlink()
    expected = (f"{model}: its tokenizer is spm.model alone, without tokenizer.json; convert it once, with "
                "sentencepiece and protobuf installed: "
                f"python -c \"import transformers as t; n, out = '{model}', 'old-safe'; "
                "[k.from_pretrained(n).save_pretrained(out) for k in (t.DebertaV2ForSequenceClassification, "
                't.AutoTokenizer)]"')  # fmt: skip
    with pytest.raises(ModelError, match=f"^{re.escape(expected)}$"):
        resolve_model(str(model))


def test_pickles_on_the_hub(pickled, monkeypatch):
    """They are not downloaded."""
    (pickled / "pytorch_model.bin").unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda model, allow_patterns: str(pickled))
    expected = r"^org/old: has no model\.safetensors on the hub; if its weights .*; n, out = 'org/old', 'old-safe'"
    with pytest.raises(ModelError, match=expected):
        resolve_model("org/old")


@pytest.mark.parametrize("architectures", [None, [], 5, {"a": 1}, ["print('x')"], [3]])
def test_nothing_of_an_unknown_file_gets_into_the_command(pickled, architectures):
    config = json.loads((pickled / "config.json").read_text()) | {"architectures": architectures}
    (pickled / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"in \(t\.AutoModel, "):
        resolve_model("old")
