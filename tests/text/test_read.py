"""Every format gives the texts that went in, and every fault names its file, line and field."""

import csv
import gzip
import hashlib
import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmask.core.errors import FastmaskError, InputError
from fastmask.core.records import Aspect, Document
from fastmask.text.documents import read_documents, read_rows
from fastmask.text.hashed import describe_inputs

# No NUL and no half surrogates (faults), and for .txt no newline, which a line cannot hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
LABEL = st.none() | st.integers(0, 9) | st.sampled_from(["positive", "né"])
ROWS = st.lists(st.tuples(TEXT, LABEL), max_size=6)
FORMATS = ["txt", "jsonl", "csv", "tsv", "parquet"]
OVER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def table_bytes(rows, delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("label", "text"), *((label, text) for text, label in rows)])
    return stream.getvalue().encode()


def parquet_bytes(rows) -> bytes:
    labels = [None if label is None else str(label) for _, label in rows]
    columns = [pa.array([text for text, _ in rows], pa.string()), pa.array(labels, pa.string())]
    table = pa.table(columns, names=["text", "label"])
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=2)
    return sink.getvalue()


def as_bytes(kind: str, rows) -> bytes:
    if kind == "txt":
        return "".join(text + "\n" for text, _ in rows).encode()
    if kind == "jsonl":
        return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows).encode()
    return parquet_bytes(rows) if kind == "parquet" else table_bytes(rows, "," if kind == "csv" else "\t")


