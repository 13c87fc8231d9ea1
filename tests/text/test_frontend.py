"""Shards are fixed ranges of rows, made ahead in one thread that ends with its consumer."""

import dataclasses
import threading

import numpy as np
import pytest
from helpers import encoder_of

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import InputError
from fastmask.core.labels import Classes
from fastmask.text.documents import reading_of
from fastmask.text.frontend import encode_texts, encoded_shards
from fastmask.text.hashed import HashedInputs
from fastmask.text.places import Places
from fastmask.text.tokens import TextEncoder

CLASSES = Classes(("no", "yes"))
LINES = ["A great film. A bad plot!", "", "fine", "...", "It is 3.5 hours long", "so so", "  "]


@pytest.fixture(scope="module")
def encoder(mr_tiny) -> TextEncoder:
    return encoder_of(mr_tiny)


@pytest.fixture
def corpus(tmp_path) -> str:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "run-ahead"]


def shards_of(paths, encoder, rows=2, **options):
    fields = {key: options.pop(key) for key in ("segment", "on_error") if key in options}
    return list(encoded_shards(paths, ScoreConfig(shard_rows=rows, **fields), encoder, **options))


def assert_same(found, expected):
    for field in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


def test_shards_are_ranges_of_rows(corpus, encoder):
    shards = shards_of([corpus], encoder)
    assert [(k, s.first_row, s.end_row) for k, s in shards] == [(0, 0, 2), (1, 2, 4), (2, 4, 6), (3, 6, 7)]
    assert [s.row.tolist() for _, s in shards] == [[0, 0], [2, 3], [4, 5], []]
    assert shards[0][1].sentence.tolist() == [0, 1]


def test_line_mode(corpus, encoder):
    ((_, shard),) = shards_of([corpus], encoder, rows=100, segment="line")
    assert shard.row.tolist() == [0, 2, 3, 4, 5] and (shard.first_row, shard.end_row) == (0, 7)


def test_spans_are_in_the_documents_text(corpus, encoder):
    ((_, shard),) = shards_of([corpus], encoder, rows=100)
    words = [LINES[0][a:b] for a, b in zip(shard.char_start[:8], shard.char_end[:8], strict=True)]
    assert words == ["A", "great", "film", ".", "A", "bad", "plot", "!"]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("wanted", [range(first, 6) for first in range(6)] + [{1, 3}, {0, 2, 3}])
def test_wanted_shards_alone(corpus, encoder, wanted, known):
    """Where they begin may be known or not."""
    expected = dict(shards_of([corpus], encoder))
    places = HashedInputs([corpus], Places(reading_of("text", "label", "utf-8", 64), 2)).places if known else None
    found = shards_of([corpus], encoder, wanted=wanted, places=places)
    assert [k for k, _ in found] == [k for k in expected if k in wanted]
    for k, shard in found:
        assert_same(shard, expected[k])


def test_empty_corpus_has_no_shard(tmp_path, encoder):
    (tmp_path / "a.txt").touch()
    assert shards_of([str(tmp_path / "a.txt")], encoder) == []


def test_skipped_rows_belong_to_their_shard(tmp_path, encoder):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 9}\n{"text": "b"}\n{}\n{"text": "d", "label": 1}\n')
    options = {"classes": CLASSES}
    (_, first), (_, second) = shards_of([str(path)], encoder, on_error="skip", **options)
    assert first.row.tolist() == [1] and second.row.tolist() == [3] and second.label.tolist() == [1]
    assert [m.split(": ")[0].rpartition(":")[2] for m in first.skipped + second.skipped] == ["1", "3"]
    with pytest.raises(InputError, match="is not one of the classes: no, yes"):
        shards_of([str(path)], encoder, **options)


def test_shards_before_a_fault_come_first(tmp_path, encoder):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nthree\n\xff\n")
    shards = encoded_shards([str(path)], ScoreConfig(shard_rows=2), encoder)
    assert next(shards)[0] == 0
    with pytest.raises(InputError, match=r"a\.txt:4: not utf-8"):
        next(shards)


def test_aspect_rows(tmp_path, encoder):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Good food. Bad wine.", "aspects": [{"term": "wine", "polarity": "no"}]}\n')
    ((_, shard),) = shards_of([str(path)], encoder, classes=CLASSES)
    assert shard.is_aspect and len(shard) == 1 and shard.unit_label.tolist() == [0]


def test_texts_in_memory_are_as_texts_in_files(corpus, encoder):
    ((_, expected),) = shards_of([corpus], encoder, rows=len(LINES))
    assert_same(encode_texts(LINES, encoder), expected)


def test_texts_with_labels(encoder):
    texts = [("fine", "yes"), "so so", ("bad", 0)]
    encoded = encode_texts(texts, encoder, classes=CLASSES)
    assert encoded.label.tolist() == [1, -1, 0]
    with pytest.raises(InputError, match='<texts>:2: field "text": NUL byte'):
        encode_texts(["fine", "a\0b"], encoder)
