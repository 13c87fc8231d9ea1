"""Words in scripts without spaces, through the commands: the rate is kept, and words are whole everywhere."""

from collections import Counter
from itertools import groupby

import numpy as np
import pytest
import transformers
from any_family import SHAPE
from helpers import fastmask, rows_of, write_jsonl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, PreTrainedTokenizerFast
from word_samples import labelled, statistics

from fastmask import SelectiveMaskCollator, TrainingStream, remap_masks
from fastmask.text.stop_words import stop_words

FILMS = [
    "这部电影很好看我们都喜欢BERT模型",
    "故事太无聊了演员也不好,一点意思都没有",
    "值得再看一遍的好电影,音乐very good也很美",
]
TEXTS = [(film + other, label) for film in FILMS for other, label in (("。很好", 1), ("。不好", 0))]
LATIN = {"BERT", "very", "good"}
SPECIAL = {"unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Chinese pieces of one and two characters; in bytes, 1 to 3 tokens a character."""
    whole = ["电影", "我们", "喜欢", "无聊", "音乐", "very", "good", "BERT", "▁very", "▁good"]
    pieces = dict.fromkeys([*whole, *"".join(FILMS).replace(" ", ""), "。", "▁"])
    if kind == "metaspace":
        made = Tokenizer(models.Unigram([(piece, -1.0) for piece in (*SPECIAL.values(), *pieces)], unk_id=0))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    elif kind == "wordpiece":
        listed = [*SPECIAL.values(), *pieces, *(f"##{piece}" for piece in pieces)]
        made = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(listed)}, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=275, initial_alphabet=alphabet, show_progress=False,
                                      special_tokens=list(SPECIAL.values()))  # fmt: skip
        made.train_from_iterator(FILMS * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


@pytest.fixture(scope="module", params=["wordpiece", "byte-level", "metaspace"])
def model(request, tmp_path_factory) -> str:
    folder, tokenizer = tmp_path_factory.mktemp(request.param), tokenizer_of(request.param)
    names = {name: value for name, value in SHAPE.items() if name in dir(BertConfig())}
    config = BertConfig(**{**names, "vocab_size": len(tokenizer), "num_labels": 2, "pad_token_id": 3})
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "c.jsonl", [{"text": text} for text, _ in TEXTS])


def scored(corpus, model, out, *options):
    done = fastmask("score", corpus, "-o", out, "--model", model, "--max-length", 60, "--unit", "word",
                    "--language", "zh", *options)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return rows_of(out)


def words_in(row, text: str) -> list[str]:
    """The words of a row's tokens, by their spans."""
    spans = zip(row["word"], row["char_start"], row["char_end"], strict=True)
    groups = [[span for span in group if span[1] < span[2]] for _, group in groupby(spans, key=lambda span: span[0])]
    return [text[min(a for _, a, _ in group) : max(b for _, _, b in group)] for group in groups]