def write(folder, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


def texts_of(*paths, **options) -> list[str]:
    return [document.text for document in read_documents(paths, **options)]


@OVER
@given(rows=ROWS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kind", FORMATS)
def test_round_trip(tmp_path, kind, suffix, rows):
    if kind == "txt":
        rows = [(text.replace("\n", " "), None) for text, _ in rows]
        rows = [(text, label) for text, label in rows if text.strip() and not text.endswith("\r")]
    path = write(tmp_path, f"in.{kind}{suffix}", as_bytes(kind, rows))
    documents = list(read_documents([path]))
    labels = [label if kind in ("txt", "jsonl") or label is None else str(label) for _, label in rows]
    assert [d.text for d in documents] == [text for text, _ in rows]
    assert [d.label for d in documents] == labels
    assert [d.row for d in documents] == list(range(len(rows)))
    assert {d.source for d in documents} <= {path}


@OVER
@given(rows=ROWS, start=st.integers(0, 14))
@pytest.mark.parametrize("kind", FORMATS)
def test_start_row_gives_the_rest(tmp_path, kind, rows, start):
    first = write(tmp_path, f"a.{kind}", as_bytes(kind, [(t.replace("\n", " "), label) for t, label in rows]))
    second = write(tmp_path, "b.txt.gz", b"one\n\ntwo\n")
    everything = list(read_rows([first, second]))
    assert list(read_rows([first, second], start_row=start)) == everything[start:]


def test_rows_run_over_inputs_and_blank_lines(tmp_path):
    first = write(tmp_path, "a.txt", b"one\n\n  \ntwo")
    second = write(tmp_path, "b.jsonl", b'\n{"text": "three", "label": "good"}\n')
    assert list(read_documents([first, second])) == [
        Document(0, "one", None, None, first, 1),
        Document(3, "two", None, None, first, 4),
        Document(5, "three", "good", None, second, 2),
    ]


def test_only_newlines_end_a_line(tmp_path):
    text = "a\rb\u2028c\x0bd\x0ce\x85f\x1cg"
    path = write(tmp_path, "a.txt", f"{text}\r\n{text}\n{text}".encode())
    assert texts_of(path) == [text] * 3


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [("utf-8", "utf-8-sig"), ("utf-8-sig", "utf-8-sig"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16"),
     ("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be"), ("utf-32", "utf-32"), ("latin-1", "latin-1"),
     ("cp037", "cp037"), ("utf-16", "utf-16-le")],
)  # fmt: skip
def test_encodings_and_byte_order_marks(tmp_path, encoding, codec):
    lines = ["één", "Ċ\u0a0a" if codec.startswith("utf") else "ï", "last"]
    path = write(tmp_path, "a.txt", "\n".join(lines).encode(codec))
    assert texts_of(path, encoding=encoding) == lines
    table = write(tmp_path, "a.csv", "text,label\nhé,1\n".encode(codec))
    assert texts_of(table, encoding=encoding) == ["hé"]


def test_very_long_lines(tmp_path):
    text = "word " * 300_000
    rows = [(text, None), ("next", None)]
    for kind in FORMATS:
        assert texts_of(write(tmp_path, f"a.{kind}", as_bytes(kind, rows))) == [text, "next"]


def test_csv_line_numbers_are_where_records_start(tmp_path):
    path = write(tmp_path, "a.csv", b'text,label\n"two\r\nlines",0\n\nplain,1\n')
    documents = list(read_documents([path]))
    assert [(d.row, d.line, d.text, d.label) for d in documents] == [(0, 2, "two\r\nlines", "0"), (2, 5, "plain", "1")]


def test_fields_by_other_names(tmp_path):
    path = write(tmp_path, "a.tsv", b"id\tbody\tstars\tlabel\n7\tfine\t\t3\n8\tgood\tfive\t3\n")
    documents = list(read_documents([path], text_field="body", label_field="stars"))
    assert [(d.text, d.label) for d in documents] == [("fine", None), ("good", "five")]


def test_parquet_kinds_of_columns(tmp_path):
    text = pa.array(["a", "b", "c"]).dictionary_encode()
    columns = {"text": text, "label": [1.0, None, float("nan")], "other": [1, 2, 3]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    documents = list(read_documents([str(tmp_path / "a.parquet")]))
    assert [(d.text, d.label, d.line) for d in documents] == [("a", 1, 1), ("b", None, 2), ("c", None, 3)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_aspects(tmp_path, kind):
    polarities = [["positive", "conflict"], ["conflict"], []]
    rows = [{"text": "t", "aspects": [{"term": f"x {p}", "polarity": p} for p in row]} for row in polarities]
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    if kind == "parquet":
        path = str(tmp_path / "a.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    expected = [(Aspect("x positive", "positive"),), (), ()]
    assert [d.aspects for d in read_documents([path])] == expected


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n{}\n")))
    documents = list(read_documents(["-"]))
    assert [(d.text, d.source, d.line) for d in documents] == [("one", "<stdin>", 1), ("{}", "<stdin>", 2)]
    assert describe_inputs(["-"]) == [{"name": "-", "bytes": None, "sha256": None}]


def test_describe_inputs(tmp_path):
    path = write(tmp_path, "a.txt", b"one\n")
    assert describe_inputs([path]) == [{"name": path, "bytes": 4, "sha256": hashlib.sha256(b"one\n").hexdigest()}]
    with pytest.raises(InputError, match="no such file"):
        describe_inputs([str(tmp_path / "b.txt")])


GOOD = b'{"text": "good", "label": 1}\n'
ROW_FAULTS = {  # name: content with a fault in its second row, then the line, the field and the reason
    "broken.jsonl": (GOOD + b'{"text": "x"\n' + GOOD, 2, None, "broken JSON at column"),
    "deep.jsonl": (GOOD + b"[" * 100_000 + b"\n" + GOOD, 2, None, "unreadable JSON"),
    "digits.jsonl": (GOOD + b'{"text": "x", "label": ' + b"1" * 5000 + b"}\n" + GOOD, 2, None, "unreadable JSON"),
    "list.jsonl": (GOOD + b'["text"]\n' + GOOD, 2, None, "expected a JSON object, found a list"),
    "missing.jsonl": (GOOD + b'{"label": 1}\n' + GOOD, 2, "text", "missing"),
    "null.jsonl": (GOOD + b'{"text": null}\n' + GOOD, 2, "text", "expected a string, found null"),
    "number.jsonl": (GOOD + b'{"text": 3}\n' + GOOD, 2, "text", "expected a string, found a number"),
    "label.jsonl": (GOOD + b'{"text": "x", "label": [1]}\n' + GOOD, 2, "label", "expected a class index or name"),
    "nul.jsonl": (GOOD + b'{"text": "a\\u0000b"}\n' + GOOD, 2, "text", "NUL byte"),
    "surrogate.jsonl": (GOOD + b'{"text": "a\\ud800b"}\n' + GOOD, 2, "text", "surrogate pair at character 1"),
    "bytes.jsonl": (GOOD + b'{"text": "\xff"}\n' + GOOD, 2, None, "not utf-8: byte 0xff at position 10"),
    "mixed.jsonl": (GOOD + b'{"text": "x", "aspects": []}\n' + GOOD, 2, "aspects", "a row with aspects in a corpus"),
    "both.jsonl": (GOOD + b'{"text": "x", "label": 1, "aspects": []}\n' + GOOD, 2, "label", "takes no label"),
    "aspects.jsonl": (GOOD + b'{"text": "x", "aspects": 3}\n' + GOOD, 2, "aspects", "expected a list"),
    "aspect.jsonl": (GOOD + b'{"text": "x", "aspects": [3]}\n' + GOOD, 2, "aspects[0]", "expected an object"),
    "term.jsonl": (GOOD + b'{"text": "x", "aspects": [{}]}\n' + GOOD, 2, "aspects[0].term", "found null"),
    "bytes.txt": (b"one\ncaf\xe9 x\nthree\n", 2, None, "byte 0xe9 at position 3"),
    "nul.txt": (b"one\na\0b\nthree\n", 2, "text", "NUL byte"),
    "ragged.csv": (b"text,label\na,1\nb\nc,1\n", 3, None, "1 fields where the header has 2"),
    "wide.tsv": (b"text\tlabel\na\t1\nb\t1\t2\nc\t1\n", 3, None, "3 fields where the header has 2"),
    "quote.csv": (b'text,label\na,1\n"b"x,1\nc,1\n', 3, "text", "closes on line 3 before the end of a field"),
    "twice.jsonl": (GOOD + b'{"text": "x", "label": 0, "label": 1}\n' + GOOD, 2, "label", "in the row twice"),
    "bytes.csv": (b"text,label\na,1\n\xff,1\nc,1\n", 3, None, "not utf-8"),
    "nul.csv": (b"text,label\na,1\nb\0,1\nc,1\n", 3, "text", "NUL byte"),
    "return.csv": (b"text,label\na,1\nb\rb,1\nc,1\n", 3, None, "carriage return in a field that is not quoted"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROW_FAULTS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_faults_of_rows(tmp_path, name, suffix):
    content, line, field, reason = ROW_FAULTS[name]
    path = write(tmp_path, name + suffix, content)
    with pytest.raises(InputError) as caught:
        list(read_documents([path]))
    fault = caught.value
    assert (fault.source, fault.line, fault.field) == (path, line, field) and reason in fault.reason
    assert "\n" not in str(fault) and len(str(fault)) < 400
    skipped = []
    documents = list(read_documents([path], on_error="skip", skipped=skipped))
    assert [d.row for d in documents] == [0, 2] and skipped == [str(fault)]


def test_parquet_rows_at_fault(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a", None, "c"]}), path)
    skipped = []
    assert texts_of(path, on_error="skip", skipped=skipped) == ["a", "c"]
    assert skipped == [f'{path}:2: field "text": expected a string, found null']


def cut_gzip() -> bytes:
    return gzip.compress(b"one\ntwo\n" + bytes(range(32, 127)) * 9)[:-12]


def damaged_parquet() -> bytes:
    content = bytearray(parquet_bytes([("word " * 50, 1)] * 8))
    content[4:60] = b"\xff" * 56
    return bytes(content)


FILE_FAULTS = {
    "folder.txt": (None, None, None, "is a folder"),
    "word.docx": (b"x", None, None, "unknown format"),
    "noext": (b"x", None, None, "unknown format"),
    "cut.txt.gz": (cut_gzip(), 3, None, "gzip stream is cut short"),
    "empty.txt.gz": (b"", None, None, "gzip stream is cut short"),
    "plain.txt.gz": (b"not gzipped", 1, None, "corrupt gzip stream"),
    "cut.parquet.gz": (gzip.compress(parquet_bytes([("a", 1)]))[:-20], None, None, "gzip stream is cut short"),
    "column.csv": (b"body,label\nx,1\n", 1, "text", "has: body, label (--text-field names another)"),
    "empty.csv": (b"", 1, "text", "no such column"),
    "twice.csv": (b"text,label,label\nx,1,2\n", 1, "label", "the header has this column twice"),
    "twice.tsv": (b"text\tlabel\t text\nx\t1\t2\n", 1, "text", "the header has this column twice"),
    "semicolons.csv": (b"text;label\nx;1\n", 1, "text", "the header has: text;label; are its fields separated by semi"),
    "commas.tsv": (b"text,label\nx,1\n", 1, "text", "are its fields separated by commas?"),
    "returns.csv": (b"text,label\rx,1\ry,0\r", 1, None, "carriage return"),
    "returns.tsv": (b"text\tlabel\rx\t1\ry\t0\r", 1, None, "lines end in a carriage return alone"),
    "open.csv": (b'text,"label\nx,1\n', 1, None, "broken header: a quotation mark opens here and is not closed"),
    "header.csv": (b"\xff,label\nx,1\n", 1, None, "not utf-8"),
    "cut.parquet": (parquet_bytes([("a", 1)])[:-9], None, None, "not a readable Parquet file"),
    "empty.parquet": (b"", None, None, "not a readable Parquet file"),
    "damaged.parquet": (damaged_parquet(), 1, None, "damaged Parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILE_FAULTS)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_faults_of_files(tmp_path, name, on_error):
    content, line, field, reason = FILE_FAULTS[name]
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_documents([str(path)], on_error=on_error))
    fault = caught.value
    assert (fault.source, fault.line, fault.field) == (str(path), line, field) and reason in fault.reason


@pytest.mark.parametrize(
    ("columns", "reason"),
    [([("body", ["x"])], r"no such column, the file has: body \(--text-field"), ([("text", [1])], "column of strings"),
     ([("text", ["x"]), ("label", [0]), ("label", [1])], 'field "label": the file has this column twice')],
)  # fmt: skip
def test_parquet_columns_at_fault(tmp_path, columns, reason):
    path = str(tmp_path / "a.parquet")
    names, values = zip(*columns, strict=True)
    pq.write_table(pa.table(list(map(pa.array, values)), names=names), path)
    with pytest.raises(InputError, match=reason):
        list(read_documents([path]))


def test_missing_file_is_found_before_anything_is_read(tmp_path):
    path = write(tmp_path, "a.txt", b"one\n")
    with pytest.raises(InputError, match=r"b\.txt: no such file"):
        read_documents([path, str(tmp_path / "b.txt")])


def test_unreadable_file(tmp_path, monkeypatch):
    path = write(tmp_path, "a.txt", b"one\n")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_documents([path])


def test_unknown_encoding():
    for name in ("utf-9", "hex"):
        with pytest.raises(FastmaskError, match=f"--encoding {name}: unknown encoding"):
            read_documents([], encoding=name)


def test_mixed_corpus_is_found_after_a_resume(tmp_path):
    first = write(tmp_path, "a.jsonl", b'{"text": "x", "aspects": []}\n')
    second = write(tmp_path, "b.txt", b"plain\n")
    for start in (0, 1):
        with pytest.raises(InputError, match="a row without aspects in a corpus that began with them"):
            list(read_documents([first, second], start_row=start))


def test_published_movie_reviews(shared, tmp_path):
    path = write(tmp_path, "neg.txt", (shared / "data/mr/raw/rt-polarity.neg").read_bytes())
    assert len(texts_of(path, encoding="iso-8859-1")) == 5331
    with pytest.raises(InputError, match=r"neg\.txt:\d+: not utf-8: byte 0x"):
        texts_of(path)
