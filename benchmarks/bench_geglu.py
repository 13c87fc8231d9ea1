"""The gate of ModernBERT's feed-forward layer on 65,536 packed rows.

python benchmarks/bench_geglu.py [--device cuda|cpu] [--out FILE]
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from fastmask_kernels import reference
from fastmask_kernels.geglu import geglu

SHAPES = (
    ("ModernBERT-base", 1152, torch.float16),
    ("ModernBERT-base", 1152, torch.float32),
    ("ModernBERT-large", 2624, torch.float16),
)


def case(model: str, width: int, dtype: torch.dtype, rows: int, device: str) -> op_harness.OpCase:
    """One shape."""
    x = torch.randn(rows, 2 * width, device=device).to(dtype)
    precision = "fp32" if dtype == torch.float32 else "fp16"
    return op_harness.OpCase(
        "geglu", f"{model}, {precision}, {rows:,} rows", partial(geglu, x, "gelu"),
        partial(reference.geglu, x, "gelu"), x.nbytes + x.nbytes // 2,
    )  # fmt: skip


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """ModernBERT-base in half precision and float32, ModernBERT-large in half precision."""
    return [case(*shape, 16 if small else 65536, device) for shape in SHAPES]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
