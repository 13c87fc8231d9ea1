"""The last layer's attention, for [CLS] alone, over packed greedy variants shaped as MR's: 65,536 tokens, 3 to 40 each.

    python benchmarks/bench_cls_attention.py [--device cuda|cpu] [--out FILE]

Torch gets the same variants sorted by length, so that it can batch those of equal length.
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from bench_varlen_attention import SHAPES, TOKENS, bounds_of, variant_lengths
from fastmask_kernels import reference
from fastmask_kernels.cls_attention import cls_attention


def case(model: str, hidden: int, heads: int, dtype: torch.dtype, tokens: int, device: str) -> op_harness.OpCase:
    """One shape."""
    lengths = variant_lengths(tokens)
    rows, sequences = int(lengths.sum()), len(lengths)
    x = torch.randn(rows, hidden, device=device).to(dtype)
    query = torch.randn(sequences, heads, hidden, device=device) * hidden**-0.5
    cu_seqlens = bounds_of(lengths).to(device)
    precision = "fp32" if dtype == torch.float32 else "fp16"
    return op_harness.OpCase(
        "cls_attention", f"{model}, {precision}, {rows:,} rows, {sequences:,} sequences",
        partial(cls_attention, query, x, cu_seqlens, heads),
        partial(reference.cls_attention, query, x, bounds_of(lengths.sort().values), int(lengths.max()), heads),
        2 * query.nbytes + x.nbytes + cu_seqlens.nbytes, 4 * heads * hidden * rows,
    )  # fmt: skip


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """MiniLM and BERT-base on half-precision rows, BERT-base on float32 ones; the queries are float32."""
    return [case(*shape, 78 if small else TOKENS, device) for shape in SHAPES]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
