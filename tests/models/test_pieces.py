"""Which ids are never masked: stop words as text, by tokenizer, and special tokens that stand in a text."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import rows_of
from models_of_words import tokenizer_of

from fastmask import score_corpus
from fastmask.core.config import ScoreConfig
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.pieces import never_masked, not_masked, special_ids_in_text
from fastmask.text.stop_words import stop_words

ENGLISH = stop_words("english")


@pytest.mark.parametrize(
    ("kind", "stop", "first", "others"),
    [
        # the authors' rule: the list is looked up for each piece as it is
        ("wordpiece", ["the", "The", "'s"], [], ["##the", "s", "'", "##s", "film", "Ġthe", "▁the", "the</w>"]),
        ("byte-level", ["Ġthe", "ĠThe", "'s", "ĠmÃªme", "ĠĠnot"], ["the", "mÃªme"], ["Ġfilm", "mÃ", "Ġ", "s", "▁not"]),
        ("metaspace", ["▁the", "▁The", "▁même"], ["the", "he"], ["▁", "▁film", "s", "Ġthe", "<0x41>"]),
        ("llama", ["▁not"], ["not"], ["<0x6E>", "▁"]),
        ("suffix", ["the</w>", "The</w>", "même</w>"], ["the", "not"], ["film</w>", "</w>"]),
        ("prefix", ["the"], ["@@not"], ["film", "@@film"]),
        ("words", ["the", "The", "'s"], [], ["film", "s"]),
    ],
)
def test_stop_words_are_compared_as_text(kind, stop, first, others):
    tokenizer = tokenizer_of(kind, [*stop, *first, *others])
    table = never_masked(tokenizer, ENGLISH | {"même"})
    at = {piece: table[:, index].tolist() for piece, index in tokenizer.get_vocab().items() if piece != "<unk>"}
    assert at == {piece: [piece in stop, piece in stop or piece in first] for piece in [*stop, *first, *others]}


def test_a_piece_without_a_mark_begins_a_word_where_a_sentence_begins():
    tokenizer = tokenizer_of("byte-level", ["the", "Ġthe", "Ġfilm"])
    the, word, film = (tokenizer.convert_tokens_to_ids(piece) for piece in ("the", "Ġthe", "Ġfilm"))
    ids, offsets = np.array([the, film, the, word, word]), np.array([0, 0, 4, 5, 5])
    assert not_masked(never_masked(tokenizer, ENGLISH), ids, offsets).tolist() == [True, False, False, True, True]
    assert not_masked(never_masked(tokenizer, ENGLISH), ids[:0], np.array([0, 0])).tolist() == []


def test_the_english_list_is_spacys_is_stop(mr_tiny):
    from spacy.lang.en import English

    vocabulary, nlp = Path(mr_tiny, "vocab.txt").read_text(encoding="utf-8").splitlines(), English()
    tokenizer = load_tokenizer(resolve_model(mr_tiny))
    stop, special = np.flatnonzero([nlp.vocab[piece].is_stop for piece in vocabulary]), special_ids_in_text(tokenizer)
    table = never_masked(tokenizer, ENGLISH)
    assert (table[0] == table[1]).all() and np.flatnonzero(table[0]).tolist() == sorted({*stop, *special})
    assert np.flatnonzero(never_masked(tokenizer, stop_words("none"))[0]).tolist() == special


def test_special_ids_that_a_text_may_have():
    tokenizer = tokenizer_of("byte-level", ["a"])
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<e1>"]})
    tokenizer.add_tokens(["plain"])
    names = tokenizer.convert_ids_to_tokens(special_ids_in_text(tokenizer))
    assert sorted(names) == ["<e1>", "<pad>"]  # ordinary words are unknown, too
    tokenizer.add_special_tokens({"eos_token": "<unk>"})
    assert 0 in special_ids_in_text(tokenizer)


@pytest.fixture(scope="module")
def entity_model(mr_tiny, tmp_path_factory) -> str:
    """mr-tiny, whose last piece is a special token [E1] that only the configuration names."""
    path = Path(shutil.copytree(mr_tiny, tmp_path_factory.mktemp("models") / "entity"))
    content = json.loads((path / "tokenizer.json").read_text())
    pieces = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"] = {piece: n for n, piece in enumerate([*pieces[:-1], "[E1]"])}
    (path / "tokenizer.json").write_text(json.dumps(content))
    (path / "vocab.txt").unlink()
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"extra_special_tokens": ["[E1]"]}))
    return str(path)


CORPUS = """a great [SEP] film [MASK] with [PAD] a dull [E1] end [CLS]
[SEP] [MASK] [PAD] [E1]
wonderful [E1] [E1] [E1] [E1] [E1] [E1] [E1] [E1] [E1]
a terrible , terrible mess [MASK]
"""


@pytest.mark.parametrize("method", ["greedy", "prefix", "leave-one-out", "random"])
def test_special_tokens_in_a_text_are_never_masked(method, entity_model, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(CORPUS)
    every = {"random": {"mask_rate": 1.0}, "leave-one-out": {"threshold": -1.0}}.get(method, {"threshold": 1.0})
    config = ScoreConfig(model=entity_model, method=method, stop_words="none", **every)
    control = None if method == "random" else tmp_path / "control"
    score_corpus([corpus], tmp_path / "masks", config, control=control)
    tokens_of = load_tokenizer(resolve_model(entity_model)).convert_ids_to_tokens
    # every other token is masked: the control has as many masks, and so just these
    expected = [[0, 1, 3, 5, 7, 8, 10], [], [0], [0, 1, 2, 3, 4]]
    for out in filter(None, (tmp_path / "masks", control)):
        rows = rows_of(out)
        assert [row["mask_index"] for row in rows] == expected
        assert tokens_of(rows[1]["input_ids"]) == ["[SEP]", "[MASK]", "[PAD]", "[E1]"]
