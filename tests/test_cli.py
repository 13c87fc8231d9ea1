"""The commands as a user meets them."""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import click
import pytest
from helpers import contents, fastmask, golden, process, refusal, rows_of, write_jsonl

from fastmask.cli import cli
from fastmask.core.config import EvaluateConfig, ExportConfig, RemaskConfig, ScoreConfig
from fastmask.core.config_train import FinetuneConfig, MaskerConfig, PretrainConfig
from fastmask.report.screen import say_loading


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:12]]
    return write_jsonl(tmp_path_factory.mktemp("cli") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus, mr_tiny) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert fastmask("score", corpus, "-o", out, "--model", mr_tiny, "-q").exit_code == 0
    return out


def test_score_says_what_it_did(corpus, mr_tiny, tmp_path):
    result = fastmask("score", corpus, "-o", tmp_path / "out", "--model", mr_tiny)
    assert result.exit_code == 0 and result.stdout == ""
    *_, line = result.stderr.splitlines()  # a slow run tells its progress, too
    rows = rows_of(tmp_path / "out")
    tokens, masked = (sum(len(row[name]) for row in rows) for name in ("input_ids", "mask_index"))
    assert line.startswith(f"{tmp_path / 'out'}: {len(rows)} sentences, {tokens} tokens, {masked} masked (")


def test_quiet(corpus, finished, mr_tiny):
    result = fastmask("score", corpus, "-o", finished, "--model", mr_tiny, "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_a_finished_run_is_left_alone(corpus, finished, mr_tiny):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    result = fastmask("score", corpus, "-o", finished, "--model", mr_tiny)
    assert result.exit_code == 0 and "nothing to do" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_other_settings_are_named(corpus, finished, mr_tiny):
    before = contents(finished)
    line = refusal(fastmask("score", corpus, "-o", finished, "--model", mr_tiny, "--threshold", "0.01"))
    assert "--threshold was 0.05, is now 0.01" in line and "--overwrite" in line
    assert contents(finished) == before


def test_overwrite(corpus, mr_tiny, tmp_path):
    out = tmp_path / "out"
    for threshold in ("0.05", "0.01"):
        result = fastmask("score", corpus, "-o", out, "--model", mr_tiny, "--threshold", threshold, "--overwrite")
        assert result.exit_code == 0
    assert json.loads((out / "_manifest.json").read_text())["config"]["threshold"] == 0.01


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".parquet", ".jsonl.gz"])
def test_formats_give_the_same_masks(suffix, corpus, finished, mr_tiny, tmp_path):
    import gzip

    import pandas

    table = pandas.read_json(corpus, lines=True)
    path = tmp_path / f"corpus{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    elif suffix in (".csv", ".tsv"):
        table.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
    elif suffix == ".txt":
        path.write_text("".join(text + "\n" for text in table["text"]), encoding="utf-8")
    else:
        path.write_bytes(gzip.compress(Path(corpus).read_bytes()))
    result = fastmask("score", path, "-o", tmp_path / "out", "--model", mr_tiny)
    assert result.exit_code == 0, result.stderr
    for found, expected in zip(rows_of(tmp_path / "out"), rows_of(finished), strict=True):
        if suffix == ".txt":  # no labels: every sentence is scored
            assert found["label"] is None and found["importance"] is not None
            if expected["importance"] is None:
                continue
        assert found["mask_index"] == expected["mask_index"]


