"""What the Triton ops share: interpreter or device, how a kernel is started, and what is compiled ahead of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton
from triton.runtime import driver

INTERPRETED = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter: decided by TRITON_INTERPRET when triton is first imported."""
DIRECT = not INTERPRETED and triton.__version__.startswith("3.6.")
"""Whether what is compiled is launched without Triton's binder: how is no public interface, and known of 3.6 only."""

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


_KNOWN: dict[tuple, tuple] = {}
"""What was compiled for a kernel, device, case, constants and options; it keeps the kernel, so that its id stays."""


def fit(rows: int, size: int) -> int:
    """Return how many blocks of ``size`` hold ``rows``."""
    return -(-rows // size)


def run_kernel(kernel, programs: int, arguments: tuple, constants: Mapping[str, object], **options: int) -> None:
    """Start a kernel without waiting for it.

    ``kernel[(programs,)](*arguments, **constants, **options)`` says the same, and binds and inspects all of it anew
    each time, which takes the host longer than many a kernel takes the device. So that is done once for each case, and
    what it compiled is launched from then on. Hooks of Triton's own profiler see only the first launch.

    Args:
        kernel: a ``triton.jit`` function, its constexpr parameters last.
        programs: how many.
        arguments: tensors on the current device, None and numbers, one for each parameter that is no constexpr.
        constants: the constexpr arguments; options: "num_warps", "num_stages".
    """
    if not DIRECT:
        kernel[(programs,)](*arguments, **constants, **options)
        return
    device = driver.active.get_current_device()
    case, passed = case_of(arguments)
    key = id(kernel), device, case, *constants.values(), *options.items()
    known = _KNOWN.get(key)
    if known is None:
        made = kernel[(programs,)](*arguments, **constants, **options)
        _KNOWN[key] = made.run, made.function, made.packed_metadata, kernel
    else:
        run, function, metadata, _ = known
        stream = driver.active.get_current_stream(device)
        run(programs, 1, 1, stream, function, metadata, None, None, None, *passed, *constants.values())


def case_of(arguments: tuple) -> tuple[tuple, list]:
    """Return what Triton compiles run-time arguments for, or more, and the arguments with addresses for tensors.

    That is a tensor's dtype and whether its address is a multiple of 16, and an integer's width and whether it is 1 or
    a multiple of 16. A tensor's device is in it, too: Triton refuses those that it cannot reach.
    """
    case: list[object] = []
    passed: list[object] = []
    for value in arguments:
        if isinstance(value, torch.Tensor):
            address = value.data_ptr()
            case += value.dtype, value.get_device(), address % 16 == 0
            passed.append(address)
            continue
        case.append(type(value))
        passed.append(value)
        if isinstance(value, int):
            case += value == 1, value % 16 == 0, -(2**31) <= value < 2**31, value < 2**63
    return tuple(case), passed
