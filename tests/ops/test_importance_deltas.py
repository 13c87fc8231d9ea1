"""The fused head against plain torch, and decisions that are known exactly."""

from itertools import product

import pytest
import torch
from common import DEVICE, assert_as_good_as_torch, normal, poisoned
from fastmask_kernels import reference
from fastmask_kernels.importance_deltas import importance_deltas
from fastmask_kernels.layouts import Deltas, head_of

INF, NAN = float("inf"), float("nan")
ABOVE, DOUBT = 1, 2
TIE = 1e-9


def doubles(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, device=DEVICE)


def ints(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def poisoned_deltas(count) -> Deltas:
    floats = (poisoned(count, dtype=t, device=DEVICE) for t in (torch.float64, torch.float64, torch.float32))
    return Deltas(*floats, torch.full((count,), 77, dtype=torch.int8, device=DEVICE))


def random_head(hidden, pooled, classes, activation):
    scale = hidden**-0.5
    parameters = normal(pooled, hidden, seed=1, scale=scale), normal(pooled, seed=2, scale=0.1)
    outer = normal(classes, pooled, seed=3, scale=0.2), normal(classes, seed=4)
    return head_of(*(t.to(DEVICE) for t in parameters), activation, *(t.to(DEVICE) for t in outer))


def questions(count, rows, classes, seed=0):
    """row, target, z_full, z_star and width of random variants."""
    generator = torch.Generator().manual_seed(seed)
    integers = [torch.randint(n, (count,), generator=generator).int() for n in (rows, classes)]
    z_full, z_star = torch.randn(2, count, generator=generator, dtype=torch.float64) * 2
    z_star[::7] = -INF
    z_star[3::11] = INF
    return [t.to(DEVICE) for t in (*integers, z_full, z_star, torch.rand(count, generator=generator).double())]


def check(rows, head, asked, tie=TIE):
    """Into a poisoned output, no input changed; decisions where float64 is not on the edge of another one."""
    inputs = [rows, head.dense_weight, head.dense_bias, head.weight, head.bias, *asked]
    before = [t.clone() for t in inputs]
    out = poisoned_deltas(len(asked[0]))
    found = importance_deltas(rows, head, *asked, tie, out=out)
    assert found is out and all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    by_torch = reference.importance_deltas(rows, head, *asked, tie)
    exact = reference.importance_deltas(rows.double(), head, *asked, tie)
    assert_as_good_as_torch(found.z, by_torch.z, exact.z)
    assert torch.equal(found.margin, found.z - asked[3])
    importance = torch.sigmoid(asked[2]) - torch.sigmoid(found.z)
    assert (found.importance - importance).abs().max() < 1e-7
    sure = (exact.margin.abs() > 1e-4) & ((exact.margin.abs() - asked[4]).abs() > 1e-4)
    assert sure.float().mean() > 0.9 and torch.equal(found.decision[sure], exact.decision[sure])
    assert torch.equal(by_torch.decision[sure], exact.decision[sure])


@pytest.mark.parametrize(
    ("hidden", "pooled", "classes", "activation", "dtype"),
    [
        (128, 128, 2, "tanh", torch.float16),
        (128, 32, 3, "gelu", torch.float32),
        (384, 384, 2, "tanh", torch.bfloat16),
        (768, 768, 2, "tanh", torch.float16),
        (768, 768, 5, "relu", torch.float32),
        (1024, 1024, 2, "gelu", torch.bfloat16),
        (97, 131, 4, "tanh", torch.float32),
        (48, 64, 64, "relu", torch.float16),
    ],
)
def test_heads(hidden, pooled, classes, activation, dtype):
    """Several variants ask about the same row; sizes that no block divides."""
    rows = normal(19, hidden).to(dtype).to(DEVICE)
    check(rows, random_head(hidden, pooled, classes, activation), questions(37, 19, classes))


@pytest.mark.parametrize("count", [1, 2, 15, 31, 32, 33, 127, 2503])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_numbers_of_variants(count, dtype):
    rows = normal(max(1, count // 2), 32).to(dtype).to(DEVICE)
    asked = questions(count, len(rows), 3, seed=count)
    asked[3] += count < 9  # so few that none may lie on an edge
    check(rows, random_head(32, 32, 3, "tanh"), asked)


def hand_made(z_full, z_star, width, rows, row=None, tie=TIE):
    """Two classes and whole numbers: z of class 0 is the row's first value, exactly."""
    weight = torch.tensor([[1.0, -1.0], [0.0, 0.0]], device=DEVICE)
    dense = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], device=DEVICE)
    head = head_of(dense, torch.zeros(2, device=DEVICE), "relu", weight, torch.zeros(2, device=DEVICE))
    row = range(len(rows)) if row is None else row
    values = torch.tensor([[value, 0.0] for value in rows], device=DEVICE)
    asked = ints(list(row)), ints([0] * len(row)), doubles(z_full), doubles(z_star), doubles(width)
    found = importance_deltas(values, head, *asked, tie, out=poisoned_deltas(len(row)))
    by_torch = reference.importance_deltas(values, head, *asked, tie)
    for ours, theirs in zip(
        (found.z, found.margin, found.decision), (by_torch[0], by_torch[1], by_torch[3]), strict=True
    ):
        assert torch.equal(ours.nan_to_num(99, 98, -98), theirs.nan_to_num(99, 98, -98))
    assert torch.allclose(found.importance, by_torch.importance, atol=1e-7, rtol=0, equal_nan=True)
    return found


def test_decisions_by_hand():
    """(z, z_star, width) and what follows: margins at, within and beyond the tie and the width."""
    expected = {
        (2.0, 1.0, 0.5): ABOVE,
        (1.0, 2.0, 0.5): 0,
        (2.0, 1.0, 1.0): ABOVE | DOUBT,
        (1.0, 2.0, 1.0): DOUBT,
        (1.0, 1.0, 0.0): DOUBT,
        (1.0, 1.0 - 2e-9, 0.0): ABOVE,
        (1.0, 1.0 - 0.5e-9, 0.0): 0,
        (1.0, -INF, 0.5): ABOVE,
        (1.0, INF, 0.5): 0,
        (1.0, -INF, INF): ABOVE | DOUBT,
        (3.0, 1.0, INF): ABOVE | DOUBT,
        (-3.0, 1.0, NAN): DOUBT,
    }
    z, z_star, width = zip(*expected, strict=True)
    found = hand_made([0.0] * len(z), z_star, width, z)
    assert found.decision.tolist() == list(expected.values())
    assert found.z.tolist() == list(z)


def test_margins_are_float64():
    """Ties far below float32's steps."""
    found = hand_made([0.0] * 3, [4.0 - 1e-12, 4.0 - 1e-15, 4.0 + 1e-12], [0.0] * 3, [4.0], row=[0, 0, 0], tie=1e-13)
    assert found.decision.tolist() == [ABOVE, 0, 0]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("z_star", [-INF, 0.0, INF])
def test_a_row_that_overflowed_is_a_doubt(z_star):
    found = hand_made([0.0] * 4, [z_star] * 4, [0.5] * 4, [INF, -INF, NAN, 3.0])
    assert [decision & DOUBT for decision in found.decision.tolist()] == [DOUBT, DOUBT, DOUBT, 0]
    assert found.decision.tolist()[3] == (ABOVE if z_star < INF else 0)


def test_importance_of_any_size():
    z = [-1000.0, -30.0, 0.0, 30.0, 1000.0]
    pairs = list(product(z, repeat=2))
    found = hand_made([full for full, _ in pairs], [0.0] * 25, [0.0] * 25, [part for _, part in pairs])
    exact = [torch.sigmoid(doubles(full)).item() - torch.sigmoid(doubles(part)).item() for full, part in pairs]
    assert torch.allclose(found.importance.double(), doubles(exact), atol=1e-7, rtol=1e-6)


def test_no_variant():
    head = random_head(16, 16, 2, "tanh")
    found = importance_deltas(normal(3, 16).to(DEVICE), head, *questions(0, 1, 2), TIE)
    assert [t.dtype for t in found] == [torch.float64, torch.float64, torch.float32, torch.int8]
    assert all(t.shape == (0,) for t in found)


def test_refusals():
    head, asked = random_head(16, 16, 2, "tanh"), questions(3, 2, 2)
    rows = normal(2, 16).to(DEVICE)
    for wrong, words in [
        (rows.double(), "float64"),
        (rows.t().contiguous().t(), "contiguous"),
    ]:
        with pytest.raises(ValueError, match=words):
            importance_deltas(wrong, head, *asked, TIE)
    for other, words in [
        (head._replace(activation="silu"), "silu"),
        (head._replace(bias=head.bias[:1]), "1 classes"),
        (head._replace(dense_weight=head.dense_weight.contiguous()), "head_of"),
    ]:
        with pytest.raises(ValueError, match=words):
            importance_deltas(rows, other, *asked, TIE)
    with pytest.raises(ValueError, match="int32"):
        importance_deltas(rows, head, asked[0].long(), *asked[1:], TIE)
    with pytest.raises(ValueError, match="float64"):
        importance_deltas(rows, head, *asked[:4], asked[4].float(), TIE)
