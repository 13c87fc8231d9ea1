"""Corruption at load time: against the kernels' reference, and what a trainer relies on."""

import numpy as np
import pytest
import torch
from fastmask_kernels import reference

from fastmask.corruption import corrupt, ordinary_ids

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


def test_what_does_not_fit_is_refused():
    ids, at, row, sentence, position = case(10, 3)
    with pytest.raises(ValueError, match="3 places with 2 rows"):
        corrupt(ids, at, row[:2], sentence, position, **options())
    for bad in (10, -1):
        with pytest.raises(ValueError, match="in 10 tokens"):
            corrupt(ids, np.array([0, 1, bad]), row, sentence, position, **options())
    with pytest.raises(ValueError, match="draw"):
        corrupt(ids, at, row, sentence, position, **(options() | {"ordinary": ORDINARY[:0]}))
