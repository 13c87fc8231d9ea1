"""recipes/embedded_classifier.py, which made the classifier in fastmask/assets: its parts by hand, and a small one."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train_samples import toy_file, weights_of

from fastmask.core.errors import ModelError
from fastmask.models.directory import resolve_model
from fastmask.train.vocabulary import learn_wordpieces

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import embedded_classifier as recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def test_spans_are_runs_of_a_text_s_words():
    texts = ["a b c d e f", "x y", "a b c d e f"]
    found = recipe.with_spans(texts, 5, np.random.default_rng(0))
    assert found[:2] == ["a b c d e f", "x y"] and len(set(found)) == len(found) > 5
    assert all(text in texts[0] and len(text.split()) > 1 for text in found[2:])
    assert found == recipe.with_spans(texts, 5, np.random.default_rng(0))
    assert recipe.with_spans(texts, 0, np.random.default_rng(0)) == ["a b c d e f", "x y"]


def test_mixed_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(9)]])
    teacher = torch.tensor([[5.0, -5.0], [0.0, 0.0]])
    # T = 2: the model says 1/4, 3/4, the teacher a half each
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    loss = recipe.mixed_loss(logits, torch.tensor([1, -1]), teacher)
    assert loss.item() == pytest.approx((math.log(2) + 4 * divergence) / 2, rel=1e-5)
    assert recipe.mixed_loss(teacher, torch.tensor([-1, -1]), teacher).item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_answers_in_the_order_of_the_classes(mr_tiny):
    teacher = recipe.load_teacher(mr_tiny, 64)
    logits = recipe.teacher_logits(teacher, ["a wonderful film"], ("positive", "negative"))
    assert logits.shape == (1, 2) and logits.dtype == np.float32 and logits[0, 0] > logits[0, 1]
    with pytest.raises(ModelError, match="its classes are negative, positive, here they are no, yes"):
        recipe.teacher_logits(teacher, ["a wonderful film"], ("no", "yes"))


def test_embeddings_of_a_teacher_keep_their_geometry(mr_tiny):
    teacher = recipe.load_teacher(mr_tiny, 64)
    tokenizer = learn_wordpieces(["film films filming zzyzx"] * 3, 60, 64)
    vocabulary = tokenizer.get_vocab()
    wide = recipe.teacher_embeddings(teacher, tokenizer, 160)
    assert wide.shape == (len(tokenizer), 160) and not wide[:, 128:].any()
    table = teacher.model.get_input_embeddings().weight.detach().float()
    known = teacher.tokenizer.get_vocab()
    expected = (table[known["film"]] - table[known["[CLS]"]]).norm()
    assert (wide[vocabulary["film"]] - wide[vocabulary["[CLS]"]]).norm() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(recipe.teacher_embeddings(teacher, tokenizer, 8), wide[:, :8])


def test_the_running_mean_of_the_weights_by_hand():
    mean, weight = [torch.tensor(0.0)], [torch.tensor(11.0)]
    recipe.take_in(mean, weight, step=0)
    assert mean[0].item() == pytest.approx(9.0)  # the first step keeps 2/11 of what was there
    recipe.take_in(mean, weight, step=10**6)
    assert mean[0].item() == pytest.approx(9.0 + 2.0 * 0.002)  # a late one 0.998


def test_a_small_one_is_made_twice_with_the_same_bytes(mr_tiny, tmp_path):
    for name, rows in (("mr/train", 200), ("yelp/train", 900), ("mr/dev", 60), ("mr/test", 60), ("yelp/test", 60)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        toy_file(tmp_path / f"{name}.jsonl", rows, rows)
    outs = [str(tmp_path / name) for name in "ab"]
    for out in outs:
        config = replace(recipe.settings(tmp_path, out), batch_size=16, lr=2e-3)
        metrics = recipe.make(config, config.train[:1], mr_tiny)
    assert weights_of(outs[0]) == weights_of(outs[1])
    assert json.loads((tmp_path / "b" / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert metrics["train_rows"] > 1100 + 2 * 200 and min(f["accuracy"] for f in metrics["test"].values()) > 0.9
    files = resolve_model(outs[0])
    assert files.class_names == ("negative", "positive") and files.config["dtype"] == "float16"
