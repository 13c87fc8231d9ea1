"""Whatever goes wrong: one line that names the place, an exit code, no traceback, nothing that looks finished."""

import errno
import gzip
import json
import os
import resource
import shutil
from pathlib import Path

import pytest
from helpers import contents, fastmask, process, refusal, rows_of, write_jsonl

GOOD = {"text": "a fine film", "label": 1}


def score(corpus, tmp_path, model, *arguments):
    return fastmask("score", corpus, "-o", tmp_path / "out", "--model", model, *arguments)


def assert_refused(result, tmp_path, *words) -> str:
    line = refusal(result)
    assert line.startswith("fastmask: error: ")
    for word in words:
        assert word in line, line
    assert not (tmp_path / "out" / "_manifest.json").exists()
    return line


def cut_gzip() -> bytes:
    whole = gzip.compress(b"".join(b"line %d of a film\n" % n for n in range(5000)))
    return whole[: len(whole) // 2]


def jsonl(*rows) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


ASPECTS = {"text": "good food", "aspects": [{"term": "food", "polarity": "positive"}]}
BAD_INPUTS = {
    "broken JSON": ("c.jsonl", jsonl(GOOD, b'{"text": "a\n'), "c.jsonl:2: broken JSON at column"),
    "not an object": ("c.jsonl", jsonl(GOOD, GOOD, b"[1]\n"), "c.jsonl:3: expected a JSON object"),
    "no text": ("c.jsonl", jsonl({"body": "a"}), 'c.jsonl:1: field "text": missing'),
    "text is a number": ("c.jsonl", jsonl(GOOD, {"text": 3}), 'c.jsonl:2: field "text": expected a string'),
    "label is a list": ("c.jsonl", jsonl({"text": "a", "label": []}), 'c.jsonl:1: field "label": expected a class'),
    "label is no class": ("c.jsonl", jsonl(GOOD, {"text": "a", "label": 2}), 'c.jsonl:2: field "label": label "2"'),
    "label has no such name": ("c.jsonl", jsonl({"text": "a", "label": "meh"}), "classes: negative, positive"),
    "plain after aspects": ("c.jsonl", jsonl(ASPECTS, GOOD), "c.jsonl:2"),
    "aspects after plain": ("c.jsonl", jsonl(GOOD, ASPECTS), 'c.jsonl:2: field "aspects"'),
    "aspect without term": ("c.jsonl", jsonl({"text": "a", "aspects": [{}]}), 'c.jsonl:1: field "aspects[0].term"'),
    "bad bytes": ("c.txt", b"fine\n\xff\xfe\n", "c.txt:2: not utf-8"),
    "NUL": ("c.txt", b"fine\nfilm\0s\n", 'c.txt:2: field "text": NUL'),
    "surrogate": ("c.jsonl", b'{"text": "\\ud800"}\n', 'c.jsonl:1: field "text": half of a surrogate'),
    "no such column": ("c.csv", b"body\na\n", 'c.csv:1: field "text": no such column'),
    "short row": ("c.csv", b"text,label\nx\n", "c.csv:2"),
    "no Parquet": ("c.parquet", b"PAR1 and no more", "c.parquet: not a readable Parquet file"),
    "cut gzip": ("c.txt.gz", cut_gzip(), "gzip stream is cut short"),
    "no gzip": ("c.txt.gz", b"plain text\n", "gzip stream"),
    "unknown format": ("c.doc", b"a\n", "c.doc: unknown format"),
    "empty": ("c.txt", b"", "c.txt: no rows to score"),
    "empty csv": ("c.csv", b"", "c.csv:1"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs_are_named(name, tmp_path, mr_tiny):
    file, content, words = BAD_INPUTS[name]
    (tmp_path / file).write_bytes(content)
    assert_refused(score(tmp_path / file, tmp_path, mr_tiny, "-q"), tmp_path, str(tmp_path / file), words)


@pytest.mark.parametrize("place", ["missing.txt", "."])
def test_inputs_that_are_no_files(place, tmp_path, mr_tiny):
    assert_refused(score(tmp_path / place, tmp_path, mr_tiny), tmp_path, str(tmp_path))


def test_blank_lines_alone_are_a_corpus(tmp_path, mr_tiny):
    (tmp_path / "c.txt").write_text("\n \n")
    assert score(tmp_path / "c.txt", tmp_path, mr_tiny).exit_code == 0
    assert rows_of(tmp_path / "out") == [] and fastmask("verify", tmp_path / "out").exit_code == 0


def test_published_reviews_are_not_utf_8(shared, tmp_path, mr_tiny):
    corpus = shutil.copy(shared / "data" / "mr" / "raw" / "rt-polarity.pos", tmp_path / "pos.txt")
    line = assert_refused(score(corpus, tmp_path, mr_tiny, "-q"), tmp_path, "pos.txt:", "not utf-8: byte 0x")
    number = int(line.split("pos.txt:")[1].split(":")[0])
    with pytest.raises(UnicodeDecodeError):
        Path(corpus).read_bytes().split(b"\n")[number - 1].decode()
    latin = score(corpus, tmp_path, mr_tiny, "--encoding", "latin-1", "--method", "random", "--overwrite")
    assert latin.exit_code == 0, latin.stderr


def test_skipping_bad_rows(tmp_path, mr_tiny):
    rows = jsonl(GOOD, b"{\n", {"text": "a", "label": 9}, GOOD, {"text": None})
    (tmp_path / "c.jsonl").write_bytes(rows)
    result = score(tmp_path / "c.jsonl", tmp_path, mr_tiny, "--on-error", "skip")
    assert result.exit_code == 0 and "; 3 rows skipped" in result.stderr
    assert [row["row"] for row in rows_of(tmp_path / "out")] == [0, 3]
    skipped = json.loads((tmp_path / "out" / "_manifest.json").read_text())["skipped"]
    assert skipped["count"] == 3 and sorted(m.split(":")[1] for m in skipped["messages"]) == ["2", "3", "5"]
    assert "3 documents" in fastmask("inspect", tmp_path / "out").stdout


def test_a_damaged_file_is_not_skipped(tmp_path, mr_tiny):
    (tmp_path / "c.txt.gz").write_bytes(cut_gzip())
    assert_refused(score(tmp_path / "c.txt.gz", tmp_path, mr_tiny, "--on-error", "skip", "-q"), tmp_path, "cut short")


# --- models and settings ---


@pytest.fixture
def corpus(tmp_path) -> str:
    return write_jsonl(tmp_path / "c.jsonl", [GOOD])


@pytest.fixture
def copy(mr_tiny, tmp_path) -> Path:
    return Path(shutil.copytree(mr_tiny, tmp_path / "model"))


def test_damaged_weights(copy, corpus, tmp_path):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert_refused(score(corpus, tmp_path, copy), tmp_path, str(copy), "model.safetensors is cut short or damaged")


def test_a_pickle_is_not_opened(copy, corpus, tmp_path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    assert_refused(score(corpus, tmp_path, copy), tmp_path, "its weights are pickled (pytorch_model.bin)")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--model", "/no/such/dir", "no such model directory"), ("--model", "no-such-model", "no such directory"),
     ("--device", "cuda", "--device cuda"),
     ("--device", "mps", "--device mps"), ("--max-length", "129", "takes at most 128 tokens")],
)  # fmt: skip
def test_what_is_not_there_is_said(option, value, words, corpus, tmp_path, mr_tiny):
    assert_refused(score(corpus, tmp_path, mr_tiny, option, value), tmp_path, words)


def test_an_aspect_longer_than_the_model(tmp_path, restaurant_tiny):
    """Its variants would reach past the table of positions."""
    row = {"text": "good food", "aspects": [{"term": "food " * 200, "polarity": "positive"}]}
    result = score(write_jsonl(tmp_path / "c.jsonl", [row]), tmp_path, restaurant_tiny)
    if result.exit_code:
        assert_refused(result, tmp_path, "c.jsonl:1")
    else:
        assert rows_of(tmp_path / "out")[0]["prob"] is None or 0 <= rows_of(tmp_path / "out")[0]["prob"] <= 1


# --- disks ---


@pytest.mark.parametrize("place", ["file/out", "file", "/proc/out"])
def test_places_that_cannot_be_written(place, corpus, tmp_path, mr_tiny):
    (tmp_path / "file").write_text("")
    result = fastmask("score", corpus, "-o", tmp_path / place, "--model", mr_tiny)
    assert place.rpartition("/")[0] in refusal(result)


def test_a_folder_of_somebody_else(corpus, tmp_path, mr_tiny, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    assert_refused(score(corpus, tmp_path, mr_tiny), tmp_path, f"cannot write {tmp_path / 'out'}: Permission denied")


def test_a_full_disk(corpus, tmp_path, mr_tiny, monkeypatch):
    real = os.write

    def full(descriptor, data):
        if bytes(data[:4]) == b"PAR1":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        result = score(corpus, tmp_path, mr_tiny)
    assert_refused(result, tmp_path, str(tmp_path / "out"), "No space left on device")
    assert set(contents(tmp_path / "out")) == {"_plan.json", "journal.jsonl"}
    assert score(corpus, tmp_path, mr_tiny).exit_code == 0  # once there is room, the same command goes on


def test_a_file_size_limit(tmp_path, mr_tiny):
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": f"film number {n} is {n * 7919}"} for n in range(900)])

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    arguments = ["score", corpus, "-o", tmp_path / "out", "--method", "random", "--model", mr_tiny, "-q"]
    result = process(*arguments, preexec_fn=limited)
    assert_refused(result, tmp_path, str(tmp_path / "out"), "File too large")


# --- sizes ---


@pytest.mark.parametrize("method", ["greedy", "prefix"])
def test_a_line_of_300_000_words(method, tmp_path, mr_tiny):
    # The first words settle the class; the others speak against it, so greedy keeps them until its buffer is full.
    (tmp_path / "c.txt").write_text("wonderful " * 150 + "dull " * 300_000 + "\n")
    options = ["--segment", "line", "--method", method, "-q"]
    result = score(tmp_path / "c.txt", tmp_path, mr_tiny, *options)
    assert result.exit_code == 0, result.stderr
    (row,) = rows_of(tmp_path / "out")
    assert len(row["input_ids"]) == len(row["importance"]) == 300_150
    rest = row["importance"][1000:]
    assert max(rest) - min(rest) < 1e-6


def test_a_run_in_a_process_of_its_own_prints_one_line(tmp_path, mr_tiny):
    (tmp_path / "c.txt").write_bytes(b"fine\n\xff\n")
    result = process("score", tmp_path / "c.txt", "-o", tmp_path / "out", "--model", mr_tiny)
    assert_refused(result, tmp_path, "c.txt:2: not utf-8")
    assert result.returncode == 1 and result.stdout == ""
