"""``import fastmask``: the same from Python."""

import itertools

import numpy as np
import pytest
from helpers import golden, parts_of, rows_of, write_jsonl

import fastmask

OPTIONS = {"precision": "float32", "shard_rows": 16}


@pytest.fixture(scope="module")
def texts(golden_dir) -> list[tuple[str, int]]:
    return [(row["text"], row["label"]) for row in golden(golden_dir, "mr_tiny_0.05")[:40]]


def test_records_are_the_rows_of_the_shards(texts, mr_tiny, tmp_path):
    records = list(fastmask.score(texts, mr_tiny, **OPTIONS))
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": text, "label": label} for text, label in texts])
    config = fastmask.ScoreConfig(model=mr_tiny, **OPTIONS)
    manifest = fastmask.score_corpus([corpus], str(tmp_path / "out"), config)
    shards = fastmask.open_shards(tmp_path / "out")
    assert shards.manifest == manifest and len(shards) == len(records)
    ids_of = parts_of(mr_tiny)[1].convert_tokens_to_ids
    for record, row in zip(records, rows_of(tmp_path / "out"), strict=True):
        assert ids_of(list(record.tokens)) == row["input_ids"]
        assert record.spans == tuple(zip(row["char_start"], row["char_end"], strict=True))
        assert (record.row, record.sentence, record.label) == (row["row"], row["sentence"], row["label"])
        assert record.predicted == row["predicted"] and record.prob == row["prob"]
        assert record.mask_index.tolist() == row["mask_index"]
        assert (None if record.importance is None else record.importance.tolist()) == row["importance"]


def test_spans_slice_the_text(texts, mr_tiny):
    for record in fastmask.score([text for text, _ in texts[:10]], mr_tiny, **OPTIONS):
        for token, (start, end) in zip(record.tokens, record.spans, strict=True):
            piece = record.text[start:end]
            assert token == "[UNK]" or piece.lower() == token.removeprefix("##") or not piece.isascii()


def test_records_come_lazily(mr_tiny):
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield f"A fine film number {number}. It is good."

    records = fastmask.score(endless(), mr_tiny, shard_rows=2)
    assert taken == []
    first = [next(records) for _ in range(5)]
    assert taken == [0, 1, 2, 3] and [(r.row, r.sentence) for r in first] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    records.close()


def test_labels_by_name_index_and_not_at_all(mr_tiny):
    texts = [("a fine moving film", "positive"), ("a fine moving film", 0), "a fine moving film"]
    right, wrong, free = fastmask.score(texts, mr_tiny)
    assert (right.label, wrong.label, free.label) == (1, 0, None)
    assert right.predicted == wrong.predicted == free.predicted == 1
    assert wrong.importance is None and len(wrong.mask_index) == 0
    np.testing.assert_allclose(right.importance, free.importance, atol=1e-6)
    assert wrong.prob == pytest.approx(1 - right.prob, abs=1e-6)


def test_the_embedded_classifier():
    (record,) = fastmask.score(["I love this wonderful place"])
    assert record.predicted == 1 and "wonderful" in record.tokens
    (record,) = fastmask.score(["I love this wonderful place"], method="random")
    assert record.prob is None and record.predicted is None and len(record.mask_index) == 1


def test_nothing_to_score(mr_tiny):
    assert list(fastmask.score([], mr_tiny)) == [] and list(fastmask.score(["", " \t"], mr_tiny)) == []


def test_faults_are_told_at_once_or_at_their_text(mr_tiny, tmp_path):
    with pytest.raises(fastmask.FastmaskError, match="no such model directory"):
        fastmask.score(["x"], str(tmp_path / "none"))
    with pytest.raises(fastmask.FastmaskError, match="--method best"):
        fastmask.score(["x"], method="best")
    records = fastmask.score(["good", ("bad", "so-so")], mr_tiny, shard_rows=1)
    assert next(records).tokens == ("good",)
    with pytest.raises(fastmask.FastmaskError, match='"so-so" is not one of the classes'):
        next(records)


@pytest.mark.parametrize(
    ("text", "said"), [(float("nan"), "nan"), (("a", "b", "c"), "('a', 'b', 'c')"), (None, "None")]
)
def test_what_is_no_text_is_named(text, said, mr_tiny):
    """A column of a table often has a NaN where there is no text."""
    records = fastmask.score(["good", ["a film", "1"], text], mr_tiny, method="random")
    with pytest.raises(fastmask.FastmaskError) as error:
        list(records)
    assert str(error.value) == f"texts: number 2 is {said}; give strings or (string, label) pairs"


def test_a_name_by_itself_is_one_input(tmp_path):
    (tmp_path / "c.txt").write_text("A film.\n")
    for number, name in enumerate((tmp_path / "c.txt", str(tmp_path / "c.txt"))):
        manifest = fastmask.score_corpus(name, tmp_path / str(number), fastmask.ScoreConfig(method="random"))
        assert [one["name"] for one in manifest["inputs"]] == [str(name)]


def test_score_is_a_function_at_every_call(mr_tiny):
    """A submodule called ``score`` takes the name of the function once it is imported."""
    for _ in range(2):
        assert len(list(fastmask.score(["fine"], mr_tiny))) == 1


def test_names():
    assert set(fastmask.__all__) <= set(dir(fastmask))
    for name in fastmask.__all__:
        assert getattr(fastmask, name) is not None
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = fastmask.nonesuch
