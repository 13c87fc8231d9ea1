"""float32 split in two halves: the bits of torch's own conversion, and a product of float32's accuracy."""

import math

import pytest
import torch
from common import DEVICE, normal
from fastmask_kernels import reference
from fastmask_kernels.split_half import split_half

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


def test_a_product_has_float32s_accuracy():
    """The three half-precision products that the layout is for, summed in float32."""
    x, weight = normal(64, 384), normal(128, 384, seed=1)
    high = weight.half()
    low = (weight - high.float()).half()
    found = halves(x).view(torch.float16).float() @ torch.cat([high, low, high], dim=1).float().T
    exact = x.double() @ weight.double().T
    scale = (x.double().abs() @ weight.double().abs().T).max()
    assert (found - exact).abs().max() <= 2.0**-21 * scale


def test_no_rows():
    assert split_half(torch.zeros(0, 768, device=DEVICE)).shape == (0, 3 * 768)


@pytest.mark.parametrize("x", [torch.zeros(2, 8).half(), torch.zeros(2, 8).double(), torch.zeros(8, 2).T])
def test_what_it_cannot_do(x):
    with pytest.raises(ValueError, match="split_half"):
        split_half(x)
