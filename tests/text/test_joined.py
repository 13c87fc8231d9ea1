"""The sentences of a document, joined, have the ids that the tokenizer gives the document."""

from itertools import pairwise

import numpy as np
import pytest
from any_tokenizer import MAKERS, byte_level
from helpers import encoder_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask.core.records import Document
from fastmask.text.frontend import encode_texts
from fastmask.text.sentences import Segmenter
from fastmask.text.tokens import TextEncoder

PIECES = ["A great film.", "Dull", "film", "!", "?", "...", " ", "  ", "\n", "\u00a0", "é", "中", ". ", ".", '"', ")"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@pytest.fixture(scope="module", params=["wordpiece", *MAKERS])
def encoder(request, mr_tiny) -> TextEncoder:
    return encoder_of(mr_tiny) if request.param == "wordpiece" else TextEncoder(MAKERS[request.param]())


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("sentence")


def encode(encoder, segmenter, texts):
    documents = [Document(row, text, None, None, "", row) for row, text in enumerate(texts)]
    return encoder.encode(documents, [segmenter.split(text) for text in texts], first_row=0, end_row=len(texts))


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_joined_sentences_are_the_document(encoder, segmenter, texts):
    found = encode(encoder, segmenter, texts)
    expected = [encoded.ids for encoded in encoder._tokenizer.encode_batch(texts, add_special_tokens=False)]
    bounds = np.searchsorted(found.row, np.arange(len(texts) + 1))
    for text, ids, (first, end) in zip(texts, expected, pairwise(bounds.tolist()), strict=True):
        joined = found.input_ids[found.offsets[first] : found.offsets[end]].tolist()
        assert joined == (ids if text.strip() else []), text


@settings(max_examples=30, deadline=None)
@given(text=TEXTS)
def test_tokens_are_in_their_sentences(encoder, segmenter, text):
    found, spans = encode(encoder, segmenter, [text]), segmenter.split(text)
    for n, number in enumerate(found.sentence.tolist()):
        inside = slice(found.offsets[n], found.offsets[n + 1])
        upper = spans[number + 1][0] if number + 1 < len(spans) else len(text)
        ends = found.char_end[inside]
        assert (found.char_start[inside] <= ends).all() and ends.max() <= upper
        assert number == 0 or ends.min() > spans[number][0]


def test_the_space_before_a_sentence_is_not_lost():
    encoder = TextEncoder(byte_level(False))
    found = encode_texts(["A great film. Dull, not funny!"], encoder)
    assert found.sentence.tolist() == [0, 1]
    tokens = [encoder._tokenizer.id_to_token(i) for i in found.input_ids]
    assert tokens[found.offsets[1]].startswith("Ġ") and not tokens[0].startswith("Ġ")
    assert encoder._tokenizer.decode(found.input_ids) == "A great film. Dull, not funny!"
    assert "A great film. Dull"[found.char_start[found.offsets[1]]] == "D"
