"""Words that shards mask whole stay whole: in training sequences, in other formats, in another tokenizer's tokens."""

import json
from itertools import groupby

import numpy as np
import pytest
from any_tokenizer import unigram
from helpers import fastmask, golden, rows_of, write_jsonl
from remap_samples import byte_bpe
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fastmask import ScoreConfig, SelectiveMaskCollator, TrainingStream, open_shards, remap_masks, score_corpus

TEXT = "Isn't it unbelievable? Unbelievably long words, nonsensical movie-goers."


@pytest.fixture(scope="module")
def shards(tmp_path_factory, golden_dir, mr_tiny):
    """Whole words at random, of which most have several tokens."""
    folder = tmp_path_factory.mktemp("words")
    rows = [{"text": row["text"]} for row in golden(golden_dir, "mr_tiny_0.05")[:20]]
    corpus = write_jsonl(folder / "corpus.jsonl", [*rows, {"text": TEXT}, {"text": "unbelievably " * 60}])
    score_corpus([corpus], str(folder / "out"), ScoreConfig(model=mr_tiny, method="random", mask_rate=0.4, unit="word"))
    return folder / "out"


def whole(words, masked) -> bool:
    return not {word for word, mask in zip(words, masked, strict=True) if mask} & {
        word for word, mask in zip(words, masked, strict=True) if not mask
    }


@pytest.mark.parametrize("max_length", [16, 33, 512])
def test_what_a_sequence_shows_of_a_masked_word_is_masked(shards, mr_tiny, max_length):
    words = {(row["row"], row["sentence"]): row["word"] for row in rows_of(shards)}
    collate = SelectiveMaskCollator(AutoTokenizer.from_pretrained(mr_tiny), max_length=max_length)
    for row in open_shards(shards):
        if not row["mask_index"]:
            continue
        labels = collate([row])["labels"][0, 1:-1].numpy()
        assert whole(row["word"][: len(labels)], labels != -100)
    for example in TrainingStream(str(shards), max_length=max_length, seed=1).epoch():
        for key, group in groupby(zip(example.row, example.sentence, example.position, example.word, strict=True),
                                  key=lambda one: (int(one[0]), int(one[1]))):  # fmt: skip
            positions = [(int(place), int(word)) for _, _, place, word in group]
            own = words[key][: max_length - 2]
            assert [own[place] for place, _ in positions] == [word for _, word in positions]
            assert whole(own, np.isin(np.arange(len(own)), [place for place, _ in positions]))


def test_an_export_leaves_out_whole_words(shards, tmp_path):
    done = fastmask("export", shards, "-o", tmp_path / "out", "--to", "jsonl", "--max-length", "64",
                    "--max-predictions", "9")  # fmt: skip
    assert done.exit_code == 0 and "masks past --max-predictions left out" in done.output
    lines = [json.loads(line) for path in sorted((tmp_path / "out").glob("*.jsonl")) for line in path.open()]
    stream = TrainingStream(str(shards), max_length=64, seed=0, shuffle=False, masked_only=True)
    for line, example in zip(lines, stream.epoch(), strict=True):
        kept = [place for place in line["masked_lm_positions"] if place]
        keys = list(zip(example.row.tolist(), example.sentence.tolist(), example.word.tolist(), strict=True))
        assert whole(keys, np.isin(example.at, kept))
        assert len(kept) == len(example.at) or 5 <= len(kept) <= 9  # no word of these has more than five tokens


def test_a_word_longer_than_all_predictions_is_cut(mr_tiny, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": "unbelievably"}])
    config = ScoreConfig(model=mr_tiny, method="random", mask_rate=1.0, unit="word")
    score_corpus([corpus], str(tmp_path / "out"), config)
    done = fastmask("export", tmp_path / "out", "-o", tmp_path / "x", "--to", "jsonl", "--max-predictions", "2")
    assert done.exit_code == 0 and "3 masks past --max-predictions left out" in done.output


TARGETS = {
    "byte-level": lambda: byte_bpe(True),
    "sentencepiece": lambda: PreTrainedTokenizerFast(tokenizer_object=unigram("always"), unk_token="<unk>"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_words_of_another_tokenizer_are_whole(shards, name):
    sources = {key: list(rows) for key, rows in groupby(open_shards(shards), key=lambda row: row["row"])}
    found = {key: list(rows) for key, rows in groupby(remap_masks(shards, TARGETS[name]()), key=lambda row: row["row"])}
    masked = 0
    for number, rows in found.items():
        characters = {c for row in sources[number] for k in row["mask_index"]
                      for c in range(row["char_start"][k], row["char_end"][k])}  # fmt: skip
        for row in rows:
            is_masked = np.isin(np.arange(len(row["word"])), row["mask_index"])
            assert whole(row["word"], is_masked)
            for start, end, mask in zip(row["char_start"], row["char_end"], is_masked, strict=True):
                assert mask or not characters & set(range(start, end))
            masked += is_masked.sum()
    assert masked > 100


def test_remapped_words_by_hand(mr_tiny, tmp_path):
    """Of "don't" one word of three is masked; the other tokenizer has one word, with the punctuation after it."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": "I don't, no"}])
    for keep in (False, True):
        config = ScoreConfig(model=mr_tiny, method="random", mask_rate=1.0, unit="word", keep_punctuation=keep)
        score_corpus([corpus], str(tmp_path / f"{keep}"), config)
    tokenizer = TARGETS["sentencepiece"]()
    for keep in (False, True):
        (old,), (new,) = open_shards(tmp_path / f"{keep}"), remap_masks(tmp_path / f"{keep}", tokenizer)
        texts = ["i", "don", "'", "t", ",", "no"]
        assert [texts[k] for k in old["mask_index"]] == [t for t in texts if not (keep and t in "',")]
        tokens = tokenizer.convert_ids_to_tokens(new["input_ids"])
        unmasked = {tokens[k] for k in range(len(tokens)) if k not in new["mask_index"]}
        assert unmasked == ({","} if keep else set())
