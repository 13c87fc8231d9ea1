"""Where shards begin: read from there alone, each is what it is in the whole; found while inputs are hashed."""

import gzip
import hashlib
import io
import json
import random
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastmask.core.errors import InputError
from fastmask.text import streams
from fastmask.text.documents import read_rows, reading_of
from fastmask.text.hashed import HashedInputs
from fastmask.text.places import Places
from fastmask.text.streams import Place


def planned(paths, rows: int, encoding: str = "utf-8", max_text_mb: int = 64) -> HashedInputs:
    return HashedInputs(paths, Places(reading_of("text", "label", encoding, max_text_mb), rows))


def taken(rows, number=None) -> list:
    """The next rows, and in the place of one the fault that ends them."""
    found = []
    try:
        for row in islice(rows, number):
            found.append(row)
    except InputError as fault:
        found.append(str(fault))
    return found


def check(paths, shard_rows: int, encoding: str = "utf-8", max_text_mb: int = 64) -> HashedInputs:
    """Each shard by its place is what it is in the whole, the messages about skipped rows, too."""
    paths, options = [str(path) for path in paths], {"encoding": encoding, "max_text_mb": max_text_mb}
    options["on_error"] = "skip"
    messages: list[str] = []
    whole = read_rows(paths, skipped=messages, **options)
    inputs = planned(paths, shard_rows, encoding, max_text_mb)
    for shard, place in enumerate(inputs.places):
        said: list[str] = []
        alone = read_rows(paths, start_row=shard * shard_rows, place=place, skipped=said, **options)
        messages.clear()
        assert taken(alone, shard_rows) == taken(whole, shard_rows), (shard, place)
        assert said == messages
    assert taken(whole) == []
    digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]
    assert [entry["sha256"] for entry in inputs.entries] == digests
    return inputs


TEXTS = ["plain", "", "  ", "a, b", 'said "no"', "café 你好 \U0001f600", "two\nlines\nthree", "\r", "x" * 300,
         "tab\there"]  # fmt: skip


def quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if any(mark in field for mark in ',"\n\r') else field


def text_of(kind: str, draw: random.Random) -> str:
    end = draw.choice(["\n", "\r\n"])
    rows = [draw.choice(TEXTS) for _ in range(draw.randrange(40))]
    if kind == "jsonl":
        lines = [draw.choice(["", "{", "[1]"]) if draw.random() < 0.2 else json.dumps({"text": row}) for row in rows]
    elif kind == "csv":
        broken = ['open,"', '"open,0', "a,b,c", "", '"x"y,1', '"two\nlines",1,2', "a\rb,1"]
        lines = [draw.choice(broken) if draw.random() < 0.2 else f"{quoted(row)},{draw.randrange(2)}" for row in rows]
        lines.insert(0, draw.choice(["text,label", '"text","label"']))
    elif kind == "tsv":
        lines = [row.replace("\n", " ").replace("\t", " ") + draw.choice(["\t1", "\t", ""]) for row in rows]
        lines.insert(0, "text\tlabel")
        if draw.random() < 0.3:
            lines = ['"text"\t"label"', *(f"{quoted(row)}\t1" for row in rows)]
    else:
        lines = rows
    return end.join(lines) + draw.choice(["", end])


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp037", "gb18030"])
def test_each_shard_alone_is_what_it_is_in_the_whole(tmp_path, kind, encoding, monkeypatch):
    for module in ("streams", "places", "hashed"):  # blocks end anywhere
        monkeypatch.setattr(f"fastmask.text.{module}.BUFFER", 37)
    draw = random.Random(f"{kind} {encoding}")
    for number in range(15):
        paths = []
        for part in range(draw.choice([1, 1, 3])):
            data = text_of(kind, draw).encode(encoding, "replace")
            if draw.random() < 0.2:
                data = data[: draw.randrange(len(data) + 1)]  # in the middle of a character, too
            packed = draw.random() < 0.3
            path = tmp_path / f"{number}-{part}.{kind}{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
            paths.append(path)
        check(paths, draw.choice([1, 2, 3, 7]), encoding)


