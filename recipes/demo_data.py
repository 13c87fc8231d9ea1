"""Files of recipes/demo.toml and all-methods.toml: 3,708 sentences of Amazon reviews with the ratings of people.

    python recipes/demo_data.py vaderSentiment-3.3.2.tar.gz DIR [N]

They come with the source archive of vaderSentiment (MIT licence) from the package index: Hutto and Gilbert, "VADER: A
Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014. A sentence's class is the sign
of its mean rating (-4 to 4). Every fifth review is for testing; all sentences of the others are the in-domain text.
5,190 sentences of newspaper editorials, from there, too, are general text. With N, one review or article in N is taken,
but for testing.
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
REVIEWS, EDITORIALS = (f"hutto_ICWSM_2014/{name}Snippets_GroundTruth.txt" for name in ("amazonReview", "nytEditorial"))
CLEAR = 0.5
"""Ratings nearer to 0 are no clear case of either class."""
TEST_REVIEW = 5
"""One review of so many is for testing."""


def read_sentences(archive: Path, member: str) -> Iterator[tuple[int, float, str]]:
    """(number of the review, mean rating, text) of each sentence of a file in the archive."""
    data = archive.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        sys.exit(f"{archive}: is not the source archive of vaderSentiment 3.3.2")
    with tarfile.open(fileobj=io.BytesIO(data)) as outer, tarfile.open(fileobj=outer.extractfile(OUTER)) as inner:
        for line in inner.extractfile(member).read().decode("utf-8", errors="replace").splitlines():
            number, rating, text = line.split("\t")
            yield int(number.partition("_")[0]), float(rating), " ".join(text.split())


def write_files(archive: Path, directory: Path, one_in: int = 1) -> None:
    """train.jsonl and test.jsonl, labelled, and corpus.txt and general.txt, a sentence a line, without test reviews."""
    directory.mkdir(parents=True, exist_ok=True)
    sentences = list(read_sentences(archive, REVIEWS))
    for name, wanted in (("train.jsonl", False), ("test.jsonl", True)):
        rows = [{"text": text, "label": int(rating > 0)} for review, rating, text in sentences
                if (review % TEST_REVIEW == 0) == wanted and abs(rating) >= CLEAR
                and (wanted or review % one_in == 0)]  # fmt: skip
        (directory / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    in_domain = [text for review, _, text in sentences if review % TEST_REVIEW and review % one_in == 0]
    general = [text for article, _, text in read_sentences(archive, EDITORIALS) if article % one_in == 0]
    for name, texts in (("corpus.txt", in_domain), ("general.txt", general)):
        (directory / name).write_text("".join(f"{text}\n" for text in texts), "utf-8")


if __name__ == "__main__":
    write_files(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
