"""Packed attention against torch, and the tiles that it works by."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from common import DEVICE, SEQUENCES, assert_as_good_as_torch, bounds_of, normal, poisoned
from fastmask_kernels import reference
from fastmask_kernels.varlen_attention import TILE, attention_tiles, tile_rows, varlen_attention

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
AROUND_TILES = [31, 1, 32, 33, 1, 63, 64, 1, 65, 2, 127, 129]


def attend(qkv, lengths, heads):
    """The op on the device, into a poisoned output; its inputs are left as they were."""
    bounds = bounds_of(lengths)
    row_sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).int()
    tiles = torch.from_numpy(attention_tiles(bounds.numpy(), tile_rows(qkv.dtype)))
    inputs = [t.to(DEVICE) for t in (qkv, bounds, row_sequence, tiles)]
    before = [t.clone() for t in inputs]
    out = poisoned(len(qkv), qkv.shape[1] // 3, dtype=qkv.dtype, device=DEVICE)
    assert varlen_attention(*inputs, heads, out=out) is out
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    return out


def check(qkv, lengths, heads):
    bounds = bounds_of(lengths)
    exact = reference.varlen_attention(qkv.double(), bounds, max(lengths), heads)
    by_torch = reference.varlen_attention(qkv.to(DEVICE), bounds, max(lengths), heads)
    assert_as_good_as_torch(attend(qkv, lengths, heads), by_torch, exact)


@pytest.mark.parametrize("lengths", SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize(
    ("hidden", "heads", "dtype"),
    [(64, 2, F32), (64, 2, F16), (64, 2, BF16), (128, 2, F32), (128, 2, F16), (128, 2, BF16)],
    ids=str,
)
def test_lengths(lengths, hidden, heads, dtype):
    check(normal(sum(lengths), 3 * hidden, scale=2.0).to(dtype), lengths, heads)


@pytest.mark.parametrize(
    ("lengths", "hidden", "heads", "dtype"),
    [
        ([3, 40, 13], 384, 12, F32),
        ([3, 40, 13], 384, 12, F16),
        ([17, 128], 768, 12, F32),
        ([17, 128], 768, 12, F16),
        ([17, 28], 768, 12, BF16),
        ([5, 7], 1024, 16, F16),
        (AROUND_TILES, 32, 2, F32),
        (AROUND_TILES, 32, 2, F16),
        (AROUND_TILES, 64, 1, F16),
        ([257], 32, 1, F32),
        ([512, 1], 64, 1, F16),
    ],
    ids=str,
)
def test_shapes(lengths, hidden, heads, dtype):
    check(normal(sum(lengths), 3 * hidden, scale=2.0).to(dtype), lengths, heads)


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_thousands_of_sequences(dtype):
    lengths = np.random.default_rng(0).integers(1, 5, 2000).tolist()
    check(normal(sum(lengths), 3 * 32).to(dtype), lengths, 1)


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("lengths", [[33], [5, 90]], ids=str)
def test_scores_of_any_size(shift, lengths):
    """Large scores overflow no exponential; keys that are far from the query get no weight."""
    qkv = normal(sum(lengths), 3 * 64)
    qkv[:, :64] *= 300
    qkv[:, 128:] += shift
    check(qkv, lengths, 2)


def test_scores_near_the_limit_of_half_precision():
    check(normal(40, 3 * 64, scale=30.0).half(), [11, 29], 2)


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_sequences_do_not_see_each_other(dtype):
    """To the bit, whatever its neighbours are: rows in the same place are summed in the same order."""
    lengths = [17, 5, 1, 30, 70, 3]
    qkv, others = normal(sum(lengths), 3 * 64).to(dtype), normal(sum(lengths), 3 * 64, seed=1, scale=50.0).to(dtype)
    out = attend(qkv, lengths, 2)
    for a, b in pairwise(bounds_of(lengths).tolist()):
        changed = others.clone()
        changed[a:b] = qkv[a:b]
        assert torch.equal(attend(changed, lengths, 2)[a:b], out[a:b])


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_sequences_alone_and_together(dtype):
    """Elsewhere in its tile a sequence is summed in another order: about one unit in the last place of the dtype."""
    lengths = [17, 5, 1, 30]
    qkv = normal(sum(lengths), 3 * 64).to(dtype)
    out = attend(qkv, lengths, 2)
    close = {"rtol": torch.finfo(dtype).eps, "atol": 4 * 2.0**-20}  # float32 sums of values to 4
    for a, b in pairwise(bounds_of(lengths).tolist()):
        torch.testing.assert_close(attend(qkv[a:b].clone(), [b - a], 2), out[a:b], **close)


def test_sequences_of_no_rows():
    lengths = [0, 5, 0, 0, 70, 3, 0]
    qkv = normal(78, 3 * 32)
    assert torch.equal(attend(qkv, lengths, 1), attend(qkv, [5, 70, 3], 1))


def test_no_rows():
    empty = torch.zeros(0, dtype=torch.int32, device=DEVICE)
    qkv = torch.zeros(0, 192, device=DEVICE)
    tiles = torch.from_numpy(attention_tiles(np.zeros(1, np.int32))).to(DEVICE)
    assert varlen_attention(qkv, empty, empty, tiles, 2).shape == (0, 64)


@pytest.mark.parametrize(
    ("qkv", "heads"),
    [
        (torch.zeros(4, 3 * 48), 2),
        (torch.zeros(4, 3 * 64), 3),
        (torch.zeros(4, 3 * 64, dtype=torch.float64), 2),
        (torch.zeros(3 * 64, 4).T, 2),
    ],
    ids=["head size 24", "heads that do not divide", "float64", "strided"],
)
def test_what_it_cannot_do(qkv, heads):
    integers = [torch.zeros(n, dtype=torch.int32) for n in (2, 4, 4)]
    with pytest.raises(ValueError, match="varlen_attention"):
        varlen_attention(qkv, *integers, heads)


def test_integers_of_another_type():
    with pytest.raises(ValueError, match="int32"):
        varlen_attention(torch.zeros(4, 192), *[torch.zeros(4, dtype=torch.int64)] * 3, 2)


@pytest.mark.parametrize("rows", [16, 32, TILE, 128])
@pytest.mark.parametrize("seed", range(5))
def test_tiles_hold_every_row_once(rows, seed):
    """Whole short sequences together, as many as fit; parts of a long one with all of its keys."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 2 + 60 * seed, 300)
    bounds = np.cumsum([0, *lengths]).astype(np.int32)
    tiles = attention_tiles(bounds, rows)
    assert tiles.dtype == np.int32
    assert np.array_equal(np.concatenate([np.arange(r0, r1) for r0, r1, _, _ in tiles]), np.arange(bounds[-1]))
    starts, ends = set(bounds[:-1].tolist()), set(bounds[1:].tolist())
    for r0, r1, k0, k1 in tiles.tolist():
        assert 0 < r1 - r0 <= rows and k0 in starts and k1 in ends
        assert (r0, r1) == (k0, k1) or (k0 <= r0 and r1 <= k1 and k1 - k0 > rows)
    whole = [t for t in tiles.tolist() if t[:2] == t[2:]]
    following = {
        start: end for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True) if end > start
    }
    for r0, r1, _, _ in whole:
        assert r1 == bounds[-1] or following[r1] - r0 > rows, "another sequence would have fitted"
