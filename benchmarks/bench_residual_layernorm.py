"""Residual and layer norm of 65,536 packed rows.

python benchmarks/bench_residual_layernorm.py [--device cuda|cpu] [--out FILE]
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from fastmask_kernels import reference
from fastmask_kernels.residual_layernorm import add_layernorm, residual_layernorm

SHAPES = (("MiniLM", 384, torch.float16), ("BERT-base", 768, torch.float16), ("BERT-base", 768, torch.float32))


def case(model: str, hidden: int, dtype: torch.dtype, rows: int, device: str) -> op_harness.OpCase:
    """One shape."""
    x, residual = (torch.randn(rows, hidden, device=device).to(dtype) for _ in range(2))
    norm = torch.randn(hidden, device=device), torch.randn(hidden, device=device)
    arguments = (x, residual, *norm, 1e-12)
    precision = "fp32" if dtype == torch.float32 else "fp16"
    return op_harness.OpCase(
        "residual_layernorm", f"{model}, {precision}, {rows:,} rows", partial(residual_layernorm, *arguments),
        partial(reference.residual_layernorm, *arguments), 3 * x.nbytes + sum(t.nbytes for t in norm),
    )  # fmt: skip


def pre_norm_case(rows: int, device: str) -> op_harness.OpCase:
    """ModernBERT-base's: the sum in float32, its norm in half precision. Each run adds to what the next one reads."""
    x, residual = torch.randn(rows, 768, device=device).half(), torch.randn(rows, 768, device=device)
    out, norm = torch.empty_like(x), (torch.randn(768, device=device), torch.zeros(768, device=device))
    return op_harness.OpCase(
        "residual_layernorm", f"ModernBERT-base, fp16 and fp32 sum, {rows:,} rows",
        partial(add_layernorm, x, residual, *norm, 1e-5, total=residual, out=out),
        partial(reference.add_layernorm, x, residual, *norm, 1e-5), 2 * x.nbytes + 2 * residual.nbytes,
    )  # fmt: skip


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """MiniLM and BERT-base in half precision, BERT-base in float32; ModernBERT's, which gives the sum, too."""
    rows = 40 if small else 65536
    return [*(case(*shape, rows, device) for shape in SHAPES), pre_norm_case(rows, device)]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
