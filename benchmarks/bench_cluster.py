"""Several workers against one process, the time of a plan, and a simulation of 1,000 workers from measured parts.

    python benchmarks/bench_cluster.py [--corpus FILE] [--model DIR] [--sentences 1200] [--repeats 2] [--out FILE]

Arms are timed from planned inputs to the last shard, without the start of Ray and the loading of models, which is told
apart. The simulation draws shards' times with the spread that was measured; the driver writes one shard at a time.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import json
import math
import random
import statistics
import tempfile
import time
from contextlib import contextmanager
from itertools import islice, pairwise, product
from pathlib import Path

import harness

CORPUS = harness.SHARED / "data/mr/train.jsonl"
MODEL = harness.SHARED / "models/mr-minilm"
SHARD_ROWS = 100
WORKERS, BYTES = 1000, 10**13
ROWS_OF_A_SHARD = (1024, 8192, 65_536, 262_144)
RESULTS = Path(__file__).parent / "results"


def arm(corpus: str, model: str, out: str, workers: int) -> dict:
    """Score a corpus, in this process for no workers, and take the time of its stages."""
    from fastmask.core.config import ScoreConfig
    from fastmask.core.config_engine import EngineConfig
    from fastmask.pipeline import score_corpus
    from fastmask.report.progress import Meter

    class Clock(Meter):
        @contextmanager
        def running(self, total, done):
            self.begun = time.perf_counter()
            with super().running(total, done):
                yield
            self.ended = time.perf_counter()

    engine = EngineConfig(engine="ray", workers=workers) if workers else EngineConfig()
    clock, start = Clock(), time.perf_counter()
    manifest = score_corpus([corpus], out, ScoreConfig(model=model, shard_rows=SHARD_ROWS), meter=clock, engine=engine)
    shards = [entry["sha256"] for entry in manifest["shards"]]
    return {"seconds": clock.ended - clock.begun, "start": clock.begun - start, "shards": shards}


def arms(options, folder: Path) -> dict:
    """Workers against one process, in turns."""
    text = folder / "text.jsonl"
    with options.corpus.open(encoding="utf-8") as lines:
        text.write_text("".join(islice(lines, options.sentences)), encoding="utf-8")
    names = {"local": 0, "1 worker": 1, "2 workers": 2}

    def timed(workers: int):
        with tempfile.TemporaryDirectory(dir=folder) as out:
            return harness.isolated(arm, str(text), str(options.model), f"{out}/out", workers)

    calls = {name: (lambda number=number: timed(number)) for name, number in names.items()}
    runs = harness.interleaved(calls, dict.fromkeys(names, options.repeats))
    same = {tuple(one["shards"]) for run in runs.values() for one in run}
    found = {name: {**harness.spread(one["seconds"] for one in run),
                    "start_seconds": min(one["start"] for one in run)} for name, run in runs.items()}  # fmt: skip
    for one in found.values():
        one["over_local"] = one["best"] / found["local"]["best"]
    return {"sentences": options.sentences, "same_bytes": len(same) == 1, "runs": found}


def plan_arm(folder: str, megabytes: int) -> dict:
    """Seconds a gigabyte of a plan, and of the hash alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fastmask.text.documents import reading_of
    from fastmask.text.hashed import HashedInputs
    from fastmask.text.places import Places

    draw = random.Random(0)
    words = [f"word{number}" for number in range(3000)]
    texts = [" ".join(draw.choices(words, k=draw.randrange(4, 30))) for _ in range(5_000)]
    found = {}
    for name in ("txt", "jsonl", "csv", "txt.gz", "parquet"):
        path = Path(folder) / f"text.{name}"
        if name == "parquet":
            with pq.ParquetWriter(path, pa.schema({"text": pa.string()})) as writer:
                while path.stat().st_size < megabytes * 10**6:
                    writer.write_table(pa.table({"text": texts}))
        else:
            opener = gzip.open if name.endswith("gz") else open
            with opener(path, "wt", encoding="utf-8", newline="") as file:
                _write(name, texts, file, path, megabytes * 10**6)
        size = path.stat().st_size / 1e9
        hashed = harness.measured(lambda path=path: HashedInputs([str(path)]))[1]["seconds"]
        places = Places(reading_of("text", "label", "utf-8", 64), 8192)
        inputs, cost = harness.measured(lambda path=path, places=places: HashedInputs([str(path)], places))
        found[name] = {
            "gigabytes": size, "rows": inputs.rows, "hash_seconds_per_gb": hashed / size,
            "plan_seconds_per_gb": cost["seconds"] / size,
        }  # fmt: skip
    return found


