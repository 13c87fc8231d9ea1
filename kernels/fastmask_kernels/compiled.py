"""What the Triton ops share: the choice of interpreter or device, and the cases that are compiled ahead of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton

INTERPRETED = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter: decided by TRITON_INTERPRET when triton is first imported."""

TRITON_NAMES = {torch.float16: "fp16", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float64: "fp64"}


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel at tuned block sizes, as its launcher starts it: what is compiled ahead of time and looked at.

    Attributes:
        name: "<op>/<dtype>/<shape>".
        kernel: the ``triton.jit`` function.
        signature: Triton type of each run-time argument, in order ("*fp16", "i32"); pointers and the integers in
            ``aligned`` are multiples of 16.
        constants: the constexpr arguments.
        aligned: names of integer arguments that the launcher passes as multiples of 16 (strides).
        num_warps, num_stages: as launched.
    """

    name: str
    kernel: object
    signature: dict[str, str]
    constants: Mapping[str, object]
    aligned: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 2