def test_several_inputs_are_one_corpus(mr_tiny, tmp_path):
    for name, text in (("a", "one film\ntwo films\n"), ("b", "three films\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    arguments = [tmp_path / "a.txt", tmp_path / "b.txt", "-o", tmp_path / "out", "--model", mr_tiny]
    assert fastmask("score", *arguments).exit_code == 0
    assert [row["row"] for row in rows_of(tmp_path / "out")] == [0, 1, 2]


def test_standard_input(mr_tiny, tmp_path):
    text = "A fine film.\nA dull one!\n\nÀ la carte\n"
    (tmp_path / "corpus.txt").write_text(text, encoding="utf-8")
    options = ["--model", mr_tiny, "--method", "random"]
    by_pipe = process("score", "-", "-o", tmp_path / "a", *options, "-q", input=text)
    assert (by_pipe.returncode, by_pipe.stdout, by_pipe.stderr) == (0, "", "")
    assert fastmask("score", tmp_path / "corpus.txt", "-o", tmp_path / "b", *options).exit_code == 0
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    (one,) = json.loads((tmp_path / "a" / "_manifest.json").read_text())["inputs"]
    assert one["name"] == "-" and one["bytes"] == len(text.encode())


def test_explain(mr_tiny):
    result = fastmask("explain", "A dull, lifeless film. A fine one!", "--model", mr_tiny)
    assert result.exit_code == 0 and result.stderr == ""
    assert len(re.findall(r"class (negative|positive), P = 0\.\d{4}", result.stdout)) == 2
    assert "masked" in result.stdout and "[" in result.stdout


@pytest.mark.parametrize("method", ["greedy", "prefix", "leave-one-out", "random"])
def test_explain_by_every_method(method):
    result = fastmask("explain", "I love this place", "--method", method)
    assert result.exit_code == 0 and "love" in result.stdout


def test_explain_shows_the_text_as_it_stands(mr_tiny):
    result = fastmask("explain", "A Dull, lifeless FILM[SEP]\x1b[2Junbelievablenesses", "--model", mr_tiny)
    assert result.exit_code == 0 and "\x1b" not in result.stdout and "##" not in result.stdout
    first = result.stdout.splitlines()[0]
    read = re.sub(r"\[(\w+|\ufffd)\]", r"\1", first)
    assert read.startswith("A Dull, lifeless FILM") and "unbelievablenesses" in read


@pytest.mark.parametrize("name", ["\x1b[31mred.txt", "\x9b2J.jsonl"])
def test_names_do_not_steer_the_terminal(name, mr_tiny, tmp_path):
    result = fastmask("score", tmp_path / name, "-o", tmp_path / "out", "--model", mr_tiny)
    assert "\ufffd" in refusal(result) and not set("\x1b\x9b") & set(result.stderr)


def test_labels_do_not_steer_the_terminal(mr_tiny, tmp_path):
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "a film", "label": "\x1b[31mx"}) + "\n")
    result = fastmask("score", tmp_path / "c.jsonl", "-o", tmp_path / "out", "--model", mr_tiny)
    assert "\ufffd[31mx" in refusal(result) and "\x1b" not in result.stderr


@pytest.mark.parametrize("arguments", [
    ["\x1b[31m"], ["explain", "a", "b\x1b[31m"], ["score", "-\x9b"], ["run", "--\x1b"],
    ["inspect", "x", "--rows", "\x1b"],
])  # fmt: skip
def test_what_is_wrong_with_a_command_does_not_steer_the_terminal(arguments):
    result = fastmask(*arguments, color=True)
    assert result.exit_code == 2 and result.stderr.startswith("Usage") and not set("\x1b\x9b") & set(result.stderr)


def test_explain_nothing():
    assert refusal(fastmask("explain", " ")) == "fastmask: error: TEXT: there is no token in it"


def test_inspect(finished):
    result = fastmask("inspect", finished)
    assert result.exit_code == 0 and "greedy" in result.stdout and "masked" in result.stdout
    shown = fastmask("inspect", finished, "--rows", 2)
    assert "##" not in shown.stdout
    assert shown.exit_code == 0 and "0.0  " in shown.stdout and shown.stdout.startswith(result.stdout)


def test_inspect_needs_the_same_tokenizer(finished, tmp_path):
    import shutil

    out = shutil.copytree(finished, tmp_path / "out")
    manifest = (out / "_manifest.json").read_text()
    sha = json.loads(manifest)["tokenizer"]["vocabulary_sha256"]
    (out / "_manifest.json").write_text(manifest.replace(sha, sha[::-1]))
    assert "its tokenizer is not the one" in refusal(fastmask("inspect", out, "--rows", 1))


def test_verify(finished):
    result = fastmask("verify", finished)
    assert result.exit_code == 0 and result.stdout == f"{finished}: ok\n"


@pytest.mark.parametrize("name", ["inspect", "verify"])
def test_what_is_not_there(name, tmp_path):
    assert "no such directory" in refusal(fastmask(name, tmp_path / "none"))
    assert "not finished" in refusal(fastmask(name, tmp_path))


