"""The classification head and the answers about a batch's variants: 5,041, and 50 as in a pool's last rounds.

    python benchmarks/bench_log_odds.py [--device cuda|cpu] [--out FILE]

The head is float32 whatever the rows are.
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from fastmask_kernels import reference
from fastmask_kernels.layouts import head_of
from fastmask_kernels.log_odds import log_odds

SHAPES = (
    ("MiniLM", 384, torch.float16, 5041),
    ("BERT-base", 768, torch.float16, 5041),
    ("BERT-base", 768, torch.float32, 5041),
    ("BERT-base", 768, torch.float16, 50),
    ("ModernBERT-base", 768, torch.float16, 5041),
)


def case(name: str, hidden: int, dtype: torch.dtype, count: int, device: str) -> op_harness.OpCase:
    """One shape: a [CLS] row a variant, two classes; ModernBERT's head has a norm."""
    rows = torch.randn(count, hidden, device=device).to(dtype)
    dense = torch.randn(hidden, hidden, device=device) * hidden**-0.5, torch.randn(hidden, device=device)
    norm = (torch.ones(hidden, device=device), torch.zeros(hidden, device=device), 1e-5)
    kind, norm = ("gelu", norm) if name.startswith("Modern") else ("tanh", None)
    head = head_of(*dense, kind, torch.randn(2, hidden, device=device) * 0.1, torch.randn(2, device=device), norm)
    row = torch.randperm(count, device=device).int()
    target = torch.randint(2, (count,), device=device).int()
    tensors = (rows, head.dense_weight, head.dense_bias, head.weight, head.bias, row, target)
    precision = "fp32" if dtype == torch.float32 else "fp16"
    return op_harness.OpCase(
        "log_odds", f"{name}, {precision} rows, fp32 head, {count:,} variants",
        partial(log_odds, rows, head, row, target), partial(reference.log_odds, rows, head, row, target),
        sum(t.nbytes for t in tensors) + 8 * count, 2 * count * hidden * (hidden + 2),
    )  # fmt: skip


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """Heads on half-precision rows; BERT-base's on float32 ones and on a few rows, too."""
    return [
        case(name, 64 if small else hidden, dtype, min(count, 40) if small else count, device)
        for name, hidden, dtype, count in SHAPES
    ]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
