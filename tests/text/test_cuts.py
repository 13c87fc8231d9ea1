"""A long text is tokenized in pieces: ids and spans are those that the tokenizer gives the whole."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from any_tokenizer import CORPUS, MAKERS, byte_level, unigram
from helpers import encoder_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from fastmask.core.records import Document
from fastmask.text.cuts import Cuts, is_local
from fastmask.text.sentences import Segmenter
from fastmask.text.tokens import TextEncoder

WORDS = [
    "A",
    "great",
    "film.",
    "Dull,",
    "not",
    "12",
    "3",
    "não",
    "e\u0301",
    "фильм",
    "한국어",
    "中文",
    "ß",
    "İ",
    "``",
    "''",
]
ODD = [
    "\u0e33",
    "\uff9e",
    "\u0d4e",
    "\u1161",
    "\u0301",
    "\ufc5e",
    "\ufdfa",
    "ﬁ",
    "ª",
    "\U0001f600",
    "_",
    "'s",
    "  ",
    "\n",
]
PIECES = [*WORDS, *ODD, "\t", "\u00a0", "\u3000", "<mask>", "foo", "foo bar", "   ", "\u200b"]
TEXTS = st.lists(st.sampled_from(PIECES) | st.sampled_from(WORDS), max_size=24).flatmap(
    lambda words: st.sampled_from([" ", ""]).map(lambda gap: gap.join(words))
)


def with_(tokenizer: Tokenizer, normalizer=None, pre_tokenizer=None, added=()) -> Tokenizer:
    if normalizer:
        tokenizer.normalizer = normalizers.Sequence(normalizer)
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pre_tokenizer)
    tokenizer.add_tokens(list(added))
    return tokenizer


def words() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(["<unk>", *" ".join(CORPUS).split(), "3", "."])}
    return Tokenizer(models.WordLevel(vocabulary, "<unk>"))


LOCAL = {name: maker for name, maker in MAKERS.items() if name not in ("unsplit", "llama")} | {
    "roberta": lambda: with_(byte_level(False), added=[AddedToken("<mask>", lstrip=True)]),
    "modernbert": lambda: with_(byte_level(False), [normalizers.NFC()], added=[" " * 2, " " * 4, "<mask>"]),
    "xlm-r": lambda: with_(
        unigram("always"),
        [normalizers.NFKC(), normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")],
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")],
        [AddedToken("<mask>", lstrip=True, rstrip=True)],
    ),
    "albert": lambda: with_(
        unigram("first"),
        [normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()],
    ),
    "deberta": lambda: with_(
        unigram("first"), pre_tokenizer=[pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace(prepend_scheme="first")]
    ),
    "digits": lambda: with_(
        byte_level(True), pre_tokenizer=[pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    ),
    "words": lambda: with_(
        words(), pre_tokenizer=[pre_tokenizers.Whitespace()], added=[AddedToken("foo", single_word=True)]
    ),
    "bert": lambda: with_(words(), [normalizers.BertNormalizer()], [pre_tokenizers.BertPreTokenizer()]),
}
OTHERS = {
    "unsplit": MAKERS["unsplit"],
    "llama": MAKERS["llama"],
    "none": words,
    "stripped": lambda: with_(byte_level(False), [normalizers.Strip()]),
    "patterns": lambda: with_(byte_level(False), [normalizers.Replace(Regex(r"\s+"), " ")]),
    "across": lambda: with_(byte_level(False), added=["foo bar"]),
    "eats": lambda: with_(byte_level(False), added=[AddedToken("foo", rstrip=True)]),
    "whole": lambda: with_(byte_level(False), pre_tokenizer=[pre_tokenizers.ByteLevel(use_regex=False)]),
    "pattern": lambda: with_(byte_level(False), pre_tokenizer=[pre_tokenizers.Split(Regex("a b"), "isolated")]),
    "spaces": lambda: with_(byte_level(False), [normalizers.Replace("t", " ")]),
}


@pytest.fixture(scope="module", params=LOCAL)
def encoders(request) -> tuple[TextEncoder, TextEncoder]:
    tokenizer = LOCAL[request.param]()
    whole, in_pieces = TextEncoder(tokenizer), TextEncoder(tokenizer)
    whole._cuts, in_pieces._cuts = Cuts(10**9, 10**9, False), Cuts(6, 10**9, False)
    return whole, in_pieces


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
def test_pieces_have_the_tokens_of_the_whole(encoders, texts):
    whole, in_pieces = encoders
    assert is_local(whole._tokenizer)
    for found, expected in zip(in_pieces.tokenize(texts), whole.tokenize(texts), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_cut_only_where_they_are_far_too_long(name):
    tokenizer = OTHERS[name]()
    assert not is_local(tokenizer) and Cuts.of(tokenizer, piece=100) == (200, 400, False)
    assert Cuts.of(byte_level(False), piece=100) == (100, 400, False)


@pytest.mark.parametrize(
    "text", ["good film " * 99, "x" * 1000, "中文。" * 300, "a." * 500, "\u3000" * 900, "{a:1} " * 200]
)
def test_pieces_are_the_text_and_bounded(text):
    for cuts in (Cuts(50, 200, False), Cuts(50, 100, True)):
        spans = list(cuts.spans(text))
        assert spans[0][0] == 0 and spans[-1][1] == len(text)
        assert all(end == start for (_, end), (start, _) in pairwise(spans))
        assert max(end - start for start, end in spans) <= cuts.most and len(spans) <= 1 + 2 * len(text) // 50
    if "。" in text:
        assert all(text[end - 1] == "。" for _, end in Cuts(50, 200, False).spans(text))


def test_a_run_without_a_space_is_cut(mr_tiny):
    encoder = encoder_of(mr_tiny)
    encoder._cuts = Cuts(50, 100, True)
    text = "good film " * 20 + ",b" * 200 + " " + "good film " * 20
    tokens = encoder.tokenize([text])
    assert "".join(text[a:b] for a, b in zip(tokens.start, tokens.end, strict=True)) == text.replace(" ", "")


class Watched:
    """A tokenizer that notes how many characters it is given together."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.most = tokenizer, 0

    def encode_batch(self, texts, **options):
        self.most = max(self.most, sum(map(len, texts)))
        return self.tokenizer.encode_batch(texts, **options)


