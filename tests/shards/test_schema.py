"""The Arrow schema, the table built from flat arrays, the manifest, and the rules of the format."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_samples import FIELDS, IDENTITY, build, config, sample

from fastmask.core.errors import OutputError
from fastmask.shards.columns import column, flat, list_lengths, present
from fastmask.shards.columns import ragged as ragged_column
from fastmask.shards.schema import (
    SKIPPED_SHOWN,
    build_manifest,
    check_manifest,
    content_fault,
    header_of,
    make_header,
    read_manifest,
    shard_entry,
)
from fastmask.shards.table import FORMAT_VERSION, arrow_schema, shard_bytes, to_table


def entry_of(scored, index=0):
    return shard_entry(index, scored, shard_bytes(to_table(scored)))


def manifest_of(*shards):
    entries = [entry_of(scored, index) for index, scored in enumerate(shards)]
    return build_manifest(make_header(config(), IDENTITY), entries, **FIELDS)


@st.composite
def ragged(draw):
    """Lengths, masks, and the other columns of a few sentences, empty ones and nulls among them."""
    lengths = draw(st.lists(st.integers(0, 6), max_size=12))
    n = len(lengths)
    masked = [sorted(draw(st.sets(st.integers(0, k - 1), max_size=k))) if k else [] for k in lengths]
    columns = {
        "scored": st.booleans(),
        "label": st.integers(-1, 3),
        "predicted": st.integers(-1, 3),
        "prob": st.one_of(st.just(float("nan")), st.floats(0, 1, width=32)),
    }
    values = {name: draw(st.lists(kind, min_size=n, max_size=n)) for name, kind in columns.items()}
    return lengths, masked, values


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_a_table_read_back_is_what_went_in(data):
    lengths, masked, columns = data
    scored = build(lengths, masked, **columns)
    table = pq.read_table(pa.BufferReader(shard_bytes(to_table(scored))))
    assert table.schema.equals(arrow_schema(), check_metadata=True)
    assert table.num_rows == len(lengths)
    for i, row in enumerate(table.to_pylist()):
        own = slice(sum(lengths[:i]), sum(lengths[: i + 1]))
        for name in ("input_ids", "char_start", "char_end", "word"):
            assert row[name] == getattr(scored.sentences, name)[own].tolist()
        assert row["importance"] == (scored.importance[own].tolist() if columns["scored"][i] else None)
        assert row["mask_index"] == masked[i]
        assert (row["row"], row["sentence"]) == (i, 0)
        for name in ("label", "predicted"):
            assert row[name] == (columns[name][i] if columns[name][i] >= 0 else None)
        assert row["prob"] == (None if np.isnan(columns["prob"][i]) else columns["prob"][i])
    assert content_fault(table, entry_of(scored)) is None


def test_schema_is_the_contract():
    kinds = {
        "row": "int64", "sentence": "int32", "input_ids": "list<element: int32 not null>",
        "char_start": "list<element: int32 not null>", "char_end": "list<element: int32 not null>",
        "label": "int32", "predicted": "int32", "prob": "float",
        "importance": "list<element: float not null>", "mask_index": "list<element: int32 not null>",
        "word": "list<element: int32 not null>", "mask_prob": "list<element: float not null>",
    }  # fmt: skip
    assert {field.name: str(field.type) for field in arrow_schema()} == kinds
    assert [f.name for f in arrow_schema() if f.nullable] == ["label", "predicted", "prob", "importance", "mask_prob"]


def test_mask_prob_is_a_columns_own_or_null():
    none, some = build([2, 0, 1], [[], [], []]), build([2, 0, 1], [[], [], []])
    some = replace(some, mask_prob=np.array([0.0, 0.25, 1.0], np.float32))
    for scored, expected in ((none, [None, None, None]), (some, [[0.0, 0.25], [], [1.0]])):
        table = pq.read_table(pa.BufferReader(shard_bytes(to_table(scored))))
        assert table["mask_prob"].to_pylist() == expected
        assert content_fault(table, entry_of(scored)) is None


def test_the_same_decisions_give_the_same_bytes_whatever_lies_under_unscored_sentences():
    once, again = sample(3), sample(3)
    hidden = ~np.repeat(again.scored, np.diff(again.sentences.offsets))
    assert hidden.any()
    again.importance[hidden] = np.nan
    assert shard_bytes(to_table(once)) == shard_bytes(to_table(again))


def test_inputs_are_not_written_to():
    scored = sample(0)
    for owner in (scored, scored.sentences):
        for name in owner.__slots__:
            if isinstance(getattr(owner, name), np.ndarray):
                getattr(owner, name).flags.writeable = False
    to_table(scored)


def test_offsets_that_do_not_cover_the_values_are_refused():
    scored = build([2, 1], [[], []])
    scored.sentences.offsets[-1] = 2
    with pytest.raises(ValueError):
        to_table(scored)


def test_entry_counts():
    scored = build([3, 0, 2], [[0, 2], [], [1]], scored=[True, True, False], first_row=7)
    entry = entry_of(scored, 12)
    assert entry["file"] == "shard-00012.parquet"
    assert [entry[key] for key in ("rows", "scored", "tokens", "masked")] == [3, 2, 5, 3]
    assert (entry["first_row"], entry["end_row"]) == (7, 10)


BREAKS = {
    "ascending": lambda t: put(t, "mask_index", [[1, 0], [], [0]]),
    "twice": lambda t: put(t, "mask_index", [[0, 0], [], [0]]),
    "beyond": lambda t: put(t, "mask_index", [[0, 3], [], [0]]),
    "negative": lambda t: put(t, "mask_index", [[-1, 0], [], [0]]),
    "fewer spans": lambda t: put(t, "char_end", [[1], [], [1, 2]]),
    "more importances": lambda t: put(t, "importance", [[1.0, 2.0, 3.0, 4.0], [], None]),
    "row order": lambda t: put(t, "row", [0, 2, 1]),
    "same sentence": lambda t: put(t, "row", [0, 1, 1]),
    "outside": lambda t: put(t, "row", [0, 1, 3]),
    "tokens": lambda t: put(t, "input_ids", [[1, 2], [], [1, 2]]),
    "masked": lambda t: put(t, "mask_index", [[0], [], [0]]),
    "scored": lambda t: put(t, "importance", [None, [], None]),
    "columns": lambda t: t.drop_columns(["prob"]),
    "rows": lambda t: t.slice(0, 2),
}


def put(table, name, values):
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


@pytest.mark.parametrize("how", BREAKS)
def test_every_rule_of_the_format_is_checked(how):
    scored = build([3, 0, 2], [[0, 2], [], [1]], scored=[True, True, False])
    table, entry = to_table(scored), entry_of(scored)
    assert content_fault(table, entry) is None
    assert content_fault(BREAKS[how](table), entry)


def test_rules_hold_across_row_groups():
    table = pa.concat_tables([to_table(build([2], [[1]], first_row=row)) for row in range(3)])
    entry = {**entry_of(build([2] * 3, [[1]] * 3)), "rows": 3}
    assert content_fault(table, entry) is None
    assert content_fault(pa.concat_tables([table.slice(1), table.slice(0, 1)]), entry)


def test_list_lengths_count_null_as_nothing():
    lengths = list_lengths(pa.array([[1, 2], None, []], pa.list_(pa.int32())))
    assert lengths.dtype == np.int32 and lengths.tolist() == [2, 0, 0]


def test_manifest_sums_the_shards_and_is_json():
    manifest = manifest_of(sample(0), sample(1))
    check_manifest(json.loads(json.dumps(manifest)), "m")
    assert manifest["totals"]["tokens"] == sum(len(sample(i).sentences.input_ids) for i in (0, 1))
    assert manifest["totals"]["documents"] == 40
    assert header_of(manifest) == make_header(config(), IDENTITY)
    check_manifest(manifest_of(), "m")


def test_manifest_keeps_the_first_skipped_messages():
    entry = entry_of(sample(0)) | {"skipped": [f"line {i}" for i in range(SKIPPED_SHOWN + 5)]}
    manifest = build_manifest(make_header(config(), IDENTITY), [entry], **FIELDS)
    assert manifest["skipped"]["count"] == manifest["shards"][0]["skipped"] == SKIPPED_SHOWN + 5
    assert manifest["skipped"]["messages"][-1] == f"line {SKIPPED_SHOWN - 1}"


@pytest.mark.parametrize("indices", [(1,), (0, 2), (1, 0)])
def test_manifest_of_shards_with_a_gap_is_refused(indices):
    entries = [entry_of(sample(index), index) for index in indices]
    with pytest.raises(ValueError, match="do not follow"):
        build_manifest(make_header(config(), IDENTITY), entries, **FIELDS)


@pytest.mark.parametrize("identity", [{"model": None}, {**IDENTITY, "shards": 1}, {**IDENTITY, "model": float("nan")}])
def test_identity_is_checked(identity):
    with pytest.raises(ValueError):
        make_header(config(), identity)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "format version 3"),
        ({"totals": {}}, "totals"),
        ({"shards": {}}, "shards is damaged"),
        ({"shards": [{"index": 0}]}, "shard-00000.parquet is damaged"),
    ],
)
def test_damaged_manifests_are_named(tmp_path, change, words):
    (tmp_path / "_manifest.json").write_text(json.dumps(manifest_of(sample(0)) | change))
    with pytest.raises(OutputError, match=words):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff"])
def test_what_is_no_manifest_is_said_so(tmp_path, text):
    (tmp_path / "_manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(OutputError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_no_manifest_means_not_finished(tmp_path):
    with pytest.raises(OutputError, match="not finished"):
        read_manifest(tmp_path)
    with pytest.raises(OutputError, match="no such directory"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("null", [(), (0,), (1, 3), (0, 1, 2, 3, 4, 5, 6, 7, 8)])
def test_columns_by_their_buffers_are_arrows_own(null):
    lists = [[], [3], [1, 2], [], [5, 6, 7], [8], [9], [10, 11], [12]]
    absent = np.isin(np.arange(len(lists)), null)
    given = [None if gone else items for gone, items in zip(absent, lists, strict=True)]
    kept = [item for items in given if items is not None for item in items]
    offsets = np.cumsum([0, *(len(items or []) for items in given)])
    field = pa.field("it", pa.list_(pa.field("element", pa.int32(), nullable=False)))
    made = ragged_column(field, offsets, np.array(kept, np.int32), absent if null else None)
    assert made.to_pylist() == given and made.null_count == len(null)
    for part in (made, made.slice(2, 5), pa.chunked_array([made.slice(0, 4), made.slice(4)]), made.slice(3, 0)):
        rows = part.to_pylist()
        assert present(part).tolist() == [row is not None for row in rows]
        assert list_lengths(part).tolist() == [len(row or []) for row in rows]
        assert flat(part).tolist() == [item for row in rows for item in row or []]
        assert flat(part).dtype == np.int32 and list_lengths(part).dtype == np.int32


def test_a_column_of_another_dtype_is_refused():
    with pytest.raises(ValueError, match="it: int64 values in a column of int32"):
        column(pa.field("it", pa.int32()), np.zeros(3, np.int64))
