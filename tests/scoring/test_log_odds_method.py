"""Method log-odds: values by hand, and a second implementation in plain Python."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from helpers import fastmask, refusal, rows_of, write_jsonl
from word_samples import TEXTS, labelled, run, statistics

from fastmask.core.config import ScoreConfig
from fastmask.pipeline import score_corpus
from fastmask.shards.verify import verify
from fastmask.text.stop_words import stop_words


def test_by_hand(tmp_path, mr_tiny):
    """Each class has two words; the prior is what both have: good 1, bad 1, film 2.

    good: delta = log(2 / 4) - log(1 / 5) = log 2.5, its variance 1 / 2 + 1 / 1, and bad alike. film says nothing.
    """
    run(labelled(tmp_path, [("good film", 1), ("bad film", 0)]), tmp_path / "o", model=mr_tiny, method="log-odds")
    z = math.log(2.5) / math.sqrt(1.5)
    assert z == pytest.approx(0.7481482, abs=1e-7)
    found = statistics(tmp_path / "o")
    assert found["good"] == found["bad"] == {"count": 1, "score": float(np.float32(z))}
    assert found["film"] == {"count": 2, "score": None}
    first, second = rows_of(tmp_path / "o")
    assert first["importance"] == second["importance"] == [float(np.float32(z)), 0.0]
    assert first["mask_index"] == [0] and (first["predicted"], first["prob"], first["label"]) == (None, None, 1)


def words_of(text: str) -> list[str]:
    """What BERT takes for words: letters and digits, or one mark."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def plain(texts) -> dict[str, float]:
    """Word -> |z|, each class against the rest."""
    prior = Counter(word for text, _ in texts for word in words_of(text))
    labels = {label for _, label in texts if label is not None}
    counts = {one: Counter(word for text, label in texts if label == one for word in words_of(text)) for one in labels}
    best = dict.fromkeys(prior, 0.0)
    for one in labels:
        rest = sum((counts[other] for other in labels if other != one), Counter())
        totals = [sum(side.values()) + sum(prior.values()) for side in (counts[one], rest)]
        for word, a in prior.items():
            y = [side[word] + a for side in (counts[one], rest)]
            odds = [math.log(k / (n - k)) for k, n in zip(y, totals, strict=True)]
            best[word] = max(best[word], abs(odds[0] - odds[1]) / math.sqrt(1 / y[0] + 1 / y[1]))
    return best


THREE = [*TEXTS, ("a film of its time", 7), ("its time, its plot", 7)]


@pytest.mark.parametrize("texts", [TEXTS, THREE], ids=["two classes", "one against the rest"])
def test_as_in_plain_python(texts, tmp_path, mr_tiny):
    run(labelled(tmp_path, texts), tmp_path / "o", model=mr_tiny, method="log-odds", shard_rows=5)
    found = {word: row["score"] or 0.0 for word, row in statistics(tmp_path / "o").items()}
    assert found == pytest.approx(plain(texts), abs=1e-6)


def test_the_best_of_a_sentence_are_masked_and_no_stop_words(tmp_path, mr_tiny):
    run(labelled(tmp_path, THREE), tmp_path / "o", model=mr_tiny, method="log-odds", mask_rate=0.4)
    scores, texts, stop, masked = plain(THREE), [text for text, _ in THREE], stop_words("language"), 0
    for row in rows_of(tmp_path / "o"):
        spans = list(zip(row["word"], row["char_start"], row["char_end"], strict=True))
        words = [texts[row["row"]][min(a for n, a, _ in spans if n == word):max(b for n, _, b in spans if n == word)]
                 for word in row["word"]]  # fmt: skip
        found = [scores[word.lower()] for word in words]
        assert row["importance"] == pytest.approx(found, abs=1e-6)
        allowed = [at for at, word in enumerate(words) if word.lower() not in stop and found[at] > 0]
        best = sorted(allowed, key=lambda at: (-round(found[at], 6), at))[: max(1, int(0.4 * len(words) + 1e-9))]
        assert row["mask_index"] == sorted(best)
        masked += len(best)
    assert masked > 20


def test_aspects_count_by_their_polarity(tmp_path, restaurant_tiny):
    """The same counts as in the first test, two classes of three; each text stands once in the prior."""
    rows = [("good film", "positive"), ("bad film", "negative")]
    rows = [{"text": text, "aspects": [{"term": "film", "polarity": polarity}]} for text, polarity in rows]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    run(corpus, tmp_path / "o", model=restaurant_tiny, method="log-odds")
    scores = {word: row["score"] for word, row in statistics(tmp_path / "o").items()}
    assert scores["good"] == scores["bad"] == float(np.float32(math.log(2.5) / math.sqrt(1.5)))


