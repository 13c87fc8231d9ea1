"""Corruption: the Triton kernel, the numba one and plain Python bit for bit, and what it has to be on average."""

import numpy as np
import pytest
import torch
from common import DEVICE
from fastmask_kernels import cpu, reference
from fastmask_kernels.apply_mask import apply_mask
from hypothesis import example, given, settings
from hypothesis import strategies as st

MASK, FIRST, LAST = 3, 10, 1009
LARGEST = 2**63 - 1
ORDINARY = np.arange(FIRST, LAST + 1, dtype=np.int32)
KEY_DTYPES = (np.int64, np.int32, np.int32)


def by_triton(ids, at, key, seed, epoch, ordinary=ORDINARY, out=None):
    tensors = (torch.from_numpy(a).to(DEVICE) for a in (ids, at, *key, ordinary))
    *masked, ordinary = tensors
    return apply_mask(*masked, seed, epoch, MASK, ordinary, out).cpu().numpy()


def by_numba(ids, at, key, seed, epoch, ordinary=ORDINARY):
    out = np.full(len(ids), -77, np.int32)
    cpu.apply_mask(ids, at, *key, seed, epoch, MASK, ordinary, out)
    return out


def by_python(ids, at, key, seed, epoch, ordinary=ORDINARY):
    *masked, ordinary = (torch.from_numpy(a) for a in (ids, at, *key, ordinary))
    return reference.apply_mask(*masked, seed, epoch, MASK, ordinary).numpy()


def check(ids, at, key, seed, epoch, ordinary=ORDINARY):
    """All three give the same ids, whatever is in the output before, and write to no input."""
    inputs = [ids, at, *key, ordinary]
    before = [a.copy() for a in inputs]
    out = torch.full((len(ids),), -77, dtype=torch.int32, device=DEVICE)
    found = by_triton(ids, at, key, seed, epoch, ordinary, out)
    assert found.dtype == np.int32 and np.array_equal(found, out.cpu())
    assert np.array_equal(found, by_numba(ids, at, key, seed, epoch, ordinary))
    assert np.array_equal(found, by_python(ids, at, key, seed, epoch, ordinary))
    assert all(map(np.array_equal, inputs, before))
    return found


def tokens(count, every=1, seed=0, at_dtype=np.int64):
    """ids int32 [T], and every so-many of their indices as masked ones, with keys of random sentences."""
    rng = np.random.default_rng(seed)
    at = np.arange(0, count, every, dtype=at_dtype)
    key = [rng.integers(0, high, len(at)).astype(t) for high, t in zip((2**40, 50, 128), KEY_DTYPES, strict=True)]
    return rng.integers(FIRST, LAST + 1, count).astype(np.int32), at, key


big = st.integers(0, 2**31 - 1) | st.sampled_from([0, 1, 2**31 - 1])
huge = st.integers(0, LARGEST) | st.sampled_from([0, 1, 16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, LARGEST])


@given(st.lists(st.tuples(huge, big, big), min_size=1, max_size=40), huge, huge, st.integers(1, 1000))
@example([(LARGEST, 2**31 - 1, 2**31 - 1)] * 9, LARGEST, LARGEST, 1000)
@example([(0, 0, 0)], 0, 0, 1)
@settings(deadline=None, max_examples=120)
def test_any_key(keys, seed, epoch, choices):
    key = [np.array(column, t) for column, t in zip(zip(*keys, strict=True), KEY_DTYPES, strict=True)]
    ids = np.arange(5000, 5000 + len(keys), dtype=np.int32)
    check(ids, np.arange(len(keys), dtype=np.int64)[::-1].copy(), key, seed, epoch, ORDINARY[:choices])


