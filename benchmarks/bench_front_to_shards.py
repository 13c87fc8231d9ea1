"""Text to finished shards: tokens a second as a user sees them, and memory on a long corpus.

    python benchmarks/bench_front_to_shards.py [--corpus FILE.txt] [--model DIR] [--repeats 3] [--out FILE]
                                               [--lines 1000000] [--shards 8]

The speed is of the whole command ``fastmask score FILE --method random -q``, with and without its start-up. With
``--lines`` a text of so many lines is made, and the memory beyond model and libraries is measured while it is masked at
random to its end and while its first ``--shards`` shards are scored.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import harness

from fastmask.core.config import ScoreConfig
from fastmask.pipeline import score_corpus
from fastmask.report.progress import Meter
from fastmask.shards.schema import read_manifest

CORPUS = harness.SHARED / "data/yelp/corpus.txt"
MODEL = harness.ROOT / "tests/data/mr-tiny"
FLOOR, AIM = 300_000, 500_000  # tokens a second
MEMORY_FLOOR, MEMORY_AIM = 500, 250  # MB
WARM_LINES = 200


def command(corpus: Path, model: Path, threads: int, folder: Path) -> dict:
    """One run of the command: seconds from start to exit, tokens, and the peak memory of its process (MB)."""
    folder.mkdir(exist_ok=True)
    out = Path(tempfile.mkdtemp(dir=folder), "out")  # where nothing is complete yet
    line = [sys.executable, "-m", "fastmask", "score", corpus, "-o", out, "--model", model, "--method", "random",
            "--threads", threads, "-q"]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in line])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the command failed: {' '.join(process.args)}")
    tokens = read_manifest(str(out))["totals"]["tokens"]
    return {"seconds": seconds, "tokens": tokens, "peak_mb": usage.ru_maxrss / 1024}


def speed(corpus: Path, model: Path, threads: int, repeats: int, folder: Path) -> dict:
    """Runs on the corpus and on one line of it in turns; the one line's seconds are the start-up."""
    short = folder / "short.txt"
    write_lines(short, varied(corpus, 1))
    arms = {"corpus": partial(command, corpus, model, threads, folder / "whole"),
            "one line": partial(command, short, model, threads, folder / "short")}  # fmt: skip
    runs = harness.interleaved(arms, dict.fromkeys(arms, repeats))
    whole, start_up = (harness.spread(run["seconds"] for run in runs[name]) for name in arms)
    tokens = runs["corpus"][0]["tokens"]
    return {
        "tokens": tokens, "seconds": whole, "start_up_seconds": start_up,
        "tokens_per_second": tokens / whole["median"],
        "tokens_per_second_without_start_up": tokens / (whole["median"] - start_up["median"]),
        "peak_mb": max(run["peak_mb"] for run in runs["corpus"]),
        "peak_mb_one_line": max(run["peak_mb"] for run in runs["one line"]),
    }  # fmt: skip


def varied(corpus: Path, lines: int) -> Iterable[str]:
    """So many lines, the corpus over and over; from the second time on each ends in words of its own."""
    texts = corpus.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(islice(cycle(texts), lines)):
        yield text if number < len(texts) else f"{text} visit {number // len(texts)} at table {number % 997}"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A text file."""
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)


class Enough(Exception):
    """Raised when as many shards were scored as were wanted."""


class StopAfter(Meter):
    """A meter that ends a run after ``shards`` shards (0: never) and counts their rows."""

    def __init__(self, shards: int):
        super().__init__()
        self.shards, self.begun, self.rows = shards, 0, 0

    def shard(self, first_row: int, end_row: int) -> None:
        """See ``Meter.shard``."""
        if self.shards and self.begun == self.shards:
            raise Enough
        self.begun, self.rows = self.begun + 1, self.rows + end_row - first_row


def memory(corpus: Path, config: ScoreConfig, shards: int, folder: Path) -> dict:
    """Peak memory of ``score_corpus`` beyond what a run on a few lines leaves loaded; in a process of its own."""
    short = folder / f"short-{config.method}.txt"
    write_lines(short, varied(corpus, WARM_LINES))
    score_corpus([str(short)], str(folder / f"warm-{config.method}"), config)
    meter = StopAfter(shards)

    def score() -> None:
        try:
            score_corpus([str(corpus)], str(folder / f"out-{config.method}"), config, meter=meter)
        except Enough:
            return

    _, cost = harness.measured(score)
    beyond = cost["peak_mb"] - cost["loaded_mb"]
    return cost | {"method": config.method, "shards": meter.begun, "rows": meter.rows, "beyond_loaded_mb": beyond}


def memories(options, threads: int, folder: Path) -> list[dict]:
    """Memory of the random control on all lines, and of the greedy engine on the first shards."""
    text = folder / "long.txt"
    write_lines(text, varied(options.corpus, options.lines))
    rows = []
    for method, shards in (("random", 0), ("greedy", options.shards)):
        config = ScoreConfig(model=str(options.model), method=method, threads=threads)
        rows.append(harness.isolated(memory, text, config, shards, folder))
    return rows


def show(report: dict) -> None:
    """The report as tables."""
    if fast := report.get("speed"):
        columns = ("tokens", "runs", "seconds", "start-up s", "tokens/s", "tokens/s without start-up", "peak MB")
        row = (fast["tokens"], fast["seconds"]["runs"], fast["seconds"]["median"], fast["start_up_seconds"]["median"],
               fast["tokens_per_second"], fast["tokens_per_second_without_start_up"], fast["peak_mb"])  # fmt: skip
        caption = f"medians; floor {FLOOR:,}, aim {AIM:,} tokens/s"
        harness.print_table(f"fastmask score --method random, {report['corpus']}", columns, [row], caption)
    if report.get("memory"):
        columns = ("method", "shards", "rows", "seconds", "loaded MB", "peak MB", "beyond MB")
        keys = ("method", "shards", "rows", "seconds", "loaded_mb", "peak_mb", "beyond_loaded_mb")
        rows = [[one[key] for key in keys] for one in report["memory"]]
        caption = f"loaded: after a run on {WARM_LINES} lines; beyond: floor {MEMORY_FLOOR}, aim {MEMORY_AIM} MB"
        harness.print_table(f"memory on {report['lines']:,} lines", columns, rows, caption)


def options_of(arguments: list[str] | None = None):
    """The command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--repeats", type=int, default=3, help="of the speed's runs; 0 measures memory only")
    parser.add_argument("--lines", type=int, default=0, help="length of the memory's text; 0 measures speed only")
    parser.add_argument("--shards", type=int, default=8, help="scored for the memory of greedy")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show, write."""
    options = options_of(arguments)
    threads = harness.cores(options.threads)
    report = {"benchmark": "front_to_shards", "machine": harness.machine(threads), "corpus": options.corpus.name,
              "model": options.model.name, "lines": options.lines}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("whole", "short"):
            (folder / part).mkdir()
        if options.repeats:
            report["speed"] = speed(options.corpus, options.model, threads, options.repeats, folder)
        if options.lines:
            report["memory"] = memories(options, threads, folder)
    show(report)
    harness.write_json(options.out, report)


if __name__ == "__main__":
    main()