@pytest.mark.parametrize(
    "texts, said",
    [
        ([("good", None), ("bad", None)], "no text has a label"),
        ([("good", 1), ("fine", 1)], "all labels are class 1"),
        ([("good", "sports"), ("bad", 1)], 'label "sports" is not one of the classes'),
    ],
)
def test_without_labels(texts, said, tmp_path, mr_tiny):
    corpus = labelled(tmp_path, texts)
    line = refusal(fastmask("score", corpus, "-o", tmp_path / "o", "--model", mr_tiny, "--method", "log-odds"))
    assert said in line


def test_numbers_of_other_classes_and_names(tmp_path, mr_tiny):
    texts = [("good film", 4), ("bad film", "negative"), ("", 0)]
    manifest = run(labelled(tmp_path, texts), tmp_path / "o", model=mr_tiny, method="log-odds")
    assert [row["label"] for row in rows_of(tmp_path / "o")] == [4, 0]
    assert manifest["model"] is None and manifest["config"]["method"] == "log-odds"


def test_labelled_texts_beside_the_corpus(tmp_path, mr_tiny):
    """As if both were one corpus: the same scores and masks. The corpus's own labels do not count."""
    train, here = labelled(tmp_path, TEXTS), [("good film, bad film", None), ("a dull plot", None)]
    corpus = labelled(tmp_path, here, "here.jsonl")
    options = {"model": mr_tiny, "method": "log-odds"}
    score_corpus([train, corpus], str(tmp_path / "both"), ScoreConfig(**options))
    run(corpus, tmp_path / "o", labelled=(train,), shard_rows=5, **options)
    assert statistics(tmp_path / "o") == statistics(tmp_path / "both")
    columns = "importance", "mask_index"
    expected = [{name: row[name] for name in columns} for row in rows_of(tmp_path / "both")][-2:]
    assert [{name: row[name] for name in columns} for row in rows_of(tmp_path / "o")] == expected
    other = labelled(tmp_path, [(text, 7) for text, _ in here], "other.jsonl")
    run(other, tmp_path / "p", labelled=(train,), **options)
    assert statistics(tmp_path / "p") == statistics(tmp_path / "o")
    assert verify(tmp_path / "o") == []


def test_labelled_texts_that_change_or_are_not_there(tmp_path, mr_tiny):
    corpus, train = labelled(tmp_path, TEXTS[:2]), labelled(tmp_path, TEXTS, "t.jsonl")

    def score(*more):
        return fastmask("score", corpus, "-o", tmp_path / "o", "--model", mr_tiny, "--method", "log-odds", *more)

    assert score("--labelled", train).exit_code == 0
    labelled(tmp_path, TEXTS[1:], "t.jsonl")
    assert "labelled_files[0] has other content" in refusal(score("--labelled", train))
    assert "no such file" in refusal(score("--labelled", tmp_path / "none.jsonl"))
    assert "standard input is for the corpus" in refusal(score("--labelled", "-"))
    labelled(tmp_path, [("good", "sports")], "t.jsonl")
    line = refusal(score("--labelled", train, "--overwrite"))
    assert 't.jsonl:1: field "label": label "sports" is not one of the classes' in line


def test_labelled_aspects_beside_plain_text(tmp_path, restaurant_tiny):
    rows = [("good film", "positive"), ("bad film", "negative")]
    rows = [{"text": text, "aspects": [{"term": "film", "polarity": polarity}]} for text, polarity in rows]
    train = write_jsonl(tmp_path / "t.jsonl", rows)
    corpus = labelled(tmp_path, [("good", None)])
    run(corpus, tmp_path / "o", model=restaurant_tiny, method="log-odds", labelled=(train,))
    (row,) = rows_of(tmp_path / "o")
    z = (math.log(3 / 4) - math.log(2 / 5)) / math.sqrt(1 / 3 + 1 / 2)  # the corpus has one more good in the prior
    assert statistics(tmp_path / "o")["good"]["score"] == float(np.float32(z)) and row["mask_index"] == [0]


def test_the_label_field_is_that_of_the_labelled_texts(tmp_path, mr_tiny):
    """The corpus has no such field, and its control, what reads its texts again and a repair do not ask for it."""
    rows = [{"text": text, "class": label} for text, label in TEXTS if label is not None]
    train, corpus = write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "c.txt"
    corpus.write_text("good film\nbad plot\n")
    options = "--model", mr_tiny, "--method", "log-odds", "--labelled", train, "--label-field", "class"
    done = fastmask("score", corpus, "-o", tmp_path / "o", *options, "--control", tmp_path / "control")
    assert done.exit_code == 0, done.stderr
    masks = [row["mask_index"] for row in rows_of(tmp_path / "o")]
    assert masks == [[0], [0]] and [len(row["mask_index"]) for row in rows_of(tmp_path / "control")] == [1, 1]
    assert fastmask("remap", tmp_path / "o", "-o", tmp_path / "r", "--tokenizer", mr_tiny).exit_code == 0
    assert [row["mask_index"] for row in rows_of(tmp_path / "r")] == masks
    next((tmp_path / "o").glob("*.parquet")).write_bytes(b"")
    assert fastmask("verify", tmp_path / "o", "--repair").exit_code == 0
