"""One reading of labels: what stands in a file, of whatever format, against the classes of a model."""

import json
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastmask.core.errors import InputError
from fastmask.core.labels import ANY_CLASSES, Classes, read_label
from fastmask.text.documents import read_documents

SENTIMENT = ("negative", "positive")
STARS = ("1", "2", "3")


@pytest.mark.parametrize(("value", "label"), [
    (None, None), ("", None), ("  ", None), (math.nan, None), ("NaN", None), (1, 1), (1.0, 1), (-1.0, -1), (" a ", "a"),
    ("1", "1"), ("1.0", "1.0"), (1.5, "1.5"), (Decimal("2.0"), 2), (Decimal("2.5"), "2.5"), (True, "true"),
    (False, "false"), (np.int64(3), 3), (np.float32(3), 3), (np.bool_(True), "true"), (math.inf, "inf"),
])  # fmt: skip
def test_values_of_a_file(value, label):
    assert read_label(value) == label and type(read_label(value)) is type(label)


@pytest.mark.parametrize("value", [[1], {}, b"1", 1j])
def test_values_that_are_no_label(value):
    with pytest.raises(TypeError):
        read_label(value)


@pytest.mark.parametrize(("names", "label", "index"), [
    (SENTIMENT, "positive", 1), (SENTIMENT, "Positive", 1), (SENTIMENT, 1, 1), (SENTIMENT, "1", 1),
    (SENTIMENT, "1.0", 1), (SENTIMENT, "1.000e+00", 1), (SENTIMENT, None, -1), (SENTIMENT, -1, -1),
    (SENTIMENT, "-1", -1), (SENTIMENT, "-1.0", -1),
    # names that differ by case alone are told apart, and only by their case
    (("a", "A"), "A", 1), (("yes", "Yes", "no"), "NO", 2),
    # digits: the name comes first, where text says it
    (STARS, "2", 1), (STARS, "2.0", 1), (STARS, "3", 2), (STARS, 3, 2), (STARS, "1", 0), (("0", "1"), 1, 1),
    (("1.0", "2.0"), "2", 1), (("10", "20"), 1, 1), (("10", "20"), 20, 1), (("-1", "0", "1"), "-1", 0),
    (("-1", "0", "1"), -1, 0), (("no", "yes", "0"), "0", 2), (("no", "yes", "0"), 1, 1),
    (("false", "true"), "True", 1),
])  # fmt: skip
def test_labels_and_classes(names, label, index):
    assert Classes(names).index(label, "f", 1, "label") == index and Classes(names).has(label)


@pytest.mark.parametrize(("names", "label"), [
    (SENTIMENT, 2), (SENTIMENT, -2), (SENTIMENT, "neutral"), (SENTIMENT, "1.5"), (SENTIMENT, "9" * 5000),
    (SENTIMENT, "true"), (SENTIMENT, "\u0661"), (SENTIMENT, "1_0"), (("Yes", "YES"), "yes"), (STARS, 0), (STARS, "0"),
    (STARS, 4),
])  # fmt: skip
def test_labels_that_are_no_class(names, label):
    with pytest.raises(InputError) as caught:
        Classes(names).index(label, "in.csv", 7, "stars")
    assert str(caught.value).startswith(f'in.csv:7: field "stars": label "{str(label)[:60]}')
    assert (
        str(caught.value).endswith(" is not one of the classes: " + ", ".join(names)) and len(str(caught.value)) < 200
    )
    assert not Classes(names).has(label)


@pytest.mark.parametrize(("names", "label", "named", "other"), [(STARS, 1, 0, "2"), (("no", "yes", "0"), 0, 2, "no")])
def test_a_number_that_can_be_a_name_and_an_index(names, label, named, other):
    reason = f'{label} is the name of class {named} and the index of class "{other}"; the text "{label}" is the name'
    with pytest.raises(InputError) as caught:
        Classes(names).index(label, "in.jsonl", 2, "label")
    assert str(caught.value) == f'in.jsonl:2: field "label": {reason}'
    # classes that were named after numbers mean those
    assert Classes(names, numbers_are_names=True).index(label, "in.jsonl", 2, "label") == named


def test_numbers_are_no_indices_of_classes_named_after_numbers():
    assert not Classes(("10", "20"), numbers_are_names=True).has(1)


def test_many_classes_are_not_all_listed():
    with pytest.raises(InputError, match=r"c0, .*, c11 and 65 more$"):
        Classes(tuple(f"c{n}" for n in range(77))).index("x", "f", 1, "label")


@pytest.mark.parametrize(("label", "index"), [(5, 5), ("positive", -1), (None, -1), (-3, -1), (1 << 40, -1), ("7", 7)])
def test_labels_without_a_model(label, index):
    assert ANY_CLASSES.index(label, "f", 1, "label") == index


def label_files(tmp_path, values: list) -> list[str]:
    """One file of each format that has the values as its labels."""
    texts = ["" if value is None else str(value) for value in values]
    paths = [tmp_path / f"a.{kind}" for kind in ("jsonl", "csv", "tsv", "parquet")]
    paths[0].write_text("".join(json.dumps({"text": "t", "label": value}) + "\n" for value in values))
    paths[1].write_text("text,label\n" + "".join(f"t,{text}\n" for text in texts))
    paths[2].write_text("text\tlabel\n" + "".join(f"t\t{text}\n" for text in texts))
    pq.write_table(pa.table({"text": ["t"] * len(values), "label": values}), paths[3])
    return [str(path) for path in paths]


