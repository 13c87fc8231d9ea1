"""The gate of a feed-forward layer against torch."""

import math

import pytest
import torch
from common import DEVICE, assert_as_good_as_torch, normal, poisoned
from fastmask_kernels import reference
from fastmask_kernels.bias_gelu import ACTIVATIONS
from fastmask_kernels.geglu import geglu
from fastmask_kernels.triton_ops import TritonOps

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
DTYPES = [F32, F16] + [BF16] * (DEVICE == "cuda")  # the interpreter cuts bfloat16 off instead of rounding


def gated(x, activation):
    """The op on the device, into a poisoned output; its input is left as it was."""
    x = x.to(DEVICE)
    before = x.clone()
    out = poisoned(len(x), x.shape[1] // 2, dtype=x.dtype, device=DEVICE)
    assert geglu(x, activation, out=out) is out
    assert torch.equal(x, before)
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("tokens", "width"), [(1, 8), (3, 100), (5, 512), (4, 1152), (131, 16)])
def test_shapes(tokens, width, activation, dtype):
    x = normal(tokens, 2 * width, scale=2.0).to(dtype)
    exact = reference.geglu(x.double(), activation)
    assert_as_good_as_torch(gated(x, activation), reference.geglu(x.to(DEVICE), activation), exact)


def test_by_hand():
    """relu(value) * gate; the values come first."""
    x = torch.tensor([[1.0, -2.0, 3.0, 10.0, 20.0, -30.0]])
    assert gated(x, "relu").tolist() == [[10.0, 0.0, -90.0]]


def test_overflow_and_nan_stay():
    x = torch.tensor([[300.0, 1.0, math.nan, 1.0, 300.0, math.inf, 1.0, math.nan]]).half()
    found = geglu(x.to(DEVICE), "gelu").cpu()
    assert found[0, 0] == math.inf and found[0, 1:].isinf().tolist() == [True, False, False]
    assert found[0, 2:].isnan().all()


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_the_layer(dtype):
    """A product, then the gate, as the CPU's fused products make it."""
    layer = torch.nn.Linear(64, 2 * 48).requires_grad_(False).to(DEVICE)
    x = normal(37, 64).to(DEVICE).to(dtype)
    weight, bias = (p.to(dtype).double() for p in (layer.weight, layer.bias))
    exact = reference.geglu(x.double() @ weight.T + bias, "gelu")
    found = TritonOps(dtype).gated_linear(layer, "gelu")(x)
    by_torch = reference.geglu(torch.nn.functional.linear(x, layer.weight.to(dtype), layer.bias.to(dtype)), "gelu")
    assert found.dtype == dtype
    assert_as_good_as_torch(found, by_torch, exact)


def test_no_rows():
    assert geglu(torch.zeros(0, 64, device=DEVICE), "gelu").shape == (0, 32)


STRANGE = {
    "float64": (torch.zeros(2, 8).double(), "gelu"),
    "strided": (torch.zeros(8, 2).T, "gelu"),
    "another activation": (torch.zeros(2, 8), "silu"),
    "odd": (torch.zeros(2, 7), "relu"),
}


@pytest.mark.parametrize(("x", "activation"), STRANGE.values(), ids=STRANGE)
def test_what_it_cannot_do(x, activation):
    with pytest.raises(ValueError, match="geglu"):
        geglu(x, activation)
