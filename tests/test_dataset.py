"""Reading finished shards: with our reader, and as they are with other people's."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_samples import contents, open_run, sample, write_run

from fastmask.dataset import BATCH_ROWS, open_shards
from fastmask.errors import OutputError
from fastmask.schema import arrow_schema, shard_name, to_table

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
    found = [entry for arrays in open_shards(out).mask_counts() for entry in zip(*arrays, strict=True)]
    assert found == [(r["row"], r["sentence"], len(r["input_ids"]), len(r["mask_index"])) for r in rows]
    first = next(open_shards(out).mask_counts())
    assert [array.dtype.name for array in first] == ["int64", "int32", "int32", "int32"]


def test_an_empty_corpus(tmp_path):
    shards = open_shards(write_run(tmp_path, 0))
    assert len(shards) == 0 and list(shards) == [] and list(shards.mask_counts()) == []
    assert shards.to_table().schema.equals(arrow_schema())


def test_unfinished_or_of_another_format(copy):
    path = copy / "manifest.json"
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
    path, entries = copy / "manifest.json", json.loads((copy / "manifest.json").read_text())
    table = pa.table({"row": [1, 2]})
    pq.write_table(table, copy / shard_name(1))
    change = (copy / shard_name(1)).stat().st_size - entries["shards"][1]["bytes"]
    entries["shards"][1]["bytes"] += change
    entries["totals"]["bytes"] += change
    path.write_text(json.dumps(entries))
    with pytest.raises(OutputError, match=r"shard-00001.*columns"):
        open_shards(copy).to_table()


def test_pyarrow_and_pandas_read_it_as_it_is(out, rows):
    import pandas as pd
    import pyarrow.dataset

    files = [str(path) for path in sorted(out.glob("shard-*.parquet"))]
    assert pyarrow.dataset.dataset(files).to_table().to_pylist() == rows
    frame = pd.read_parquet(files[0])
    assert frame["input_ids"][1].tolist() == rows[1]["input_ids"]
    assert frame["importance"].isna().tolist() == [row["importance"] is None for row in rows[: len(frame)]]


def test_hugging_face_datasets_reads_it_as_it_is(out, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted(out.glob("shard-*.parquet"))]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert loaded.to_list() == rows


def test_duckdb_reads_it_as_it_is(out, rows):
    duckdb = pytest.importorskip("duckdb")
    counts = "count(*), sum(len(input_ids)), sum(len(mask_index)), count(importance)"
    with duckdb.connect() as connection:
        found = connection.execute(f"select {counts} from read_parquet(?)", [str(out / "shard-*.parquet")]).fetchone()
    assert found == (
        len(rows),
        sum(len(row["input_ids"]) for row in rows),
        sum(len(row["mask_index"]) for row in rows),
        sum(row["importance"] is not None for row in rows),
    )
