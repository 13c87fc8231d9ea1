"""What trainers are made of: packed forward passes, the loop, vocabularies, labelled rows."""

import copy
import inspect
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from train_samples import FAMILIES
from transformers import (
    AutoModelForSequenceClassification,
)

from fastmask.core.errors import FastmaskError, InputError
from fastmask.core.labels import Classes
from fastmask.core.records import Aspect, Document
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.trainable import class_logits, enable_packing, pack, runs_packed
from fastmask.train.examples import Row, class_index, encode_rows, find_classes, labelled_rows
from fastmask.train.loop import linear_schedule, make_optimizer, seed_everything, set_rate, shuffled_batches, take_step
from fastmask.train.predict import accuracy, macro_f1

pytestmark = pytest.mark.usefixtures("one_thread")


def padded_forward(model, sequences, types):
    """transformers' own answer, one padded batch with an attention mask."""
    longest = max(map(len, sequences))
    padding = model.config.pad_token_id
    rows = [np.pad(row, (0, longest - len(row)), constant_values=padding) for row in sequences]
    masks = [np.arange(longest) < len(row) for row in sequences]
    extra = {}
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        extra["token_type_ids"] = torch.tensor(np.array([np.pad(t, (0, longest - len(t))) for t in types]))
    mask = torch.tensor(np.array(masks)).long()
    return model(torch.tensor(np.array(rows)), attention_mask=mask, **extra).logits


