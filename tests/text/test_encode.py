"""Ids are the tokenizer's, spans point at each token's surface, labels are classes."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
from helpers import encoder_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask.core.labels import Classes
from fastmask.core.records import Aspect, Document
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.text.ragged_tokens import Tokens, in_words
from fastmask.text.tokens import TextEncoder

PIECES = [
    *"abcdefAZ .?!'-",
    "film",
    "great",
    "[MASK]",
    "[UNK]",
    "  ",
    "\t",
    "\n",
    "\x85",
    "\x0b",
    "\x1c",
    "\u0301",
    "é",
    "İ",
    "ß",
    "中",
    "文",
    "ﬁ",
    "\u200b",
    "\u00ad",
    "\u2028",
    "\u00a0",
    "\u3000",
    "😀",
    "Σ",
    "unbelievable",
    "ǅ",
    "\ufffd",
    "가",
]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=8)
CLASSES = Classes(("negative", "positive"))


@pytest.fixture(scope="module")
def encoder(mr_tiny) -> TextEncoder:
    return encoder_of(mr_tiny)


@pytest.fixture(scope="module")
def plain_tokenizer(mr_tiny):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{mr_tiny}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def byte_level() -> TextEncoder:
    """A RoBERTa-like tokenizer whose own spans hold the space before a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>"])
    tokenizer.train_from_iterator(["the film is great , the film was not great"] * 4, trainer)
    return TextEncoder(tokenizer)


def documents_of(*texts, label=None, aspects=None) -> list[Document]:
    return [Document(row, text, label, aspects, "in.jsonl", row + 1) for row, text in enumerate(texts)]


def encode(encoder, documents, spans=None, **options):
    spans = [[(0, len(d.text))] for d in documents] if spans is None else spans
    return encoder.encode(documents, spans, first_row=0, end_row=len(documents), **options)


def ragged(flat, offsets) -> list[list[int]]:
    return [flat[a:b].tolist() for a, b in pairwise(offsets)]


@settings(max_examples=120, deadline=None)
@given(texts=TEXTS | st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=6))
def test_tokens_are_the_tokenizers_own(encoder, plain_tokenizer, texts):
    tokens = encoder.tokenize(texts)
    expected = plain_tokenizer.encode_batch(texts, add_special_tokens=False)
    assert ragged(tokens.ids, tokens.offsets) == [e.ids for e in expected]
    assert ragged(tokens.start, tokens.offsets) == [[a for a, _ in e.offsets] for e in expected]
    assert ragged(tokens.end, tokens.offsets) == [[b for _, b in e.offsets] for e in expected]


@settings(max_examples=80, deadline=None)
@given(data=st.data(), texts=st.lists(st.text("abcdefg film.,!é中 \n", max_size=30), max_size=5))
def test_spans_are_in_the_documents_text(encoder, plain_tokenizer, data, texts):
    documents = documents_of(*texts)
    cuts = [data.draw(st.integers(0, len(text))) for text in texts]
    spans = [[(0, cut), (cut, len(text))] for cut, text in zip(cuts, texts, strict=True)]
    encoded = encode(encoder, documents, spans)
    assert (np.diff(encoded.offsets) > 0).all()
    for n, row in enumerate(encoded.row.tolist()):
        lower, upper = spans[row][encoded.sentence[n]]
        for t in range(encoded.offsets[n], encoded.offsets[n + 1]):
            start, end = int(encoded.char_start[t]), int(encoded.char_end[t])
            assert lower <= start < end <= upper
            surface, token = texts[row][start:end], plain_tokenizer.id_to_token(int(encoded.input_ids[t]))
            if token != "[UNK]":
                assert surface.lower().replace("é", "e") == token.removeprefix("##")


@settings(max_examples=80, deadline=None)
@given(text=st.text("the film was great,é😀 \n\t\u00a0", max_size=30))
def test_byte_level_spans_hold_no_spaces(byte_level, text):
    tokens = byte_level.tokenize([text])
    pieces = [text[a:b] for a, b in zip(tokens.start, tokens.end, strict=True)]
    assert all(piece == piece.strip() for piece in pieces)
    if text.isascii():
        assert "".join(pieces) == "".join(text.split())


def test_byte_level_words(byte_level):
    encoded = encode(byte_level, documents_of("so  the film , great"), [[(0, 2), (4, 20)]])
    text = "so  the film , great"
    spans = zip(encoded.char_start.tolist(), encoded.char_end.tolist(), strict=True)
    assert [text[a:b] for a, b in spans if a < b] == ["s", "o", "the", "film", ",", "great"]


def test_golden_tokens(encoder, plain_tokenizer, golden_dir):
    lines = (golden_dir / "mr_tiny_0.05.jsonl").read_text(encoding="utf-8").splitlines()
    sentences = [s for line in lines for s in json.loads(line)["sentences"]]
    tokens = encoder.tokenize([s["text"] for s in sentences])
    words = [[plain_tokenizer.id_to_token(i) for i in ids] for ids in ragged(tokens.ids, tokens.offsets)]
    assert words == [s["tokens"] for s in sentences]


