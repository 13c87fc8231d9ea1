"""Method word-list: scores, probabilities and masks by hand; embeddings against transformers' own; bad files."""

import gzip
from math import exp

import numpy as np
import pytest
import torch
from helpers import fastmask, refusal, rows_of
from transformers import AutoModel
from word_samples import TEXTS, labelled, run, statistics

from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.scoring.methods.word_list import scaled

VECTORS = "good 1 0\nfilm 3 4\nplot 0 2\nbad -1 0\nfun 0 0\nnever asked for\n"
CORPUS = [("good film plot", None), ("bad fun", None)]


@pytest.fixture
def given(tmp_path, mr_tiny) -> dict:
    (tmp_path / "words.txt").write_text("Good\n\n")
    (tmp_path / "v.txt").write_text(VECTORS)
    return {"model": mr_tiny, "method": "word-list", "words": str(tmp_path / "words.txt"), "stop_words": "none",
            "vectors": str(tmp_path / "v.txt")}  # fmt: skip


def probabilities(folder, given, **options) -> dict[str, float]:
    run(labelled(folder, CORPUS), folder / "o", **given, **options)
    return {word: row["mask_prob"] for word, row in statistics(folder / "o").items()}


def test_scores_and_masks_by_hand(tmp_path, given):
    """Cosines to (1, 0): film 3 / 5; a vector without a direction gives none. One mask a sentence, the best one."""
    run(labelled(tmp_path, CORPUS), tmp_path / "o", **given, mask_rate=0.2)
    found = {word: row["score"] for word, row in statistics(tmp_path / "o").items()}
    assert found == pytest.approx({"good": 1, "film": 0.6, "plot": 0, "bad": -1, "fun": None})
    first, second = rows_of(tmp_path / "o")
    assert first["importance"] == pytest.approx([1, 0.6, 0]) and second["importance"] == [-1, 0]
    assert (first["mask_index"], second["mask_index"]) == ([0], [0])
    assert first["mask_prob"] == pytest.approx([0.625, 0.375, 0]) and second["mask_prob"] == [0, 0]


@pytest.mark.parametrize("rate, expected", [
    (0.2, {"good": 0.625, "film": 0.375}),  # 1 of 5 tokens: c (1 + 0.6) = 1
    (0.36, {"good": 1, "film": 0.8}),  # c = 1.125 is too much for "good", which leaves 0.8
    (0.5, {"good": 1, "film": 1}),  # no more of the tokens have a weight
])  # fmt: skip
def test_linear_probabilities(rate, expected, tmp_path, given):
    found = probabilities(tmp_path, given, mask_rate=rate)
    assert found == pytest.approx({"plot": 0, "bad": 0, "fun": 0, **expected}, abs=1e-6)


def test_the_other_functions(tmp_path, given):
    weights = {"good": exp(5), "film": exp(3), "plot": 1, "bad": exp(-5)}
    found = probabilities(tmp_path, given, mask_function="exponential", mask_rate=0.1)
    assert found == pytest.approx({"fun": 0} | {word: 0.5 * w / sum(weights.values()) for word, w in weights.items()})
    (tmp_path / "step").mkdir()
    found = probabilities(tmp_path / "step", given, mask_function="step", mask_rate=0.2)
    assert found == pytest.approx({"good": 1 / 2.2, "film": 1 / 2.2, "plot": 0.1 / 2.2, "bad": 0.1 / 2.2, "fun": 0})


def test_scaling_meets_the_mean_wherever_it_can():
    rng = np.random.default_rng(0)
    for _ in range(50):
        weight = rng.random(9) ** 4 * (rng.random(9) > 0.2)
        tokens = rng.integers(0, 5, 9)
        wanted = rng.random() * 20
        found = scaled(weight, tokens, wanted)
        assert (found <= 1).all() and (found[weight == 0] == 0).all()
        assert (found * tokens).sum() == pytest.approx(min(wanted, tokens[weight > 0].sum()))
        free = found < 1
        assert len({round(x, 9) for x in (found[free & (weight > 0)] / weight[free & (weight > 0)])}) <= 1
    assert scaled(np.zeros(2), np.ones(2, int), 1).tolist() == [0, 0]


def test_a_word_of_the_list_needs_no_vector(tmp_path, given):
    (tmp_path / "words.txt").write_text("good\nfun\n")
    run(labelled(tmp_path, CORPUS), tmp_path / "o", **given)
    assert statistics(tmp_path / "o")["fun"]["score"] == 1.0


