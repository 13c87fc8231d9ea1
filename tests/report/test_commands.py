"""What all commands have in common: groups of options, and options from a file or the environment."""

import json

import pytest
from helpers import fastmask

from fastmask.cli import cli


def settings_of(out) -> dict:
    return json.loads((out / "_manifest.json").read_text())["config"]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("A fine film.\nA dull one!\n")
    return path


def test_commands_are_listed_in_the_order_of_work():
    lines = fastmask("--help").stdout.partition("Commands:\n")[2].splitlines()
    names = [line.split()[0] for line in lines]
    assert names == list(cli.commands) and names.index("score") < names.index("pretrain") < names.index("run")
    assert all("..." not in line and line.rstrip().endswith(".") for line in lines)


def test_rare_options_are_in_groups():
    shown = fastmask("score", "--help").stdout
    plain, *groups = shown.partition("Options:\n")[2].split("\n\n")
    assert "--model" in plain and "--mask-rate" in plain
    assert not {"--kernels", "--vectors", "--encoding", "--quiet"} & set(plain.replace(",", " ").split())
    titles = [group.split(":\n")[0].strip() for group in groups]
    assert titles == ["Options of single methods", "Reading text", "Speed and precision", "Several machines", "Other"]
    assert "0" in shown.partition("--batch-tokens")[2].partition("[default: ")[2][:1]


def test_settings_come_from_a_file(corpus, tmp_path):
    (tmp_path / "s.toml").write_text('method = "random"\nmask-rate = 0.5\nkeep_punctuation = true\nseed = 3\n')
    out = tmp_path / "out"
    assert fastmask("score", corpus, "-o", out, "--config", tmp_path / "s.toml", "--seed", "4").exit_code == 0
    config = settings_of(out)
    assert (config["method"], config["mask_rate"], config["keep_punctuation"]) == ("random", 0.5, True)
    assert config["seed"] == 4  # the command line wins


def test_inputs_and_out_may_be_in_the_file(corpus, tmp_path):
    (tmp_path / "s.toml").write_text(f'corpus = ["{corpus}"]\nout = "{tmp_path / "out"}"\nmethod = "random"\n')
    assert fastmask("score", "--config", tmp_path / "s.toml").exit_code == 0
    assert settings_of(tmp_path / "out")["method"] == "random"


def test_settings_come_from_the_environment(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMASK_SCORE_METHOD", "random")
    monkeypatch.setenv("FASTMASK_SCORE_SEED", "5")
    (tmp_path / "s.toml").write_text("seed = 3\nmask-rate = 0.5\n")
    assert fastmask("score", corpus, "-o", tmp_path / "out", "--config", tmp_path / "s.toml").exit_code == 0
    config = settings_of(tmp_path / "out")
    assert (config["method"], config["seed"], config["mask_rate"]) == ("random", 5, 0.5)
    monkeypatch.setenv("FASTMASK_SCORE_SEED", "five")
    result = fastmask("score", corpus, "-o", tmp_path / "out")
    assert "'--seed' from FASTMASK_SCORE_SEED: 'five' is not a valid integer" in result.stderr


@pytest.mark.parametrize(("text", "said"), [
    ("mask-rte = 0.5", "mask-rte: is no option of score"),
    ("debug = true", "debug: is no option of score"),
    ('mask-rate = "much"', "mask-rate: 'much' is not a valid float"),
    ("seed = 2.5", "seed: a whole number, not 2.5"),
    ('keep-punctuation = "yes"', "keep-punctuation: true or false, not 'yes'"),
    ("seed = true", "seed: one value, not True"),
    ("seed = [1]", "seed: one value, not [1]"),
    ('method = "greed"', "method: 'greed' is not one of"),
    ("[score]\nseed = 1", "score: is no option of score"),
    ("seed 3", "line 1"),
])  # fmt: skip
def test_what_is_wrong_in_the_file_is_named(text, said, corpus, tmp_path):
    (tmp_path / "s.toml").write_text(text + "\n")
    result = fastmask("score", corpus, "-o", tmp_path / "out", "--config", tmp_path / "s.toml")
    assert result.exit_code == 2 and f"--config {tmp_path / 's.toml'}: " in result.stderr and said in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there(corpus, tmp_path):
    result = fastmask("score", corpus, "--config", tmp_path / "s.toml")
    assert result.exit_code == 2 and "No such file" in result.stderr