def test_shapes_and_dtypes(encoder):
    encoded = encode(encoder, documents_of("a great film", "\x01", "bad"), skipped=["x"])
    assert encoded.row.tolist() == [0, 2] and encoded.skipped == ("x",)
    assert (encoded.first_row, encoded.end_row) == (0, 3)
    expected = {"row": "int64", "offsets": "int64", "context_offsets": "int64"}
    for field in dataclasses.fields(encoded):
        value = getattr(encoded, field.name)
        if isinstance(value, np.ndarray):
            assert value.dtype == expected.get(field.name, "int32"), field.name
    assert encoded.unit_sentence.tolist() == [0, 1] and encoded.context_offsets.tolist() == [0, 0, 0]


def test_nothing_to_encode(encoder):
    encoded = encode(encoder, [])
    assert len(encoded) == 0 and encoded.offsets.tolist() == [0] and encoded.input_ids.dtype == np.int32


def test_sentences_without_tokens_keep_the_numbers_of_others(encoder):
    encoded = encode(encoder, documents_of("ab\x01cd"), [[(0, 2), (2, 3), (3, 5)]])
    assert encoded.sentence.tolist() == [0, 2]


def test_bad_labels_are_skipped(encoder):
    documents = documents_of("one", label="odd") + documents_of("one", "two", label=1)[1:]
    encoded = encode(encoder, documents, classes=CLASSES, on_error="skip", skipped=["before"])
    assert encoded.row.tolist() == [1]
    assert encoded.skipped[0] == "before" and encoded.skipped[1].startswith("in.jsonl:1: ")


@pytest.mark.parametrize(("label", "index"), [(5, 5), ("positive", -1), (None, -1), (-3, -1), (1 << 40, -1)])
def test_labels_without_a_model(encoder, label, index):
    assert encode(encoder, documents_of("x", label=label)).label.tolist() == [index]


def test_aspects_are_units_of_one_sentence(encoder):
    aspects = (Aspect("wait staff", "negative"), Aspect("food", "positive"))
    (document,) = documents_of("Good food. Bad wait staff.", aspects=aspects)
    documents = [document, Document(1, "No aspect left.", None, (), "in.jsonl", 2)]
    encoded = encode(encoder, documents, [[(0, 10)], []], classes=CLASSES)
    assert encoded.is_aspect and encoded.row.tolist() == [0, 1] and encoded.label.tolist() == [-1, -1]
    assert encoded.unit_sentence.tolist() == [0, 0] and encoded.unit_label.tolist() == [0, 1]
    contexts = ragged(encoded.context_ids, encoded.context_offsets)
    terms = encoder.tokenize(["wait staff", "food"])
    assert contexts == ragged(terms.ids, terms.offsets)
    assert int(encoded.char_end.max()) == len(documents[0].text)


def test_answers_do_not_depend_on_batches_or_the_word_table(mr_tiny, encoder, monkeypatch):
    texts = ["the film is great .", "", "not a film", "great unheardofword"] * 3
    expected = encoder.tokenize(texts)
    monkeypatch.setattr("fastmask.text.tokens._BATCH_CHARS", 20)
    monkeypatch.setattr("fastmask.text.tokens._CACHE_BYTES", 0)
    for found, wanted in zip(encoder_of(mr_tiny).tokenize(texts), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_text_that_is_cut_for_its_length_has_the_tokens_of_the_whole(mr_tiny):
    tokenizer = load_tokenizer(resolve_model(mr_tiny)).backend_tokenizer
    # a piece is cut at a space, of which there are several together, and not in a run without one
    texts = ["one", "a good  film,   really " * 50_000, "", "b" * 120_000 + " ok", " last "]
    found = TextEncoder(tokenizer).tokenize(texts)
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    assert np.diff(found.offsets).tolist() == list(map(len, encodings))
    assert found.ids.tolist() == [number for encoding in encodings for number in encoding.ids]
    assert list(zip(found.start, found.end, strict=True)) == [span for one in encodings for span in one.offsets]


def test_a_token_of_a_hundred_thousand_spaces_costs_no_pass_for_each():
    texts = [" " * 100_000 + "a" + " " * 100_000, "b"]
    spans = np.array([[0, 200_001], [0, 1]], np.int32)
    tokens = Tokens(
        np.array([0, 1, 2]), np.zeros(2, np.int32), spans[:, 0].copy(), spans[:, 1].copy(), np.ones(2, bool)
    )
    trimmed = in_words(tokens, texts)
    assert trimmed.start.tolist() == [100_000, 0] and trimmed.end.tolist() == [100_001, 1]
