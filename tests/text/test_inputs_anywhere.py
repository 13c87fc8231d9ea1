"""Inputs that are patterns, folders, compressed by zstd, saved by ``datasets`` or in stores."""

import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from helpers import contents, fastmask, refusal, write_jsonl
from stores import bucket, put, s3_server  # noqa: F401

from fastmask.core.errors import Unreadable
from fastmask.core.urls import Url, path_of
from fastmask.text.documents import read_documents, read_rows
from fastmask.text.hashed import HashedInputs
from fastmask.text.listing import input_files
from fastmask.text.packed import unpacked

LINES = [f"The {noun} was {word}." for noun in ("food", "room", "film", "staff") for word in ("good", "dull", "lost")]


def texts(*paths, **options) -> list[str]:
    return [document.text for document in read_documents([str(path) for path in paths], **options)]


def zstd(path: Path, data: bytes) -> Path:
    path.write_bytes(pa.Codec("zstd").compress(data, asbytes=True))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve texts in four files, two of them compressed, and what is no input."""
    made = tmp_path / "texts"
    (made / "deep").mkdir(parents=True)
    (made / "a.txt").write_text("\n".join(LINES[:3]) + "\n")
    with gzip.open(made / "b.txt.gz", "wt") as file:
        file.write("\n".join(LINES[3:6]) + "\n")
    rows = "".join(json.dumps({"text": text}) + "\n" for text in LINES[6:9])
    zstd(made / "c.jsonl.zst", rows.encode())
    write_jsonl(made / "deep/d.jsonl", [{"text": text} for text in LINES[9:]])
    for name in ("_SUCCESS", ".crc", "deep/_log.json"):
        (made / name).write_text("no input")
    return made


def test_folders_and_patterns_give_their_files_by_name(folder):
    names = ["a.txt", "b.txt.gz", "c.jsonl.zst", "deep/d.jsonl"]
    assert input_files([str(folder)]) == [str(folder / name) for name in names]
    assert input_files([f"{folder}/*.txt*", f"{folder}/**/*.jsonl"]) == [str(folder / names[n]) for n in (0, 1, 3)]
    assert input_files([str(folder / names[2]), "-", f"file://{folder}/a.txt"]) == [
        str(folder / names[2]), "-", str(folder / "a.txt")]  # fmt: skip
    assert texts(folder) == LINES
    odd = folder.parent / "what[is]this?.txt"
    odd.write_text("one\n")
    assert input_files([str(odd)]) == [str(odd)]


def test_what_gives_no_files_is_named(folder, tmp_path):
    (tmp_path / "none").mkdir()
    for name, reason in (("none", "is a folder without files"), ("none/*.txt", "no file has such a name")):
        with pytest.raises(Unreadable) as raised:
            texts(tmp_path / name)
        assert str(raised.value) == f"{tmp_path / name}: {reason}"
    (folder / "notes.md").write_text("no input")
    with pytest.raises(Unreadable, match=r"notes\.md: unknown format in a folder; a pattern chooses its files"):
        texts(folder)
    found = refusal(fastmask("score", f"{folder}/*.txt", "--method", "random"))
    assert found.endswith("*.txt: name the directory of the shards by -o DIR")


def test_zstd_is_read_like_gzip(tmp_path):
    data = "".join(f"{n} {text}\n" for n, text in enumerate(LINES * 5000)).encode()
    path = zstd(tmp_path / "a.txt.zst", data)
    with unpacked(path.open("rb"), ".zst") as stream:
        assert stream.read() == data
        assert stream.seek(100_003) == 100_003 and stream.read(50) == data[100_003:100_053] and stream.tell() == 100_053
        assert stream.seek(10) == 10 and stream.readline() == data[10 : data.index(b"\n", 10) + 1]
    whole = path.read_bytes()
    path.write_bytes(whole + whole)  # frames follow each other, as in gzip
    assert len(texts(path)) == 2 * 5000 * len(LINES)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unreadable, match=r"a\.txt\.zst:\d+: cannot be read: zstd stream is cut short$"):
        texts(path)
    path.write_bytes(b"no zstd at all")
    with pytest.raises(Unreadable, match=r"a\.txt\.zst:1: cannot be read: zstd stream is corrupt"):
        texts(path)
    path.write_bytes(b"")
    with pytest.raises(Unreadable, match=r"zstd stream is cut short"):
        texts(path)


def test_what_runs_write_is_no_input(folder, bucket):  # noqa: F811
    """OUT in the folder of its inputs, or that folder itself: resumed, in parts, made again, beside another run's."""
    url, names = put(folder, f"{bucket}/texts"), ["a.txt", "b.txt.gz", "c.jsonl.zst", "deep/d.jsonl"]
    random = ("--method", "random", "--shard-rows", 5)
    for base, out in ((folder, folder / "deep"), (folder, folder / "deep/out"), (url, url)):
        run = ("score", base, "-o", out, *random)
        assert fastmask(*run, "--part", "1/2").exit_code == 0
        for again in (run, run, (*run, "--part", "2/2")):  # what the part left, then a finished run
            assert fastmask(*again).exit_code == 0
        manifest = json.loads((path_of(str(out)) / "_manifest.json").read_bytes())
        assert [one["name"] for one in manifest["inputs"]] == [f"{base}/{name}" for name in names]
    patterns = ("plan", f"{folder}/*.t*", f"{folder}/**/*.jsonl*", *random, "-o", folder / "deep/other")
    for _ in range(2):
        assert "3 shards of 12 documents" in fastmask(*patterns).stderr
    assert input_files([f"{folder}/deep/shard-*"])  # as data they are what they are