def _write(name: str, texts: list[str], file, path: Path, most: int) -> None:
    if name == "csv":
        csv.writer(file).writerow(["text"])
    while path.stat().st_size < most:
        if name == "csv":
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([text] for text in texts)
        elif name == "jsonl":
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        else:
            file.writelines(text + "\n" for text in texts)
        file.flush()


def parts_arm(corpus: str, model: str, folder: str, rows: int) -> dict:
    """What a shard costs the driver and a worker besides scoring, and how much shards' times differ."""
    from fastmask.core.config import ScoreConfig
    from fastmask.pipeline import score_corpus
    from fastmask.shards.encoded import EncodedShard
    from fastmask.shards.writer import RunDirectory

    encoding, made, ended, real = [], [], [], RunDirectory.write_shard

    def write(self, index, scored):
        begun = time.perf_counter()
        made.append(EncodedShard.of(index, scored))
        encoding.append(time.perf_counter() - begun)
        entry = real(self, index, made[-1])
        ended.append(time.perf_counter())
        return entry

    RunDirectory.write_shard = write  # a process of its own
    found = []
    for size in (max(1, rows // 8), rows):
        for times in (encoding, made):
            times.clear()
        score_corpus([corpus], f"{folder}/random-{size}", ScoreConfig(model=model, method="random", shard_rows=size))
        found.append((statistics.median(len(one.data) for one in made[:-1] or made), written(made, folder)))
    (small, quick), (large, slow) = found
    a_byte = max(0.0, (slow - quick) / (large - small))
    driver = {"rows": rows, "bytes": large, "encode_seconds": statistics.median(encoding), "write_seconds": slow}
    driver |= {"write_seconds_a_byte": a_byte, "write_seconds_at_least": max(quick - a_byte * small, 0.0)}
    ended.clear()
    short = Path(folder, "short.jsonl")
    with open(corpus, encoding="utf-8") as lines:
        short.write_text("".join(islice(lines, 640)), encoding="utf-8")
    score_corpus([str(short)], f"{folder}/greedy", ScoreConfig(model=model, shard_rows=32))
    times = [after - before for before, after in pairwise(ended)]
    # of 32 rows; a shard of n times as many varies by the root of n less
    return driver | {"spread_of_32_rows": statistics.pstdev(times) / statistics.mean(times)}


def written(shards: list, folder: str) -> float:
    """Seconds to write and journal one of some shards, as a driver that does nothing else does: the median."""
    from fastmask.core.durable import append, write_atomically
    from fastmask.shards.journal import journal_line

    journal, seconds = Path(folder, "journal"), []
    journal.touch()
    for shard in shards:
        begun = time.perf_counter()
        write_atomically(Path(folder, shard.entry["file"]), shard.data)
        append(journal, journal_line(shard.entry), shard.entry["index"])
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def simulate(seconds: float, spread: float, driver: float, workers: int, shards: int) -> dict:
    """Workers make shards of so many seconds on average, two asked for at a time; the driver takes so long for each."""
    draw = random.Random(0)
    sigma = math.sqrt(math.log1p(spread**2))

    def next_time() -> float:
        return draw.lognormvariate(math.log(seconds) - sigma**2 / 2, sigma)

    # (when a shard is made, its worker); the driver answers in order, and a worker is at most one shard ahead of it
    made = [(next_time() * draw.random(), worker) for worker in range(workers)]
    heapq.heapify(made)
    free, busy, answered = 0.0, 0.0, dict.fromkeys(range(workers), 0.0)
    for _ in range(shards):
        at, worker = heapq.heappop(made)
        begin = max(at, answered[worker])  # it went on with the next one at once, unless two were waiting
        free = max(free, at) + driver
        busy += driver
        answered[worker] = free
        heapq.heappush(made, (max(begin, at) + next_time(), worker))
    return {"driver_busy": busy / free, "of_ideal": shards * seconds / workers / free}


def measured_rates() -> dict[str, float]:
    """Greedy sentences a second of workers, as other benchmarks have measured them."""
    gpu, processor = (json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in ("gpu_suite", "score"))
    return {f"{gpu['machine']['gpu']}, BERT-base": gpu["sections"]["bert-base greedy"]["sentences_per_second"],
            "2 cores, MiniLM": processor["arms"]["fastmask"]["sentences_per_second"]}  # fmt: skip


def simulation(parts: dict, bytes_a_row: float, options) -> list[dict]:
    """Shards of several sizes on many workers, at the rate of a GPU or a processor, on this disk or a fast one."""
    rates = measured_rates()
    disks = {"measured": parts["write_seconds_a_byte"], "1 GB/s": 1e-9}
    found = []
    for (name, rate), (disk, a_byte), rows in product(rates.items(), disks.items(), ROWS_OF_A_SHARD):
        size, seconds = parts["bytes"] * rows / parts["rows"], rows / rate
        driver = parts["write_seconds_at_least"] + a_byte * size
        found.append({
            "worker": name, "disk": disk, "rows": rows, "shard_mb": size / 1e6, "seconds_a_shard": seconds,
            "driver_seconds_a_shard": driver, "workers_that_saturate_it": seconds / driver,
            "shards_of_10_tb": BYTES / bytes_a_row / rows,
            "hours_for_10_tb_at_best": BYTES / bytes_a_row / rate / WORKERS / 3600,
            **simulate(seconds, parts["spread_of_32_rows"] / math.sqrt(rows / 32), driver, WORKERS, options.shards),
        })  # fmt: skip
    return found


def show(report: dict) -> None:
    """The report as tables."""
    runs = report["workers"]["runs"]
    columns, keys = ("arm", "seconds", "of local", "start, s"), ("best", "over_local", "start_seconds")
    rows = [[name, *(one[key] for key in keys)] for name, one in runs.items()]
    harness.print_table("Workers against one process", columns, rows)
    columns = ("input", "GB", "hash, s/GB", "plan, s/GB")
    keys = ("gigabytes", "hash_seconds_per_gb", "plan_seconds_per_gb")
    harness.print_table("Plan", columns, [[name, *(one[key] for key in keys)] for name, one in report["plan"].items()])
    keys = ("worker", "disk", "rows", "shard_mb", "seconds_a_shard", "driver_seconds_a_shard",
            "workers_that_saturate_it", "driver_busy", "of_ideal")  # fmt: skip
    rows = [[one[key] for key in keys] for one in report["simulation"]]
    columns = ("worker", "disk", "rows", "MB", "s a shard", "driver s", "saturated by", "driver busy", "of ideal")
    harness.print_table(f"{WORKERS:,} workers, simulated", columns, rows)


def options_of(arguments: list[str] | None = None):
    """The command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--sentences", type=int, default=1200)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=200, help="of each file that is planned")
    parser.add_argument("--rows", type=int, default=2048, help="of the shards that the driver is timed with")
    parser.add_argument("--shards", type=int, default=30_000, help="that are simulated")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show, write."""
    options = options_of(arguments)
    machine = harness.machine(options.threads)
    rows = options.corpus.read_bytes()
    with tempfile.TemporaryDirectory() as name:
        plan = harness.isolated(plan_arm, name, options.megabytes)
        parts = harness.isolated(parts_arm, str(options.corpus), str(options.model), name, options.rows)
        workers = arms(options, Path(name))
    a_row = len(rows) / max(1, rows.count(b"\n"))
    report = {"benchmark": "cluster", "machine": machine, "bytes_a_row": a_row, "workers": workers, "plan": plan,
              "parts": parts, "simulation": simulation(parts, a_row, options)}  # fmt: skip
    show(report)
    harness.write_json(options.out, report)


if __name__ == "__main__":
    main()
