"""The fused bias and activation against torch."""

import math

import pytest
import torch
from common import DEVICE, assert_as_good_as_torch, normal, poisoned
from fastmask_kernels import reference
from fastmask_kernels.bias_gelu import ACTIVATIONS, bias_gelu

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's in the interpreter: exp2 overflows to inf
DTYPES = pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
EACH_ACTIVATION = pytest.mark.parametrize("activation", ACTIVATIONS)


def activated(x, bias, activation):
    """The op on the device, into a poisoned output; its inputs are left as they were."""
    inputs = [t.to(DEVICE) for t in (x, bias)]
    before = [t.clone() for t in inputs]
    out = poisoned(*x.shape, dtype=x.dtype, device=DEVICE)
    assert bias_gelu(*inputs, activation, out=out) is out
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    return out.cpu()


def check(x, bias, activation):
    exact = reference.bias_gelu(x.double(), bias.double(), activation)
    by_torch = reference.bias_gelu(x.to(DEVICE), bias.to(DEVICE), activation)
    assert_as_good_as_torch(activated(x, bias, activation), by_torch, exact)


@EACH_ACTIVATION
@DTYPES
@pytest.mark.parametrize(("tokens", "width"), [(1, 512), (7, 99), (7, 1536), (9, 4096), (131, 520), (17, 3072)])
def test_shapes(tokens, width, dtype, activation):
    check(normal(tokens, width, scale=3.0).to(dtype), normal(width, seed=1).to(dtype), activation)


@EACH_ACTIVATION
@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_a_float32_bias(dtype, activation):
    check(normal(11, 512, scale=3.0).to(dtype), normal(512, seed=1), activation)


@DTYPES
def test_thousands_of_tokens(dtype):
    check(normal(4099, 32, scale=3.0).to(dtype), normal(32, seed=1).to(dtype), "gelu")


def test_gelu_of_every_half():
    """All finite float16 values but for the tail, whose results are below a float16's smallest: half a last place."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(F16)
    x = x[x.isfinite()]
    x = x[: len(x) // 64 * 64].view(-1, 64)
    found = activated(x, torch.zeros(64), "gelu").double()
    exact = x.double() * 0.5 * torch.erfc(-x.double() / math.sqrt(2))
    place = torch.exp2(exact.abs().clamp(min=2.0**-14).log2().floor() - 10)
    assert ((found - exact).abs() <= 0.51 * place).all()


def test_gelu_of_16_bits_keeps_its_relative_accuracy():
    """Where x is negative too, down to results that hardly count."""
    x = torch.linspace(-5.5, 5.5, 4096).to(BF16).view(-1, 64)
    found = activated(x, torch.zeros(64), "gelu").double()
    exact = x.double() * 0.5 * torch.erfc(-x.double() / math.sqrt(2))
    assert ((found - exact).abs() <= 2**-7 * 1.03 * exact.abs()).all()


@EACH_ACTIVATION
@DTYPES
def test_extremes(dtype, activation):
    """Large values stay what they are, and large negative ones vanish."""
    largest = torch.finfo(dtype).max / 2
    x = torch.tensor([[-largest, -300.0, -40.0, 0.0, 40.0, 300.0, largest]], dtype=dtype)
    assert torch.equal(activated(x, torch.zeros(7, dtype=dtype), activation), torch.relu(x))


@EACH_ACTIVATION
@DTYPES
def test_what_is_no_number_stays_none(dtype, activation):
    x = torch.tensor([[1.0, math.nan]], dtype=dtype, device=DEVICE)
    found = bias_gelu(x, torch.zeros(2, device=DEVICE), activation)
    assert found.isnan().tolist() == [[False, True]]


@DTYPES
def test_no_rows(dtype):
    x, bias = torch.zeros(0, 512, dtype=dtype, device=DEVICE), torch.zeros(512, device=DEVICE)
    out = bias_gelu(x, bias, "gelu")
    assert out.shape == (0, 512) and out.dtype == dtype


@pytest.mark.parametrize(
    ("x", "bias", "activation"),
    [
        (torch.zeros(2, 64), torch.zeros(64), "silu"),
        (torch.zeros(2, 64).double(), torch.zeros(64).double(), "gelu"),
        (torch.zeros(2, 64), torch.zeros(64).half(), "gelu"),
        (torch.zeros(2, 64), torch.zeros(63), "gelu"),
        (torch.zeros(64, 2).T, torch.zeros(64), "gelu"),
    ],
    ids=["activation", "float64", "half bias", "width", "strided"],
)
def test_what_it_cannot_do(x, bias, activation):
    with pytest.raises(ValueError, match="bias_gelu"):
        bias_gelu(x, bias, activation)
