"""What the tests of methods that go by words share: a labelled corpus, runs in this process, statistics as read."""

import json

from helpers import write_jsonl

from fastmask.core.config import ScoreConfig
from fastmask.pipeline import score_corpus

TEXTS = [
    ("A good film, good fun.", 1), ("The film was bad!", 0), ("Bad plot, bad film", 0), ("nothing is said here", None),
    ("A fine film and a fine plot", 1), ("Dull. Dull, and bad.", 0), ("Unbelievably good acting", 1), (" ", 0),
    ("fun for all", 1), ("the plot is dull", 0), ("what a film", None), ("good fun", 1),
]  # fmt: skip


def labelled(folder, texts=TEXTS, name="c.jsonl") -> str:
    rows = [{"text": text} | ({} if label is None else {"label": label}) for text, label in texts]
    return write_jsonl(folder / name, rows)


def run(corpus, out, **options) -> dict:
    return score_corpus([str(corpus)], str(out), ScoreConfig(**options))


def statistics(out) -> dict[str, dict]:
    """The statistics by word."""
    rows = map(json.loads, (out / "_statistics.jsonl").read_text("utf-8").splitlines())
    return {row.pop("word"): row for row in rows}
