"""Bias and activation of 65,536 packed rows between the products of the feed-forward layer.

python benchmarks/bench_bias_gelu.py [--device cuda|cpu] [--out FILE]
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from fastmask_kernels import reference
from fastmask_kernels.bias_gelu import bias_gelu

SHAPES = (
    ("MiniLM", 1536, torch.float16, "gelu"),
    ("BERT-base", 3072, torch.float16, "gelu"),
    ("BERT-base", 3072, torch.float32, "gelu"),
    ("BERT-base", 3072, torch.float16, "gelu_tanh"),
)


def case(model: str, width: int, dtype: torch.dtype, activation: str, rows: int, device: str) -> op_harness.OpCase:
    """One shape."""
    x, bias = torch.randn(rows, width, device=device).to(dtype), torch.randn(width, device=device).to(dtype)
    precision = "fp32" if dtype == torch.float32 else "fp16"
    return op_harness.OpCase(
        "bias_gelu", f"{model}, {precision}, {activation}, {rows:,} rows", partial(bias_gelu, x, bias, activation),
        partial(reference.bias_gelu, x, bias, activation), 2 * x.nbytes + bias.nbytes,
    )  # fmt: skip


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """MiniLM and BERT-base in half precision, BERT-base in float32; BERT-base with the approximation by tanh."""
    return [case(*shape, 16 if small else 65536, device) for shape in SHAPES]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
