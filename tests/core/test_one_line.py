"""What a user can cause ends in one line that names the file and the field, and waits for nothing."""

import copy
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import fastmask, paths_in, refusal
from shard_samples import write_run

from fastmask.core.errors import FastmaskError, InputError, ModelError, OutputError
from fastmask.experiment.recipe import read_recipe
from fastmask.models.directory import resolve_model, weight_files
from fastmask.shards.journal import JOURNAL
from fastmask.shards.schema import MANIFEST, check_manifest, read_manifest
from fastmask.shards.verify import verify
from fastmask.text.documents import read_documents
from fastmask.text.streams import check_path

DEEP = "[" * 100_000


@pytest.fixture
def shards(tmp_path) -> Path:
    return write_run(tmp_path / "shards", 2)


@pytest.fixture
def model(tmp_path, mr_tiny) -> Path:
    return Path(shutil.copytree(mr_tiny, tmp_path / "model"))


def test_every_manifest_field_of_every_type_is_taken_or_named(shards):
    """What is let through can be shown and verified: the certificate and the environment are shown as they are."""
    good = read_manifest(shards)
    for path in paths_in(good):
        for value in (None, True, 7, -1.5, "text", [], [[]], {}, {"a": "b"}):
            manifest = {"": copy.deepcopy(good)}
            owner = manifest
            for key in ("", *path)[:-1]:
                owner = owner[key]
            owner[("", *path)[-1]] = value
            (shards / MANIFEST).write_text(json.dumps(manifest[""]))
            for arguments in (("inspect", shards), ("verify", shards)):
                result = fastmask(*arguments)
                assert result.exit_code in (0, 1) and "unexpected" not in result.stderr, (path, value, result.stderr)
                assert result.stderr.count("\n") <= 1


@pytest.mark.parametrize(("path", "value", "line"), [
    (("model",), "x", 'field "model": expected an object or null, found a text'),
    (("inputs", 0, "name"), 3, 'field "inputs[0].name": expected a text, found a whole number'),
    (("config", "method"), None, 'field "config.method": expected a text, found null'),
    (("skipped", "messages"), [1.5], 'field "skipped.messages[0]": expected a text, found a number'),
])  # fmt: skip
def test_a_manifest_names_the_field(shards, path, value, line):
    manifest = owner = read_manifest(shards)
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    with pytest.raises(OutputError, match=r"^m\.json: ") as error:
        check_manifest(manifest, "m.json")
    assert line in str(error.value)


def test_deep_json_anywhere(shards, model, tmp_path, monkeypatch):
    (tmp_path / "c.jsonl").write_text(DEEP + "\n")
    with pytest.raises(InputError, match=r"c\.jsonl:1: unreadable JSON"):
        list(read_documents([str(tmp_path / "c.jsonl")]))
    (tmp_path / "r.toml").write_text("a = " + "[" * 5000)
    with pytest.raises(InputError, match=r"r\.toml: is not TOML that can be read: it is nested too deep"):
        read_recipe(str(tmp_path / "r.toml"))
    (model / "config.json").write_text(DEEP)
    with pytest.raises(ModelError, match=r"config\.json cannot be read: it is nested too deep"):
        resolve_model(str(model))
    (shards / MANIFEST).write_text(DEEP)
    assert "nested too deep" in verify(shards)[0].reason
    (shards / MANIFEST).unlink()
    (shards / JOURNAL).write_text(DEEP + "\n")
    with pytest.raises(OutputError, match=r"journal\.jsonl: damaged"):
        write_run(shards)


def test_the_index_of_weights(model):
    (model / "model.safetensors").unlink()
    for value in ({"k": 5}, {"k": None}, [], "x", None):
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": value}))
        with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json (cannot be read|does not say)"):
            weight_files(model)


