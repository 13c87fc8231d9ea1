"""Models that are not what they say: one line that names the model, before memory or time are gone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import fastmask, process, refusal
from safetensors.torch import load_file, save_file

from fastmask.core.errors import FastmaskError, ModelError
from fastmask.core.labels import ANY_CLASSES
from fastmask.data.remap import remap_masks
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.weights import load_classifier, load_masker, load_pretrained, load_weights
from fastmask.scoring.api import score
from fastmask.train.examples import Row, encode_rows


@pytest.fixture
def copy(mr_tiny, tmp_path) -> Path:
    return Path(shutil.copytree(mr_tiny, tmp_path / "model"))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# --- answers that are no numbers ---

CASCADES = [{}, {"precision": "float32"}, {"precision": "float32", "certify": False},
            {"precision": "bfloat16", "certify": False}]  # fmt: skip


@pytest.mark.parametrize("method", ["greedy", "leave-one-out"])
@pytest.mark.parametrize("cascade", CASCADES)
def test_a_model_that_gives_no_numbers(copy, method, cascade):
    edit(copy / "config.json", layer_norm_eps=float("nan"))
    with pytest.raises(FastmaskError, match=f"^{copy}: its answers are not finite numbers in ") as refused:
        list(score(["a fine film , and not a bad one"], model=str(copy), method=method, **cascade))
    assert ("leave out --no-certify" in str(refused.value)) == ("bfloat16" in str(refused.value))


def as_masker(model: Path) -> Path:
    config = json.loads((model / "config.json").read_text())
    edit(model / "config.json", architectures=[config["architectures"][0].replace("Sequence", "Token")])
    return model


@pytest.mark.parametrize("cascade", CASCADES)
def test_a_masker_that_gives_no_numbers(copy, cascade):
    edit(as_masker(copy) / "config.json", layer_norm_eps=float("nan"))
    with pytest.raises(FastmaskError, match=f"^{copy}: its answers are not finite numbers in "):
        list(score(["a fine film"], model=str(copy), method="masker", **cascade))


def test_the_command_ends_in_one_line(copy, tmp_path):
    edit(copy / "config.json", layer_norm_eps=float("nan"))
    corpus = write(tmp_path / "corpus.txt", "a fine film\n")
    line = refusal(fastmask("score", corpus, "-o", tmp_path / "out", "--model", copy))
    assert f"{copy}: its answers are not finite numbers" in line
    assert not (tmp_path / "out" / "_manifest.json").exists()


# --- tokenizers ---

CATASTROPHE = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
LONG = "a" * 60 + "b"


def with_normalizer(model: Path, *steps: dict) -> Path:
    own = json.loads((model / "tokenizer.json").read_text())["normalizer"]
    edit(model / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [*steps, own]})
    return model


def test_an_expression_without_end(copy, tmp_path):
    with_normalizer(copy, CATASTROPHE)
    assert list(score(["a fine film"], model=str(copy)))
    with pytest.raises(ModelError, match=rf"^{copy}: its tokenizer\.json cannot take a text: .*retry-limit"):
        list(score(["a fine film", LONG], model=str(copy)))
    corpus = write(tmp_path / "corpus.txt", LONG + "\n")
    # what the library itself prints of it does not come before our line
    line = refusal(process("score", corpus, "-o", tmp_path / "out", "--model", copy, "-q"))
    assert line.startswith(f"fastmask: error: {copy}: its tokenizer.json cannot take a text: ")
    rows = [Row(LONG, None, 1, "train.tsv", 2)]
    with pytest.raises(ModelError, match="cannot take a text"):
        encode_rows(load_tokenizer(resolve_model(str(copy))), rows, ANY_CLASSES, 16, is_typed=True)


def test_an_expression_without_end_in_another_tokenizer(copy, mr_tiny, tmp_path):
    corpus = write(tmp_path / "corpus.txt", LONG + "\n")
    fastmask("score", corpus, "-o", tmp_path / "out", "--model", mr_tiny)
    tokenizer = load_tokenizer(resolve_model(str(with_normalizer(copy, CATASTROPHE))))
    with pytest.raises(ModelError, match="cannot take a text"):
        list(remap_masks(tmp_path / "out", tokenizer))


def test_replacements_that_explode(copy):
    steps = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}] * 5
    files = resolve_model(str(with_normalizer(copy, *steps)))
    with pytest.raises(ModelError, match=r"cannot be loaded: its normalizer makes up to 1e\+10 char"):
        load_tokenizer(files)


def test_replacements_as_they_are_usual(copy):
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁▁▁"}]
    load_tokenizer(resolve_model(str(with_normalizer(copy, *steps))))


# --- sizes ---

SIZES = {
    "classes": ({"num_labels": 10**9, "id2label": None, "label2id": None}, "num_labels cannot be 1e+09"),
    "no whole number": ({"num_labels": 1e18, "id2label": None, "label2id": None}, "num_labels cannot be 1e+18"),
    "layers": ({"num_hidden_layers": 10**6}, "num_hidden_layers cannot be 1e+06"),
    "layers of a part": ({"text_config": {"n_layer": 10**6}}, "n_layer cannot be 1e+06"),
    "layers of stages": ({"depths": [2, 10**7]}, "depths cannot be 1e+07"),
    "rows": ({"vocab_size": 10**8}, "numbers, its weight files hold 1,478,786"),
    "positions": ({"max_position_embeddings": 10**9}, "numbers, its weight files hold 1,478,786"),
    "feed-forward": ({"intermediate_size": 10**7}, "numbers, its weight files hold 1,478,786"),
    "types": ({"type_vocab_size": 10**9}, "numbers, its weight files hold 1,478,786"),
    "width": ({"hidden_size": 2**20}, "numbers, its weight files hold 1,478,786"),
}


@pytest.mark.parametrize("how", SIZES)
def test_sizes_beyond_the_weights(copy, how):
    changes, words = SIZES[how]
    edit(copy / "config.json", **changes)
    loaders = [lambda files: load_weights(files, classifies_tokens=False),
               lambda files: load_classifier(files, torch.float32),
               lambda files: load_pretrained(files, torch.float32, task="MaskedLM")]  # fmt: skip
    for load in loaders:
        with pytest.raises(ModelError) as refused:
            load(resolve_model(str(copy)))
        assert str(refused.value).startswith(f"{copy}: ") and words in str(refused.value)


def test_sizes_of_a_masker(copy):
    edit(as_masker(copy) / "config.json", vocab_size=10**8)
    with pytest.raises(ModelError, match="numbers, its weight files hold"):
        load_masker(resolve_model(str(copy)), torch.float32)


def test_many_classes_with_weights_for_them(copy):
    weights = load_file(copy / "model.safetensors")
    classes = 2**16 + 1
    weights |= {"classifier.weight": torch.zeros(classes, weights["classifier.weight"].shape[1])}
    weights |= {"classifier.bias": torch.zeros(classes)}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    edit(copy / "config.json", num_labels=classes, id2label=None, label2id=None)
    assert resolve_model(str(copy)).num_labels == classes


# --- weights elsewhere ---


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "..\\a", "a\0b"])
def test_weights_outside_the_directory(copy, name):
    shutil.copy(copy / "model.safetensors", copy.parent / "a.safetensors")
    (copy / "sub").mkdir()
    (copy / "model.safetensors").rename(copy / "sub" / "a.safetensors")
    write(copy / "model.safetensors.index.json", json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ModelError, match=r"index\.json names .*, which is not a file of this directory$"):
        resolve_model(str(copy))


@pytest.mark.parametrize("weight_map", [{}, {"k": 5}, {"k": None}, {"k": ["a"]}, [], "a", None])
def test_an_index_that_names_no_files(copy, weight_map):
    (copy / "model.safetensors").unlink()
    write(copy / "model.safetensors.index.json", json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match=r"index\.json (cannot be read|does not say which files have the weights)"):
        resolve_model(str(copy))
