"""The embedded classifier: small, loadable, and as good as its card says."""

import json
import re

import numpy as np
import pytest
import torch

from fastmask.core.records import Document
from fastmask.models.directory import ASSETS, load_tokenizer, resolve_model
from fastmask.models.trainable import enable_packing
from fastmask.models.weights import load_classifier
from fastmask.text.documents import read_documents
from fastmask.train.examples import encode_rows, labelled_rows
from fastmask.train.predict import accuracy, predict


@pytest.fixture(scope="module")
def files():
    return resolve_model(None)


@pytest.fixture(scope="module")
def classify(files):
    """Documents -> (predicted, given) classes, int64 [N] each."""
    model = enable_packing(load_classifier(files, torch.float32))
    tokenizer = load_tokenizer(files)

    def answer(documents) -> tuple[np.ndarray, np.ndarray]:
        examples = encode_rows(tokenizer, list(labelled_rows(documents)), files.classes, 128, is_typed=True)
        return predict(model, examples), examples.labels

    return answer


def test_it_is_a_float16_bert_of_at_most_4_mb(files):
    assert files.name == "embedded" and files.class_names == ("negative", "positive")
    assert (ASSETS / "model.safetensors").stat().st_size <= 4_000_000
    assert files.config["dtype"] == "float16" and files.config["architectures"] == ["BertForSequenceClassification"]
    assert files.config["max_position_embeddings"] >= 128


@pytest.mark.parametrize(("text", "label"), [
    ("a wonderful , moving film", 1), ("the food was terrible and the service was worse", 0),
    ("An absolute delight from start to finish.", 1), ("dull , lifeless and far too long", 0),
    ("I love this place!", 1), ("never again , a complete waste of money", 0),
])  # fmt: skip
def test_obvious_sentences(classify, text, label):
    predicted, _ = classify([Document(0, text, label, None, "here", 1)])
    assert predicted.tolist() == [label]


@pytest.mark.parametrize(("data", "least"), [("mr", 0.78), ("yelp", 0.95)])
def test_accuracy_on_the_test_sets_is_the_one_on_the_card(classify, shared, data, least):
    measured = accuracy(*classify(read_documents([str(shared / f"data/{data}/test.jsonl")])))
    assert measured >= least
    metrics = json.loads((ASSETS / "metrics.json").read_text())["test"]
    assert metrics[f"../shared/data/{data}/test.jsonl"]["accuracy"] == pytest.approx(measured, abs=0.002)
    assert f"{100 * measured:.1f} %" in (ASSETS / "MODEL_CARD.md").read_text()


def test_the_card_says_how_it_was_made(files):
    card = (ASSETS / "MODEL_CARD.md").read_text()
    assert files.weights_sha256 in card
    for part in ("recipes/embedded_classifier.py", "Apache-2.0", "SST-2", "Limits"):
        assert part in card


def test_nothing_in_it_names_a_place_on_the_machine_that_made_it():
    for file in ASSETS.iterdir():
        if file.suffix in (".json", ".md"):
            assert not re.search(r"/(work|tmp|home|root|usr)/", file.read_text("utf-8")), file.name
