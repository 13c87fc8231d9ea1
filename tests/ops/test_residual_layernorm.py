"""The fused residual and layer norm against torch."""

import pytest
import torch
from common import DEVICE, assert_as_good_as_torch, normal, poisoned
from fastmask_kernels import reference
from fastmask_kernels.residual_layernorm import WIDEST, add_layernorm, layernorm, residual_layernorm

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
DTYPES = pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
# The interpreter cuts bfloat16 off instead of rounding.
ROUNDED = pytest.mark.parametrize("dtype", [F32, F16] + [BF16] * (DEVICE == "cuda"), ids=str)


def normalised(x, residual, weight, bias, eps=1e-12):
    """The op on the device, into a poisoned output; its inputs are left as they were."""
    inputs = [t.to(DEVICE) for t in (x, residual, weight, bias)]
    before = [t.clone() for t in inputs]
    out = poisoned(*x.shape, dtype=x.dtype, device=DEVICE)
    assert residual_layernorm(*inputs, eps, out=out) is out
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    return out


def check(tokens, hidden, dtype, scale=3.0):
    x, residual = normal(tokens, hidden, scale=scale).to(dtype), (normal(tokens, hidden, seed=1) + 0.5).to(dtype)
    weight, bias = normal(hidden, seed=2), normal(hidden, seed=3)
    wide = [t.double() for t in (x, residual, weight, bias)]
    by_torch = reference.residual_layernorm(*[t.to(DEVICE) for t in (x, residual, weight, bias)], 1e-12)
    found = normalised(x, residual, weight, bias)
    assert_as_good_as_torch(found, by_torch, reference.residual_layernorm(*wide, 1e-12))


@DTYPES
@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 8, 9, 127, 128, 131, 513])
def test_tokens(tokens, dtype):
    check(tokens, 128, dtype)


@DTYPES
@pytest.mark.parametrize("hidden", [8, 16, 72, 100, 384, 520, 768, 1000, 1024, 2048, 5000, WIDEST])
def test_hidden_sizes(hidden, dtype):
    check(17, hidden, dtype)


@DTYPES
def test_thousands_of_tokens(dtype):
    check(4099, 32, dtype)


@ROUNDED
@pytest.mark.parametrize(("tokens", "hidden"), [(1, 72), (9, 128), (17, 768), (3, 5000)])
def test_without_a_residual(tokens, hidden, dtype):
    parameters = normal(hidden, seed=2), normal(hidden, seed=3)
    for x in (normal(tokens, hidden, scale=3.0).to(dtype), normal(tokens, hidden, scale=3.0)):
        out = poisoned(tokens, hidden, dtype=dtype, device=DEVICE)
        on_device = [t.to(DEVICE) for t in (x, *parameters)]
        assert layernorm(*on_device, 1e-5, out=out) is out
        assert torch.equal(on_device[0].cpu(), x)
        exact = reference.layernorm(x.double(), *(p.double() for p in parameters), 1e-5)
        assert_as_good_as_torch(out, reference.layernorm(*on_device, 1e-5).to(dtype), exact)


@ROUNDED
@pytest.mark.parametrize(("tokens", "hidden"), [(1, 72), (9, 128), (17, 768), (3, 5000)])
def test_with_the_sum(tokens, hidden, dtype):
    """The sum is float32's; sum and norm may replace residual and x."""
    x, residual = normal(tokens, hidden, scale=3.0).to(dtype).to(DEVICE), normal(tokens, hidden, seed=1).to(DEVICE)
    parameters = normal(hidden, seed=2).to(DEVICE), normal(hidden, seed=3).to(DEVICE), 1e-5
    expected, normed = x + residual, layernorm(x + residual, *parameters, dtype)
    total, out = (poisoned(tokens, hidden, dtype=t, device=DEVICE) for t in (F32, dtype))
    found = add_layernorm(x, residual, *parameters, total=total, out=out)
    assert found[0] is total and found[1] is out
    assert torch.equal(total, expected)
    torch.testing.assert_close(out, normed)
    add_layernorm(x, residual, *parameters, total=residual, out=x)
    assert torch.equal(residual, expected) and torch.equal(x, out)


@DTYPES
def test_a_constant_row_is_its_bias(dtype):
    x, bias = torch.full((3, 64), 7.0).to(dtype), normal(64).to(dtype)
    assert torch.equal(normalised(x, x, torch.ones(64), bias.float()).cpu(), bias.expand(3, -1))


def test_rows_far_from_zero():
    """The variance is of the centred row: squares of the mean do not swamp it."""
    x = normal(5, 768) + 1000
    exact = torch.nn.functional.layer_norm(x.double(), (768,), eps=1e-12)
    found = normalised(x, torch.zeros(5, 768), torch.ones(768), torch.zeros(768))
    assert (found.cpu() - exact).abs().max() < 1e-3


def test_the_result_may_replace_x():
    x, residual = normal(9, 96).to(DEVICE), normal(9, 96, seed=1).to(DEVICE)
    weight, bias = normal(96, seed=2).to(DEVICE), normal(96, seed=3).to(DEVICE)
    expected = residual_layernorm(x, residual, weight, bias, 1e-12)
    assert torch.equal(residual_layernorm(x, residual, weight, bias, 1e-12, out=x), expected)


@DTYPES
def test_no_rows(dtype):
    x, table = torch.zeros(0, 768, dtype=dtype, device=DEVICE), torch.zeros(768, device=DEVICE)
    out = residual_layernorm(x, x, table, table, 1e-12)
    assert out.shape == (0, 768) and out.dtype == dtype


@pytest.mark.parametrize(
    ("x", "residual"),
    [
        (torch.zeros(2, 64, dtype=torch.float64), torch.zeros(2, 64, dtype=torch.float64)),
        (torch.zeros(2, 64), torch.zeros(2, 64, dtype=F16)),
        (torch.zeros(2, 64), torch.zeros(1, 64)),
        (torch.zeros(64, 2).T, torch.zeros(2, 64)),
        (torch.zeros(1, WIDEST + 1), torch.zeros(1, WIDEST + 1)),
    ],
    ids=["float64", "two dtypes", "shapes", "strided", "too wide"],
)
def test_what_it_cannot_do(x, residual):
    table = torch.zeros(x.shape[1])
    with pytest.raises(ValueError, match="residual_layernorm"):
        residual_layernorm(x, residual, table, table, 1e-12)