def test_bad_bytes_and_long_lines(tmp_path):
    long = b"y" * 1_050_000
    (tmp_path / "a.txt").write_bytes(b"one\n\xff\n" + long + b"\nthree\n" + long)
    (tmp_path / "a.csv").write_bytes(b'text,label\n\xff,1\n"' + long + b'\nx",1\nlast,1\n"' + long)
    for size in (1, 2):
        inputs = check([tmp_path / "a.txt", tmp_path / "a.csv"], size, max_text_mb=1)
    assert inputs.places[:3] == [Place(0, 0, 1, 0), Place(0, 6, 3, 0), Place(0, 1_050_013, 5, 0)]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_parquet_begins_at_its_row_group(tmp_path, suffix):
    buffer = io.BytesIO()
    table = pa.table({"text": [f"text {n}" for n in range(10)], "label": list(range(10))})
    pq.write_table(table, buffer, row_group_size=4)
    path = tmp_path / f"a.parquet{suffix}"
    path.write_bytes(gzip.compress(buffer.getvalue()) if suffix else buffer.getvalue())
    assert check([path, path], 3).places == [
        Place(0, 0, 1, 0), Place(0, 0, 1, 3), Place(0, 1, 5, 2), Place(0, 2, 9, 1),
        Place(1, 0, 1, 2), Place(1, 1, 5, 1), Place(1, 2, 9, 0)]  # fmt: skip


def test_by_hand(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\n  \nfour")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "b.csv").write_bytes(b'text,label\n"x\ny",1\n"a\nb",1,2\nlast,0\n')
    inputs = check([tmp_path / "a.txt", tmp_path / "empty.txt", tmp_path / "b.csv"], 2)
    # rows of the .csv: x and y, a record of two lines that is refused, its second line, the last one
    assert inputs.rows == 8
    assert inputs.places == [Place(0, 3, 1, 0), Place(0, 8, 3, 0), Place(2, 11, 2, 0), Place(2, 19, 4, 1)]


@pytest.mark.parametrize("cut", [20, 60, 101, 140, 999])
@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_a_damaged_input_is_planned_as_far_as_it_goes(tmp_path, kind, cut):
    """Whoever reads so far says what is wrong, as without a plan; what follows is hashed all the same."""
    lines = random.Random(cut)
    data = "".join(f"{lines.random()} {lines.random()}\n" for _ in range(30))
    packed = gzip.compress(("text\n" * (kind == "csv") + data).encode())
    (tmp_path / f"a.{kind}.gz").write_bytes(packed[:cut] if cut < 999 else packed[:300] + b"\0" * 30 + packed[330:])
    (tmp_path / "b.txt").write_bytes(b"more\n")
    inputs = planned([str(tmp_path / f"a.{kind}.gz"), str(tmp_path / "b.txt")], 3)
    paths = [entry["name"] for entry in inputs.entries]
    whole = taken(read_rows(paths))
    assert "gzip stream" in whole[-1]
    found = [taken(read_rows(paths, start_row=3 * shard, place=place), 3) for shard, place in enumerate(inputs.places)]
    assert [row for rows in found for row in rows] == whole


def test_nothing_before_a_place_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {n}\n" for n in range(100_000)))
    inputs = planned([str(path)], 40_000)
    read = []
    real = streams._split
    monkeypatch.setattr(streams, "_split", lambda *how: (read.append(one) or one for one in real(*how)))
    rows = read_rows([str(path)], start_row=80_000, place=inputs.places[2])
    assert next(rows).text == "line 80000"
    assert [text for _, text in read] == [b"line 0\n", b"line 80000\n"]  # the first one tells the kind of corpus


def test_standard_input_is_read_again_from_any_place(tmp_path, monkeypatch):
    """A file or a copy of a pipe: shards that are made again read it a second time."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\ntwo\nthree\n")
    with (tmp_path / "a.txt").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        inputs = planned(["-"], 2)
        for _ in range(2):
            assert [row.text for row in read_rows(["-"], stamps=inputs.stamps)] == ["one", "two", "three"]
        (row,) = read_rows(["-"], start_row=2, place=inputs.places[1], stamps=inputs.stamps)
        assert (row.text, row.row, row.line) == ("three", 2, 3)