def test_only_regular_files_are_opened(shards, model, tmp_path, mr_tiny):
    """Each of these would wait for ever."""
    for name in ("c.txt", "c.jsonl.gz", "c.parquet", "words", "r.toml"):
        os.mkfifo(tmp_path / name)
    for name in ("c.txt", "c.jsonl.gz", "c.parquet"):
        with pytest.raises(InputError, match=f"{name}: is not a regular file; - reads a stream"):
            check_path(str(tmp_path / name))
    with pytest.raises(InputError, match=r"r\.toml: cannot be read: is not a regular file"):
        read_recipe(str(tmp_path / "r.toml"))
    (tmp_path / "t.txt").write_text("text\n")
    line = refusal(fastmask("score", tmp_path / "t.txt", "-o", tmp_path / "o", "--stop-words", tmp_path / "words"))
    assert "words: cannot read stop words" in line and "is not a regular file" in line
    os.mkfifo(model / "vocab.json")
    with pytest.raises(ModelError, match=r"model: vocab\.json is not a regular file"):
        resolve_model(str(model))
    (model / "vocab.json").unlink()
    (model / "additional_chat_templates").mkdir()
    os.mkfifo(model / "additional_chat_templates" / "a.jinja")
    with pytest.raises(ModelError, match=r"model: additional_chat_templates/a\.jinja is not a regular file"):
        resolve_model(str(model))
    (shards / "shard-00001.parquet").unlink()
    os.mkfifo(shards / "shard-00001.parquet")
    (damage,) = verify(shards)
    assert (damage.index, damage.reason) == (1, "cannot be read (is not a regular file)")
    (shards / MANIFEST).unlink()
    with pytest.raises(OutputError, match="not written by fastmask"):
        write_run(shards, overwrite=True)
    os.mkfifo(shards / MANIFEST)
    with pytest.raises(OutputError):
        write_run(shards)


def parquet(tmp_path, label) -> str:
    pq.write_table(pa.table({"text": ["good"], "label": label}), tmp_path / "c.parquet")
    return str(tmp_path / "c.parquet")


@pytest.mark.parametrize("label", [
    pa.array([10**9], pa.int32()).cast(pa.date32()), pa.array([2**60], pa.timestamp("ms")),
    pa.array([1], pa.timestamp("us", tz="Nowhere/Atlantis")), pa.array([1], pa.timestamp("ns")),
], ids=["date", "time", "zone", "nanoseconds"])  # fmt: skip
def test_parquet_values_that_python_has_not(label, tmp_path):
    with pytest.raises(InputError, match=r'c\.parquet:1: field "label": '):
        list(read_documents([parquet(tmp_path, label)]))


def test_a_parquet_column_whose_name_is_not_utf8(tmp_path):
    path = Path(parquet(tmp_path, pa.array([date(2020, 1, 1)])))
    path.write_bytes(path.read_bytes().replace(b"label", b"lab\xffl"))
    with pytest.raises(InputError, match=r"c\.parquet: "):
        list(read_documents([str(path)]))


@pytest.mark.parametrize("encoding", ["punycode", "undefined", "idna", "rot13", "hex", "none", "a\0b", ""])
def test_encodings_that_are_none(encoding, tmp_path):
    (tmp_path / "c.txt").write_text("A text.\nAnother.\n")
    with pytest.raises(FastmaskError, match=r"--encoding .*: (unknown encoding|does not encode)"):
        read_documents([str(tmp_path / "c.txt")], encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1", "gb18030", "cp037",
                                      "shift_jis", "iso2022_jp", "utf-7"])  # fmt: skip
def test_encodings_of_texts_are_still_read(encoding, tmp_path):
    (tmp_path / "c.txt").write_bytes("A text.\nAnother.\n".encode(encoding))
    found = [document.text for document in read_documents([str(tmp_path / "c.txt")], encoding=encoding)]
    assert found == ["A text.", "Another."]


def test_names_that_are_too_long_or_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.txt").write_text("text\n")
    long = "x" * 300
    for arguments in (
        ("score", "c.txt", "-o", "o", "--model", long), ("score", "c.txt", "-o", long, "--method", "random"),
        ("inspect", long), ("verify", long), ("export", long, "-o", "o", "--to", "jsonl"), ("run", long),
        ("score", f"{long}.txt", "-o", "o"), ("finetune", f"{long}.csv", "-o", "o", "--init", long),
    ):  # fmt: skip
        assert long in refusal(fastmask(*arguments))
    assert "--model': is empty" in refusal(fastmask("score", "c.txt", "-o", "o", "--model", ""))


def test_what_the_machine_refuses(tmp_path, monkeypatch):
    (tmp_path / "c.txt").write_text("text\n")

    def score(error: BaseException) -> str:
        def fail(*_, **__):
            raise error

        monkeypatch.setattr("fastmask.pipeline.score_corpus", fail)
        return refusal(fastmask("score", tmp_path / "c.txt", "-o", tmp_path / "o"))

    assert "the memory is not enough" in score(MemoryError())
    assert "the memory is not enough" in score(RuntimeError("DefaultCPUAllocator: not enough memory: you tried 8"))
    assert score(OSError(24, "Too many open files", "x")) == "fastmask: error: x: Too many open files"
    assert score(OSError(24, "Too many open files")) == "fastmask: error: Too many open files"


