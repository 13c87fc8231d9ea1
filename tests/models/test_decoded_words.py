"""Stop words of other languages are words of the decoded text, whatever pieces they are made of."""

import numpy as np
import pytest
from helpers import rows_of
from models_of_words import tokenizer_of
from tokenizers import normalizers

from fastmask import score_corpus
from fastmask.core.config import ScoreConfig
from fastmask.models.decoded_words import DecodedWords, unmaskable
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.pieces import not_masked
from fastmask.text.stop_words import stop_words


def bytes_of(text: str) -> str:
    """The pieces of some words in the characters that byte-level vocabularies write bytes with."""
    from fastmask.models.pieces import BYTES

    of_byte = {byte: character for character, byte in BYTES.items()}
    return "".join(of_byte[byte] for byte in text.encode())


def found(
    kind: str, language: str, *sentences: str, words=None, normalizer=None, word="", by_word: bool | None = None
) -> str:
    """Sentences of pieces, which blanks divide -> those of stop words, an empty place for each other one."""
    pieces = [sentence.split() for sentence in sentences]
    tokenizer = tokenizer_of(kind, dict.fromkeys(piece for sentence in pieces for piece in sentence))
    if normalizer:
        tokenizer.backend_tokenizer.normalizer = normalizer
    finder = unmaskable(tokenizer, stop_words("language", language) if words is None else frozenset(words), language,
                        bool(word) if by_word is None else by_word)  # fmt: skip
    ids = np.array(tokenizer.convert_tokens_to_ids([one for sentence in pieces for one in sentence]), np.int32)
    offsets = np.cumsum([0, *map(len, pieces)])
    stop = not_masked(finder, ids, offsets, np.array(word.split(), np.int32) if word else None).tolist()
    flat = iter(stop)
    return " | ".join(" ".join(one if next(flat) else "." for one in sentence) for sentence in pieces)


@pytest.mark.parametrize(
    ("kind", "language", "pieces", "stop"),
    [
        # a word is what is written together, in any case: "nicht" is a stop word, "nichts" too, "Nichte" (niece) not
        ("wordpiece", "de", "Der Film ist NIC ##HT gut , Nicht ##e", "Der . ist NIC ##HT gut . . ."),
        ("wordpiece", "de", "der ##art Haus ##der der", ". . . . der"),
        ("byte-level", "de", "Ġder Film Ġdie Ġnic ht ĠDie b", ". . Ġdie Ġnic ht . ."),
        ("metaspace", "de", "▁Der ▁Film ▁nic ht ▁der art ▁ die", "▁Der . ▁nic ht . . . die"),
        ("suffix", "de", "Der</w> nic ht</w> der art</w> ist</w>", "Der</w> nic ht</w> . . ist</w>"),
        ("prefix", "de", "Der nic @@ht der @@art", "Der nic @@ht . ."),
        ("words", "de", "Der Film nicht", "Der . nicht"),
        # elisions, with either apostrophe, in one piece or in several; not after a space, nor across sentences
        ("wordpiece", "fr", "l ' homme qu ’ il d ' art", "l ' . qu ’ il d ' ."),
        ("metaspace", "fr", "▁l ' homme ▁l' ami ▁qu ’ il ▁l ▁' a", "▁l ' . ▁l' . ▁qu ’ il . . a"),
        ("byte-level", "fr", f"Ġl ' homme Ġqu {bytes_of('’')} il", f"Ġl ' . Ġqu {bytes_of('’')} il"),
        ("wordpiece", "fr", "quel ##qu ' un dit celle - ci - l ' un", "quel ##qu ' un dit celle - ci . l ' un"),
        ("wordpiece", "it", "dell ' arte all ' ora", "dell ' . all . ora"),
        # in small letters, which Turkish has of its own: YAPTIĞI is yaptığı; what spaCy takes for one stays one, as ILE
        ("wordpiece", "tr", "İçin İLE IŞTE ##N YAPT ##IĞI ILE", "İçin İLE . . YAPT ##IĞI ILE"),
        ("wordpiece", "de", "FÜR YAPTIĞI", "FÜR ."),
        # marks that are no letters of their own are of the word
        ("wordpiece", "hi", "ह ##ैं और फ़िल्म है", "ह ##ैं और . है"),
        ("metaspace", "fa", "▁می \u200cشود ▁است ▁فیلم", "▁می \u200cشود ▁است ."),
        ("wordpiece", "ru", "Не фильм , а Он ##и", "Не . . а Он ##и"),
        ("wordpiece", "el", "ΤΟΥΣ", "ΤΟΥΣ"),
        ("wordpiece", "ar", "في الفيلم من ##زل", "في . . ."),
        # no spaces: each token is looked up, wherever it stands
        ("wordpiece", "zh", "这 部 电 影 的 我 们", "这 . . . 的 我 们"),
        ("metaspace", "zh", "▁我们 喜欢 的 电影 如果 ▁ 你", "▁我们 . 的 . 如果 . 你"),
        ("byte-level", "zh", f"{bytes_of('我们')} {bytes_of('电影')}", f"{bytes_of('我们')} ."),
        ("wordpiece", "ja", "この 映 画 ##は する", "この . . ##は する"),
    ],
)  # fmt: skip
def test_stop_words_of_a_text(kind, language, pieces, stop):
    assert found(kind, language, pieces) == stop


