"""The sentences of a document, joined, have the ids that the tokenizer gives the document."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import encoder_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from fastmask.core.records import Document
from fastmask.text.frontend import encode_texts
from fastmask.text.sentences import Segmenter
from fastmask.text.tokens import TextEncoder

CORPUS = ["A great film . Dull, not funny! It is great. The film was not great."] * 4
PIECES = ["A great film.", "Dull", "film", "!", "?", "...", " ", "  ", "\n", "\u00a0", "é", "中", ". ", ".", '"', ")"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def byte_level(add_prefix_space: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    return tokenizer


def unigram(scheme: str, *, split: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=split)
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def llama() -> Tokenizer:
    """Pieces may have spaces within: a token can end one sentence and begin the next."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def suffixed() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


MAKERS = {
    "byte-level": lambda: byte_level(False),
    "byte-level-prefixed": lambda: byte_level(True),
    "always": lambda: unigram("always"),
    "first": lambda: unigram("first"),
    "never": lambda: unigram("never"),
    "unsplit": lambda: unigram("first", split=False),
    "llama": llama,
    "suffix": suffixed,
}


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