def test_streams_that_are_closed(tmp_path, mr_tiny):
    command = [
        sys.executable,
        "-m",
        "fastmask",
        "score",
        "-",
        "-o",
        str(tmp_path / "o"),
        "--model",
        mr_tiny,
        "--method",
        "random",
    ]
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&-', "-", *command], capture_output=True, text=True)
    assert refusal(closed) == "fastmask: error: <stdin>: standard input is closed"
    (tmp_path / "c.txt").write_text("A good text.\n")
    command[4] = str(tmp_path / "c.txt")
    mute = subprocess.run(["sh", "-c", 'exec "$@" 2>&- >&-', "-", *command], capture_output=True, text=True)
    assert mute.returncode == 0 and verify(tmp_path / "o") == []


def test_no_temporary_directory(monkeypatch, tmp_path):
    from fastmask.text import inputs

    monkeypatch.setattr(inputs.tempfile, "TemporaryFile", lambda: os.mkdir(tmp_path / "a" / "b"))
    with pytest.raises(InputError, match="<stdin>: cannot be copied to a file: No such file or directory; set TMPDIR"):
        inputs._spool()


@pytest.mark.parametrize("arguments", [
    ("score", "c.txt", "-o", ""), ("score", ""), ("score", "c.txt", "--encoding", ""),
    ("score", "c.txt", "--device", ""), ("explain", "a", "--model", ""),
    ("score", "c.txt", "--stop-words", ""), ("score", "c.txt", "--control", ""), ("inspect", ""), ("verify", ""),
    ("export", "", "--to", "jsonl", "-o", "o"), ("export", "s", "--to", "jsonl", "-o", ""), ("run", ""),
    ("remap", "s", "--tokenizer", "", "-o", "o"), ("pretrain", "s", "--init", "", "-o", "o"),
    ("finetune", "c.jsonl", "", "--init", "m", "-o", "o"), ("evaluate", "--arm", "a=b", "--test", "t", "--json", ""),
    ("train-masker", "s", "--init", "m", "-o", "o", "--dev", ""),
], ids=lambda arguments: " ".join(arguments))  # fmt: skip
def test_names_that_are_empty(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(fastmask(*arguments)).endswith(": is empty")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["out", "init", "train", "test", "corpus", "model", "dev"])
@pytest.mark.parametrize(
    ("name", "fault"), [("", "is empty"), ("a\\u0000b", "has a null character, which no name can have")]
)
def test_a_recipe_with_a_name_that_is_none(place, name, fault, tmp_path):
    values = dict.fromkeys(("out", "init", "train", "test", "corpus", "model", "dev"), "x") | {place: name}
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        """out = "{out}"\ninit = "{init}"\n[task]\ntrain = "{train}"\ntest = "{test}"\ndev = ["{dev}"]
        [in-domain]\ncorpus = ["a", "{corpus}"]\n[score]\nmodel = "{model}"\n""".format(**values)
    )
    assert refusal(fastmask("run", recipe)).endswith(f"{place}: {fault}")


@contextmanager
def few_files(more: int):
    """So many more files may be open."""
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_few_files_may_be_open(tmp_path, mr_tiny, monkeypatch):
    """Whichever file is the first that cannot be opened."""
    monkeypatch.chdir(tmp_path)
    Path("c.txt").write_text("A good text.\n")
    Path("c.csv").write_text("text,label\ngood,1\nbad,0\n")
    random = ("--model", mr_tiny, "--method", "random", "-q")
    commands = [
        ("score", "c.txt", "-o", "s", *random), ("score", "c.txt", "-o", "t", "--model", mr_tiny, "-q"),
        ("explain", "good", "--model", mr_tiny), ("export", "s", "-o", "e", "--to", "jsonl"), ("inspect", "s"),
        ("remap", "s", "--tokenizer", mr_tiny, "-o", "r"),
        ("finetune", "c.csv", "--init", mr_tiny, "-o", "f", "--epochs", 1, "-q"),
        ("pretrain", "s", "--init", mr_tiny, "-o", "p", "--max-steps", 1, "--batch-size", 1, "-q"),
    ]  # fmt: skip
    fastmask(*commands[0][:3], "first", *random)  # what is imported opens files, too
    for command in commands:
        for more in range(20):
            with few_files(more):
                result = fastmask(*command)
            if result.exit_code == 0:
                break
            assert "Too many open files" in refusal(result)
        assert more > 0 and result.exit_code == 0


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_commands_with_closed_streams(closed, shards):
    command = [sys.executable, "-m", "fastmask", "verify", str(shards)]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "-", *command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    command[-1] += "x"
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "-", *command], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == ("2>" not in closed)


def test_a_full_disk_under_the_log_stops_nothing():
    code = "from fastmask.report.screen import open_doors, say\nopen_doors()"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", f"{code}\nsay('x'), say('z'), print('done')"]
        done = subprocess.run(command, stderr=full, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")