def gradients(model, logits):
    model.zero_grad()
    logits.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lengths", [(1, 7, 3, 33, 17, 5), (9, 9, 9), (1,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_logits_and_gradients_are_those_of_transformers(family, dtype, lengths):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(FAMILIES[family])).to(dtype).eval()
    sequences = [rng.integers(5, 97, length) for length in lengths]
    two_types = FAMILIES[family].model_type in ("bert", "electra", "albert")
    types = [(np.arange(length) > length // 2).astype(np.int64) * two_types for length in lengths]
    expected = padded_forward(model, sequences, types)
    expected_gradients = gradients(model, expected)

    enable_packing(model)
    assert runs_packed(model) == (family != "albert")
    got = class_logits(model, pack(sequences, types))
    got_gradients = gradients(model, got)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    assert got_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(got_gradients[name], gradient, rtol=tolerance, atol=tolerance, msg=name)


def test_schedule_rises_and_falls():
    factor = linear_schedule(10, 0.2)
    assert [factor(step) for step in range(10)] == [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert linear_schedule(4, 0.0)(0) == 1.0
    assert linear_schedule(4, 1.0)(3) == 1.0


def test_batches_are_a_seeded_permutation_sorted_inside_windows():
    lengths = np.random.default_rng(3).integers(1, 60, 1003)
    batches = shuffled_batches(lengths, 8, np.random.default_rng(5))
    again = shuffled_batches(lengths, 8, np.random.default_rng(5))
    assert sorted(np.concatenate(batches)) == list(range(1003))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    spread = np.mean([np.ptp(lengths[rows]) for rows in batches])
    assert spread < 3


def one_weight(value=1.0):
    return torch.nn.Parameter(torch.tensor([value]))


def step_on(loss, optimizer, step):
    loss.backward()
    return take_step(optimizer, loss.detach(), step)


def test_training_scales_the_rate_and_clips_the_gradient():
    weight = one_weight(0.0)
    optimizer = torch.optim.SGD([weight], lr=2.0)
    losses = []
    for step, (slope, rate) in enumerate([(1000.0, 1.0), (-0.5, 0.5)]):
        set_rate(optimizer, rate)
        losses.append(step_on((weight * slope).sum(), optimizer, step))
    assert losses == [0.0, pytest.approx(0.5, abs=1e-5)]
    assert weight.item() == pytest.approx(-1.0 + 0.5 * 0.5, abs=1e-4) and weight.grad is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_training_before_the_weights_change(bad):
    weight = one_weight()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    step_on((weight * 1.0).sum(), optimizer, 7)
    before = weight.item()
    with pytest.raises(FastmaskError, match=r"diverged.* at step 8"):
        step_on((weight * bad).sum(), optimizer, 8)
    assert weight.item() == before and weight.grad is None


def test_norms_and_biases_are_not_decayed():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    decayed, plain = make_optimizer(model, 1e-3, 0.1).param_groups
    assert [p.dim() for p in decayed["params"]] == [2] and decayed["weight_decay"] == 0.1
    assert [p.dim() for p in plain["params"]] == [1, 1, 1] and plain["weight_decay"] == 0.0


def test_seed_sets_torch_and_the_order():
    draws = [(seed_everything(4).integers(1 << 40), torch.rand(1).item()) for _ in range(2)]
    assert draws[0] == draws[1]


VOCABULARY_PROGRAM = """
import sys
from fastmask.train.vocabulary import learn_wordpieces
texts = ["Unlikeable films, unlikely likes", "a filmy éclair \u6620\u753b", "likeable likenesses filming"] * 3
tokenizer = learn_wordpieces(texts, 90, 64)
print(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]), tokenizer("Filmed likes!", "a b"))
"""


def test_a_vocabulary_is_the_same_in_every_process():
    command, root = [sys.executable, "-c", VOCABULARY_PROGRAM], Path(__file__).parents[2]
    runs = {subprocess.run(command, capture_output=True, check=True, cwd=root).stdout for _ in range(3)}
    assert len(runs) == 1
    assert b"[('[PAD]', 0), ('[UNK]', 1), ('[CLS]', 2), ('[SEP]', 3), ('[MASK]', 4)" in runs.pop()


def document(label=None, aspects=None, line=1):
    return Document(0, "some text", label, aspects, "data.jsonl", line)


def test_aspect_rows_become_pairs(restaurant_tiny):
    aspects = (Aspect("food", "positive"), Aspect("decor", "negative"))
    rows = list(labelled_rows([document(aspects=aspects)]))
    assert [(row.aspect, row.label) for row in rows] == [("food", "positive"), ("decor", "negative")]
    tokenizer = load_tokenizer(resolve_model(restaurant_tiny))
    examples = encode_rows(tokenizer, rows, Classes(("negative", "neutral", "positive")), 64, is_typed=True)
    pieces = tokenizer.convert_ids_to_tokens(examples.input_ids[0].tolist())
    assert pieces == ["[CLS]", "food", "[SEP]", "some", "text", "[SEP]"]
    assert examples.token_types[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert examples.labels.tolist() == [2, 0]


def test_long_rows_are_cut_on_the_right_and_the_tokenizer_stays_as_it_was(mr_tiny):
    tokenizer = load_tokenizer(resolve_model(mr_tiny))
    rows = [Row("good " * 50, None, 1, "f", 1)]
    assert encode_rows(tokenizer, rows, Classes(("negative", "positive")), 16, is_typed=True).lengths.tolist() == [16]
    assert len(tokenizer("good " * 300)["input_ids"]) == 302


@pytest.mark.parametrize(("labels", "classes"), [
    ([0, 1, 2], Classes(("LABEL_0", "LABEL_1", "LABEL_2"))), (["1", "0"], Classes(("LABEL_0", "LABEL_1"))),
    (["b", "a", "b"], Classes(("a", "b"))), ([5, 1, 3, 10], Classes(("1", "3", "5", "10"), numbers_are_names=True)),
    (["2.0", "1", 2], Classes(("1", "2"), numbers_are_names=True)), ([1, "no"], Classes(("1", "no"), True)),
])  # fmt: skip
def test_classes_are_found(labels, classes):
    rows = [Row("t", None, label, "f", 1) for label in labels]
    assert find_classes(rows) == classes
    # what the classes were named after is read as those names
    assert {classes.names[class_index(row, classes)] for row in rows} == set(classes.names)


def test_labels_that_make_no_classes():
    def rows(*labels):
        return [Row("t", None, label, "f", line, "stars") for line, label in enumerate(labels, 1)]

    for unlabelled in (-1, "-1", "-1.0"):
        with pytest.raises(InputError, match=r'f:2: field "stars": no label'):
            find_classes(rows(1, unlabelled))
    with pytest.raises(InputError, match=r'f:3: field "stars": 4.75 is a number that is not whole'):
        find_classes(rows(1, "2", "4.75"))
    with pytest.raises(FastmaskError, match='"Good" and "good" differ by case alone; name the classes by --classes'):
        find_classes(rows("good", "bad", "Good"))
    with pytest.raises(FastmaskError, match="fewer than two classes"):
        find_classes(rows(1, 1, "1.0"))


def test_labels_of_rows_name_their_place():
    classes = Classes(("no", "yes"))
    for bad, reason in (
        ("maybe", "is not one of the classes: no, yes"),
        (3, "is not one"),
        (-1, "no label"),
        (None, "no label"),
    ):
        with pytest.raises(InputError, match=f'f:9: field "stars": .*{reason}'):
            class_index(Row("t", None, bad, "f", 9, "stars"), classes)


def test_rows_without_a_label_are_named():
    with pytest.raises(InputError, match=r'data\.jsonl:4: field "stars": no label'):
        list(labelled_rows([document(line=4)], "stars"))


def test_metrics_by_hand():
    predicted, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    assert accuracy(predicted, labels) == 0.75
    assert macro_f1(predicted, labels, 2) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert macro_f1(predicted, labels, 3) == pytest.approx((2 / 3 + 4 / 5) / 3)
