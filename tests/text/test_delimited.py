"""Delimited text: rows are lost to no quotation mark, and every row that is lost is said."""

import csv
import io

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmask.core.errors import InputError
from fastmask.text import delimited
from fastmask.text.documents import read_documents, read_rows

GLUE = [('"He told me the ending was cheap .', "0"), ("A warm and generous film .", "1"), ('Dull " and " long "', "0")]


def read(tmp_path, name: str, content: str, **options) -> tuple[list[tuple], list[str]]:
    """(text, label) of each document, and the messages about bad rows, which are skipped."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    skipped: list[str] = []
    documents = read_documents([str(path)], on_error="skip", skipped=skipped, **options)
    return [(d.text, d.label) for d in documents], [message.removeprefix(str(path)) for message in skipped]


def tsv(rows) -> str:
    return "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quotation_mark_in_tsv_is_a_character(tmp_path, end):
    assert read(tmp_path, "a.tsv", tsv(GLUE).replace("\n", end)) == (GLUE, [])


def test_tsv_keeps_what_other_formats_do(tmp_path):
    content = '\ufefftext \tidx\t label\n"quoted whole"\t0\t1\n\n a\rb \\" c \t1\t\n""\t2\t0'
    expected = [('"quoted whole"', "1"), (' a\rb \\" c ', None), ('""', "0")]
    assert read(tmp_path, "a.tsv", content) == (expected, [])


def test_tsv_that_was_quoted(tmp_path):
    """What pandas and R write is known by marks that no plain text has."""
    texts = ['He said "no" to it .', '"', "plain", '"a" and "b"']
    frame = pandas.DataFrame({"text": texts, "label": [0, 1, 1, 0]})
    expected = list(zip(texts, ["0", "1", "1", "0"], strict=True))
    assert read(tmp_path, "a.tsv", frame.to_csv(sep="\t", index=False)) == (expected, [])
    texts[2], expected[2] = "two\nlines\tand a tab", ("two\nlines\tand a tab", "1")
    frame = pandas.DataFrame({"text": texts, "label": [0, 1, 1, 0]})
    content = frame.to_csv(sep="\t", index=False, quoting=csv.QUOTE_ALL)
    assert read(tmp_path, "a.tsv", content) == (expected, [])


def test_tsv_rows_that_a_quoted_field_cuts_are_said(tmp_path):
    frame = pandas.DataFrame({"text": ["two\nlines", "a\ttab", "fine"], "label": [0, 1, 1]})
    documents, skipped = read(tmp_path, "a.tsv", frame.to_csv(sep="\t", index=False))
    hint = "; a .tsv has no quoted fields, a row is a line"
    # the second half of a row that was cut has as many fields as it should; only its mark tells
    assert documents == [('lines"', "0"), ("fine", "1")]
    assert skipped == [f":2: 1 fields where the header has 2{hint}", f":4: 3 fields where the header has 2{hint}"]


OPEN = {  # rows of a file, its good rows, its bad ones
    "to the end": (['"open,0', "one,1", "two,0"], ["one", "two"],
                   [':2: field "text": a quotation mark opens here and is not closed']),
    "to the next": (['"open,0', "one,1", '"quoted, yes",0', "two,1"], ["one", "quoted, yes", "two"],
                    [':2: field "text": a quotation mark opens here and closes on line 4 before the end of a field']),
    "in a word": (['"open,0', 'said "no" to,1', "two,1"], ['said "no" to', "two"],
                  [':2: field "text": a quotation mark opens here and closes on line 3 before the end of a field']),
    "twice": (['"open,0', "one,1", '"open,0', "two,1"], ["one", "two"],
              [':2: field "text": a quotation mark opens here and closes on line 4 before the end of a field',
               ':4: field "text": a quotation mark opens here and is not closed']),
    "label": (['a,"1', "one,1", "two,0"], ["one", "two"],
              [':2: field "label": a quotation mark opens here and is not closed']),
    "after a record of two lines": (['"a\nb","1', "one,1"], ["one"],
                                    [':3: field "label": a quotation mark opens here and is not closed']),
    "swallows": (['"open,0', "one,1", 'two",0,1', "three,1"], ["three"],
                 [":2: 3 fields where the header has 2, in the record of lines 2 to 4", ":3: lost with line 2",
                  ":4: lost with line 2"]),
}  # fmt: skip


@pytest.mark.parametrize("case", OPEN)
def test_an_open_quote_in_csv_costs_its_own_row(tmp_path, case):
    rows, good, bad = OPEN[case]
    documents, skipped = read(tmp_path, "a.csv", "\n".join(["text,label", *rows, ""]))
    assert [text for text, _ in documents] == good and skipped == bad
    # rows have the same numbers wherever reading begins
    rows = list(read_rows([str(tmp_path / "a.csv")], on_error="skip"))
    for start in range(len(rows) + 1):
        assert list(read_rows([str(tmp_path / "a.csv")], on_error="skip", start_row=start)) == rows[start:]
    with pytest.raises(InputError) as caught:
        list(read_documents([str(tmp_path / "a.csv")]))
    assert str(caught.value) == f"{tmp_path}/a.csv{bad[0]}"


def test_a_quote_that_stays_open_is_given_up(tmp_path, monkeypatch):
    """However long the file is, no more than a large document is held."""
    monkeypatch.setattr(delimited, "_QUOTED_CHARS", 100)
    rows = [f"row {n},1" for n in range(40)]
    documents, skipped = read(tmp_path, "a.csv", "\n".join(["text,label", '"open,0', *rows, 'x,"1"']))
    assert [text for text, _ in documents] == [f"row {n}" for n in range(40)] + ["x"]
    assert skipped == [':2: field "text": a quotation mark opens here and is not closed']
    # a line alone may be longer
    assert read(tmp_path, "b.csv", f'text,label\n"{"long " * 50}",1\n') == ([("long " * 50, "1")], [])


def test_bytes_that_are_not_the_encoding_cost_one_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'text,label\n"two\n\xff lines",1\n\xff"open,0\nfine,1\n')
    skipped: list[str] = []
    documents = read_documents([str(tmp_path / "a.csv")], on_error="skip", skipped=skipped)
    assert [d.text for d in documents] == ["fine"]
    assert [message.split(":")[1] for message in skipped] == ["3", "4"] and "not utf-8" in skipped[0]


FIELD = st.text(st.sampled_from('a ",\n\r\t'), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(FIELD, FIELD), max_size=4), quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_what_the_csv_module_writes_is_read(tmp_path, rows, quoting):
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=quoting).writerows([("text", "label"), *rows])
    expected = [(text, label.strip() or None) for text, label in rows]
    assert read(tmp_path, "a.csv", stream.getvalue()) == (expected, [])


ROW = st.sampled_from(["good,1", "good,", '"open,0', 'open,"1', '"good",0', '"good ""one""",1', 'good "one",0'])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=8))
def test_open_quotes_cost_their_rows_and_no_other(tmp_path, rows):
    documents, skipped = read(tmp_path, "a.csv", "\n".join(["text,label", *rows]))
    opened = [line for line, row in enumerate(rows, 2) if "open" in row]
    assert len(documents) == len(rows) - len(opened)
    assert [int(message.split(":")[1]) for message in skipped] == opened