@pytest.mark.parametrize("packing", ["", ".zst"])
def test_a_saved_data_set(tmp_path, packing):
    rows = {"text": LINES, "label": [n % 2 for n in range(len(LINES))]}
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(tmp_path / "saved", num_shards=2)
    found = list(read_documents([str(tmp_path / "saved")]))
    assert [one.text for one in found] == LINES
    assert [one.label for one in found] == [("neg", "pos")[n % 2] for n in range(len(LINES))]
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "dict")
    with pytest.raises(
        Unreadable, match=r"dict: holds several data sets: train, test; name one of them, as .*/dict/NAME"
    ):
        texts(tmp_path / "dict")
    assert texts(tmp_path / "dict/test") == LINES
    data.select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(Unreadable, match="none: is a data set without rows"):
        texts(tmp_path / "none")
    (tmp_path / "saved/state.json").write_text("[]")
    with pytest.raises(Unreadable, match=r"state\.json: is not what datasets writes"):
        texts(tmp_path / "saved")


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_files_from_any_place(tmp_path, kind):
    table = pa.table({"n": range(5000), "text": [f"text {n}" for n in range(5000)]})
    path = tmp_path / "a.arrow"
    with getattr(pa.ipc, f"new_{kind}")(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1500)
    assert texts(path) == table["text"].to_pylist()
    options = ("score", path, "--method", "random", "--segment", "line", "--shard-rows", 700)
    assert fastmask(*options, "-o", tmp_path / "whole").exit_code == 0
    assert len(list((tmp_path / "whole").glob("*.parquet"))) == 8
    plan = json.loads((tmp_path / "whole/_plan.json").read_text())
    assert plan["places"][3] == [0, 1, 1501, 600]  # row 2,100 is in the second batch, after 600 of it
    document = next(read_rows([str(path)], start_row=2100))
    assert (document.text, document.line) == ("text 2100", 2101)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = b"\xff" * 4000
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=r"a\.arrow"):
        texts(path)
    path.write_bytes(b"no arrow")
    with pytest.raises(Unreadable, match=r"a\.arrow: not a readable Arrow file"):
        texts(path)


def test_a_corpus_in_a_store_is_scored_to_the_same_bytes(folder, bucket, tmp_path):  # noqa: F811
    put(folder, f"{bucket}/texts")
    options = ("--method", "random", "--shard-rows", 5)
    for place, out in ((folder, "here"), (f"{bucket}/texts", "there")):
        done = fastmask("score", place, *options, "-o", tmp_path / out)
        assert done.exit_code == 0, done.stderr
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    shards = [name for name in here if name.startswith("shard-")]
    assert len(shards) == 3 and all(here[name] == there[name] for name in shards)
    inputs = json.loads(there["_manifest.json"])["inputs"]
    assert [one["name"] for one in inputs] == [f"{bucket}/texts/{name}" for name in
                                               ("a.txt", "b.txt.gz", "c.jsonl.zst", "deep/d.jsonl")]  # fmt: skip
    (tmp_path / "there/shard-00001.parquet").write_bytes(b"damaged")
    assert fastmask("verify", tmp_path / "there", "--repair").exit_code == 0
    assert contents(tmp_path / "there") == there
    remapped = fastmask("remap", tmp_path / "there", "--tokenizer", Path(__file__).parents[1] / "data/mr-tiny", "-o",
                        tmp_path / "other")  # fmt: skip
    assert remapped.exit_code == 0, remapped.stderr


def test_what_changes_in_a_store_is_not_scored(folder, bucket):  # noqa: F811
    url = f"{put(folder, f'{bucket}/texts')}/a.txt"
    inputs = HashedInputs([url])
    inputs.check(stores=True)
    Url(url).write_bytes(b"other\n" * 3)
    with pytest.raises(Unreadable, match=r"a\.txt: has changed since it was hashed"):
        list(read_rows([url], stamps=inputs.stamps))
    with pytest.raises(Unreadable, match=r"a\.txt: has changed since it was hashed"):
        inputs.check(stores=True)


def test_what_is_not_in_a_store_is_one_line(bucket, s3_server):  # noqa: F811
    for name, reason in ((f"{bucket}/x.txt", "no such file"), (f"{bucket}/x", "no such file"),
                         (f"{bucket}/*.txt", "no file has such a name"), ("s3://none/x.txt", "bucket does not exist"),
                         ("s3://none/*.txt", "no file has such a name"), ("nothing://x.txt", "Protocol not known"),
                         ("memory://none/x.txt", "no such file")):  # fmt: skip
        found = refusal(fastmask("score", name, "--method", "random", "-o", "out"))
        assert found.startswith(f"fastmask: error: {name}: ") and reason in found


def test_labels_words_and_background_in_a_store(bucket, tmp_path):  # noqa: F811
    (tmp_path / "corpus.txt").write_text("\n".join(LINES))
    labelled = Path(write_jsonl(tmp_path / "l.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(LINES)]))
    for name, data in (
        ("l.jsonl", labelled.read_bytes()),
        ("words.txt", b"good\ndull\n"),
        ("b.txt", b"Some other text.\n"),
    ):
        Url(f"{bucket}/{name}").write_bytes(data)
    for out, options in (("a", ("--method", "log-odds", "--labelled", f"{bucket}/l.jsonl")),
                         ("b", ("--method", "difference", "--background", f"{bucket}/b.txt", "--anchors", 3)),
                         ("c", ("--method", "word-list", "--words", f"{bucket}/words.txt")),
                         ("d", ("--method", "random", "--stop-words", f"{bucket}/words.txt"))):  # fmt: skip
        done = fastmask("score", tmp_path / "corpus.txt", *options, "-o", tmp_path / out)
        assert done.exit_code == 0, done.stderr