METHODS = {
    "random": ("--method", "random"), "prefix": ("--method", "prefix", "--threshold", "1", "--stop-words", "none"),
    "gradient": ("--method", "gradient", "--stop-words", "none"),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_third_of_the_words(method, model, corpus, tmp_path):
    rows = scored(corpus, model, tmp_path / "out", *METHODS[method], "--mask-rate", 0.34)
    for row in rows:
        words = words_in(row, TEXTS[row["row"]][0])
        assert all(len(word) <= 2 or word in LATIN for word in words)
        masked = {row["word"][k] for k in row["mask_index"]}
        assert len(masked) == max(1, int(0.34 * len(words)))
        assert row["mask_index"] == [k for k, word in enumerate(row["word"]) if word in masked]
    found = Counter(word for row in rows for word in words_in(row, TEXTS[row["row"]][0]))
    assert [found[word] for word in ("BERT", "very", "good", "。", "很")] == [2, 2, 2, 6, 7]


def test_stop_words_and_the_rest(model, corpus, tmp_path):
    """我们, 很, 都, 也 ... are stop words in Chinese, in however many tokens; all other words are masked, whole."""
    stop = stop_words("language", "zh")
    for row in scored(corpus, model, tmp_path / "out", "--method", "gradient", "--mask-rate", 1):
        words = words_in(row, TEXTS[row["row"]][0])
        assert {words[row["word"][k]] for k in row["mask_index"]} == {word for word in words if word not in stop}
        assert row["mask_index"] == [k for k, word in enumerate(row["word"]) if words[word] not in stop]


def test_masks_of_words_again(model, corpus, tmp_path):
    fresh = scored(corpus, model, tmp_path / "word", "--method", "prefix", "--precision", "float32")
    options = ("--model", model, "--max-length", 60, "--language", "zh", "--method", "prefix", "--precision", "float32")
    assert fastmask("score", corpus, "-o", tmp_path / "token", *options).exit_code == 0
    assert fastmask("remask", tmp_path / "token", "-o", tmp_path / "again", "--unit", "word").exit_code == 0
    assert rows_of(tmp_path / "again") == fresh
    assert sum(len(row["mask_index"]) for row in fresh) > 10


def test_types_of_words(model, tmp_path):
    corpus = labelled(tmp_path, TEXTS)
    rows = scored(corpus, model, tmp_path / "out", "--method", "log-odds", "--stop-words", "none")
    counted = {word: row["count"] for word, row in statistics(tmp_path / "out").items()}
    words = Counter(word.casefold() for row in rows for word in words_in(row, TEXTS[row["row"]][0]))
    # 不好 and 很好 tell the classes apart
    assert {word: count for word, count in counted.items() if word.isalnum()} == {
        word: count for word, count in words.items() if word.isalnum()
    }
    masked = {words_in(row, TEXTS[row["row"]][0])[row["word"][k]] for row in rows for k in row["mask_index"]}
    assert {"不", "很"} <= masked


def test_words_are_whole_in_sequences_and_other_tokens(model, corpus, tmp_path):
    out, tokenizer = tmp_path / "out", PreTrainedTokenizerFast.from_pretrained(model)
    rows = {(row["row"], row["sentence"]): row for row in scored(corpus, model, out, *METHODS["random"])}
    collate = SelectiveMaskCollator(tokenizer, max_length=60)
    for row in rows.values():
        at = np.flatnonzero(collate([row])["labels"][0].numpy() != -100) - 1
        assert at.tolist() == row["mask_index"]
    drawn = SelectiveMaskCollator(tokenizer, max_length=16, sample=True, whole_words=True)
    for row in [*rows.values()] * 2:
        drawn.set_epoch(drawn.epoch + 1)
        seen = row["word"][:14]
        at = np.flatnonzero(drawn([row])["labels"][0].numpy() != -100) - 1
        assert at.tolist() == [k for k, word in enumerate(seen) if word in {seen[position] for position in at}]
    for sample, length in ((False, 16), (True, 16), (True, 60)):
        for example in TrainingStream(str(out), max_length=length, seed=1, sample=sample).epoch():
            keys = zip(example.row.tolist(), example.sentence.tolist(), example.position.tolist(), strict=True)
            shown = {}
            for row, sentence, position in keys:
                shown.setdefault((row, sentence), []).append(position)
            for key, positions in shown.items():
                words = rows[key]["word"][: length - 2]
                masked = {words[k] for k in positions}
                assert positions == [k for k, word in enumerate(words) if word in masked]
    other = tokenizer_of("metaspace")
    for row in remap_masks(out, other):
        masked = {row["word"][k] for k in row["mask_index"]}
        assert row["mask_index"].tolist() == [k for k, word in enumerate(row["word"]) if word in masked]
    remapped = [words_in(row, TEXTS[row["row"]][0])[row["word"][k]] for row in remap_masks(out, other)
                for k in row["mask_index"]]  # fmt: skip
    own = {words_in(row, TEXTS[row["row"]][0])[row["word"][k]] for row in rows.values() for k in row["mask_index"]}
    assert all(any(set(word) & set(theirs) for theirs in own) for word in remapped) and remapped
