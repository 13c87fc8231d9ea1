"""A finished run that is asked for again: its model is not loaded, and whatever has changed is still noticed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import fastmask, refusal

from fastmask.scoring.scorer import Scorer

TEXT = "A warm and funny film.\nDull, and much too long.\n"


@pytest.fixture
def run(tmp_path, mr_tiny) -> list:
    """A finished command over files of its own."""
    (tmp_path / "corpus.txt").write_text(TEXT)
    shutil.copytree(mr_tiny, tmp_path / "model")
    command = ["score", tmp_path / "corpus.txt", "-o", tmp_path / "out", "--model", tmp_path / "model"]
    assert fastmask(*command).exit_code == 0
    return command


@pytest.fixture
def loaded(monkeypatch) -> list:
    """Configurations that a model, or a tokenizer alone, was loaded for since."""
    found, load = [], Scorer.__init__

    def noted(self, config, *others):
        found.append(config)
        load(self, config, *others)

    monkeypatch.setattr(Scorer, "__init__", noted)
    return found


def test_a_repeat_loads_nothing(run, loaded, tmp_path):
    command = [*run, "--control", tmp_path / "twin"]
    assert fastmask(*command).exit_code == 0 and [config.method for config in loaded] == ["random"]
    again = fastmask(*command, "--threads", 1, "--device", "cpu")
    assert again.exit_code == 0 and again.stderr.count("nothing to do") == 2 and len(loaded) == 1
    planned = fastmask("plan", *run[1:])
    assert planned.exit_code == 0 and "nothing to do" in planned.stderr and len(loaded) == 1
    manifest = tmp_path / "out" / "_manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    result = fastmask(*command)
    assert result.exit_code == 1 and "twin: made with other settings: like has other content" in result.stderr


def test_a_repeat_does_without_torch(run):
    code = "import sys; from fastmask.cli import cli; cli(sys.argv[1:], standalone_mode=False); "
    code += "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *map(str, run)], capture_output=True, text=True)
    assert done.stdout == "[]\n" and "nothing to do" in done.stderr, done.stderr


def change(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_changed_weights_are_noticed(run, tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert "model.weights has other content" in refusal(fastmask(*run))


def test_a_changed_tokenizer_is_noticed(run, tmp_path):
    change(tmp_path / "model" / "tokenizer.json", b'"lowercase": true', b'"lowercase": false')
    assert "tokenizer.vocabulary has other content" in refusal(fastmask(*run))


def test_changed_inputs_are_noticed(run, tmp_path):
    (tmp_path / "corpus.txt").write_text(TEXT.swapcase())
    assert ": input 1 has other content (" in refusal(fastmask(*run))
    assert fastmask(*run, "--overwrite").exit_code == 0
    assert "nothing to do" in fastmask(*run).stderr


@pytest.mark.parametrize("where", ["config.json", "environment", "older", "max_length"])
def test_the_model_is_loaded_where_it_takes_it_to_tell(run, tmp_path, loaded, where):
    manifest, path = tmp_path / "out" / "_manifest.json", tmp_path / "model" / "config.json"
    made = json.loads(manifest.read_text())
    if where == "config.json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "bad", "1": "good"}}))
    elif where == "environment":
        made["environment"]["transformers"] = "5.0.0"
    elif where == "older":
        del made["repeat"]
    manifest.write_text(json.dumps(made))
    again = fastmask(*run, *(["--max-length", 128] if where == "max_length" else []))
    assert again.exit_code == 0 and "nothing to do" in again.stderr
    assert len(loaded) == (where != "max_length")
