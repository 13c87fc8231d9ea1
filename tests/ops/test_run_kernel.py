"""Kernels launched without Triton's binder: what it would have chosen, for any arguments. Nothing is started."""

import itertools
from types import SimpleNamespace

import pytest
import torch
import triton.language as tl
from fastmask_kernels import compiled
from fastmask_kernels.compiled import fit, run_kernel
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

NUMBERS = (0, 1, 2, 16, 17, 48, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**40, 2**63 - 16, 2**63)


def copy(x, y, z, number, free, scale, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(y + at, tl.load(x + at) + number + free + scale)


def scaled(x, y, z, number, free, scale, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(y + at, tl.load(x + at) * scale)


class Recorder:
    """A driver for a GPU that is not there; notes what it is asked to launch."""

    def __init__(self):
        self.launches, self.device = [], 0
        functions = itertools.count(100)
        properties = {"max_shared_mem": 232448}
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (1, next(functions), 32, 0, 1024), get_device_properties=lambda _: properties
        )

    def launcher_cls(self, source, metadata):
        """Return what notes (grid, stream, compiled function, number of warps and addresses or values)."""

        def launch(x, y, z, stream, function, packed, data, enter, leave, *arguments):
            plain = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
            self.launches.append(((x, y, z), stream, function, packed, plain))

        return launch

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device):
        return 7 + device


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder()
    monkeypatch.setattr(driver, "_active", found)
    monkeypatch.setattr(compiled, "DIRECT", True)
    return found


def launched(recorder, kernel, arguments, size=64, warps=4):
    """What is noted of Triton's own launch, and of two of run_kernel's; all have to be the same."""
    kernel[(3,)](*arguments, SIZE=size, num_warps=warps)
    for _ in range(2):
        run_kernel(kernel, 3, arguments, {"SIZE": size}, num_warps=warps)
    own, first, again = recorder.launches[-3:]
    assert own == first == again
    return own


def tensors(dtype, *offsets):
    """Views that begin so many elements past a multiple of 16 bytes."""
    return [torch.zeros(96, dtype=dtype)[offset : offset + 64] for offset in offsets]


def test_every_alignment_is_its_own(recorder):
    kernel = JITFunction(copy)
    functions = set()
    for dtype in (torch.float16, torch.float32):
        for x, y in itertools.product((0, 1, 16 // dtype.itemsize), repeat=2):
            functions.add(launched(recorder, kernel, (*tensors(dtype, x, y), None, 2, 2, 0.5))[2])
    assert len(functions) == 8  # two dtypes, two tensors aligned or not


def test_integers(recorder):
    kernel = JITFunction(copy, do_not_specialize=["free"])
    x, y = tensors(torch.float32, 0, 0)
    number = {n: launched(recorder, kernel, (x, y, None, n, 2, 0.5))[2] for n in NUMBERS}
    free = {n: launched(recorder, kernel, (x, y, None, 2, n, 0.5))[2] for n in NUMBERS}
    assert len({number[n] for n in (1, 2, 16, 2**31, -(2**31) - 1, 2**63)}) == 6 and number[2**31] == number[2**40]
    assert free[1] == free[2] == free[16] != free[2**31] != free[2**63]


def test_what_else_a_kernel_is_compiled_for(recorder):
    kernel = JITFunction(copy)
    x, y = tensors(torch.float32, 0, 0)
    plain = launched(recorder, kernel, (x, y, None, 2, 2, 0.5))
    others = [launched(recorder, kernel, (x, y, None, 2, 2, 0.5), size=32)]
    others += [launched(recorder, kernel, (x, y, None, 2, 2, 0.5), warps=2)]
    others += [launched(recorder, kernel, (x, y, y, 2, 2, 0.5)), launched(recorder, kernel, (x, y, None, 2.0, 2, 0.5))]
    others += [launched(recorder, kernel, (x, y, None, True, 2, 0.5))]
    recorder.device = 1
    others.append(launched(recorder, kernel, (x, y, None, 2, 2, 0.5)))
    assert len({function for _, _, function, *_ in (plain, *others)}) == 7
    assert plain[0] == (3, 1, 1) and plain[1] == 7 and others[-1][1] == 8


def test_another_kernel_of_the_same_arguments(recorder):
    arguments = (*tensors(torch.float32, 0, 0), None, 2, 2, 0.5)
    first, second = (JITFunction(fn) for fn in (copy, scaled))
    assert launched(recorder, first, arguments)[2] != launched(recorder, second, arguments)[2]


def test_a_value_changes_and_what_is_compiled_stays(recorder):
    kernel = JITFunction(copy)
    x, y = tensors(torch.float32, 0, 0)
    one, other = (launched(recorder, kernel, (x, y, None, 2, 2, scale)) for scale in (0.5, 0.75))
    assert one[2] == other[2] and one[4][5] == 0.5 and other[4][5] == 0.75


def test_fit():
    assert [fit(rows, 16) for rows in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]
