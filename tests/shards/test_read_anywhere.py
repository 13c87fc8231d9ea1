"""A shard directory as other people's readers read it, and in the workers of a DataLoader: the same rows."""

import re
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from shard_samples import sample, write_run

from fastmask.shards.reader import open_shards
from fastmask.shards.table import to_table

SHARDS = 3


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("shards") / "masks", SHARDS)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return pa.concat_tables([to_table(sample(index)) for index in range(SHARDS)]).to_pylist()


def snippet(module: str, name: str):
    """What a name is after the block of docs/read.md that imports a module; ``masks`` is where one is."""
    page = (Path(__file__).parents[2] / "docs/read.md").read_text("utf-8")
    (block,) = [one for one in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if module in one]
    names: dict = {}
    exec(compile(block, "<page>", "exec"), names)
    return names[name]


def in_order(found) -> list[dict]:
    return sorted(found, key=lambda row: (row["row"], row["sentence"]))


def test_pyarrow_and_pandas(out, rows):
    import pandas
    import pyarrow.dataset

    assert pyarrow.dataset.dataset(out).to_table().to_pylist() == rows
    frame = pandas.read_parquet(out)
    assert frame["input_ids"].map(list).tolist() == [row["input_ids"] for row in rows]
    assert frame["importance"].isna().tolist() == [row["importance"] is None for row in rows]


def test_datasets(out, rows, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    load = partial(datasets.load_dataset, "parquet", data_files=str(out / "*.parquet"), split="train")
    assert load(cache_dir=str(tmp_path)).to_list() == rows
    assert list(load(streaming=True)) == rows


def test_duckdb(out, rows):
    import duckdb

    counts = "count(*), sum(len(input_ids)), sum(len(mask_index)), count(importance)"
    with duckdb.connect() as connection:
        found = connection.execute(f"select {counts} from read_parquet(?)", [str(out / "*.parquet")]).fetchone()
    tokens, masks = (sum(len(row[name]) for row in rows) for name in ("input_ids", "mask_index"))
    assert found == (len(rows), tokens, masks, sum(row["importance"] is not None for row in rows))


def test_polars(out, rows):
    import polars

    assert polars.scan_parquet(out / "*.parquet").collect().to_dicts() == rows


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(out, rows, workers):
    loader = torch.utils.data.DataLoader(open_shards(out), batch_size=7, num_workers=workers, collate_fn=list)
    assert [row for batch in loader for row in batch] == rows


def test_ray_data(out, rows, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.chdir(out.parent)
    was_there = ray.is_initialized()
    try:
        if not was_there:
            ray.init("local", num_cpus=1, include_dashboard=False, logging_level="error", log_to_driver=False)
        assert in_order(snippet("import ray", "blocks").take_all()) == rows
    finally:
        if not was_there:
            ray.shutdown()


def test_spark(out, rows, monkeypatch):
    pytest.importorskip("pyspark", reason="pyspark (450 MB, and a JVM) is in no extra")
    monkeypatch.chdir(out.parent)
    table = snippet("from pyspark.sql", "table")
    try:
        assert in_order(row.asDict() for row in table.collect()) == rows
    finally:
        table.sparkSession.stop()
