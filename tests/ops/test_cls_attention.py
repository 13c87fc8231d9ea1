"""Attention of one query per sequence against torch in float32, whatever the rows' dtype."""

import numpy as np
import pytest
import torch
from common import DEVICE, FLOOR, SEQUENCES, assert_as_good_as_torch, bounds_of, normal, poisoned
from fastmask_kernels import reference
from fastmask_kernels.cls_attention import KEYS, cls_attention

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


def attend(query, x, lengths):
    """The op on the device, into a poisoned output; its inputs are left as they were."""
    inputs = [t.to(DEVICE) for t in (query, x, bounds_of(lengths))]
    before = [t.clone() for t in inputs]
    out = poisoned(*query.shape, dtype=F32, device=DEVICE)
    assert cls_attention(*inputs, query.shape[1], out=out) is out
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    return out


def check(query, x, lengths):
    bounds, heads = bounds_of(lengths), query.shape[1]
    exact = reference.cls_attention(query.double(), x.double(), bounds, max(lengths), heads)
    by_torch = reference.cls_attention(query.to(DEVICE), x.to(DEVICE), bounds, max(lengths), heads)
    assert_as_good_as_torch(attend(query, x, lengths), by_torch, exact)


@pytest.mark.parametrize("lengths", [*SEQUENCES.values(), [KEYS - 1, KEYS, KEYS + 1]], ids=str)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_lengths(lengths, dtype):
    hidden, heads = 128, 4
    query = normal(len(lengths), heads, hidden, seed=1, scale=2 * hidden**-0.5)
    check(query, normal(sum(lengths), hidden).to(dtype), lengths)


@pytest.mark.parametrize(
    ("lengths", "hidden", "heads", "dtype"),
    [
        ([13, 40], 384, 12, F32),
        ([13, 40], 384, 12, F16),
        ([7, 33], 768, 12, F32),
        ([7, 33], 768, 12, F16),
        ([7, 33], 768, 12, BF16),
        ([3, 20], 1024, 16, F32),
        ([3, 20], 1024, 16, F16),
        ([512], 64, 1, F32),
        ([512, 2], 64, 1, F16),
        ([5, 9], 72, 20, F32),
        ([5, 9], 72, 20, F16),
    ],
    ids=str,
)
def test_shapes(lengths, hidden, heads, dtype):
    query = normal(len(lengths), heads, hidden, seed=1, scale=2 * hidden**-0.5)
    check(query, normal(sum(lengths), hidden).to(dtype), lengths)


@pytest.mark.parametrize(("dtype", "interpreted"), [(F32, 129), (F16, 211), (BF16, 61)], ids=str)
def test_many_sequences(dtype, interpreted):
    """Thousands on a device; a program of the interpreter, a sequence, takes some 15 ms even at this width."""
    sequences = 5003 if DEVICE == "cuda" else interpreted
    lengths = np.random.default_rng(0).integers(1, 6, sequences).tolist()
    check(normal(sequences, 2, 32, seed=1), normal(sum(lengths), 32).to(dtype), lengths)


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_queries_of_any_size(scale, dtype):
    """Neither their smallest nor their largest digits are lost in half precision; large scores overflow nothing.

    Of a query of 22 bits, in float32 sums of any order, the scores are good to 2^-20 of a head's largest. A score that
    is off by e moves the result by e * p * (x - result).
    """
    lengths = [3, 40]
    query, x = normal(2, 4, 128, seed=1, scale=scale), normal(43, 128).to(dtype)
    out = attend(query, x, lengths).cpu().double()
    for asked, rows, found in zip(query.double(), x.double().split(lengths), out, strict=True):
        scores = asked @ rows.T
        p = torch.softmax(scores, dim=1)
        exact = p @ rows
        moved = torch.einsum("hk,hkd->hd", p, (rows - exact[:, None]).abs())
        error = 2.0**-20 * scores.abs().amax(1, keepdim=True)
        assert ((found - exact).abs() <= error * moved + FLOOR * rows.abs().max()).all()


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_queries_beyond_the_sequences_give_zero(dtype):
    query, x = normal(5, 2, 64, seed=1), normal(50, 64).to(dtype)
    out = attend(query, x, [40, 10])
    assert torch.equal(out[:2], attend(query[:2].clone(), x, [40, 10]))
    assert not out[2:].any()


def test_sequences_of_no_rows_give_zero():
    query, x = normal(4, 2, 64, seed=1), normal(8, 64)
    out = attend(query, x, [0, 5, 0, 3])
    assert not out[[0, 2]].any()
    assert torch.equal(out[[1, 3]], attend(query[[1, 3]], x, [5, 3]))


def test_no_queries():
    empty = torch.zeros(0, 2, 64, device=DEVICE)
    bounds = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    assert cls_attention(empty, torch.zeros(0, 64, device=DEVICE), bounds, 2).shape == (0, 2, 64)


@pytest.mark.parametrize(
    ("query", "x", "bounds"),
    [
        (torch.zeros(2, 3, 64), torch.zeros(9, 64), torch.tensor([0, 9], dtype=torch.int32)),
        (torch.zeros(2, 2, 32), torch.zeros(9, 64), torch.tensor([0, 9], dtype=torch.int32)),
        (torch.zeros(1, 2, 64), torch.zeros(9, 64), torch.tensor([0, 4, 9], dtype=torch.int32)),
        (torch.zeros(2, 2, 64).half(), torch.zeros(9, 64), torch.tensor([0, 9], dtype=torch.int32)),
        (torch.zeros(2, 2, 64), torch.zeros(9, 64).double(), torch.tensor([0, 9], dtype=torch.int32)),
        (torch.zeros(2, 2, 64), torch.zeros(9, 64), torch.tensor([0, 9])),
        (torch.zeros(2, 2, 64), torch.zeros(64, 9).T, torch.tensor([0, 9], dtype=torch.int32)),
    ],
    ids=["heads", "width", "too few queries", "half query", "double rows", "int64 bounds", "strided rows"],
)
def test_what_it_cannot_do(query, x, bounds):
    with pytest.raises(ValueError, match="cls_attention"):
        cls_attention(query, x, bounds, 2)
