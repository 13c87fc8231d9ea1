"""The words of tokens, counted from 0 in each sentence: the tokenizer's own word_ids, where a script has spaces."""

import re
from itertools import groupby, pairwise

import numpy as np
import pytest
from any_tokenizer import MAKERS, byte_level, llama, unigram
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from fastmask.core.records import Aspect, Document
from fastmask.text.cuts import Cuts
from fastmask.text.tokens import TextEncoder

# What has a whole text for one word is not among them.
OWN = [name for name in MAKERS if name not in ("unsplit", "llama")]


@pytest.fixture(scope="module")
def wordpiece(mr_tiny) -> Tokenizer:
    tokenizer = Tokenizer.from_file(f"{mr_tiny}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers(wordpiece) -> dict[str, Tokenizer]:
    return {"wordpiece": wordpiece, **{name: MAKERS[name]() for name in OWN}}


def words_of(encoder: TextEncoder, text: str, *spans) -> list[list[int]]:
    """The words of each sentence of a text."""
    found = encoder.encode([Document(0, text, None, None, "in", 1)], [spans or [(0, len(text))]],
                           first_row=0, end_row=1)  # fmt: skip
    assert found.word.dtype == np.int32
    return [found.word[a:b].tolist() for a, b in pairwise(found.offsets)]


def dense(numbers) -> list[int]:
    """0, 0, 2, 5, 5 -> 0, 0, 1, 2, 2."""
    return [n for n, (_, group) in enumerate(groupby(numbers)) for _ in group]


PARTS = ["A", "great", "film.", "isn't", " ", "  ", "Ωμέγα", "☕", "é", "\u00ad", ",", "[MASK]"]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), name=st.sampled_from(["wordpiece", *OWN]))
def test_words_are_the_tokenizers_own(texts, name, tokenizers):
    documents = [Document(row, text, None, None, "in", row + 1) for row, text in enumerate(texts)]
    spans = [[(0, len(text))] for text in texts]
    found = TextEncoder(tokenizers[name]).encode(documents, spans, first_row=0, end_row=len(texts))
    own = tokenizers[name].encode_batch(texts, add_special_tokens=False)
    assert found.word.tolist() == [number for one in own for number in dense(one.word_ids)]


def test_wordpieces_by_hand(wordpiece):
    # it ' s un ##bel ##ie ##va ##bly good - nature ##d [MASK] nonsense , no ?
    words = words_of(TextEncoder(wordpiece), "It's unbelievably good-natured [MASK] nonsense , no?")
    assert words == [[0, 1, 2, 3, 3, 3, 3, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11]]


def test_chinese_by_hand(wordpiece):
    text = "A 中文 film. Unbelievable!"  # a [UNK] [UNK] film . | unbelievable !
    assert words_of(TextEncoder(wordpiece), text, (0, 11), (11, len(text))) == [[0, 1, 2, 3, 4], [0, 1]]
    # each character is of three bytes
    assert words_of(TextEncoder(byte_level(False)), "电影。 great") == [[0] * 3 + [1] * 3 + [2] * 3 + [3]]


def test_byte_level_pieces_by_hand():
    # A Ġgreat Ġfilm Ġ. ĠDull , Ġis n ' t Ġ i t Ġ Ġfunny !
    words = words_of(TextEncoder(byte_level(False)), "A great film . Dull, isn't it  funny!")
    assert words == [[0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 8, 9, 10, 11]]


def test_sentencepieces_by_hand():
    # ▁ A ▁great ▁f i l m ▁ . ▁ | D u l l , ▁ i t: punctuation is of the word before it, a space between sentences of
    # the first of them
    words = words_of(TextEncoder(unigram("always")), "A great film . Dull, it", (0, 14), (15, 23))
    assert words == [[0, 0, 1, 2, 2, 2, 2, 3, 3, 4], [0, 0, 0, 0, 0, 1, 1, 1]]


def test_whole_words_and_characters():
    level = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "film": 2}, "<unk>"))
    level.pre_tokenizer = pre_tokenizers.Whitespace()
    assert words_of(TextEncoder(level), "a film? a") == [[0, 1, 2, 3]]