@pytest.mark.parametrize("at_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 131, 512, 5003])
def test_numbers_of_tokens(count, at_dtype):
    ids, at, key = tokens(count, every=3, at_dtype=at_dtype)
    found = check(ids, at, key, 7, 2)
    rest = np.setdiff1d(np.arange(count), at)
    assert np.array_equal(found[rest], ids[rest])


def test_known_bits():
    """Fixed for ever: shards that were trained on before must come out the same."""
    key = [np.arange(8, dtype=t) for t in KEY_DTYPES]
    found = check(np.full(8, 5, np.int32), np.arange(8), key, 13, 1)
    assert found.tolist() == [MASK, 166, MASK, 951, MASK, 5, MASK, MASK]


def test_shares():
    """80 % [MASK], 10 % as they were, 10 % any ordinary id: within five standard deviations; never a special one."""
    count = 200_000
    ids, at, key = tokens(count)
    ids[:] = 4
    found = by_numba(ids, at, key, 1, 0)
    deviation = 5 * np.sqrt(count * np.array([0.8 * 0.2, 0.1 * 0.9, 0.1 * 0.9]))
    drawn = found[found >= FIRST]
    counts = np.array([np.sum(found == MASK), np.sum(found == 4), len(drawn)])
    assert counts.sum() == count and np.all(np.abs(counts - count * np.array([0.8, 0.1, 0.1])) < deviation)
    each = np.bincount(drawn - FIRST, minlength=len(ORDINARY))
    assert len(each) == len(ORDINARY) and np.all(np.abs(each - 20) < 5 * np.sqrt(20) + 2)


@pytest.mark.parametrize("limits", [(2**24, 2**24), (0, 2**24), (0, 0), (2**23, 2**23), (123_456, 10_000_000)])
def test_other_shares(limits):
    """All three functions draw alike below other limits, and in these shares; a share of 0 never comes."""
    count = 20_000
    ids, at, key = tokens(count)
    ids[:] = 4
    *masked, ordinary = (torch.from_numpy(a) for a in (ids, at, *key, ORDINARY))
    found = reference.apply_mask(*masked, 1, 0, MASK, ordinary, *limits).numpy()
    out = np.empty(count, np.int32)
    cpu.apply_mask(ids, at, *key, 1, 0, MASK, ORDINARY, out, *limits)
    on_device = apply_mask(*(t.to(DEVICE) for t in masked), 1, 0, MASK, ordinary.to(DEVICE), None, *limits)
    assert np.array_equal(found, out) and np.array_equal(found, on_device.cpu())
    shares = np.diff([0, *limits, 2**24]) / 2**24
    counts = np.array([np.sum(found == MASK), np.sum(found == 4), np.sum(found >= FIRST)])
    assert np.all(np.abs(counts - count * shares) <= 5 * np.sqrt(count * shares * (1 - shares)))


def test_every_ordinary_id_is_drawn_and_no_other():
    ids, at, key = tokens(4000)
    ordinary = np.array([40, 7, 2_000_000_000], np.int32)
    ids[:] = 5
    assert set(check(ids, at, key, 3, 0, ordinary).tolist()) == {MASK, 5, *ordinary.tolist()}


@pytest.mark.parametrize("function", [by_triton, by_numba, by_python])
def test_order_and_grouping_do_not_matter(function):
    ids, at, key = tokens(700, every=2)
    whole = function(ids, at, key, 5, 1)
    order = np.random.default_rng(1).permutation(len(at))
    assert np.array_equal(function(ids, at[order], [k[order] for k in key], 5, 1), whole)
    parts = ids
    for some in np.array_split(order, 3):
        parts = function(parts, at[some], [k[some] for k in key], 5, 1)
    assert np.array_equal(parts, whole)


@pytest.mark.parametrize("change", ["seed", "epoch", "row", "sentence", "position"])
def test_every_part_of_the_key_counts(change):
    ids, at, (row, sentence, position) = tokens(3000)
    parts = {"seed": 5, "epoch": 1, "row": row, "sentence": sentence, "position": position}
    found = []
    for step in (0, 1):
        p = parts | {change: parts[change] + np.int32(step)}
        key = [p["row"], p["sentence"], p["position"]]
        found.append(by_numba(ids, at, key, int(p["seed"]), int(p["epoch"])))
    masked = [f == MASK for f in found]
    assert 0.3 < np.mean(masked[0] != masked[1]) < 0.34  # 2 * 0.8 * 0.2 of independent ones


def test_nothing_is_masked():
    ids = np.arange(9, dtype=np.int32)
    empty = [np.empty(0, t) for t in KEY_DTYPES]
    assert np.array_equal(check(ids, np.empty(0, np.int64), empty, 0, 0), ids)
    assert len(check(ids[:0], np.empty(0, np.int64), empty, 0, 0)) == 0


def test_refusals():
    ids, at, key = tokens(3)
    for wrong, words in [
        (lambda: by_triton(ids, at, [key[0].astype(np.int32), *key[1:]], 0, 0), "int64"),
        (lambda: by_triton(ids.astype(np.int64), at, key, 0, 0), "int32"),
        (lambda: by_triton(ids, at, key, -1, 0), "seed -1"),
        (lambda: by_triton(ids, at, key, 0, 2**63), "epoch"),
        (lambda: by_triton(ids, at, key, 0, 0, ORDINARY[:0]), "0 ordinary"),
    ]:
        with pytest.raises(ValueError, match=words):
            wrong()
