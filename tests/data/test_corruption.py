"""Corruption at load time: against the kernels' reference, and what a trainer relies on."""

import numpy as np
import pytest
import torch
from fastmask_kernels import reference

import fastmask
from fastmask.core.errors import FastmaskError
from fastmask.data.corruption import corrupt, ordinary_ids

MASK = 4
ORDINARY = ordinary_ids(500, {"cls": 2, "sep": 3, "mask": MASK, "pad": 0, "unk": 1, "bos": None, "eos": None})


def case(tokens: int, masked: int, seed: int = 0):
    """input_ids, at, row, sentence, position."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.choice(tokens, masked, replace=False)).astype(np.int32)
    row, sentence = rng.integers(0, 2**40, masked), rng.integers(0, 50, masked).astype(np.int32)
    return rng.integers(5, 500, tokens).astype(np.int32), at, row, sentence, at % 128


def options(epoch: int = 0, seed: int = 7) -> dict:
    return {"seed": seed, "epoch": epoch, "mask_id": MASK, "ordinary": ORDINARY}


def test_ordinary_ids():
    assert ordinary_ids(6, {"cls": 4, "pad": 0, "bos": None}).tolist() == [1, 2, 3, 5]
    assert ordinary_ids(6, [5, None, 9]).tolist() == [0, 1, 2, 3, 4]
    assert ordinary_ids(6, []).dtype == np.int32


@pytest.mark.parametrize("tokens, masked", [(0, 0), (1, 1), (7, 0), (300, 47), (1000, 1000)])
@pytest.mark.parametrize("epoch", [0, 3])
def test_equals_the_reference(tokens, masked, epoch):
    arrays = case(tokens, masked)
    kept = [array.copy() for array in arrays]
    found = corrupt(*arrays, **options(epoch))
    expected = reference.apply_mask(
        *(torch.from_numpy(array) for array in arrays), seed=7, epoch=epoch, mask_id=MASK,
        ordinary=torch.from_numpy(ORDINARY))  # fmt: skip
    assert found.dtype == np.int32 and np.array_equal(found, expected.numpy())
    assert all(np.array_equal(a, b) for a, b in zip(arrays, kept, strict=True))


def test_a_frozen_array_is_fine():
    arrays = case(20, 5)
    for array in arrays:
        array.flags.writeable = False
    assert np.array_equal(corrupt(*arrays, **options()), corrupt(*case(20, 5), **options()))


def test_shares_are_80_10_10_and_only_ordinary_tokens_are_drawn():
    ids, at, *key = case(200_000, 100_000)
    found = corrupt(ids, at, *key, **options())
    changed = found[at] != ids[at]
    masked = found[at] == MASK
    assert abs(masked.mean() - 0.8) < 0.005
    assert abs((changed & ~masked).mean() - 0.1) < 0.005
    assert np.isin(found[at][changed & ~masked], ORDINARY).all()
    untouched = np.delete(np.arange(len(ids)), at)
    assert np.array_equal(found[untouched], ids[untouched])


@pytest.mark.parametrize("shares", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.7, 0.3, 0), (0.2, 0.3, 0.5)])
def test_other_shares(shares):
    ids, at, *key = case(40_000, 20_000)
    ids[:] = 1  # which is not drawn
    found = corrupt(ids, at, *key, **options(), shares=shares)[at]
    counts = np.array([(found == MASK).sum(), np.isin(found, ORDINARY).sum(), (found == 1).sum()])
    wanted = np.array(shares)
    assert (np.abs(counts - 20_000 * wanted) <= 5 * np.sqrt(20_000 * wanted * (1 - wanted))).all()


def test_the_shares_are_the_usual_ones_unless_told_otherwise():
    arrays = case(2000, 1000)
    assert np.array_equal(corrupt(*arrays, **options()), corrupt(*arrays, **options(), shares=(0.8, 0.1, 0.1)))


def test_fresh_in_each_epoch_and_for_each_seed():
    arrays = case(2000, 1000)
    results = [corrupt(*arrays, **options(epoch, seed)) for epoch, seed in [(0, 7), (1, 7), (0, 8)]]
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        # two independent draws agree on 0.8^2 + 0.1^2 and a little
        assert 0.6 < (results[a] == results[b])[arrays[1]].mean() < 0.72


def test_the_batch_does_not_matter():
    ids, at, *key = case(600, 200)
    whole = corrupt(ids, at, *key, **options())
    first = at < 250
    parts = [
        corrupt(ids[:250], at[first], *(k[first] for k in key), **options()),
        corrupt(ids[250:], at[~first] - 250, *(k[~first] for k in key), **options()),
    ]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"row": np.arange(2)}, "3 places with 2 rows"),
        ({"at": np.array([0, 1, 10])}, "places 0 to 10 in 10 tokens"),
        ({"at": np.array([0, 1, -1])}, "at: -1 to 1, not 0 to"),
        ({"at": np.array([0.0, 1.0, 2.5])}, "at: one row of whole numbers, not float64"),
        ({"row": [None, 1, 2]}, "row: one row of whole numbers, not object"),
        ({"sentence": np.array([0, 0, 2**31])}, "sentence: 0 to 2147483648, not 0 to 2147483647"),
        ({"input_ids": np.full(10, 2**32 + 5)}, "input_ids: 4294967301"),
        ({"input_ids": np.zeros((2, 10), np.int32)}, r"input_ids: one row of whole numbers, not int32 \[2, 10\]"),
        ({"ordinary": ORDINARY[:0]}, "no ordinary token to draw from"),
        ({"ordinary": np.array([-1, 4])}, "ordinary: -1 to 4"),
        ({"mask_id": None}, "mask_id None: 0 to"),
        ({"mask_id": -1}, "mask_id -1: 0 to"),
        ({"seed": -1}, "seed -1: 0 to"),
        ({"epoch": -1}, "epoch -1: 0 to"),
        ({"shares": (0.8, 0.2)}, r"\[0.8, 0.2\]: three numbers from 0 on whose sum is 1: \[MASK\], random, unchanged"),
        ({"shares": (0.8, 0.1, 0.2)}, "three numbers from 0 on"),
        ({"shares": (1.2, -0.1, -0.1)}, "three numbers from 0 on"),
        ({"shares": (float("nan"), 0.5, 0.5)}, "three numbers from 0 on"),
    ],
)
def test_what_does_not_fit_is_refused(changed, said):
    names = ("input_ids", "at", "row", "sentence", "position")
    arguments = dict(zip(names, case(10, 3), strict=True)) | options()
    with pytest.raises(FastmaskError, match=said):
        corrupt(**(arguments | changed))


def test_lists_will_do():
    arrays = case(20, 5)
    assert np.array_equal(corrupt(*(array.tolist() for array in arrays), **options()), corrupt(*arrays, **options()))
    assert fastmask.corrupt is corrupt
