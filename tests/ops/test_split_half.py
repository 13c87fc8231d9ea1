"""float32 split in two halves: the bits of torch's own conversion, and a product of float32's accuracy."""

import math

import pytest
import torch
from common import DEVICE, normal
from fastmask_kernels import reference
from fastmask_kernels.split_half import split_half
from fastmask_kernels.triton_ops import HalfProducts

SENTINEL = -12345
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's in the interpreter: inf - inf


def halves(x):
    """The op's bits on the device, int16, into an output of sentinels; x is left as it was."""
    x = x.to(DEVICE)
    before = x.clone()
    out = torch.full((len(x), 3 * x.shape[1]), SENTINEL, dtype=torch.int16, device=DEVICE).view(torch.float16)
    assert split_half(x, out=out) is out
    assert torch.equal(x.view(torch.int32), before.view(torch.int32))
    return out.cpu().view(torch.int16)


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 127, 131])
@pytest.mark.parametrize("width", [1, 8, 96, 384, 768, 1000])
def test_bits(tokens, width):
    x = normal(tokens, width, scale=10.0)
    assert torch.equal(halves(x), reference.split_half(x).view(torch.int16))


def test_thousands_of_rows():
    x = normal(5003, 16)
    assert torch.equal(halves(x), reference.split_half(x).view(torch.int16))


def test_values_of_every_size():
    """Subnormal in either half or in float32 itself, past the largest half, halfway between two."""
    exponents = torch.arange(-149, 128).float()
    x = torch.exp2(exponents)[:, None] * (1 + torch.rand(277, 64, generator=torch.Generator().manual_seed(0)))
    x[:, ::2] *= -1
    x[:, :4] = torch.exp2(exponents)[:, None] * torch.tensor([1.0, -1.0, 1 + 2.0**-11, 1 + 3 * 2.0**-11])
    found, expected = halves(x), reference.split_half(x).view(torch.int16)
    assert torch.equal(found, expected)


def test_edges():
    limit = 65504.0
    x = torch.tensor([[0.0, -0.0, limit, 65519.99, 65520.0, -65520.0, 1e30, math.inf, -math.inf, 2.0**-24, 2.0**-25]])
    found, expected = halves(x), reference.split_half(x).view(torch.int16)
    unknown = expected.view(torch.float16).isnan()  # inf - inf: which NaN it is differs between processors
    assert torch.equal(found.view(torch.float16).isnan(), unknown) and unknown.sum() == 2
    assert torch.equal(found[~unknown], expected[~unknown])
    assert halves(torch.tensor([[math.nan]])).view(torch.float16).isnan().all()


def on_tensor_cores(x, weight, step=16, spare_bits=2):
    """halves [T, K] @ [K, N] as tensor cores sum: ``step`` exact products and the sum so far are cut off, towards zero,
    some bits below the largest one's last, added, and the sum is cut off to float32.

    With these numbers it gives the errors that were measured on an H200 (2.3e-5 for the sums' former order, below).
    """
    total = torch.zeros(len(x), weight.shape[1], dtype=torch.float64, device=x.device)
    for k in range(0, x.shape[1], step):
        products = x[:, k : k + step, None].double() * weight[None, k : k + step].double()
        terms = torch.cat([products, total[:, None]], dim=1)
        unit = torch.exp2(torch.frexp(terms.abs().amax(1, keepdim=True)).exponent.double() - 24 - spare_bits)
        mantissa, exponent = torch.frexp(((terms / unit).trunc() * unit).sum(1))
        total = torch.ldexp((mantissa * 2**24).trunc(), exponent - 24)
    return total.float()


class OnTensorCores(HalfProducts):
    product = staticmethod(on_tensor_cores)


def column_by_column(x, weight):
    """float32 [T, K] @ [K, N] as a program without tensor cores sums: each step rounded to nearest."""
    total = torch.zeros(len(x), weight.shape[1])
    for k in range(x.shape[1]):
        total = (total.double() + x[:, k : k + 1].double() * weight[k].double()).float()
    return total


@pytest.mark.parametrize("inner", [96, 384, 768, 1152, 3072])
def test_products_have_float32s_accuracy(inner):
    """On tensor cores, too: at most twice the error of a product in float32."""
    layer = torch.nn.Linear(inner, 24).requires_grad_(False)
    layer.weight.copy_(normal(24, inner, seed=1, scale=0.05))
    x = normal(16, inner, scale=3.0)
    x[:, 5] *= 40  # an outlier column, as encoders have them
    exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    noise = (column_by_column(x, layer.weight.T) + layer.bias - exact).abs().max()
    layer.to(DEVICE)
    for products in (HalfProducts, OnTensorCores):
        assert (products(layer, "none")(x.to(DEVICE)).cpu() - exact).abs().max() <= 2 * noise
    if inner == 768:  # the test can fail: the large products first
        halved, small_first = halves(x).view(torch.float16), OnTensorCores(layer, "none")
        turned = small_first.weight.cpu().unflatten(0, (3, inner)).flip(0).flatten(0, 1)
        y = on_tensor_cores(halved.unflatten(1, (3, inner)).flip(1).flatten(1), turned)
        assert (y * small_first.scale + layer.bias.cpu() - exact).abs().max() > 2 * noise


def test_no_rows():
    assert split_half(torch.zeros(0, 768, device=DEVICE)).shape == (0, 3 * 768)


@pytest.mark.parametrize("x", [torch.zeros(2, 8).half(), torch.zeros(2, 8).double(), torch.zeros(8, 2).T])
def test_what_it_cannot_do(x):
    with pytest.raises(ValueError, match="split_half"):
        split_half(x)
