"""The packed forward pass in training: dropout, the last block for some rows, threads that share a model."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint
from train_samples import FAMILIES
from transformers import AutoModelForSequenceClassification

from fastmask.core.config_train import FinetuneConfig
from fastmask.models import packed_attention as attention
from fastmask.models.dropout import Dropout
from fastmask.models.trainable import class_logits, enable_packing, pack
from fastmask.train.epochs import Measured, Training, train_epochs

pytestmark = pytest.mark.usefixtures("one_thread")


def rows_through(model, batch) -> list[int]:
    """Return the rows that enter the last block's feed-forward in one call of ``class_logits``."""
    rows = []
    hook = model.base_model.encoder.layer[-1].intermediate.register_forward_pre_hook(
        lambda _, states: rows.append(states[0].shape[1])
    )
    class_logits(model, batch).sum().backward()
    hook.remove()
    return rows


@pytest.mark.parametrize("change", ["", "checkpoints", "chunks", "no blocks"])
def test_the_last_block_works_for_the_rows_that_are_read(change):
    config = copy.deepcopy(FAMILIES["bert"])
    config.chunk_size_feed_forward = 5 if change == "chunks" else 0
    config.num_hidden_layers = 0 if change == "no blocks" else 2
    model = enable_packing(AutoModelForSequenceClassification.from_config(config)).train()
    batch = pack([np.arange(5, 10)] * 3, [np.zeros(5, np.int64)] * 3)
    if change == "no blocks":
        assert class_logits(model, batch).shape == (3, 3)
        return
    if change == "checkpoints":
        for block in model.base_model.encoder.layer:
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    assert rows_through(model, batch) == {"": [3], "chunks": [5, 5, 5], "checkpoints": [15, 15]}[change]


def test_threads_may_share_a_model():
    model = enable_packing(AutoModelForSequenceClassification.from_config(copy.deepcopy(FAMILIES["bert"]))).eval()
    batches = [pack([np.arange(5, 5 + n)] * many, [np.zeros(n, np.int64)] * many) for n, many in ((3, 1), (7, 4))]
    alone = [class_logits(model, batch) for batch in batches]
    meet = threading.Barrier(2)
    # both are in the model when either reaches its last block
    hook = model.base_model.encoder.layer[0].register_forward_hook(lambda *_: (meet.wait(timeout=60), None)[1])
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda batch: class_logits(model, batch), batches))
    hook.remove()
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.sampled_from([0, 40, 12_000]))
def test_groups_hold_every_sequence_and_pad_little(lengths, least):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "LEAST_WORK", least)
        groups = attention.groups_of(np.array(lengths), "cpu")
    first = 0
    for group in groups:
        count, longest = group.shape
        here = lengths[first : first + count]
        assert longest == max(here) and group.tokens == sum(here)
        assert count * longest**2 - sum(n**2 for n in here) <= least
        assert (group.real is None) == (group.places is None) == (set(here) == {longest})
        if group.real is not None:
            assert group.real.sum(1).tolist() == here
            assert group.places.tolist() == group.real.flatten().nonzero()[:, 0].tolist()
        first += count
    assert first == len(lengths)
    assert len(attention.groups_of(np.array(lengths), "meta")) == 1  # as on a GPU


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_logits_do_not_depend_on_the_groups(family, monkeypatch):
    torch.manual_seed(0)
    model = enable_packing(AutoModelForSequenceClassification.from_config(copy.deepcopy(FAMILIES[family])))
    model, ids = model.to(torch.float64).eval(), np.random.default_rng(0)
    sequences = [ids.integers(5, 90, n) for n in (9, 9, 4, 30, 29, 31, 1, 2, 9)]
    found = []
    for least, count in ((0, 8), (150, 5), (12_000, 1)):
        monkeypatch.setattr(attention, "LEAST_WORK", least)
        batch = pack(sequences, [np.zeros(len(s), np.int64) for s in sequences])
        assert len(batch.groups) == count
        found.append(class_logits(model, batch))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("least", [0, 12_000])
@pytest.mark.parametrize("lengths", [(6, 6, 6, 6), (9, 2, 5)], ids=["alike", "padded"])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_with_a_little_dropout_is_that_without(lengths, window, least, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "LEAST_WORK", least)
    packing = pack([np.zeros(n, np.int64) for n in lengths], [np.zeros(n, np.int64) for n in lengths])
    states = [torch.randn(1, 2, sum(lengths), 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def outcome(dropout):
        out, _ = attention.packed_attention(None, *states, None, 0.5, dropout, packing=packing, sliding_window=window)
        return out, torch.autograd.grad(out.square().sum(), states)

    (found, gradients), (expected, right) = outcome(2**-16), outcome(0.0)
    assert not torch.equal(found, expected)  # drawn, if hardly anything
    for one, other in zip((found, *gradients), (expected, *right), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_training_draws_dropout():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    training = Training(model, np.array([1, 1]), lambda rows: model(torch.ones(len(rows), 2)).square().sum(),
                        lambda: Measured({}, None, ""))  # fmt: skip
    config = FinetuneConfig(train=("none",), out="none", init="none", epochs=1, batch_size=2)
    train_epochs(config, training, np.random.default_rng(0))
    assert type(model[1]) is Dropout
