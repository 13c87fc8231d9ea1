"""What ``pretrain`` is made of: the loss is transformers' own, parts hold every sequence once, gradients add up."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import TEXT_TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_samples import FAMILIES, SHAPE, save_model, without_dropout
from transformers import AutoModel, AutoModelForMaskedLM, RobertaConfig

from fastmask.core.errors import FastmaskError
from fastmask.data.corruption import corrupt
from fastmask.data.sequences import Example
from fastmask.models.directory import resolve_model
from fastmask.models.mlm_model import MaskedLoss, load_masked_lm
from fastmask.models.trainable import enable_packing, pack
from fastmask.train.loop import take_step
from fastmask.train.mlm_batches import Builder, Part

pytestmark = pytest.mark.usefixtures("one_thread")


def padded_loss(model, sequences, at):
    """transformers' own loss on a padded batch, labels -100 where nothing is masked; id 4 is the mask."""
    longest, padding = max(map(len, sequences)), model.config.pad_token_id
    ids = np.full((len(sequences), longest), padding)
    labels, attend = np.full_like(ids, -100), np.zeros_like(ids)
    for row, (sequence, places) in enumerate(zip(sequences, at, strict=True)):
        ids[row, : len(sequence)], attend[row, : len(sequence)] = sequence, 1
        labels[row, places], ids[row, places] = sequence[places], 4
    return model(torch.tensor(ids), attention_mask=torch.tensor(attend), labels=torch.tensor(labels)).loss


def packed_part(sequences, at) -> Part:
    corrupted = [np.where(np.isin(np.arange(len(s)), places), 4, s) for s, places in zip(sequences, at, strict=True)]
    starts = np.cumsum([0, *map(len, sequences)])
    places = np.concatenate([a + start for a, start in zip(at, starts, strict=False)]).astype(np.int64)
    packed = pack(corrupted, [np.zeros(len(s), np.int64) for s in sequences])
    return Part(packed, torch.tensor(places), torch.tensor(np.concatenate(sequences)[places]))


@pytest.mark.parametrize("lengths", [(1, 7, 33, 17, 5), (9, 9, 9), (4,), (8, 8, 8, 3, 3, 1)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers(family, lengths):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = AutoModelForMaskedLM.from_config(without_dropout(copy.deepcopy(FAMILIES[family]))).train()
    sequences = [rng.integers(5, 97, length) for length in lengths]
    # one sequence without a mask, unless it is the only one
    at = [np.sort(rng.permutation(n)[: max(1, n // 3)]) for n in lengths]
    at[0] = at[0][: 0 if len(lengths) > 1 else None]
    model.zero_grad()
    expected = padded_loss(model, sequences, at)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    masked = sum(map(len, at))
    loss = MaskedLoss(enable_packing(model), torch.float32)(packed_part(sequences, at)) / masked
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(gradients)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=2e-6, msg=name)


def test_a_part_without_masks_has_loss_0_and_gradients_0():
    model = enable_packing(AutoModelForMaskedLM.from_config(copy.deepcopy(FAMILIES["bert"])))
    loss = MaskedLoss(model, torch.float32)(packed_part([np.arange(5, 11)], [np.empty(0, np.int64)]))
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_bfloat16_products_are_near():
    torch.manual_seed(0)
    model = enable_packing(AutoModelForMaskedLM.from_config(copy.deepcopy(FAMILIES["bert"])).eval())
    part = packed_part([np.arange(5, 40)], [np.arange(3, 30, 4)])
    exact, near = (MaskedLoss(model, dtype)(part).item() for dtype in (torch.float32, torch.bfloat16))
    assert near != exact and near == pytest.approx(exact, rel=0.01)


def test_a_gradient_that_is_not_finite_leaves_the_weights():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    loss = (weight - 1.0).sqrt().sum()
    loss.backward()
    with pytest.raises(FastmaskError, match="the gradient's norm is inf at step 0"):
        take_step(optimizer, loss.detach(), 0)
    assert weight.item() == 1.0


def example(rng, length, masks, row) -> Example:
    at = np.sort(rng.permutation(length)[:masks]).astype(np.int32)
    return Example(
        rng.integers(5, 97, length).astype(np.int32), at, np.full(masks, row), np.zeros(masks, np.int32), at, at
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.booleans()), min_size=1, max_size=20),
       st.integers(1, 80), st.integers(0, 2**32))  # fmt: skip
def test_parts_hold_every_sequence_once_corrupted_as_its_keys_say(shapes, part_tokens, seed):
    rng = np.random.default_rng(seed)
    shapes = sorted(shapes, key=lambda shape: shape[2])
    items = [(int(late), example(rng, n, min(n, m), row)) for row, (n, m, late) in enumerate(shapes)]
    ordinary = np.arange(5, 97, dtype=np.int32)
    parts = Builder(seed, 4, ordinary, part_tokens, "cpu", TEXT_TEMPLATE, (0.8, 0.1, 0.1)).parts(items)
    expected = sorted(
        (corrupt(e.input_ids, e.at, e.row, e.sentence, e.position, seed=seed, epoch=epoch, mask_id=4,
                 ordinary=ordinary).tolist(), e.at.tolist(), e.input_ids[e.at].tolist())
        for epoch, e in items
    )  # fmt: skip
    got = []
    for part in parts:
        bounds, ids = part.packed.cu_seqlens.tolist(), part.packed.input_ids
        for start, end in pairwise(bounds):
            inside = (part.at >= start) & (part.at < end)
            got.append((ids[start:end].tolist(), (part.at[inside] - start).tolist(), part.labels[inside].tolist()))
        # at most one sequence past the budget
        assert len(ids) < 9 * part_tokens / 8 + max(n for n, *_ in shapes)
    assert sorted(got) == expected


def test_an_encoder_whose_config_unties_gets_a_tied_head_all_the_same(tmp_path, mr_tiny):
    shape = {**SHAPE, "vocab_size": 8192, "tie_word_embeddings": False}
    bare = save_model(tmp_path / "bare", AutoModel.from_config(RobertaConfig(**shape)), mr_tiny)
    model, missing = load_masked_lm(resolve_model(bare))
    assert missing and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    whole = save_model(tmp_path / "whole", AutoModelForMaskedLM.from_config(RobertaConfig(**shape)), mr_tiny)
    model, missing = load_masked_lm(resolve_model(whole))
    assert not missing and model.get_output_embeddings().weight is not model.get_input_embeddings().weight
