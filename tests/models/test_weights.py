"""Weights read by name are those that transformers loads, whatever the family, the file's layout and its dtype."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from encoder_samples import CONFIGS
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, LlamaConfig

from fastmask.models.directory import ModelFiles
from fastmask.models.family_reader import family_weights
from fastmask.models.family_weights import FamilyWeights
from fastmask.models.weights import load_weights


def saved(config, path: Path, kind=AutoModelForSequenceClassification, dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = kind.from_config(config).to(dtype).eval()
    model.save_pretrained(path, **options)
    names = tuple(f"LABEL_{index}" for index in range(config.num_labels))
    return model, ModelFiles(path, "it", True, model.config.to_dict(), names, config.num_labels, "")


def assert_same(left, right) -> None:
    """Two values made of the families' classes are equal to the bit."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype == torch.float32 and torch.equal(left, right)
    elif dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


@pytest.mark.parametrize("family", CONFIGS)
def test_sequence_classifiers(family, tmp_path):
    model, files = saved(CONFIGS[family], tmp_path)
    weights, config = load_weights(files, classifies_tokens=False)
    assert isinstance(weights, FamilyWeights) and config.model_type == model.config.model_type
    assert_same(weights, family_weights(model))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra-projected"])
def test_token_classifiers(family, tmp_path):
    config = type(CONFIGS[family]).from_dict(CONFIGS[family].to_dict() | {"id2label": {0: "keep", 1: "mask"}})
    model, files = saved(config, tmp_path, AutoModelForTokenClassification)
    weights, _ = load_weights(files, classifies_tokens=True)
    assert weights.head is None
    assert_same(weights, family_weights(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_in_parts(dtype, tmp_path):
    model, files = saved(CONFIGS["bert"], tmp_path, dtype=dtype, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same(load_weights(files, classifies_tokens=False)[0], family_weights(model.float()))


def test_old_names_of_layer_norms_are_left_to_transformers(tmp_path):
    model, files = saved(CONFIGS["bert"], tmp_path)
    path = tmp_path / "model.safetensors"
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
           for name, tensor in load_file(path).items()}  # fmt: skip
    assert any(name.endswith("gamma") for name in old)
    save_file(old, path, metadata={"format": "pt"})
    weights, config = load_weights(files, classifies_tokens=False)
    assert isinstance(weights, torch.nn.Module) and config is weights.config
    assert_same(family_weights(weights), family_weights(model))


def test_another_family_is_a_module(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    _, files = saved(LlamaConfig(vocab_size=50, **sizes), tmp_path)
    model, config = load_weights(files, classifies_tokens=False)
    assert type(model).__name__ == "LlamaForSequenceClassification" and config is model.config and not model.training


def test_a_device_gets_every_weight(tmp_path):
    weights = family_weights(saved(CONFIGS["electra-projected"], tmp_path)[0])
    moved, found = [weights.to("meta")], []
    while moved:
        part = moved.pop()
        if isinstance(part, torch.Tensor):
            found.append(part)
        elif dataclasses.is_dataclass(part):
            moved += [getattr(part, field.name) for field in dataclasses.fields(part)]
        elif isinstance(part, tuple):
            moved += part
    assert len(found) == 3 + 2 + 2 + 2 * 16 + 2 + 2 and all(tensor.is_meta for tensor in found)
    assert not weights.word.is_meta


HEAVY = (
    "spacy",
    "pandas",
    "scipy.linalg",
    "pyarrow.compute",
    "transformers.modeling_utils",
    "transformers.models.bert.modeling_bert",
)


@pytest.mark.parametrize("command", ["score", "explain"])
def test_scoring_a_sentence_imports_nothing_that_it_does_not_need(command, tmp_path):
    (tmp_path / "two.txt").write_text("a fine film .\nno plot at all .\n")
    arguments = {"score": ["two.txt", "-o", "out", "-q"], "explain": ["a fine film ."]}[command]
    code = (
        "import sys; from fastmask.cli import cli; cli(sys.argv[1:], standalone_mode=False)\n"
        f"print('imported:', [name for name in {HEAVY} if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, command, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.stdout.endswith("imported: []\n"), ran.stdout + ran.stderr