@pytest.mark.parametrize(
    ("kind", "language", "pieces", "words", "stop"),
    [
        # "too" of "toothless" is none; a mark that the tokenizer keeps with a word is no part of it
        ("wordpiece", "en", "too ##th ##less the ##sis The s too", "0 0 0 1 1 2 3 4", ". . . . . The . too"),
        ("metaspace", "en", "▁the , ▁the , film ▁( it em )", "0 0 1 1 1 2 2 2 2", "▁the , . . . . . . ."),
        ("metaspace", "en", "▁it ' s ▁don ’ t ▁film ' s ▁' all '", "0 0 0 1 1 1 2 2 2 3 3 3",
         "▁it ' s ▁don ’ t . . . ▁' all '"),
        ("wordpiece", "en", "isn ' t film ' s as ' man", "0 1 2 3 4 5 6 7 8", "isn ' t . . . as . ."),
        ("byte-level", "en", "Ġtoo thless Ġthe Ġthe sis", "0 0 1 2 2", ". . Ġthe . ."),
        ("byte-level", "en", "Ġdon 't Ġfilm 's Ġit 's Ġas Ġ't", "0 1 2 3 4 5 6 7", "Ġdon 't . 's Ġit 's Ġas ."),
        # l'homme is a word of this tokenizer, and no stop word; qu'il is two of them
        ("metaspace", "fr", "▁l ' homme ▁qu ’ il", "0 0 0 1 1 1", ". . . ▁qu ’ il"),
        ("wordpiece", "fr", "l ' homme", "0 1 2", "l ' ."),
        ("metaspace", "tr", "▁YAPT IĞI ▁ile r", "0 0 1 1", "▁YAPT IĞI . ."),
        ("metaspace", "hi", "▁नहीं । ▁नह ीं", "0 0 1 1", "▁नहीं । ▁नह ीं"),
        ("metaspace", "zh", "▁ 我们 喜欢 的 电影 。", "0 0 1 2 3 4", "▁ 我们 . 的 . 。"),
    ],
)  # fmt: skip
def test_words_of_the_tokenizer_are_stop_words_as_a_whole(kind, language, pieces, words, stop):
    assert found(kind, language, pieces, word=words) == stop


@pytest.mark.parametrize("by_word", [False, True])
def test_characters_of_several_tokens_one_after_the_other(by_word):
    """喜的我, each of two tokens: words where the text is known, of which the last two are stop words."""
    cut = [bytes_of(character)[n : n + 2] for character in "喜的我" for n in (0, 2)]
    marked = found("byte-level", "zh", " ".join(cut), word="0 0 1 1 2 2", by_word=by_word)
    assert marked == " ".join([".", ".", *cut[2:]])


def test_a_sentence_ends_a_word():
    assert found("byte-level", "de", "Ġnic", "ht Ġdie", "", "ist") == ". | . Ġdie |  | ist"
    assert found("wordpiece", "fr", "l", "' homme") == ". | . ."


def test_a_character_of_several_tokens():
    first, second, third = bytes_of("für")[:2], bytes_of("für")[2:3], bytes_of("für")[3:]
    assert found("byte-level", "de", f"Ġ{first} {second}{third} ĠFilm") == f"Ġ{first} {second}{third} ."
    assert found("metaspace", "de", "▁f <0xC3> <0xBC> r ▁f <0xC3> <0xBC>") == "▁f <0xC3> <0xBC> r . . ."


def test_accents_that_the_tokenizer_takes_away():
    bert = normalizers.BertNormalizer(lowercase=True)
    assert found("wordpiece", "de", "fu ##r uber fur film", normalizer=bert) == "fu ##r uber fur ."
    assert found("wordpiece", "de", "fur fu\u0308r für") == ". fu\u0308r für"


def test_words_of_a_file_are_looked_up_alike():
    assert found("wordpiece", "xx", "Fil ##m plot s", words=["film", "s"]) == "Fil ##m . s"
    assert found("wordpiece", "en", "fil ##m the the ##sis", words=["film", "the"]) == ". . the the ."


def test_english_and_no_words_are_looked_up_by_piece(mr_tiny):
    tokenizer = load_tokenizer(resolve_model(mr_tiny))
    for words, language in ((stop_words("language"), "en"), (frozenset(), "de")):
        assert isinstance(unmaskable(tokenizer, words, language), np.ndarray)
    assert isinstance(unmaskable(tokenizer, frozenset(["a"]), "de"), DecodedWords)


def test_special_tokens_are_found_too(mr_tiny):
    tokenizer = load_tokenizer(resolve_model(mr_tiny))
    ids = np.array([tokenizer.sep_token_id, *tokenizer("a film", add_special_tokens=False).input_ids], np.int32)
    assert not_masked(unmaskable(tokenizer, frozenset(["a"]), "de"), ids, np.array([0, 3])).tolist() == [1, 1, 0]
    assert not_masked(unmaskable(tokenizer, frozenset(["a"]), "de"), ids[:0], np.array([0, 0])).tolist() == []


@pytest.mark.parametrize("method", ["greedy", "prefix", "leave-one-out"])
def test_stop_words_of_the_language_are_not_masked(method, mr_tiny, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the film und nichts zwischen the plot\n", encoding="utf-8")
    threshold = -1.0 if method == "leave-one-out" else 1.0
    tokens = load_tokenizer(resolve_model(mr_tiny)).tokenize("the film und nichts zwischen the plot")
    for words, kept in (("language", "undnichtszwischen"), ("none", "")):
        config = ScoreConfig(model=mr_tiny, method=method, threshold=threshold, language="de", stop_words=words)
        score_corpus([corpus], tmp_path / words, config)
        (row,) = rows_of(tmp_path / words)
        others = [token for n, token in enumerate(tokens) if n not in row["mask_index"]]
        assert "".join(others).replace("##", "") == kept
