"""Masks for another tokenizer: by brute force on characters, by hand, and on real shards."""

from itertools import groupby

import numpy as np
import pytest
from helpers import golden, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from remap_samples import TEXTS, byte_bpe
from transformers import AutoTokenizer

from fastmask import ScoreConfig, open_shards, remap_masks, score_corpus
from fastmask.core.errors import FastmaskError, InputError, ModelError
from fastmask.data.remap import covered


@pytest.fixture(scope="module")
def others(mr_tiny) -> dict:
    return {"trimmed": byte_bpe(True), "spaces": byte_bpe(False), "wordpiece": AutoTokenizer.from_pretrained(mr_tiny)}


@pytest.fixture(scope="module")
def made(tmp_path_factory, mr_tiny):
    """A function from documents to a finished shard directory with random masks."""

    def make(texts, **options):
        folder = tmp_path_factory.mktemp("remap")
        corpus = write_jsonl(folder / "corpus.jsonl", [{"text": text} for text in texts])
        config = ScoreConfig(model=mr_tiny, **{"method": "random", "mask_rate": 0.3, **options})
        score_corpus([corpus], str(folder / "out"), config)
        return folder / "out"

    return make


def check(out, texts, tokenizer, found):
    """Against a brute force over characters: every document's tokens once, in order, masked if a character is."""
    rows = list(open_shards(out))
    assert [(row["row"], row["sentence"]) for row in found] == [(row["row"], row["sentence"]) for row in rows]
    new = {row: list(group) for row, group in groupby(found, key=lambda row: row["row"])}
    for number, old in groupby(rows, key=lambda row: row["row"]):
        characters = {
            c for row in old for i in row["mask_index"] for c in range(row["char_start"][i], row["char_end"][i])
        }
        expected = tokenizer(texts[number], add_special_tokens=False, return_offsets_mapping=True)
        assert np.concatenate([row["input_ids"] for row in new[number]]).tolist() == expected["input_ids"]
        masked = [bool(characters & set(range(a, b))) for a, b in expected["offset_mapping"]]
        got = np.concatenate([np.isin(np.arange(len(row["input_ids"])), row["mask_index"]) for row in new[number]])
        assert got.tolist() == masked


@pytest.mark.parametrize("name", ["trimmed", "spaces", "wordpiece"])
def test_against_characters(name, others, made, golden_dir):
    texts = [*TEXTS, *(row["text"] for row in golden(golden_dir, "mr_tiny_0.05")[:40])]
    out = made(texts)
    check(out, texts, others[name], list(remap_masks(out, others[name])))


def test_the_same_tokenizer_gives_the_same_shards(others, made):
    out = made(TEXTS, max_length=64)
    rows = list(open_shards(out))
    for old, new in zip(rows, remap_masks(str(out), others["wordpiece"]), strict=True):
        for name in ("input_ids", "char_start", "char_end", "mask_index"):
            assert new[name].dtype == np.int32 and new[name].tolist() == old[name]


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text("ab .!?é🙂日\t", min_size=1, max_size=30), min_size=1, max_size=4), seed=st.integers(0, 99)
)
def test_any_text(texts, seed, others, made):
    out = made(texts, seed=seed)
    for tokenizer in others.values():
        found = list(remap_masks(out, tokenizer, texts))
        rows = {row["row"] for row in open_shards(out)}
        whole = [text if number in rows else "" for number, text in enumerate(texts)]
        check(out, whole, tokenizer, found)


spans = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)).map(lambda t: (t[0], t[0] + t[1])), max_size=8)


@given(spans, spans)
def test_covered(tokens, masks):
    expected = [any(set(range(*token)) & set(range(*mask)) for mask in masks) for token in tokens]
    token, mask = (np.array(each, np.int32).reshape(-1, 2) for each in (tokens, masks))
    assert covered(token[:, 0], token[:, 1], mask[:, 0], mask[:, 1]).tolist() == expected


def test_sentences_by_hand(others, made):
    text = "We'll be back! terrible parking."
    first, second = remap_masks(made([text]), others["spaces"])
    assert text[first["char_start"][0] : first["char_end"][-1]] == "We'll be back!"
    # this tokenizer's tokens take the space before them along
    assert text[second["char_start"][0] : second["char_end"][-1]] == " terrible parking."


def test_special_tokens_in_a_text_are_never_masked(others, made):
    """What is four pieces to the one tokenizer is a special token to the other."""
    out = made(["Great </s> coffee <mask>, terrible parking."], mask_rate=1.0, stop_words="none")
    (old,), (new,) = open_shards(out), remap_masks(out, others["spaces"])
    assert len(old["mask_index"]) == len(old["input_ids"])
    special = [others["spaces"].eos_token_id, others["spaces"].mask_token_id]
    unmasked = np.delete(new["input_ids"], new["mask_index"])
    assert set(special) == set(unmasked.tolist()) - {others["spaces"].convert_tokens_to_ids("Ġ")}


def test_rows_without_a_document_keep_their_numbers(others, mr_tiny, tmp_path):
    lines = ["Good food.", "", "Bad service.", "   ", "Never again!"]
    (tmp_path / "c.txt").write_text("\n".join(lines))
    score_corpus([str(tmp_path / "c.txt")], str(tmp_path / "out"), ScoreConfig(model=mr_tiny, method="random"))
    found = list(remap_masks(tmp_path / "out", others["spaces"]))
    assert [row["row"] for row in found] == [0, 2, 4]
    check(tmp_path / "out", lines, others["spaces"], found)


def test_texts_that_do_not_fit(others, made, tmp_path):
    out = made(TEXTS)
    tokenizer = others["trimmed"]
    with pytest.raises(FastmaskError, match="row 2: there is no text for it"):
        list(remap_masks(out, tokenizer, TEXTS[:2]))
    with pytest.raises(FastmaskError, match=r"row 1: its text has 3 characters, its tokens go up to \d+"):
        list(remap_masks(out, tokenizer, [TEXTS[0], "abc"]))
    corpus = out.parent / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("Great", "Grand"))
    with pytest.raises(InputError, match=r"corpus\.jsonl: has changed"):
        remap_masks(out, tokenizer)
    corpus.unlink()
    with pytest.raises(InputError, match=r"corpus\.jsonl"):
        remap_masks(out, tokenizer)
    assert len(list(remap_masks(out, tokenizer, TEXTS))) == len(open_shards(out))


def test_a_tokenizer_without_positions(made):
    class Slow:
        is_fast, name_or_path = False, "slow"

    with pytest.raises(ModelError, match="slow: is not a fast tokenizer"):
        remap_masks(made(TEXTS[:1]), Slow())
    with pytest.raises(ModelError, match="bert: is not a fast tokenizer of transformers"):
        remap_masks(made(TEXTS[:1]), "bert")
