"""What the fuzzer has found in models and training runs, each kind by itself."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from helpers import edit
from transformers import AutoTokenizer

from fastmask.core.errors import FastmaskError, ModelError, OutputError
from fastmask.experiment.arms import find_runs
from fastmask.models.directory import load_tokenizer, resolve_model, weight_files
from fastmask.models.weights import load_weights
from fastmask.scoring.api import score

# --- a training run that was stopped ---

DAMAGE = {
    "no streams": lambda saved: saved.update(streams=[]),
    "streams by name": lambda saved: saved.update(streams={"0": saved["streams"][0]}),
    "no count": lambda saved: saved["counts"].pop("step"),
    "another step": lambda saved: saved["counts"].update(step=1),
    "a step that is text": lambda saved: saved["counts"].update(step="2"),
    "a place without end": lambda saved: saved["streams"][0].update(example=10**18),
    "a place before the first": lambda saved: saved["streams"][0].update(example=-1),
    "an epoch without end": lambda saved: saved["streams"][0].update(epoch=2**64),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint(world, tmp_path, how):
    out = Path(shutil.copytree(world.training, tmp_path / "out"))
    (document,) = [file / "training.json" for file in sorted(out.glob("checkpoint-*"))[-1:]]
    edit(document, DAMAGE[how])
    with pytest.raises(FastmaskError, match=r"is damaged|another stream's state: epoch \d+, sequence -?\d+ cannot be"):
        world.train(out)


def test_a_damaged_log_is_of_no_consequence(world, tmp_path):
    wanted, out = (Path(shutil.copytree(world.training, tmp_path / name)) for name in ("whole", "out"))
    world.train(wanted)
    lines = (out / "log.jsonl").read_bytes().splitlines()
    (out / "log.jsonl").write_bytes(b"\n".join([*lines, b'{"step": "2"}', b"[]", b'{"step": null}', b"{"]))
    world.train(out)
    assert (out / "model.safetensors").read_bytes() == (wanted / "model.safetensors").read_bytes()
    steps = [[json.loads(line)["step"] for line in (one / "log.jsonl").open()] for one in (out, wanted)]
    assert steps[0] == steps[1]


def test_settings_of_a_training_run_that_are_none(world, tmp_path):
    out = Path(shutil.copytree(world.training, tmp_path / "out"))
    for content in ("[]", "{}", '{"config": 3}'):
        (out / "run.json").write_text(content)
        with pytest.raises(OutputError, match=r"run\.json: is damaged: "):
            world.train(out)


def test_a_seed_that_is_no_number(tmp_path):
    (tmp_path / "metrics.json").write_text('{"config": {"seed": Infinity}}')
    (run,) = find_runs([f"a={tmp_path}"])["a"]
    assert run.seed is None


# --- models ---


def test_a_part_whose_name_is_too_long(model):
    (model / "model.safetensors").rename(model / "a.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "x" * 300}}))
    with pytest.raises(ModelError, match=r"x{300}, named by model\.safetensors\.index\.json, is missing"):
        weight_files(model)


@pytest.mark.parametrize("heads", [-1, 0, -4, 3, 256])
def test_heads_that_cannot_be(model, heads):
    edit(model / "config.json", lambda config: config.update(num_attention_heads=heads))
    with pytest.raises(
        ModelError, match=f"^{model}: (num_attention_heads cannot be {heads} in config|cannot be loaded: )"
    ):
        load_weights(resolve_model(str(model)), classifies_tokens=False)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size", "num_labels", "intermediate_size"])
def test_sizes_below_nothing(model, key):
    edit(model / "config.json", lambda config: config.update({key: -2}))
    with pytest.raises(ModelError, match=f"^{model}: {key} cannot be -2 in config.json"):
        resolve_model(str(model))


def test_a_tokenizer_that_lacks_the_token_for_what_it_does_not_know(model):
    edit(model / "tokenizer.json", lambda content: content["model"].update(unk_token="[NONE]"))
    with pytest.raises(
        ModelError, match=rf"^{model}: its tokenizer\.json cannot take a text: WordPiece error: Missing"
    ):
        list(score(["a fine \u2603 film"], model=str(model)))


def test_what_native_code_prints_of_a_file_does_not_reach_the_terminal(model, tmp_path, capfd, monkeypatch):
    """As in the commands, whose own streams have descriptors of their own."""
    edit(model / "tokenizer.json", lambda content: content["added_tokens"][0].update({"evil\x1b[31m": 1}))
    edit(model / "tokenizer_config.json", lambda content: content.update(tokenizer_class="BertTokenizer"))
    with (tmp_path / "out").open("w") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", out)
        load_tokenizer(resolve_model(str(model)))
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "out").read_text() == ""
    AutoTokenizer.from_pretrained(model)
    assert "unknown kwarg" in capfd.readouterr().out  # it does print it where nobody leads it away


def test_no_feed_forward_layer(model):
    edit(model / "config.json", lambda config: config.update(intermediate_size=0))
    with pytest.raises(ModelError, match=f"^{model}: "):
        load_weights(resolve_model(str(model)), classifies_tokens=False)


def test_heads_by_another_name(model):
    edit(model / "config.json", lambda config: config.update(model_type="distilbert", num_attention_heads={"a": 1}))
    with pytest.raises(ModelError, match=f"^{model}: "):
        load_weights(resolve_model(str(model)), classifies_tokens=False)


def test_shapes_that_are_no_numbers(model):
    data = (model / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end].replace(b'"shape":[128]', b'"shape":[1e999]', 1)
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    with pytest.raises(ModelError, match=r"model\.safetensors is cut short or damaged"):
        load_weights(resolve_model(str(model)), classifies_tokens=False)