@pytest.mark.parametrize(("command", "configuration"), [
    ("score", ScoreConfig), ("export", ExportConfig), ("evaluate", EvaluateConfig), ("finetune", FinetuneConfig),
    ("train-masker", MaskerConfig), ("pretrain", PretrainConfig), ("remask", RemaskConfig),
])  # fmt: skip
def test_options_are_the_configuration(command, configuration):
    """Every field is a parameter of its command, with its default, its help and its choices."""
    parameters = {one.name: one for one in cli.commands[command].params}
    for field in fields(configuration):
        found = parameters[field.name]
        assert found.required == (field.default is MISSING)
        if isinstance(found, click.Option):
            assert found.required or found.default == field.default
            assert field.metadata["help"] and found.help == field.metadata["help"]
            assert getattr(found.type, "choices", ()) == tuple(field.metadata["choices"])


def test_options_reach_the_manifest(mr_tiny, tmp_path):
    (tmp_path / "c.csv").write_text("body,class\na film,\n", encoding="utf-16")
    (tmp_path / "stop.txt").write_text("film\n")
    chosen = {"method": "leave-one-out", "threshold": -0.5, "mask_rate": 0.5, "stop_words": str(tmp_path / "stop.txt"),
              "language": "hi", "segment": "line", "text_field": "body", "label_field": "class", "max_length": 64,
              "device": "cpu", "unit": "word",
              "precision": "float32", "kernels": "torch", "batch_tokens": 99, "shard_rows": 7, "encoding": "utf-16",
              "on_error": "skip", "seed": 5, "threads": 1}  # fmt: skip
    arguments = [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", value)]
    flags = "--model", mr_tiny, "--no-certify", "--keep-punctuation"
    command = ["score", tmp_path / "c.csv", "-o", tmp_path / "out", *flags, *arguments]
    result = fastmask(*command)
    assert result.exit_code == 0, result.stderr
    config = json.loads((tmp_path / "out" / "_manifest.json").read_text())["config"]
    others = {"like": None, "words": None, "mask_function": None, "vectors": None, "background": [], "anchors": None}
    assert config == {**chosen, "model": mr_tiny, "certify": False, "keep_punctuation": True, **others}
    (row,) = rows_of(tmp_path / "out")
    assert row["mask_index"] == [0]  # "film" is a stop word


@pytest.mark.parametrize(
    ("option", "value"),
    [("threshold", 2), ("mask-rate", 0), ("mask-rate", 1.5), ("max-length", 7), ("batch-tokens", -1),
     ("shard-rows", 0), ("seed", -1), ("threads", -1), ("encoding", "klingon"), ("stop-words", "none.txt")],
)  # fmt: skip
def test_values_out_of_range_are_named(option, value, corpus, mr_tiny, tmp_path):
    result = fastmask("score", corpus, "-o", tmp_path / "out", "--model", mr_tiny, f"--{option}", value)
    assert str(value) in refusal(result)
    assert not (tmp_path / "out" / "_manifest.json").exists()


def test_a_seed_beyond_64_bits(corpus, tmp_path):
    assert "--seed" in refusal(fastmask("score", corpus, "-o", tmp_path, "--seed", 2**64))
    for method in ("random", "greedy"):
        result = fastmask("score", corpus, "-o", tmp_path / method, "--method", method, "--seed", 2**63 - 1)
        assert result.exit_code == 0


def test_help_says_what_an_option_is():
    """A noun phrase or a sentence by itself, and a default where there is one, also that of a switch."""
    for name, one in cli.commands.items():
        for option in (option for option in one.params if isinstance(option, click.Option)):
            assert re.fullmatch(r"[A-Z].{10,}\.", option.help), (name, option.help)
            assert not re.match(r"(Of|Instead|Those|All this|Also|No)\b", option.help), (name, option.help)
    assert re.search(r"--certify / --no-certify .*\[default:\s+certify\]", fastmask("score", "--help").stdout, re.S)


def test_a_terminal_is_not_empty_while_libraries_load(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    say_loading(quiet=True)
    monkeypatch.setenv("RANK", "1")
    say_loading(quiet=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    say_loading(quiet=False)
    assert capsys.readouterr().err == "loading libraries and model ...\n"


def test_usage():
    assert fastmask().stderr == fastmask("--help").stdout  # without a word, and in as many lines
    assert fastmask("score").exit_code == 2 and fastmask("score", "x", "-o", "y", "--method", "best").exit_code == 2
    assert fastmask("--version").stdout.startswith("fastmask, version ")
    for name in ("score", "explain", "inspect", "verify"):
        assert fastmask(name, "--help").exit_code == 0


def test_debug_shows_where(tmp_path):
    result = fastmask("verify", tmp_path / "none", "--debug")
    assert result.exit_code == 1 and "Traceback" in result.stderr and "OutputError: " in result.stderr