@pytest.mark.parametrize(("names", "values", "expected"), [
    (SENTIMENT, [1, 0, -1, None], [1, 0, -1, -1]), (SENTIMENT, [1.0, 0.0, None], [1, 0, -1]),
    (SENTIMENT, ["Positive", "0", None, "-1"], [1, 0, -1, -1]), (("False", "True"), [True, False, None], [1, 0, -1]),
    (STARS, ["1", "3", "2"], [0, 2, 1]), (("1.5", "2.5"), [1.5, 2.5], [0, 1]),
])  # fmt: skip
def test_all_formats_are_read_alike(tmp_path, names, values, expected):
    for path in label_files(tmp_path, values):
        found = [Classes(names).index(d.label, d.source, d.line, "label") for d in read_documents([path])]
        assert found == expected, path


def class_label_file(path, features: dict, columns: dict) -> str:
    """A Parquet file with the metadata that the datasets library writes."""
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return str(path)


def test_class_names_in_a_parquet_file(tmp_path):
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["pos", "neg"], "_type": "ClassLabel"},
    }
    columns = {"text": ["a", "b", "c", "d"], "label": [0, 1, -1, None]}
    path = class_label_file(tmp_path / "a.parquet", features, columns)
    labels = [document.label for document in read_documents([path])]
    assert labels == ["pos", "neg", -1, None]
    assert [Classes(("neg", "pos")).index(label, "f", 1, "label") for label in labels] == [1, 0, -1, -1]
    with pytest.raises(InputError, match='label "pos" is not one of the classes: LABEL_0, LABEL_1'):
        Classes(("LABEL_0", "LABEL_1")).index(labels[0], "f", 1, "label")
    for value in (2, 1.5):
        path = class_label_file(tmp_path / "b.parquet", features, {"text": ["a", "b"], "label": [0, value]})
        reason = rf'b\.parquet:2: field "label": {value} is none of the file\'s own 2 classes'
        with pytest.raises(InputError, match=reason):
            list(read_documents([path]))


def test_class_names_for_a_column_with_gaps(tmp_path):
    features = {"label": {"names": ["pos", "neg"], "_type": "ClassLabel"}}
    columns = {"text": ["a", "b", "c", "d"], "label": [0.0, 1.0, math.nan, -1.0]}
    path = class_label_file(tmp_path / "a.parquet", features, columns)
    assert [document.label for document in read_documents([path])] == ["pos", "neg", None, -1]


def test_class_names_of_aspects_in_a_parquet_file(tmp_path):
    polarity = {"names": ["bad", "good"], "_type": "ClassLabel"}
    columns = {"text": ["t"], "aspects": [[{"term": "food", "polarity": 1}, {"term": "wine", "polarity": 0}]]}
    aspect = {"term": {"dtype": "string", "_type": "Value"}, "polarity": polarity}
    for features in ([aspect], {"feature": aspect, "_type": "List"}):
        path = class_label_file(tmp_path / "a.parquet", {"aspects": features}, columns)
        (document,) = read_documents([path])
        assert [aspect.polarity for aspect in document.aspects] == ["good", "bad"]


@pytest.mark.parametrize(("aspects", "fault"), [
    ([{"term": "food", "polarity": 1}, None], r'"aspects\[1\]": expected an object, found null'),
    ([{"term": "food"}], r'"aspects\[0\].polarity": missing'), (["food"], r"expected an object, found a string"),
])  # fmt: skip
def test_aspects_that_are_not_what_the_metadata_says(aspects, fault, tmp_path):
    features = {"aspects": [{"polarity": {"names": ["bad", "good"], "_type": "ClassLabel"}}]}
    path = class_label_file(tmp_path / "a.parquet", features, {"text": ["t"], "aspects": [aspects]})
    with pytest.raises(InputError, match=fault):
        list(read_documents([path]))


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": {"features": {"label": {"_type": "Value"}}}}'])
def test_other_metadata_in_a_parquet_file(tmp_path, metadata):
    table = pa.table({"text": ["a"], "label": [1]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [document.label for document in read_documents([str(tmp_path / "a.parquet")])] == [1]


def test_a_label_field_in_no_input(tmp_path):
    paths = [*label_files(tmp_path, [1, 0]), str(tmp_path / "a.txt")]
    (tmp_path / "a.txt").write_text("t\n")
    for path in paths:
        assert list(read_documents([path], label_field="label"))
        with pytest.raises(InputError, match=r'field "stars": no input has such a column or key'):
            read_documents([path], label_field="stars")
    # one input, one row of it, is enough
    (tmp_path / "b.jsonl").write_text('{"text": "t"}\n\n{"text"\n{"text": "t", "stars": null}\n')
    found = read_documents([*paths, str(tmp_path / "b.jsonl")], label_field="stars", on_error="skip")
    assert {document.label for document in found} == {None}
