"""Finding and loading models: what does not fit is refused with one line."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastmask.core.errors import ModelError
from fastmask.models.directory import load_tokenizer, resolve_model, weights_hash
from fastmask.models.weights import load_classifier, load_weights


@pytest.fixture
def copy(mr_tiny, tmp_path) -> Path:
    return Path(shutil.copytree(mr_tiny, tmp_path / "model"))


def refusal(path) -> str:
    """The one line with which a directory is refused, for scoring as for anything else."""
    with pytest.raises(ModelError) as caught:
        load_classifier(resolve_model(str(path)), torch.float32)
    line = str(caught.value)
    with pytest.raises(ModelError, match=f"^{re.escape(line)}$"):
        load_weights(resolve_model(str(path)), classifies_tokens=False)
    assert "\n" not in line and len(line) < 300
    return line


def edit_config(path: Path, **changes) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_files_of_a_good_model(mr_tiny):
    files = resolve_model(mr_tiny)
    assert (files.name, files.class_names, files.num_labels) == (mr_tiny, ("negative", "positive"), 2)
    assert files.weights_sha256 == weights_hash(mr_tiny)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_is_the_one_asked_for_and_the_model_is_in_eval_mode(mr_tiny, dtype):
    model = load_classifier(resolve_model(mr_tiny), dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype} and not model.training


def test_loading_is_silent(mr_tiny, capfd):
    load_classifier(resolve_model(mr_tiny), torch.float32)
    assert capfd.readouterr() == ("", "")


def test_no_such_directory(tmp_path):
    assert "no such model directory" in refusal(tmp_path / "absent")


def test_hub_id_without_a_network():
    assert refusal("nobody/no-such-model").startswith("nobody/no-such-model: no such directory")


def test_config_missing(copy):
    (copy / "config.json").unlink()
    assert "config.json is missing" in refusal(copy)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": 3}', "\xff"])
def test_config_unreadable(copy, text):
    (copy / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json" in refusal(copy)


def test_id2label_with_a_hole(copy):
    edit_config(copy, id2label={"0": "a", "2": "b"})
    assert "id2label" in refusal(copy)


def test_unknown_architecture(copy):
    edit_config(copy, model_type="nonesuch")
    assert "cannot be loaded" in refusal(copy)


def test_remote_code_is_not_run(copy):
    edit_config(copy, model_type="mine", auto_map={"AutoModelForSequenceClassification": "evil.Model"})
    (copy / "evil.py").write_text("raise SystemExit('ran')")
    assert "cannot be loaded" in refusal(copy)


def test_one_class_is_no_classifier(copy):
    edit_config(copy, id2label={"0": "score"})
    assert "not a classifier" in refusal(copy)


def test_a_regression_gives_no_class(copy):
    edit_config(copy, problem_type="regression")
    assert "gives a text a number instead of a class" in refusal(copy)


def test_weights_missing(copy):
    (copy / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refusal(copy)


@pytest.mark.parametrize("kept", [0, 7, 1000, -1])
def test_weights_cut_short(copy, kept):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert "damaged" in refusal(copy)


def test_weights_without_a_tensor(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["classifier.bias"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "lack classifier.bias" in refusal(copy)


def test_weights_of_another_shape(copy):
    edit_config(copy, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    assert "lack classifier.bias and 1 more" in refusal(copy)


def test_vocabulary_larger_than_the_embedding(copy):
    edit_config(copy, vocab_size=8000)
    with pytest.raises(ModelError, match="up to 8191"):
        load_tokenizer(resolve_model(str(copy)))


def test_weights_in_parts_have_one_hash(copy):
    weights = load_file(copy / "model.safetensors")
    names = sorted(weights)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for part, held in parts.items():
        save_file({name: weights[name] for name in held}, copy / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, held in parts.items() for name in held}}
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    first = resolve_model(str(copy)).weights_sha256
    load_classifier(resolve_model(str(copy)), torch.float32)
    (copy / "b.safetensors").write_bytes((copy / "b.safetensors").read_bytes()[:-1] + b"\x01")
    assert weights_hash(copy) != first
    (copy / "b.safetensors").unlink()
    assert "b.safetensors" in refusal(copy)