@pytest.mark.parametrize("packed", [False, True])
def test_formats_of_vectors(packed, tmp_path, given):
    """With word2vec's header, gzipped, in other cases, with a word of several parts, and a word twice."""
    run(labelled(tmp_path, CORPUS), tmp_path / "o", **given)
    text = "8 2\n" + VECTORS.replace("film", "Film").replace("\n", " \n") + "film 9 9\ngood . 7 7\n"
    name = tmp_path / ("v.vec.gz" if packed else "w.txt")
    name.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    run(labelled(tmp_path, CORPUS), tmp_path / "p", **{**given, "vectors": str(name)})
    assert rows_of(tmp_path / "p") == rows_of(tmp_path / "o")
    assert statistics(tmp_path / "p") == statistics(tmp_path / "o")


@pytest.mark.parametrize("text, said", [
    ("good 1 0\nfilm 1\n", "v.txt:2: expected a word and 2 numbers, found 1"),
    ("good 1 0\nfilm 1 x\n", "v.txt:2: expected a word and its numbers"),
    ("good 1 nan\n", "v.txt:1: a number is not finite"),
    ("", "v.txt: has no word vectors in it"),
    ("good\n", "v.txt:1: expected word vectors as text"),
    ("9 0\ngood\n", "v.txt:1: expected word vectors as text"),
    ("film 1 0\n", "v.txt: has a vector for none of the words of --words"),
])  # fmt: skip
def test_bad_vectors(text, said, tmp_path, given):
    (tmp_path / "v.txt").write_text(text)
    assert said in said_of(tmp_path, given)


def said_of(folder, given) -> str:
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    return refusal(fastmask("score", labelled(folder, CORPUS), "-o", folder / "o", *options))


def test_bad_lists_and_files_that_are_not_there(tmp_path, given):
    (tmp_path / "words.txt").write_text("good\nvery good\n")
    assert "words.txt:2: cannot read words: give one word a line" in said_of(tmp_path, given)
    (tmp_path / "words.txt").write_text("\n")
    assert "words.txt: has no word in it" in said_of(tmp_path, given)
    assert "cannot read vectors: No such file" in said_of(tmp_path, given | {"words": "sentiment", "vectors": "gone"})
    assert "cannot read words: No such file" in said_of(tmp_path, given | {"words": "gone.txt"})
    (tmp_path / "v.gz").write_bytes(gzip.compress(VECTORS.encode())[:-12])
    assert "v.gz:" in said_of(tmp_path, given | {"words": "sentiment", "vectors": str(tmp_path / "v.gz")})


def test_hashes_of_the_files_are_of_the_identity(tmp_path, given):
    run(labelled(tmp_path, CORPUS), tmp_path / "o", **given)
    (tmp_path / "v.txt").write_text(VECTORS + "more 1 1\n")
    assert "vectors has other content" in said_of(tmp_path, given)
    (tmp_path / "v.txt").write_text(VECTORS)
    (tmp_path / "words.txt").write_text("good\nbad\n")
    assert "words has other content" in said_of(tmp_path, given)


def test_embeddings_as_transformers_has_them(tmp_path, mr_tiny):
    """The largest cosine of the means over pieces, in float64, and probabilities with the mean asked for."""
    words = ["excellent", "horrible", "unbelievably"]
    (tmp_path / "words.txt").write_text("\n".join(words))
    manifest = run(labelled(tmp_path), tmp_path / "o", model=mr_tiny, method="word-list", mask_rate=0.2,
                   words=str(tmp_path / "words.txt"))  # fmt: skip
    table = AutoModel.from_pretrained(mr_tiny, dtype=torch.float64).get_input_embeddings().weight
    tokenizer = load_tokenizer(resolve_model(mr_tiny))

    def vector(word):
        return table[tokenizer.encode(word, add_special_tokens=False)].mean(0)

    found = statistics(tmp_path / "o")
    assert found["unbelievably"]["score"] == 1.0 and len(tokenizer.tokenize("unbelievably")) > 1
    for word, row in found.items():
        wanted = max(torch.cosine_similarity(vector(word), vector(other), dim=0).item() for other in words)
        assert row["score"] == pytest.approx(wanted, abs=2e-6)
    rows = rows_of(tmp_path / "o")
    assert sum(sum(row["mask_prob"]) for row in rows) == pytest.approx(0.2 * manifest["totals"]["tokens"], rel=1e-5)
    the = tokenizer.convert_tokens_to_ids("the")
    assert {p for row in rows for i, p in zip(row["input_ids"], row["mask_prob"], strict=True) if i == the} == {0.0}


def test_the_list_in_the_package(tmp_path, mr_tiny):
    run(labelled(tmp_path, TEXTS), tmp_path / "o", model=mr_tiny, method="word-list", words="sentiment")
    found = statistics(tmp_path / "o")
    assert {word for word, row in found.items() if row["score"] == 1} == {"good", "bad", "dull"}
    shown = fastmask(
        "explain", "a good film", "--model", mr_tiny, "--method", "word-list", "--words", "sentiment"
    ).stdout
    assert "[good]" in shown
