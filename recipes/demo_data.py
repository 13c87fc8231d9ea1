"""Files of recipes/demo.toml: 3,708 sentences of Amazon reviews with the ratings that people gave them.

    python recipes/demo_data.py vaderSentiment-3.3.2.tar.gz DIR

They come with the source archive of vaderSentiment (MIT licence) from the package index: Hutto and Gilbert, "VADER: A
Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014. A sentence's class is the sign
of its mean rating (-4 to 4). Every fifth review is for testing; all sentences of the others are the in-domain text.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
OUTER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
INNER = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"
CLEAR = 0.5
"""Ratings nearer to 0 are no clear case of either class."""
TEST_REVIEW = 5
"""One review of so many is for testing."""


def read_sentences(archive: Path) -> Iterator[tuple[int, float, str]]:
    """(number of the review, mean rating, text) of each sentence."""
    data = archive.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        sys.exit(f"{archive}: is not the source archive of vaderSentiment 3.3.2")
    with tarfile.open(fileobj=io.BytesIO(data)) as outer, tarfile.open(fileobj=outer.extractfile(OUTER)) as inner:
        for line in inner.extractfile(INNER).read().decode("utf-8", errors="replace").splitlines():
            number, rating, text = line.split("\t")
            yield int(number.partition("_")[0]), float(rating), " ".join(text.split())


def write_files(archive: Path, directory: Path) -> None:
    """train.jsonl and test.jsonl, labelled, and corpus.txt, a sentence a line, without the test reviews."""
    directory.mkdir(parents=True, exist_ok=True)
    sentences = list(read_sentences(archive))
    for name, wanted in (("train.jsonl", False), ("test.jsonl", True)):
        rows = [{"text": text, "label": int(rating > 0)} for review, rating, text in sentences
                if (review % TEST_REVIEW == 0) == wanted and abs(rating) >= CLEAR]  # fmt: skip
        (directory / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    in_domain = [text for review, _, text in sentences if review % TEST_REVIEW]
    (directory / "corpus.txt").write_text("".join(f"{text}\n" for text in in_domain), "utf-8")


if __name__ == "__main__":
    write_files(Path(sys.argv[1]), Path(sys.argv[2]))
