"""Sentences to training sequences: by hand, and against a slow procedure on lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask.core.errors import FastmaskError
from fastmask.data.sequences import Frame, Sentences, examples_of

FRAME = Frame(101, 102)


def sentences_of(rows) -> Sentences:
    """From (row, sentence, ids, masked positions)."""
    row, sentence, ids, masks = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Sentences(
        row=np.array(row, np.int64),
        sentence=np.array(sentence, np.int32),
        offsets=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        input_ids=np.array([i for each in ids for i in each], np.int32),
        mask_offsets=np.cumsum([0, *map(len, masks)], dtype=np.int64),
        mask_index=np.array([i for each in masks for i in each], np.int32),
        mask_word=np.array([i // 2 for each in masks for i in each], np.int32),
    )


def as_lists(examples) -> list[tuple]:
    """(input_ids, [(at, row, sentence, position)]) of each."""
    keys = ("at", "row", "sentence", "position")
    assert all((e.word == e.position // 2).all() for e in examples)
    return [
        (e.input_ids.tolist(), list(zip(*(getattr(e, key).tolist() for key in keys), strict=True))) for e in examples
    ]


CORPUS = [
    (7, 0, [1, 2, 3], [1]),
    (7, 1, [4, 5], []),
    (7, 2, [6, 7, 8], [0, 2]),
    (8, 0, [], []),
    (9, 0, [9], []),
    (9, 1, [10, 11], [1]),
]


def test_joined_by_hand():
    # room for 5: 1 2 3 4 5, then 6 7 8; another document starts another sequence
    assert as_lists(examples_of(sentences_of(CORPUS), max_length=7, frame=FRAME)) == [
        ([101, 1, 2, 3, 4, 5, 102], [(2, 7, 0, 1)]),
        ([101, 6, 7, 8, 102], [(1, 7, 2, 0), (3, 7, 2, 2)]),
        ([101, 9, 10, 11, 102], [(3, 9, 1, 1)]),
    ]


def test_packed_by_hand():
    # the separator takes the fifth place: 6 7 8 [SEP] 9, and 10 11 do not fit; the empty document leaves no trace
    assert as_lists(examples_of(sentences_of(CORPUS), max_length=7, frame=FRAME, pack=True)) == [
        ([101, 1, 2, 3, 4, 5, 102], [(2, 7, 0, 1)]),
        ([101, 6, 7, 8, 102, 9, 102], [(1, 7, 2, 0), (3, 7, 2, 2)]),
        ([101, 10, 11, 102], [(2, 9, 1, 1)]),
    ]
    assert as_lists(examples_of(sentences_of(CORPUS), max_length=14, frame=FRAME, pack=True)) == [
        ([101, 1, 2, 3, 4, 5, 6, 7, 8, 102, 9, 10, 11, 102], [(2, 7, 0, 1), (6, 7, 2, 0), (8, 7, 2, 2), (12, 9, 1, 1)])
    ]


def test_a_long_sentence_is_cut_on_the_right_with_its_masks():
    rows = [(0, 0, [1, 2, 3, 4, 5], [0, 2, 3, 4]), (0, 1, [6], [0])]
    assert as_lists(examples_of(sentences_of(rows), max_length=5, frame=FRAME)) == [
        ([101, 1, 2, 3, 102], [(1, 0, 0, 0), (3, 0, 0, 2)]),
        ([101, 6, 102], [(1, 0, 1, 0)]),
    ]


def test_masked_only():
    rows = [(0, 0, [1], []), (1, 0, [2], [0]), (2, 0, [3, 4, 5], [2]), (3, 0, [6], [])]
    found = examples_of(sentences_of(rows), max_length=4, frame=FRAME, masked_only=True)
    # the mask of the third is in what is cut off
    assert as_lists(found) == [([101, 2, 102], [(1, 1, 0, 0)])]
    assert len(examples_of(sentences_of(rows), max_length=4, frame=FRAME)) == 4


@pytest.mark.parametrize("rows", [[], [(0, 0, [], [])], [(0, 0, [], []), (1, 0, [], [])]])
@pytest.mark.parametrize("options", [{}, {"pack": True}, {"masked_only": True}])
def test_nothing_gives_nothing(rows, options):
    assert list(examples_of(sentences_of(rows), max_length=8, frame=FRAME, **options)) == []


def test_dtypes_and_that_an_example_holds_no_block():
    sentences = sentences_of(CORPUS)
    for pack in (False, True):
        example = examples_of(sentences, max_length=7, frame=FRAME, pack=pack)[1]
        arrays = [example.input_ids, example.at, example.row, example.sentence, example.position]
        assert [array.dtype.name for array in arrays] == ["int32", "int32", "int64", "int32", "int32"]
        assert not any(np.shares_memory(a, b) for a in arrays for b in (sentences.input_ids, sentences.mask_index))
        assert len(example) == len(example.input_ids)


def test_no_room():
    with pytest.raises(FastmaskError, match="max_length 2"):
        examples_of(sentences_of(CORPUS), max_length=2, frame=FRAME)
    assert len(examples_of(sentences_of(CORPUS), max_length=3, frame=FRAME)) == 5


def test_frames():
    bert = {"cls": 2, "sep": 3, "mask": 4, "bos": None, "eos": None}
    assert Frame.of(bert, "bert") == Frame(2, 3)
    assert Frame.of({"bos": 0, "eos": 2}, "x") == Frame(0, 2)
    with pytest.raises(FastmaskError, match="some/model: the tokenizer has no sep or eos token"):
        Frame.of({"cls": 0, "sep": None}, "some/model")


def slow_examples(rows, max_length: int, pack: bool, masked_only: bool) -> list[tuple]:
    """The rule as one would do it by hand, a token at a time."""
    room, sequences, used, last_row = max_length - 2, [], 0, None
    for row, number, ids, masks in rows:
        sentence = [(i, (row, number, p) if p in masks else None) for p, i in enumerate(ids)][:room]
        if not sentence:
            continue
        joint = [(102, None)] if row != last_row else []
        if sequences and (pack or not joint) and used + len(joint) + len(sentence) <= room:
            sequences[-1] += joint + sentence
        else:
            sequences.append(sentence)
        used, last_row = len(sequences[-1]), row
    framed = [[(101, None), *sequence, (102, None)] for sequence in sequences]
    found = [([i for i, _ in s], [(at, *key) for at, (_, key) in enumerate(s) if key]) for s in framed]
    return [example for example in found if example[1] or not masked_only]


@st.composite
def corpora(draw):
    rows = []
    for row, lengths in enumerate(draw(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6))):
        for number, length in enumerate(lengths):
            masks = sorted(draw(st.sets(st.integers(0, length - 1)))) if length else []
            rows.append((row, number, list(range(length)), masks))
    return rows


@settings(max_examples=120, deadline=None)
@given(corpora(), st.integers(3, 20), st.booleans(), st.booleans())
def test_equals_the_slow_procedure(rows, max_length, pack, masked_only):
    found = examples_of(sentences_of(rows), max_length=max_length, frame=FRAME, pack=pack, masked_only=masked_only)
    assert as_lists(found) == slow_examples(rows, max_length, pack, masked_only)
    assert all(len(example) <= max_length for example in found)
