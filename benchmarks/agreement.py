"""How far the methods agree on MR's test sentences: overlap of masks and rank correlation of importances, every pair.

    python benchmarks/agreement.py --work DIR [--data ../shared/data] [--model ../shared/models/mr-minilm] [--out FILE]

The sentences are taken without their labels, so that all are scored, and all methods mask at most 15 % of one. The
masker learns from the masks of ``greedy`` on MR's dev sentences; the masked-language model that ``entropy`` asks is the
classifier's encoder with a new head, trained for 150 small steps on MR's training sentences. Each step is a command,
and DIR can be resumed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import harness

LIMIT = ("--mask-rate", "0.15")
METHODS = ("greedy", "prefix", "leave-one-out", "masker", "gradient", "entropy", "log-odds", "word-list", "difference",
           "random")  # fmt: skip


def commands(work: Path, data: Path, model: str, stop_words: str) -> Iterator[list[str]]:
    """Yield the commands in order, without ``fastmask``."""
    train, mlm, masker = data / "mr/train.jsonl", str(work / "mlm"), str(work / "masker-model")

    def score(name: str, text: Path, model: str, *more: str) -> list[str]:
        return ["score", str(text), "-o", str(work / name), "--model", model, "-q", "--segment", "line",
                "--stop-words", stop_words, *more]  # fmt: skip

    yield score("dev-greedy", work / "dev.txt", model)
    yield ["train-masker", str(work / "dev-greedy"), "-o", masker, "--init", model, "--epochs", "3", "--lr", "5e-5"]
    yield score("train-random", train, model, "--method", "random")
    yield ["pretrain", str(work / "train-random"), "-o", mlm, "--init", model, "--sample", "--max-steps", "150", "--lr",
           "5e-4", "--batch-size", "32"]  # fmt: skip
    models = {"masker": masker, "entropy": mlm}
    more = {"log-odds": ["--labelled", str(train)], "word-list": ["--words", "sentiment"],
            "difference": ["--background", str(data / "general/news.txt")]}  # fmt: skip
    for method in METHODS:
        own = more.get(method, [])
        yield score(method, work / "test.txt", models.get(method, model), "--method", method, *LIMIT, *own)


def write_texts(data: Path, work: Path) -> None:
    """Write MR's dev and test sentences without their labels."""
    for name in ("dev", "test"):
        with (data / "mr" / f"{name}.jsonl").open(encoding="utf-8") as lines:
            texts = (" ".join(json.loads(line)["text"].split()) for line in lines)
            (work / f"{name}.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")


def run(command: list[str], work: Path) -> None:
    """Run a command, unless it is a trainer's whose model is there."""
    if command[0].startswith("train-") and (work / "masker-model" / "metrics.json").exists():
        return
    print("fastmask", *command, flush=True)
    subprocess.run([sys.executable, "-m", "fastmask", *command], check=True)


def agreements(work: Path) -> dict[str, dict]:
    """Return what ``fastmask inspect A --compare B`` tells, for every pair."""
    from fastmask.scoring.agreement import compare_shards

    found = {}
    for one, other in combinations(METHODS, 2):
        both = asdict(compare_shards(str(work / one), str(work / other)))
        found[f"{one} {other}"] = {name: value for name, value in both.items() if name != "only"}
    return found


def table(pairs: Mapping[str, dict]) -> str:
    """Return a Markdown table: above the diagonal Jaccard's overlap of all masks, below it the rank correlation."""
    lines = ["| | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 1) + "|"]
    for row, one in enumerate(METHODS):
        cells = [one]
        for column, other in enumerate(METHODS):
            pair = pairs.get(f"{one} {other}" if row < column else f"{other} {one}", {})
            value = pair.get("jaccard" if row < column else "rank_correlation")
            cells.append("" if row == column else "-" if value is None else f"{value:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run, compare, show, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=harness.SHARED / "data")
    parser.add_argument("--model", default=str(harness.SHARED / "models/mr-minilm"))
    parser.add_argument("--stop-words", default="language", help="as of score")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    asked.work.mkdir(parents=True, exist_ok=True)
    write_texts(asked.data, asked.work)
    for command in commands(asked.work, asked.data, asked.model, asked.stop_words):
        run(command, asked.work)
    pairs = agreements(asked.work)
    masked = {name: json.loads((asked.work / name / "_manifest.json").read_text())["totals"] for name in METHODS}
    print(table(pairs))
    report = {"benchmark": "agreement", "totals": masked, "pairs": pairs, "machine": harness.machine(0)}
    harness.write_json(asked.out, report)


if __name__ == "__main__":
    main()
