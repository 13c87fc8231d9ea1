"""The commands that ``soak.py`` kills, and the files that they read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import harness

DATA = harness.ROOT / "tests" / "data"
MODEL, OTHER = str(DATA / "mr-tiny"), str(DATA / "restaurant-tiny")
CORPUS = "../base/corpus.jsonl"
RECIPE = """
out = "out"
init = "{model}"
seeds = [1]
[task]
train = "../base/train.jsonl"
test = "../base/train.jsonl"
[in-domain]
corpus = "../base/corpus.txt"
[finetune]
epochs = 1
[train-masker]
epochs = 1
[mask]
shard-rows = 8
[pretrain]
max-steps = 2
batch-size = 4
save-every = 1
lr = {lr}
"""


@dataclass(frozen=True)
class Case:
    """A command, one that makes what it is to replace, and its part of the kills: less for what takes long."""

    name: str
    arguments: tuple[str, ...]
    before: tuple[str, ...] = ()
    share: float = 1.0


def cases() -> Iterator[Case]:
    """Yield the commands that write; their directory is beside ``base``, which holds what they read."""
    score = ("score", CORPUS, "-o", "out", "--model", MODEL, "--threads", "1", "--shard-rows", "6", "-q")
    yield Case("score", score, share=0.5)
    yield Case("score --overwrite", (*score, "--overwrite"), (*score, "--threshold", "0.01"), 0.5)
    twin = (*score, "--control", "twin")
    yield Case("score --control", twin, share=0.5)
    yield Case("score --control --overwrite", (*twin, "--overwrite"), (*twin, "--threshold", "0.01"), 0.5)
    masker = ("score", CORPUS, "-o", "out", "--method", "masker", "--model", "../base/masker")
    yield Case("score --method masker", (*masker, "--threads", "1", "--shard-rows", "6", "-q"), share=0.5)
    tune = ("finetune", "../base/train.jsonl", "-o", "out", "--init", MODEL, "--epochs", "1", "-q")
    yield Case("finetune", tune)
    yield Case("finetune --overwrite", (*tune, "--overwrite"), (*tune, "--seed", "5"))
    learn = ("train-masker", "../base/masks", "-o", "out", "--init", MODEL, "--epochs", "1", "-q")
    yield Case("train-masker", learn)
    yield Case("train-masker --overwrite", (*learn, "--overwrite"), (*learn, "--seed", "5"))
    mlm = ("pretrain", "../base/masks", "-o", "out", "--init", MODEL, "--max-steps", "3", "--batch-size", "4",
           "--save-every", "1", "-q")  # fmt: skip
    yield Case("pretrain", mlm, share=0.5)
    yield Case("pretrain --overwrite", (*mlm, "--overwrite"), (*mlm, "--seed", "5"), 0.5)
    for kind in ("jsonl", "nvidia-hdf5", "mds"):
        export = ("export", "../base/masks", "-o", "out", "--to", kind, "-q")
        yield Case(f"export --to {kind}", export, share=1.3)
        yield Case(f"export --to {kind} --overwrite", (*export, "--overwrite"), (*export, "--seed", "5"), 1.3)
    remap = ("remap", "../base/masks", "--tokenizer", OTHER, "-o", "out", "-q")
    yield Case("remap", remap, share=1.3)
    yield Case("remap --overwrite", (*remap, "--overwrite"), score, 1.3)
    compare = ("evaluate", "--test", "../base/train.jsonl", "--arm", "a=../base/a.txt", "--arm", "b=../base/b.txt",
               "--json", "out.json", "--picture", "out.svg", "-q")  # fmt: skip
    yield Case("evaluate --json --picture", compare, share=1.3)
    yield Case("evaluate --json --picture, again", compare, (*compare, "--seed", "5"), 1.3)
    first, second = ("run", "../base/first.toml", "-q"), ("run", "../base/second.toml", "-q", "--overwrite")
    yield Case("run", first, (), 0.2)
    yield Case("run --overwrite", second, first, 0.2)


def write_base(base: Path) -> None:
    """Write what the commands read."""
    base.mkdir()
    rows = [json.loads(line) for line in (DATA / "golden" / "mr_tiny_0.05.jsonl").open(encoding="utf-8")]
    lines = [json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in rows]
    (base / "corpus.jsonl").write_text("".join(lines[:24]))
    (base / "train.jsonl").write_text("".join(lines[24:48]))
    (base / "corpus.txt").write_text("".join(row["text"] + "\n" for row in rows[48:72]))
    labels = [str(row["label"]) for row in rows[24:48]]
    (base / "a.txt").write_text("\n".join(labels) + "\n")
    (base / "b.txt").write_text("\n".join([*labels[:20], "0", "1", "0", "1"]) + "\n")
    (base / "first.toml").write_text(RECIPE.format(model=MODEL, lr=1e-4))
    (base / "second.toml").write_text(RECIPE.format(model=MODEL, lr=2e-4))
