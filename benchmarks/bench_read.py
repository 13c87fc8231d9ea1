"""How long other people's readers take over a shard directory, with their import apart, against pyarrow alone.

Each in a process of its own; a reader that is not installed is left out. All must count the same rows and masks.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

TEXTS = harness.SHARED / "data/yelp/corpus.txt"
READERS = {
    "pyarrow": ("import pyarrow.dataset as d", """
t = d.dataset(P, format="parquet").to_table()
n, m = len(t), len(t["mask_index"].combine_chunks().flatten())"""),
    "pandas": ("import pandas", """
f = pandas.read_parquet(P)
n, m = len(f), int(f.mask_index.map(len).sum())"""),
    "DuckDB": ("import duckdb", """
n, m = duckdb.sql(f"select count(*), sum(len(mask_index)) from '{P}/*.parquet'").fetchall()[0]"""),
    "Polars": ("import polars as p", """
f = p.scan_parquet(f"{P}/*.parquet").select(p.len(), p.col("mask_index").list.len().sum())
n, m = f.collect().row(0)"""),
    "datasets, streaming": ("import datasets", """
r = datasets.load_dataset("parquet", data_files=f"{P}/*.parquet", split="train", streaming=True)
c = [len(one["mask_index"]) for one in r]
n, m = len(c), sum(c)"""),
    "DataLoader, 2 workers": ("import fastmask; from torch.utils.data import DataLoader", """
l = DataLoader(fastmask.open_shards(P), 256, num_workers=2, collate_fn=list)
c = [len(one["mask_index"]) for b in l for one in b]
n, m = len(c), sum(c)"""),
    "Ray Data": ("""import ray
ray.init("local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)""", """
c = [len(x) for b in ray.data.read_parquet(P).iter_batches() for x in b["mask_index"]]
n, m = len(c), sum(c)"""),
    "Spark, 2 threads": ("""from pyspark.sql import SparkSession, functions as F
s = SparkSession.builder.master("local[2]").config("spark.ui.enabled", False).getOrCreate()""", """
n, m = s.read.parquet(P).select(F.count("*"), F.sum(F.size("mask_index"))).collect()[0]"""),
}  # fmt: skip
"""Reader -> what it imports and starts, and how it counts rows and masks."""
TIMED = "import json, sys, time\nP, a = sys.argv[1], time.perf_counter()\n{}\nb = time.perf_counter()\n{}\n" \
        "print(json.dumps([n, m, b - a, time.perf_counter() - b]))"  # fmt: skip


def run(name: str, masks: Path) -> list | None:
    """Return rows, masks, seconds of the import and of reading; None where the reader is not installed."""
    path = os.pathsep.join([str(harness.ROOT), str(harness.ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-c", TIMED.format(*READERS[name]), str(masks)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        return None
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, and write the report."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus, masks = Path(folder) / "c.txt", Path(folder) / "masks"
        with TEXTS.open() as file:
            corpus.write_text("".join(line for line, _ in zip(file, range(asked.rows), strict=False)))
        command = [
            "-m",
            "fastmask",
            "score",
            str(corpus),
            "-o",
            str(masks),
            "-q",
            "--method",
            "random",
            "--segment",
            "line",
        ]
        subprocess.run([sys.executable, *command], check=True)
        runs = {name: [found for _ in range(asked.turns) if (found := run(name, masks))] for name in READERS}
    counts = {tuple(one[:2]) for each in runs.values() for one in each}
    assert len(counts) == 1, counts
    best = {name: [statistics.median(one[k] for one in each) for k in (2, 3)] for name, each in runs.items() if each}
    rows = [(name, start, reading, reading / best["pyarrow"][1]) for name, (start, reading) in best.items()]
    harness.print_table(f"{asked.rows:,} rows", ("reader", "start, s", "reading, s", "of pyarrow's"), rows)
    harness.write_json(asked.out, {"machine": harness.machine(asked.threads), "runs": runs, "rows": asked.rows})


if __name__ == "__main__":
    main()
