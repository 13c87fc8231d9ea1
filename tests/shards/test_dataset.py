"""Reading finished shards with our reader; ``test_read_anywhere`` has other people's."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_samples import contents, open_run, sample, write_run

from fastmask.core.errors import OutputError
from fastmask.shards.reader import BATCH_ROWS, CACHED_GROUPS, ShardSet, open_shards
from fastmask.shards.schema import shard_name
from fastmask.shards.table import arrow_schema, to_table

SHARDS = 3


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("shards") / "out", SHARDS)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return pa.concat_tables([to_table(sample(index)) for index in range(SHARDS)]).to_pylist()


@pytest.fixture
def copy(out, tmp_path) -> Path:
    for name, data in contents(out).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_rows_in_corpus_order(out, rows):
    shards = open_shards(out, check_hashes=True)
    assert len(shards) == len(rows) and list(shards) == rows
    assert shards.manifest["totals"]["shards"] == SHARDS


def test_tables(out, rows):
    shards = open_shards(out)
    assert shards.to_table().to_pylist() == rows
    assert shards.to_table().schema.equals(arrow_schema())
    assert [table.column_names for table in shards.tables(["row", "prob"])] == [["row", "prob"]] * SHARDS
    assert shards.to_table(["mask_index"]).column("mask_index").to_pylist() == [r["mask_index"] for r in rows]


def test_batches_are_bounded(tmp_path):
    with open_run(tmp_path) as run:
        run.write_shard(0, sample(0, rows=3 * BATCH_ROWS, mean_tokens=2))
        run.finish({"certificate": {}, "environment": {}})
    assert [batch.num_rows for batch in open_shards(tmp_path).batches()] == [BATCH_ROWS] * 3


def test_mask_counts(out, rows):
    shards = open_shards(out)
    counts = [shards.mask_counts(index) for index in range(shards.manifest["totals"]["shards"])]
    found = [entry for arrays in counts for entry in zip(*arrays, strict=True)]
    assert found == [(r["row"], r["sentence"], len(r["input_ids"]), len(r["mask_index"])) for r in rows]
    assert [array.dtype.name for array in counts[0]] == ["int64", "int32", "int32", "int32"]


def test_an_empty_corpus(tmp_path):
    shards = open_shards(write_run(tmp_path, 0))
    assert len(shards) == 0 and list(shards) == []
    assert shards.to_table().schema.equals(arrow_schema())


def test_unfinished_or_of_another_format(copy):
    path = copy / "_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 9}))
    with pytest.raises(OutputError, match="format version 9"):
        open_shards(copy)
    path.unlink()
    with pytest.raises(OutputError, match="not finished"):
        open_shards(copy)


def test_missing_and_short_shards_are_named_at_once(copy):
    path = copy / shard_name(1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OutputError, match=r"shard-00001.*bytes instead of"):
        open_shards(copy)
    path.unlink()
    with pytest.raises(OutputError, match=r"shard-00001.*missing"):
        open_shards(copy)


@pytest.mark.parametrize("place", [40, -30])
def test_a_flipped_byte_is_named(copy, place):
    path = copy / shard_name(2)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(OutputError, match=r"shard-00002.*SHA-256"):
        open_shards(copy, check_hashes=True)


def test_damaged_pages_are_found_while_reading(copy):
    path = copy / shard_name(2)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    data[column.data_page_offset + column.total_compressed_size - 10] ^= 1
    path.write_bytes(data)
    with pytest.raises(OutputError, match="shard-00002"):
        list(open_shards(copy))


def test_another_file_of_the_same_size_is_not_taken(copy):
    path, entries = copy / "_manifest.json", json.loads((copy / "_manifest.json").read_text())
    table = pa.table({"row": [1, 2]})
    pq.write_table(table, copy / shard_name(1))
    change = (copy / shard_name(1)).stat().st_size - entries["shards"][1]["bytes"]
    entries["shards"][1]["bytes"] += change
    entries["totals"]["bytes"] += change
    path.write_text(json.dumps(entries))
    with pytest.raises(OutputError, match=r"shard-00001.*columns"):
        open_shards(copy).to_table()


def test_rows_by_number(out, rows):
    shards = open_shards(out)
    for index in [0, 59, 20, 19, 40, -1, -60, 7]:
        assert shards[index] == rows[index]
    for index in (60, -61):
        with pytest.raises(IndexError, match=f"row {index} of 60"):
            shards[index]
    assert pickle.loads(pickle.dumps(shards))[33] == rows[33]


def test_row_groups_are_crossed_and_the_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("fastmask.shards.table.ROW_GROUP", 7)
    monkeypatch.setattr("fastmask.shards.reader.ROW_GROUP", 7)
    shards = open_shards(write_run(tmp_path, SHARDS))
    rows = list(shards)
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    assert [shards[index] for index in order] == [rows[index] for index in order]
    assert len(shards._groups) == CACHED_GROUPS
    assert sum(table.num_rows for table in shards._groups.values()) <= CACHED_GROUPS * 7
    for start, stop in [(0, 20), (0, 7), (6, 8), (5, 15), (13, 14), (19, 20), (5, 5)]:
        assert shards.read_rows(1, start, stop).to_pylist() == rows[20 + start : 20 + stop]
    assert shards.read_rows(2, 3, 16, ["prob", "row"]).column_names == ["prob", "row"]


def test_nearby_rows_are_read_once(out, monkeypatch):
    shards, read = open_shards(out), []
    monkeypatch.setattr(shards, "read_rows", lambda *where: read.append(where) or ShardSet.read_rows(shards, *where))
    for index in [*range(20), *range(40, 60), *range(20)]:
        shards[index]
    assert read == [(0, 0, 20), (2, 0, 20)]


def test_damage_is_found_by_number(copy):
    path = copy / shard_name(2)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    data[column.data_page_offset + column.total_compressed_size - 10] ^= 1
    path.write_bytes(data)
    shards = open_shards(copy)
    assert shards[39]["row"] == 39
    with pytest.raises(OutputError, match="shard-00002"):
        shards[40]
    path.unlink()
    with pytest.raises(OutputError, match="shard-00002"):
        shards[41]
