"""``--id-field``: the user's own ids, from every format with fields to every directory of shards."""

import json

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import contents, fastmask, refusal, write_jsonl

from fastmask import open_shards, to_pandas

ROWS = [("a-1", "A warm film. Funny, too."), ("007", "Dull."), ("é,x", "So long. And so loud. Awful.")]
IDS = ["a-1", "a-1", "007", "é,x", "é,x", "é,x"]
"""One of each sentence."""


def ids_in(out) -> list[str]:
    return [row["id"] for row in open_shards(out)]


def write(path, rows=ROWS):
    frame = pandas.DataFrame(rows, columns=["key", "text"])
    if path.suffix == ".jsonl":
        write_jsonl(path, frame.to_dict("records"))
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".arrow":
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, pa.schema(table := pa.table(frame).schema)) as new,
        ):
            new.write_table(pa.table(frame).cast(table))
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.fixture(scope="module")
def scored(tmp_path_factory, mr_tiny):
    """A run in several shards, and its command."""
    folder = tmp_path_factory.mktemp("ids")
    command = ["score", write(folder / "corpus.jsonl"), "--model", mr_tiny, "--id-field", "key", "--shard-rows", 2]
    assert fastmask(*command, "-o", folder / "out", "--control", folder / "twin").exit_code == 0
    return folder / "out", command


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".arrow"])
def test_each_format_gives_the_same_ids(suffix, scored, tmp_path):
    command = ["score", write(tmp_path / f"corpus{suffix}"), *scored[1][2:], "-o", tmp_path / "out"]
    assert fastmask(*command).exit_code == 0
    assert ids_in(tmp_path / "out") == ids_in(scored[0]) == IDS
    one, other = (out / "shard-00001.parquet" for out in (tmp_path / "out", scored[0]))
    assert one.read_bytes() == other.read_bytes()


def test_the_masks_are_those_of_a_run_without_ids(scored, tmp_path):
    out, command = scored
    assert fastmask(*command[:4], *command[6:], "-o", tmp_path / "plain").exit_code == 0
    with_ids, plain = (pq.read_table(each / "shard-00000.parquet") for each in (out, tmp_path / "plain"))
    assert with_ids.drop_columns("id").equals(plain) and "id" not in plain.schema.names
    field = with_ids.schema.field("id")
    assert field.type == pa.string() and field.nullable
    assert "id_field" not in json.loads((tmp_path / "plain" / "_manifest.json").read_text())["config"]


def test_ids_are_read_everywhere(scored, mr_tiny, restaurant_tiny, tmp_path):
    out, _ = scored
    assert ids_in(out.parent / "twin") == IDS and fastmask("verify", out).exit_code == 0
    assert fastmask("remask", out, "-o", tmp_path / "words", "--unit", "word").exit_code == 0
    assert fastmask("remap", out, "--tokenizer", restaurant_tiny, "-o", tmp_path / "other").exit_code == 0
    assert ids_in(tmp_path / "words") == ids_in(tmp_path / "other") == IDS
    frame = to_pandas(out).drop_duplicates(["row", "sentence"])
    assert frame["id"].tolist() == IDS and frame["row"].tolist() == [0, 0, 1, 2, 2, 2]
    assert "2.0 é,x" in fastmask("inspect", out, "--rows", 4).output
    assert fastmask("report", out, "-o", tmp_path / "page.html").exit_code == 0
    assert fastmask("export", out, "-o", tmp_path / "exported", "--to", "jsonl").exit_code == 0
    assert open_shards(out)[3]["id"] == "é,x" and open_shards(out).to_table().column("id").to_pylist() == IDS


def test_parts_and_repair_give_the_same_bytes(scored, tmp_path):
    out, command = scored
    for part in ("1/2", "2/2"):
        done = fastmask(*command, "-o", tmp_path / "parts", "--part", part)
        assert done.exit_code == 0, done.stderr
    assert fastmask("finish", tmp_path / "parts").exit_code == 0
    assert contents(tmp_path / "parts") == contents(out)
    (tmp_path / "parts" / "shard-00001.parquet").write_bytes(b"")
    assert fastmask("verify", tmp_path / "parts", "--repair").exit_code == 0
    assert contents(tmp_path / "parts") == contents(out)


def test_whole_numbers_are_ids(mr_tiny, tmp_path):
    rows = [{"id": 12345678901234567890123, "text": "A film."}, {"id": -7, "text": "A plot."}]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    assert fastmask("score", corpus, "--model", mr_tiny, "--id-field", "id", "-o", tmp_path / "out").exit_code == 0
    assert ids_in(tmp_path / "out") == ["12345678901234567890123", "-7"]


FAULTS = {
    "missing": ({}, "missing, and --id-field wants an id in each row"),
    "null": ({"key": None}, "missing, and"),
    "empty": ({"key": ""}, "missing, and"),
    "float": ({"key": 1.0}, "expected a string or a whole number as id, found the number 1.0"),
    "boolean": ({"key": True}, "expected a string or a whole number as id, found a boolean"),
    "list": ({"key": ["a"]}, "expected a string or a whole number as id, found a list"),
    "NUL": ({"key": "a\0"}, "NUL byte in the text"),
    "half": ({"key": "\ud800"}, "half of a surrogate pair"),
    "long": ({"key": "x" * 1001}, "an id of 1,001 characters; 1,000 are the most"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_without_an_id_is_named(fault, mr_tiny, tmp_path):
    fields, reason = FAULTS[fault]
    rows = [{"key": "a", "text": "A film."}, {"text": "A plot.", **fields}]
    (corpus := tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["score", corpus, "--model", mr_tiny, "--id-field", "key", "-o", tmp_path / "out"]
    line = refusal(fastmask(*command))
    assert f"{corpus}:2: " in line and "key" in line and reason in line
    if fault == "missing":
        assert fastmask(*command, "--on-error", "skip").exit_code == 0
        assert ids_in(tmp_path / "out") == ["a"]


@pytest.mark.parametrize("name", ["corpus.txt", "-"])
def test_lines_of_text_have_no_ids(name, mr_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("A film.\n")
    line = refusal(fastmask("score", name, "--model", mr_tiny, "--id-field", "key", "-o", tmp_path / "out"))
    assert "lines of text have no fields to take ids from" in line and "key" in line
    assert name == "-" or "corpus.txt" in line
