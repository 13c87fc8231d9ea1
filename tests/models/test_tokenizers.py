"""One tokenizer: what transformers makes of a directory is what scoring, training and evaluation read with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import encoder_of, fastmask, refusal, rows_of, write_jsonl
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    pipeline,
)

import fastmask as package
from fastmask.core.config import ScoreConfig
from fastmask.core.errors import ModelError
from fastmask.core.labels import Classes
from fastmask.data.remap import remap_masks
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.tokenizer import check_tokenizer, same_tokens, special_ids, tokenizer_hash, tokenizer_record
from fastmask.pipeline import score_corpus
from fastmask.shards.schema import MANIFEST
from fastmask.train.checkpoint import save_model
from fastmask.train.examples import Row, encode_rows
from fastmask.train.vocabulary import learn_wordpieces

TEXTS = [
    "The FILM is Great, [E1] a Café !",
    "a great film [E1]",
    "great[E1]film [SEP] [MASK]",
    "naïve  résumé\u00a0[E 2] x",
]
ADDED = dict.fromkeys(("special", "lstrip", "rstrip", "normalized", "single_word"), False) | {"content": "[E1]"}
CASES = {
    "cased": {"do_lower_case": False, "tokenizer_class": "BertTokenizer"},
    "accents": {"strip_accents": False, "tokenizer_class": "BertTokenizer"},
    "chinese": {"tokenize_chinese_chars": False, "tokenizer_class": "BertTokenizer"},
    "added": {"added_tokens_decoder": {"8191": ADDED}},
    "added-with-spaces": {"added_tokens_decoder": {"8191": ADDED | {"content": "[E\u00a02]", "normalized": True}}},
    "lstrip": {"added_tokens_decoder": {"8191": ADDED | {"lstrip": True, "rstrip": True}}},
    "extra": {"extra_special_tokens": ["[E1]"]},
    "named": {"extra_special_tokens": {"entity_token": "[E1]"}},
    "additional": {"additional_special_tokens": ["[E1]"]},
    "split": {"split_special_tokens": True},
}


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def variant(source: str, folder: Path, changes: dict) -> str:
    """A copy of a model whose last piece is free for an added token, and whose tokenizer_config.json says more."""
    path = Path(shutil.copytree(source, folder))
    content = json.loads((path / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    free = next(piece for piece, index in vocabulary.items() if index == 8191)
    (added := dict(vocabulary)).pop(free)
    names = changes.get("added_tokens_decoder", {"8191": ADDED})["8191"]["content"]
    edit(path / "tokenizer.json", model=content["model"] | {"vocab": added | {names: 8191}})
    (path / "vocab.txt").unlink()
    edit(path / "tokenizer_config.json", **changes)
    return str(path)


@pytest.fixture(scope="module", params=CASES)
def directory(request, mr_tiny, tmp_path_factory) -> str:
    return variant(mr_tiny, tmp_path_factory.mktemp("models") / request.param, CASES[request.param])


def by_transformers(directory: str) -> list[list[int]]:
    return AutoTokenizer.from_pretrained(directory)(TEXTS, add_special_tokens=False)["input_ids"]


def test_every_command_reads_as_auto_tokenizer_does(directory):
    expected = by_transformers(directory)
    tokens = encoder_of(directory).tokenize(TEXTS)
    assert [ids.tolist() for ids in np.split(tokens.ids, tokens.offsets[1:-1])] == expected
    tokenizer = load_tokenizer(resolve_model(directory))
    rows = [Row(text, None, 0, "", n) for n, text in enumerate(TEXTS)]
    special = special_ids(tokenizer)
    trained = encode_rows(tokenizer, rows, Classes(("a", "b")), 128, is_typed=True).input_ids
    assert [ids.tolist() for ids in trained] == [[special["cls"], *ids, special["sep"]] for ids in expected]


def test_what_only_the_configuration_says_changes_the_hash(directory, mr_tiny):
    plain, changed = (load_tokenizer(resolve_model(one)) for one in (mr_tiny, directory))
    assert tokenizer_hash(plain) != tokenizer_hash(changed)
    record = {"name": mr_tiny, "local": True, "vocabulary_sha256": tokenizer_hash(plain)}
    assert same_tokens(record, plain) and not same_tokens(record, changed)


def test_a_saved_tokenizer_has_the_same_hash(directory, tmp_path):
    tokenizer = load_tokenizer(resolve_model(directory))
    tokenizer(TEXTS[0], truncation=True, max_length=8, padding="max_length")
    tokenizer.save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(directory) / name, tmp_path)
    assert tokenizer_hash(load_tokenizer(resolve_model(str(tmp_path)))) == tokenizer_hash(
        load_tokenizer(resolve_model(directory)))  # fmt: skip


def test_scoring_and_evaluation_agree_on_cased_text(mr_tiny, tmp_path):
    cased = variant(mr_tiny, tmp_path / "cased", CASES["cased"])
    texts = [("A Great Film, Moving AND Funny", 1), ("Dull, BAD and Boring", 0), ("Wonderful", 1), ("Terrible MESS", 0)]
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": text, "label": label} for text, label in texts])
    predicted = [record.predicted for record in package.score([text for text, _ in texts], model=cased)]
    assert predicted != [record.predicted for record in package.score([text for text, _ in texts], model=mr_tiny)]
    report = tmp_path / "report.json"
    result = fastmask("evaluate", "--test", rows, "--arm", f"a={cased}", "--arm", f"b={mr_tiny}", "--json", report)
    assert result.exit_code == 0, result.stderr
    right = sum(a == label for a, (_, label) in zip(predicted, texts, strict=True))
    accuracy = json.loads(report.read_text())["arms"]["a"]["accuracy"]
    assert accuracy["values"] == [right / len(texts)]


def test_a_changed_tokenizer_is_noticed(mr_tiny, tmp_path):
    model, corpus = shutil.copytree(mr_tiny, tmp_path / "model"), tmp_path / "corpus.txt"
    corpus.write_text("A Great film.\nA dull film.\n")
    score_corpus([corpus], tmp_path / "masks", ScoreConfig(model=str(model)))
    shown = fastmask("inspect", tmp_path / "masks", "--rows", 1)
    assert shown.exit_code == 0
    edit(model / "tokenizer_config.json", **CASES["cased"])
    for command in (["score", corpus, "-o", tmp_path / "masks", "--model", model],
                    ["inspect", tmp_path / "masks", "--rows", 1],
                    ["pretrain", "-q", tmp_path / "masks", "--init", model, "-o", tmp_path / "out"],
                    ["train-masker", "-q", tmp_path / "masks", "--init", model, "-o", tmp_path / "out"]):  # fmt: skip
        assert "tokenizer" in refusal(fastmask(*command)), command


def test_remapped_masks_take_the_loaded_tokenizers_tokens(mr_tiny, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a great film .\n")
    score_corpus([corpus], tmp_path / "masks", ScoreConfig(model=mr_tiny))
    (row,) = remap_masks(tmp_path / "masks", load_tokenizer(resolve_model(mr_tiny)))
    assert row["input_ids"].tolist() == rows_of(tmp_path / "masks")[0]["input_ids"]


def test_remap_masks_no_special_token_of_the_other_tokenizer(mr_tiny, tmp_path):
    corpus, other = tmp_path / "corpus.txt", AutoTokenizer.from_pretrained(mr_tiny)
    corpus.write_text("a great <pad> film\n")
    config = ScoreConfig(model=mr_tiny, method="random", mask_rate=1.0)
    score_corpus([corpus], tmp_path / "masks", config)
    other.add_special_tokens({"additional_special_tokens": ["<pad>"]})
    (row,) = remap_masks(tmp_path / "masks", other)
    assert other.convert_ids_to_tokens(row["input_ids"]) == ["a", "great", "<pad>", "film"]
    assert row["mask_index"].tolist() == [0, 1, 3]


def bare(source: str, folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", *names):
        shutil.copy(Path(source) / name, folder)
    return folder


def test_directory_with_a_vocabulary_alone(mr_tiny, tmp_path):
    path = str(bare(mr_tiny, tmp_path / "model", "vocab.txt"))
    tokens = encoder_of(path).tokenize(TEXTS)
    assert [ids.tolist() for ids in np.split(tokens.ids, tokens.offsets[1:-1])] == by_transformers(path)
    assert tokens.ids.tolist() == encoder_of(mr_tiny).tokenize(TEXTS).ids.tolist()


EMPTY = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (None, "", "no tokenizer"),
        ("tokenizer.json", '{"version"', "cannot be loaded"),
        ("tokenizer.json", json.dumps(EMPTY), "no tokenizer"),
        ("vocab.txt", "", "no tokenizer"),
    ],
)
def test_directories_without_a_tokenizer(mr_tiny, tmp_path, name, content, reason):
    path = bare(mr_tiny, tmp_path / "model")
    if name:
        (path / name).write_text(content)
    with pytest.raises(ModelError, match=reason) as caught:
        load_tokenizer(resolve_model(str(path)))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.fixture(scope="module")
def pair_model(tmp_path_factory) -> Path:
    """A classifier as ``finetune --config small`` saves it, with random weights to which token types matter."""
    texts = ["The food was great .", "Bad service , great food ."] * 3
    tokenizer = learn_wordpieces(texts, 200, 32)
    torch.manual_seed(0)
    shape = BertConfig(vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                       intermediate_size=32, max_position_embeddings=32, initializer_range=0.4)  # fmt: skip
    out = tmp_path_factory.mktemp("models") / "pairs"
    return save_model(BertForSequenceClassification(shape), tokenizer, out, torch.float32)


def test_pairs_are_what_transformers_makes_of_the_saved_model(pair_model, tmp_path):
    text, aspects = "Bad service , great food .", ["food", "service"]
    tokenizer = AutoTokenizer.from_pretrained(pair_model)
    model = AutoModelForSequenceClassification.from_pretrained(pair_model, dtype=torch.float64)
    with torch.inference_mode():
        inputs = [tokenizer(aspect, text, return_tensors="pt") for aspect in aspects]
        expected = [model(**one).logits.softmax(-1)[0] for one in inputs]
        untyped = model(**inputs[0] | {"token_type_ids": torch.zeros_like(inputs[0]["input_ids"])}).logits.softmax(-1)
    assert (untyped[0] - expected[0]).abs().max() > 1e-3
    piped = pipeline("text-classification", str(pair_model), dtype=torch.float64)(
        {"text": aspects[0], "text_pair": text}
    )
    assert piped["score"] == pytest.approx(expected[0].max().item(), abs=1e-6)  # its softmax is float32
    for aspect, probabilities in zip(aspects, expected, strict=True):
        label = model.config.id2label[int(probabilities.argmax())]
        row = {"text": text, "aspects": [{"term": aspect, "polarity": label}]}
        corpus = write_jsonl(tmp_path / f"{aspect}.jsonl", [row])
        score_corpus(
            [corpus], tmp_path / aspect, ScoreConfig(model=str(pair_model), precision="float32", max_length=32)
        )
        assert rows_of(tmp_path / aspect)[0]["prob"] == pytest.approx(probabilities.max().item(), abs=1e-5)


def test_what_a_tokenizer_names_is_kept(mr_tiny, tmp_path):
    model = BertForSequenceClassification(BertConfig(vocab_size=8192, hidden_size=8, num_hidden_layers=1,
                                                     num_attention_heads=1, intermediate_size=8))  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(mr_tiny, model_input_names=["input_ids", "special", "token_type_ids"])
    saved = save_model(model, tokenizer, tmp_path / "model", torch.float32)
    assert AutoTokenizer.from_pretrained(saved).model_input_names == ["input_ids", "special", "token_type_ids"]


@pytest.mark.parametrize(("key", "value"), [("mask", 7), ("pad", 7), ("cls", 7), ("sep", 1)])
def test_special_ids_of_a_manifest_that_are_not_the_tokenizers(mr_tiny, key, value):
    files = resolve_model(mr_tiny)
    tokenizer = load_tokenizer(files)
    record = tokenizer_record(files, tokenizer)
    check_tokenizer("s", record, tokenizer, "m")
    own = record["special_ids"][key]
    forged = record | {"special_ids": record["special_ids"] | {key: value}}
    with pytest.raises(ModelError, match=rf"^s: its manifest says that {key} of .*mr-tiny is {value}, it is {own}$"):
        check_tokenizer("s", forged, tokenizer, "m")
    with pytest.raises(ModelError, match=r"its manifest says that all_special_ids of .* is \[1, 2\], it is \["):
        check_tokenizer("s", record | {"all_special_ids": [1, 2]}, tokenizer, "m")


def test_a_forged_mask_is_not_trained_on(mr_tiny, tmp_path):
    (tmp_path / "c.txt").write_text("A good text.\n")
    score_corpus([str(tmp_path / "c.txt")], str(tmp_path / "s"), ScoreConfig(model=mr_tiny, method="random"))
    manifest = json.loads((tmp_path / "s" / MANIFEST).read_text())
    manifest["tokenizer"]["special_ids"]["mask"] = 77
    (tmp_path / "s" / MANIFEST).write_text(json.dumps(manifest))
    arguments = ("pretrain", tmp_path / "s", "--init", mr_tiny, "-o", tmp_path / "o", "--batch-size", 1, "-q")
    assert "its manifest says that mask of" in refusal(fastmask(*arguments))
