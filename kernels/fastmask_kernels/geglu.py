"""``activation(x[:, :I]) * x[:, I:]`` of packed rows in one pass over memory."""

from __future__ import annotations

import triton
import triton.language as tl

from .bias_gelu import ACTIVATIONS, COLUMNS, DTYPES, NUM_WARPS, _activate
from .compiled import TRITON_NAMES, Case, fit, run_kernel

ROWS = 4
"""Of a program: half as many as without a gate, since a thread holds two inputs."""


@triton.jit(do_not_specialize=["tokens"])
def _geglu(
    x_ptr, out_ptr, tokens,
    WIDTH: tl.constexpr, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute a tile of ROWS x COLUMNS a program: x [tokens, 2 * WIDTH], out [tokens, WIDTH]."""
    blocks: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    halves: tl.constexpr = out_ptr.dtype.element_ty.primitive_bitwidth == 16
    rows = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    mask = (rows < tokens)[:, None] & (columns < WIDTH)[None, :]
    x_ptr += rows[:, None] * (2 * WIDTH) + columns[None, :]
    value = tl.load(x_ptr, mask).to(tl.float32)
    gate = tl.load(x_ptr + WIDTH, mask).to(tl.float32)
    result = _activate(value, ACTIVATION, halves) * gate
    tl.store(out_ptr + rows[:, None] * WIDTH + columns[None, :], result.to(out_ptr.dtype.element_ty), mask)


def _constants(width: int, activation: str) -> dict[str, object]:
    return {"WIDTH": width, "ACTIVATION": activation, "ROWS": ROWS, "COLUMNS": COLUMNS}


def geglu(x, activation, out=None):
    """Return ``activation(x[:, :I]) * x[:, I:]`` [T, I] in x's dtype, computed in float32: gelu, gelu_tanh or relu."""
    tokens, width = x.shape[0], x.shape[1] // 2
    if x.dtype not in DTYPES or not x.is_contiguous() or x.shape[1] % 2:
        raise ValueError(f"geglu: x has to be contiguous, of even width and of one of {DTYPES}, not {x.dtype}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"geglu: activation {activation!r} is not one of {ACTIVATIONS}")
    out = x.new_empty(tokens, width) if out is None else out
    if tokens:
        programs, constants = fit(tokens, ROWS) * fit(width, COLUMNS), _constants(width, activation)
        run_kernel(_geglu, programs, (x, out, tokens), constants, num_warps=NUM_WARPS)
    return out


def cases() -> list[Case]:
    """Feed-forward rows of ModernBERT base and large, and of mmBERT small, in each dtype."""
    found = []
    for dtype in DTYPES:
        signature = {"x_ptr": "*" + TRITON_NAMES[dtype], "out_ptr": "*" + TRITON_NAMES[dtype], "tokens": "i32"}
        for width, activation in ((1152, "gelu"), (2624, "gelu"), (1152, "gelu_tanh"), (1152, "relu")):
            name = f"geglu/{TRITON_NAMES[dtype]}/{activation} {width}"
            found.append(Case(name, _geglu, signature, _constants(width, activation), num_warps=NUM_WARPS))
    return found
