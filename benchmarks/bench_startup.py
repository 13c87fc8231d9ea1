"""How long two lines take, start-up and all, against importing torch and loading the tokenizer.

Whole processes, the arms in turns, each ratio taken within a turn: its median is what counts. Floor 2.0, aim 1.4.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import harness

MODEL = harness.SHARED / "models/mr-minilm"
LINES = ("The food is good and the staff is friendly .", "I will not come back to this place .")
SPLIT = ("The food is good. The staff is friendly.", "I waited for an hour. I will not come back.")
IMPORTS = "import torch; from transformers import AutoTokenizer; AutoTokenizer.from_pretrained({!r})"
YARDSTICK = "imports"


def commands(model: str, work: Path) -> dict[str, list[str]]:
    """Return each arm's command."""
    fastmask = [sys.executable, "-m", "fastmask"]
    made = {YARDSTICK: [sys.executable, "-c", IMPORTS.format(model)]}
    for name, lines in {"score": LINES, "score, with sentences to split": SPLIT}.items():
        path = work / f"{len(made)}.txt"
        path.write_text("\n".join(lines) + "\n")
        made[name] = [*fastmask, "score", str(path), "-o", str(work / f"{len(made)}.masks"), "-q", "--model", model]
    return made | {"explain": [*fastmask, "explain", LINES[0], "--model", model]}


def run(command: list[str], work: Path) -> dict:
    """Return the wall and the CPU seconds of a command that finds no shards of an earlier turn."""
    for file in work.glob("*.masks/*"):
        file.unlink()
    path = os.pathsep.join([str(harness.ROOT), str(harness.ROOT / "kernels")])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": path})
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def ratio(runs: dict[str, list[dict]], name: str, field: str) -> float:
    """Return the median over turns of an arm's seconds divided by the yardstick's."""
    pairs = zip(runs[name], runs[YARDSTICK], strict=True)
    return statistics.median(ours[field] / theirs[field] for ours, theirs in pairs)


def main() -> None:
    """Measure, print, and write the report."""
    parser = harness.parser(__doc__)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--turns", type=int, default=7)
    asked = parser.parse_args()
    machine = harness.machine(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        arms = {name: partial(run, command, work) for name, command in commands(asked.model, work).items()}
        for arm in arms.values():  # files into memory, kernels compiled
            arm()
        runs = harness.interleaved(arms, dict.fromkeys(arms, asked.turns))
    ratios = {name: {field: ratio(runs, name, field) for field in ("seconds", "cpu")} for name in runs}
    rows = [
        (name, statistics.median(one["seconds"] for one in runs[name]), found["seconds"], found["cpu"])
        for name, found in ratios.items()
    ]
    harness.print_table("start-up", ("command", "seconds", "ratio", "ratio, CPU seconds"), rows)
    harness.write_json(asked.out, {"machine": machine, "runs": runs, "ratios": ratios})


if __name__ == "__main__":
    main()