@pytest.mark.parametrize("name", ["byte-level", "unsplit"])
@pytest.mark.parametrize("text", ["A great film. ", "中文。", "x"])
def test_a_tokenizer_is_given_little_at_a_time(name, text):
    encoder = TextEncoder(MAKERS[name]())
    encoder._tokenizer = Watched(encoder._tokenizer)
    text = (text * (800_000 // len(text))).strip()
    tokens = encoder.tokenize([text, "film"])
    assert encoder._tokenizer.most <= 2 << 18 and tokens.end.max() == len(text)


def peak_of(call) -> tuple[int, object]:
    tracemalloc.start()
    result = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, result


def test_the_sentences_of_a_long_text_take_little_memory():
    text = "a fine film, not dull. was it? " * 10_000
    segmenter = Segmenter()
    segmenter.split("One. Two.")
    peak, spans = peak_of(lambda: segmenter.split(text))
    assert len(spans) == 20_000 and spans.dtype == np.int32 and peak < 3 * len(text)


def test_the_tokens_of_a_long_text_take_little_memory(mr_tiny):
    encoder, text = encoder_of(mr_tiny), "a fine film, not dull, and it is well made by all of them. " * 100_000
    ends = np.arange(59, len(text) + 1, 59, dtype=np.int32)
    document = Document(0, text, None, None, "a.txt", 1)
    spans = np.stack([ends - 59, ends - 1], 1)
    encoder.tokenize([text[:1000]])
    peak, found = peak_of(lambda: encoder.encode([document], [spans], first_row=0, end_row=1))
    assert len(found) == 100_000 and len(found.input_ids) == 1_700_000
    assert found.char_end[-1] == ends[-1] - 1 and peak < 8 * len(text)
