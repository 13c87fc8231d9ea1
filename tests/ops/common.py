"""What the op tests share: inputs, poisoned outputs, and the tolerance of at most twice torch's own error."""

import os

import numpy as np
import torch

DEVICE = os.environ.get("FASTMASK_TEST_DEVICE", "cpu")
"""Where the Triton kernels run: "cuda", or the CPU in Triton's interpreter."""
FLOOR = 1e-6
"""Of the difference that is always allowed, relative to the largest value: a few units in the last place."""
SEQUENCES = {
    "short": [1, 2, 3, 7, 1],
    "around 16": [15, 16, 17, 31, 32, 33],
    "long": [127, 128, 13, 1],
    "one": [1],
    "primes": [5, 97, 61, 2, 113],
}


def normal(*shape, seed=0, scale=1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def bounds_of(lengths) -> torch.Tensor:
    return torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)


def poisoned(*shape, dtype, device="cpu") -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device=device)


def assert_as_good_as_torch(found, by_torch, exact) -> None:
    """Errors against float64; torch computes in the same dtype from the same inputs."""
    found, by_torch, exact = found.cpu().double(), by_torch.cpu().double(), exact.cpu().double()
    assert torch.isfinite(found).all()
    error, allowed = (found - exact).abs().max(), 2 * (by_torch - exact).abs().max()
    assert error <= allowed + FLOOR * exact.abs().max(), (error, allowed)