def test_a_tokenizer_to_which_a_text_is_one_word_has_words_between_spaces():
    # ▁A▁great▁film▁ .▁Du ll ,▁ i s n ' t▁ i t▁ ▁ fu nn y !
    words = words_of(TextEncoder(llama()), "A great film . Dull, isn't it  funny!")
    assert words == [[0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4]]


def test_a_word_that_begins_in_the_sentence_before_is_word_0_of_the_next():
    # the tokenizer's word ▁Dull,it! lies in both sentences
    assert words_of(TextEncoder(unigram("never")), "Dull,it!", (0, 5), (5, 8)) == [[0] * 5, [0] * 3]


@pytest.mark.parametrize("name", ["wordpiece", *OWN])
def test_words_of_a_text_that_is_cut_into_pieces_go_on(name, tokenizers):
    encoder = TextEncoder(tokenizers[name])
    text = "A great film isn't dull, it is unbelievable. " * 8
    whole = words_of(encoder, text)
    encoder._cuts = Cuts(40, 160, encoder._cuts.any_space)
    assert words_of(encoder, text) == whole == [dense(tokenizers[name].encode(text, add_special_tokens=False).word_ids)]


def test_words_of_aspect_text_are_counted_in_the_text(wordpiece):
    document = Document(0, "Unbelievably good.", None, (Aspect("food", 0),), "in", 1)
    found = TextEncoder(wordpiece).encode([document], [()], first_row=0, end_row=1)
    assert found.word.tolist() == [0, 0, 0, 0, 0, 1, 2]


UNSPACED = {
    # Latin words and numbers stay whole among Chinese, and marks are words
    "zh": ("我爱BERT模型，2024年 very much。", "我 爱 BERT 模 型 ， 2024 年 very much 。"),
    "ja": ("これはPyTorchの本です。ﾊﾞｽ", "こ れ は PyTorch の 本 で す 。 ﾊﾞ ｽ"),
    # vowel signs and tones go with the letter before them, vowels written first with the one after
    "th": ("เรื่องนี้ดีมาก ok น้ำ", "เรื่ อ ง นี้ ดี ม า ก ok น้ำ"),
    "km": ("ខ្មែរ", "ខ្មែ រ"),
    # scripts with spaces have their words, of whatever marks these are made
    "hi": ("फ़िल्म हैं", "फ़िल्म हैं"),
    "fa": ("می\u200cشود فیلم", "می\u200cشود فیلم"),
    "vi": ("phim hay lă\u0301m", "phim hay lă\u0301m"),
}  # fmt: skip


def word_texts(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text that each word covers."""
    encoder = TextEncoder(tokenizer)
    found = encoder.encode([Document(0, text, None, None, "in", 1)], [[(0, len(text))]], first_row=0, end_row=1)
    spans = [[], *([] for _ in found.word)]
    for word, start, end in zip(found.word.tolist(), found.char_start.tolist(), found.char_end.tolist(), strict=True):
        spans[word] += [start, end] if start < end else []
    return [text[min(one) : max(one)] for one in spans if one]


def by_character(name: str, text: str) -> Tokenizer:
    """A tokenizer of a kind whose pieces are the characters of a text and the Latin words in it."""
    pieces = dict.fromkeys([*text.replace(" ", ""), *re.findall("[A-Za-z0-9]+", text)])
    if name == "wordpiece":
        vocabulary = ["[UNK]", *pieces, *(f"##{piece}" for piece in pieces)]
        made = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return made
    if name == "byte-level":
        return byte_level(False)
    scores = [("<unk>", 0.0), ("▁", -1.0), *((piece, -1.0) for piece in pieces)]
    made = Tokenizer(models.Unigram(scores, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=name != "unsplit")
    return made


@pytest.mark.parametrize("language", UNSPACED)
@pytest.mark.parametrize("name", ["wordpiece", "byte-level", "unigram", "unsplit"])
def test_words_of_scripts_without_spaces(name, language):
    text, words = UNSPACED[language]
    assert " ".join(word_texts(by_character(name, text), text)) == words
