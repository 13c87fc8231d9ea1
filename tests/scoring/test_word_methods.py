"""What the methods that go by words share: word types, statistics in the plan, any order, kills, damage, controls."""

import json
from functools import partial

import numpy as np
import pytest
from helpers import contents, encoded, fastmask, rows_of
from word_samples import TEXTS, labelled, run, statistics

from fastmask import score
from fastmask.core.config import ScoreConfig
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.pipeline import score_corpus
from fastmask.scoring.executor import LocalExecutor, Wanted
from fastmask.scoring.kept import KeptShards
from fastmask.scoring.words import Counting, rules_of
from fastmask.shards.verify import verify
from fastmask.shards.writer import RunDirectory
from fastmask.text.words import word_form


@pytest.fixture(scope="module")
def background(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("background") / "b.txt"
    path.write_text("here is a plot\nwhat is said of the acting is nothing\n" * 3)
    return str(path)


@pytest.fixture(scope="module", params=["log-odds", "word-list", "difference"])
def options(request, background, mr_tiny) -> dict:
    own = {"word-list": {"words": "sentiment"}, "difference": {"background": (background,), "anchors": 2}}
    return {"model": mr_tiny, "method": request.param, "shard_rows": 3, **own.get(request.param, {})}


@pytest.fixture
def corpus(tmp_path) -> str:
    return labelled(tmp_path)


class Stop(Exception):
    """Where a run is stopped."""


def stopped_at_write(patch, number: int) -> None:
    written, real = [], RunDirectory.write_shard

    def write(self, index, scored):
        if len(written) == number:
            raise Stop
        written.append(index)
        return real(self, index, scored)

    patch.setattr(RunDirectory, "write_shard", write)


@pytest.mark.parametrize("text, form", [
    ("Good", "good"), ("STRASSE", "strasse"), ("Straße", "strasse"), (" film", "film"), ("film.", "film"), ("'s", "s"),
    ("!?", "!?"), ("", ""), ("don't", "don't"), ("(U.S.)", "u.s"), ("3.5", "3.5"),
    ("ดี", "ดี"), ("«नहीं।", "नहीं"), ("café", "café"), ("cafe\u0301!", "cafe\u0301"), ("film❤\ufe0f", "film"),
])  # fmt: skip
def test_the_form_of_a_word(text, form):
    assert word_form(text) == form


def test_a_run_that_is_stopped_anywhere_ends_with_the_same_bytes(options, corpus, tmp_path):
    run(corpus, tmp_path / "whole", **options)
    for number in (0, 1, 1):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
            stopped_at_write(patch, number)
            run(corpus, tmp_path / "out", **options)
    assert (tmp_path / "out" / "_plan.json").exists()
    run(corpus, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert verify(tmp_path / "out") == []


def test_statistics_are_made_once_and_anew_where_they_are_damaged(mr_tiny, corpus, tmp_path, monkeypatch):
    options = {"model": mr_tiny, "method": "log-odds", "shard_rows": 3}
    run(corpus, tmp_path / "whole", **options)
    made, real = [], LocalExecutor.statistics
    monkeypatch.setattr(LocalExecutor, "statistics", lambda self: made.append(1) or real(self))
    for damage in (None, lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.unlink()):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
            stopped_at_write(patch, 1)
            run(corpus, tmp_path / "out", **options)
        if damage:
            damage(tmp_path / "out" / "_statistics.jsonl")
    run(corpus, tmp_path / "out", **options)
    assert len(made) == 3
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


class BackToFront(LocalExecutor):
    """The last shard first."""

    def shards(self, wanted, bounds):
        for k in (3, 2, 1, 0):
            if k in wanted:
                yield from super().shards(Wanted({k}), bounds)


def test_any_order(options, corpus, tmp_path, monkeypatch):
    run(corpus, tmp_path / "whole", **options)
    monkeypatch.setattr("fastmask.pipeline.LocalExecutor", BackToFront)
    run(corpus, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_corpus_is_read_once_where_there_is_room_for_it_on_the_disk(options, corpus, tmp_path, monkeypatch):
    read, real = [], LocalExecutor._encoded
    monkeypatch.setattr(LocalExecutor, "_encoded", lambda self, wanted: read.append(wanted) or real(self, wanted))
    run(corpus, tmp_path / "once", **options)
    assert len(read) == 1
    monkeypatch.setattr("fastmask.scoring.executor.KeptShards", partial(KeptShards, free_share=0.0))
    run(corpus, tmp_path / "twice", **options)
    assert len(read) == 3
    assert contents(tmp_path / "once") == contents(tmp_path / "twice")


def test_shards_of_any_size_have_the_same_scores_and_masks(options, corpus, tmp_path):
    run(corpus, tmp_path / "a", **options)
    run(corpus, tmp_path / "b", **{**options, "shard_rows": 100, "threads": 1})
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert statistics(tmp_path / "a") == statistics(tmp_path / "b")


def test_verify_and_repair(options, corpus, tmp_path):
    out = tmp_path / "out"
    run(corpus, out, **options)
    before = contents(out)
    (out / "_statistics.jsonl").write_text("{}\n")
    assert [one.file for one in verify(out)] == ["_statistics.jsonl"]
    assert "_statistics.jsonl: made again" in fastmask("verify", out, "--repair").stdout
    assert contents(out) == before
    (out / "_statistics.jsonl").unlink()
    (out / "shard-00001.parquet").unlink()
    assert fastmask("verify", out, "--repair").exit_code == 0
    assert contents(out) == before


def test_a_control_has_as_many_masks(options, corpus, tmp_path):
    config = ScoreConfig(**options)
    score_corpus([corpus], str(tmp_path / "out"), config, control=str(tmp_path / "control"))
    ours, theirs = ([len(row["mask_index"]) for row in rows_of(tmp_path / name)] for name in ("out", "control"))
    assert ours == theirs and sum(ours) > 5


def test_standard_input(mr_tiny, tmp_path):
    text = "".join(f"{text}\n" for text, _ in TEXTS if text.strip())
    (tmp_path / "c.txt").write_text(text)
    options = ("--method", "word-list", "--words", "sentiment", "--model", mr_tiny, "--shard-rows", 2)
    for name, given in (("a", tmp_path / "c.txt"), ("b", "-")):
        done = fastmask("score", given, "-o", tmp_path / name, *options, input=text)
        assert done.exit_code == 0, done.stderr
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_without_a_row(options, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    run_ = fastmask("score", tmp_path / "empty.txt", "-o", tmp_path / "o", "--model", options["model"], "--method",
                    "word-list", "--words", "sentiment")  # fmt: skip
    assert run_.exit_code == 0 and rows_of(tmp_path / "o") == []
    (tmp_path / "none.txt").write_text("")
    done = fastmask(
        "score", tmp_path / "none.txt", "-o", tmp_path / "n", "--method", "word-list", "--words", "sentiment"
    )
    assert "no rows to score" in done.stderr


def test_whole_words(corpus, tmp_path, mr_tiny):
    """Pieces of a word share its score, and --unit word masks them together."""
    run(corpus, tmp_path / "o", model=mr_tiny, method="log-odds", unit="word", mask_rate=0.4)
    split = 0
    for row in rows_of(tmp_path / "o"):
        for word in {*row["word"]}:
            at = [k for k, other in enumerate(row["word"]) if other == word]
            split += len(at) > 1
            assert len({row["importance"][k] for k in at}) == 1
            assert len({k in row["mask_index"] for k in at}) == 1
    assert split


def test_words_with_special_or_unknown_tokens_have_no_text(tmp_path, mr_tiny):
    texts = [("good [MASK] film", 1), ("bad \u4e00\u9fff\u3400 film", 0), ("good [unused1]", 1)]
    run(labelled(tmp_path, texts), tmp_path / "o", model=mr_tiny, method="log-odds")
    tokenizer = load_tokenizer(resolve_model(mr_tiny))
    assert not any("mask" in word or "unk" in word for word in statistics(tmp_path / "o"))
    for row in rows_of(tmp_path / "o"):
        special = [k for k, index in enumerate(row["input_ids"]) if index in tokenizer.all_special_ids]
        assert all(row["importance"][k] == 0 for k in special) and not {*special} & {*row["mask_index"]}


def test_the_rarer_half_is_forgotten(mr_tiny):
    tokenizer = load_tokenizer(resolve_model(mr_tiny))
    counting = Counting(tokenizer, rules_of(ScoreConfig(), tokenizer, 0.15), most=4)
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in ("good", "bad", "film", "plot", "fun", "dull")}
    counting.add(encoded([[ids["bad"], ids["film"], ids["film"]], [ids["good"], ids["plot"]]], [0, 1]))
    assert counting.counts().words == ["bad", "film", "good", "plot"]
    counting.add(encoded([[ids["fun"], ids["film"], ids["good"]]], [1]))
    found = counting.counts()
    assert (found.words, found.times.tolist(), found.tokens) == (["film", "good"], [3, 2], 8)
    assert found.by_class.tolist() == [[2, 0], [1, 2]] and found.classes == [0, 1]
    counting.add(encoded([[ids["good"], ids["dull"]]], [0]))
    found = counting.counts()
    assert (found.words, found.times.tolist()) == (["film", "good", "dull"], [3, 3, 1])


def test_texts_in_memory(mr_tiny, corpus, tmp_path):
    run(corpus, tmp_path / "o", model=mr_tiny, method="log-odds", shard_rows=3)
    texts = [text if label is None else (text, label) for text, label in TEXTS]
    records = list(score(texts, mr_tiny, "log-odds", shard_rows=3))
    rows = rows_of(tmp_path / "o")
    assert [record.mask_index.tolist() for record in records] == [row["mask_index"] for row in rows]
    assert all(np.array_equal(a.importance, np.float32(b["importance"])) for a, b in zip(records, rows, strict=True))


def test_options_of_other_methods(mr_tiny, corpus, tmp_path):
    def said(*options) -> str:
        return fastmask("score", corpus, "-o", tmp_path / "o", "--model", mr_tiny, *options).stderr

    assert "--words x: means nothing to --method log-odds" in said("--method", "log-odds", "--words", "x")
    assert "--mask-function step: means nothing to" in said("--method", "difference", "--mask-function", "step",
                                                           "--background", corpus)  # fmt: skip
    assert "--method word-list: give --words" in said("--method", "word-list")
    assert "--method difference: give --background" in said("--method", "difference")
    assert "standard input is for the corpus" in said("--method", "difference", "--background", "-")
    assert "no such file" in said("--method", "difference", "--background", tmp_path / "gone.txt")
    plan = run(corpus, tmp_path / "p", model=mr_tiny, method="word-list", words="sentiment")
    assert len(plan["words_sha256"]) == len(plan["embeddings_sha256"]) == 64
    assert json.loads((tmp_path / "p" / "_plan.json").read_text())["statistics"] == plan["certificate"]["statistics"]
