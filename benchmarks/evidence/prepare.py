"""Make what the experiment's recipes start from: splits of MR and subjectivity, and an encoder that knows no reviews.

    python benchmarks/evidence/prepare.py DATA WORK

DATA holds mr/raw/, subjectivity/all.jsonl and general/*.txt. WORK gets mr/ and subjectivity/ with train, dev and test,
the random encoder ``new``, and ``general``, the same after general pre-training (PLAN.md says why it is what it is).
The same command resumes a run that was stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

TRAIN, DEV = 1000, 600
SAME = 0.7
"""Texts with such a share of words in common (Jaccard index of their sets) are near-duplicates."""
SHAPE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
WORDPIECES, LENGTH = 8192, 256
EPOCHS, RATE, STEP_TOKENS = 24, 1e-3, 16384


def main(data: Path, work: Path) -> None:
    """Make all of it."""
    raw = [(data / "mr" / "raw" / f"rt-polarity.{name}", label) for name, label in (("neg", 0), ("pos", 1))]
    reviews = [(text, label) for path, label in raw for text in path.read_text("iso-8859-1").split("\n") if text]
    rows = map(json.loads, (data / "subjectivity" / "all.jsonl").read_text("utf-8").splitlines())
    write_splits(reviews, work / "mr", {"train": TRAIN, "dev": DEV})
    write_splits([(row["text"], row["label"]) for row in rows], work / "subjectivity", {"train": TRAIN})
    general = sorted(map(str, (data / "general").glob("*.txt")))
    if not (work / "new").exists():
        new_encoder(general, work / "new")
    pretrain_on(general, work)


def write_splits(rows: Sequence[tuple[str, int]], directory: Path, sizes: dict[str, int]) -> None:
    """Write the rows as one file a split: near-duplicates together, by the least hash of theirs; test gets the rest."""
    rows = [(" ".join(text.split()), label) for text, label in rows]
    groups: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups_of([text for text, _ in rows])):
        groups[group].append(row)
    splits: dict[str, list[int]] = {name: [] for name in (*sizes, "test")}
    for group in sorted(groups.values(), key=lambda members: min(_hash(rows[row][0]) for row in members)):
        name = next((name for name, size in sizes.items() if len(splits[name]) + len(group) <= size), "test")
        splits[name].extend(group)
    directory.mkdir(parents=True, exist_ok=True)
    for name, members in splits.items():
        lines = (json.dumps({"text": rows[row][0], "label": rows[row][1]}, ensure_ascii=False) for row in members)
        (directory / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        labels = [rows[row][1] for row in members]
        print(f"{directory.name}/{name}: {len(labels):,} rows, {sum(labels) / len(labels):.1%} of class 1")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def groups_of(texts: Sequence[str]) -> list[int]:
    """Return the group of each text; near-duplicates, and what is one of one of them, are in the same."""
    words = [frozenset(re.findall(r"\w+", text.lower())) for text in texts]
    group = list(range(len(texts)))

    def find(one: int) -> int:
        while group[one] != one:
            group[one] = one = group[group[one]]
        return one

    for one, other in _candidates(words):
        if len(words[one] & words[other]) >= SAME * len(words[one] | words[other]):
            group[find(other)] = find(one)
    return [find(one) for one in range(len(texts))]


def _candidates(words: Sequence[frozenset[str]]) -> Iterable[tuple[int, int]]:
    """Yield pairs that may be near-duplicates: of those, the rarest words cannot all differ (prefix filtering)."""
    uses: dict[str, int] = defaultdict(int)
    for own in words:
        for word in own:
            uses[word] += 1
    having: dict[str, list[int]] = defaultdict(list)
    for number, own in enumerate(words):
        rarest = sorted(own, key=lambda word: (uses[word], word))[: len(own) - int(SAME * len(own)) + 1]
        yield from ((other, number) for other in {other for word in rarest for other in having[word]})
        for word in rarest:
            having[word].append(number)


def new_encoder(files: Sequence[str], out: Path) -> None:
    """Save a masked-language model of random weights, its wordpieces learned from the files alone."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from fastmask.train.vocabulary import learn_wordpieces

    lines = [line for name in files for line in Path(name).read_text("utf-8").splitlines()]
    tokenizer = learn_wordpieces(lines, WORDPIECES, LENGTH)
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=LENGTH, **SHAPE))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def pretrain_on(files: Sequence[str], work: Path) -> None:
    """Pre-train the new encoder on the files: 15 % random masks, drawn anew in each epoch."""
    from fastmask.core.config import ScoreConfig
    from fastmask.core.config_train import PretrainConfig
    from fastmask.pipeline import score_corpus
    from fastmask.train.pretrain import pretrain

    new, masks = str(work / "new"), str(work / "general-masks")
    score_corpus(files, masks, ScoreConfig(model=new, method="random"))
    settings = PretrainConfig(shards=(masks,), init=new, out=str(work / "general"), sample=True, pack=True,
                              epochs=EPOCHS, batch_tokens=STEP_TOKENS, part_tokens=STEP_TOKENS, lr=RATE, warmup=0.1,
                              save_every=100)  # fmt: skip
    pretrain(settings)


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
