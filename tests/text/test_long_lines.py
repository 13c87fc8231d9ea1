"""A line, cell or row above a limit is a bad row of its own, and no more of it is held than the limit."""

import csv
import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import fastmask, refusal

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import InputError
from fastmask.core.locked import differences
from fastmask.text.documents import read_rows

MB = 10**6
LONG = "long text " * (MB // 10 + 1)
TEXTS = ["first", LONG, "last"]


def parquet(kind) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array(TEXTS).cast(kind), "label": [0, 1, 0]}), sink)
    return sink.getvalue()


def table(separator: str) -> bytes:
    return "".join(
        f"{line}\n" for line in [f"text{separator}label", *(f"{text}{separator}1" for text in TEXTS)]
    ).encode()


FILES = {
    "a.txt": "\n".join(TEXTS).encode(),
    "a.jsonl": "".join(json.dumps({"text": text, "label": 1}) + "\n" for text in TEXTS).encode(),
    "a.csv": table(","),
    "a.tsv": table("\t"),
    "plain.parquet": parquet(pa.string()),
    "large.parquet": parquet(pa.large_string()),
    "dictionary.parquet": parquet(pa.dictionary(pa.int32(), pa.string())),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", FILES)
def test_a_long_row_is_a_bad_row_of_its_own(tmp_path, name, zipped):
    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(FILES[name], 1) if zipped else FILES[name])
    line = 3 if name.endswith(("csv", "tsv")) else 2
    with pytest.raises(InputError, match=r"of more than 1 MB \(--max-text-mb\)") as fault:
        list(read_rows([str(path)], max_text_mb=1))
    assert str(fault.value).startswith(f"{path}:{line}: ")
    skipped = []
    rows = list(read_rows([str(path)], max_text_mb=1, on_error="skip", skipped=skipped))
    assert [None if row is None else row.text for row in rows] == ["first", None, "last"]
    assert skipped == [str(fault.value)]
    for limit in (0, 2, 64):
        assert [row.text for row in read_rows([str(path)], max_text_mb=limit)] == TEXTS


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1", "cp037"])
@pytest.mark.parametrize("more", [0, 1, 2, 3, 1_500_000])
def test_the_limit_is_to_the_character(tmp_path, codec, more):
    width = len("a".encode(codec))
    long = "a" * (MB // width) + "b" * more
    path = tmp_path / "a.txt"
    path.write_bytes(f"first\n{long}\nlast\n{long}".encode(codec))
    rows = list(read_rows([str(path)], max_text_mb=1, encoding=codec, on_error="skip"))
    kept = long if more == 0 else None
    assert [row and row.text for row in rows] == ["first", kept, "last", kept]


def test_newlines_of_wide_encodings_are_where_they_are_aligned(tmp_path):
    # the bytes of U+0A00 and U+000A0A... hold newlines across characters, also where the long line is cut
    long = "\u0a00\u0a0a\u000d" * 500_000
    path = tmp_path / "a.txt"
    for codec in ("utf-16-le", "utf-16-be", "utf-32-le"):
        path.write_bytes(f"first\n{long}\nlast".encode(codec))
        rows = list(read_rows([str(path)], max_text_mb=1, encoding=codec, on_error="skip"))
        assert [row and row.text for row in rows] == ["first", None, "last"]


def test_a_long_field_in_quotes_costs_no_other_row(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [["text"], ["one"], [f'say "{LONG}" twice'], ["two"], ["three"]]
        )
    skipped = []
    rows = read_rows([str(path)], max_text_mb=1, on_error="skip", skipped=skipped)
    texts = [row.text for row in rows if row is not None]
    assert texts == ["one", "two", "three"] and skipped == [f"{path}:3: a line of more than 1 MB (--max-text-mb)"]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv.gz", "a.tsv.gz"])
def test_a_bomb_of_one_line_is_not_held(tmp_path, name):
    path = tmp_path / name
    with gzip.open(path, "wb", 1) as file:
        for _ in range(40):
            file.write(b"a" * MB)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"{name}:1: .*a line of more than 1 MB"):
        list(read_rows([str(path)], max_text_mb=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MB


def test_the_command_says_it_in_one_line(tmp_path, mr_tiny):
    path = tmp_path / "a.txt"
    path.write_text(f"good\n{LONG}\nbad\n")
    options = ("score", path, "--model", mr_tiny, "--method", "random", "--max-text-mb", 1)
    assert f"{path}:2: a line of more than 1 MB (--max-text-mb)" in refusal(fastmask(*options, "-o", tmp_path / "out"))
    done = fastmask(*options, "--on-error", "skip", "-o", tmp_path / "skip")
    assert done.exit_code == 0
    manifest = json.loads((tmp_path / "skip" / "_manifest.json").read_text())
    assert manifest["totals"]["rows"] == 2 and manifest["config"]["max_text_mb"] == 1


def test_runs_from_before_there_was_a_limit_go_on():
    for on_error in ("fail", "skip"):
        assert "max_text_mb" not in ScoreConfig(on_error=on_error).as_dict()
    # an error can be mended by another limit; what is skipped is another result
    assert differences({"config": ScoreConfig().as_dict()}, {"config": ScoreConfig(max_text_mb=100).as_dict()}) == []
    limits = [{"config": ScoreConfig(on_error="skip", max_text_mb=limit).as_dict()} for limit in (64, 100)]
    assert [str(one) for one in differences(*limits)] == ["--max-text-mb was absent, is now 100"]


def test_an_object_with_a_million_keys_of_which_the_last_is_there_twice(tmp_path):
    path = tmp_path / "a.jsonl"
    pairs = ", ".join(f'"k{n}": 0' for n in range(200_000))
    path.write_text(f'{{"text": "a", {pairs}, "k199999": 1}}\n')
    with pytest.raises(InputError, match='field "k199999": is in the row twice'):
        list(read_rows([str(path)]))


def test_a_bomb_of_a_parquet_file(tmp_path):
    path = tmp_path / "a.parquet.gz"
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    path.write_bytes(gzip.compress(bytes(60 * MB) + (tmp_path / "a.parquet").read_bytes(), 1))
    with pytest.raises(InputError, match=r"a\.parquet\.gz: unpacks to more than 200 times its size \(--max-text-mb 0"):
        list(read_rows([str(path)], max_text_mb=1))


def test_training_and_measuring_have_the_limit(tmp_path, mr_tiny):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": n % 2}) + "\n" for n, text in enumerate([*TEXTS, "a"])))
    finetune = ("finetune", path, "--init", mr_tiny, "-o", tmp_path / "o", "--epochs", 1, "--max-text-mb", 1)
    evaluate = ("evaluate", "--arm", f"a={mr_tiny}", "--test", path, "--max-text-mb", 1)
    for command in (finetune, evaluate):
        assert f"{path}:2: a line of more than 1 MB (--max-text-mb)" in refusal(fastmask(*command))
    done = fastmask(*finetune, "--on-error", "skip")
    assert done.exit_code == 0 and "1 row skipped" in done.stderr
