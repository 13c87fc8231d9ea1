"""float32 rows split in halves, before each product of the float32 encoder: 65,536 packed rows.

python benchmarks/bench_split_half.py [--device cuda|cpu] [--out FILE]
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from fastmask_kernels import reference
from fastmask_kernels.split_half import split_half

SHAPES = (("MiniLM, hidden", 384), ("BERT-base, hidden", 768), ("BERT-base, feed-forward", 3072))


def case(name: str, width: int, rows: int, device: str) -> op_harness.OpCase:
    """One shape."""
    x = torch.randn(rows, width, device=device)
    return op_harness.OpCase(
        "split_half", f"{name}, fp32, {rows:,} rows", partial(split_half, x), partial(reference.split_half, x),
        x.nbytes + 3 * x.nbytes // 2,
    )  # fmt: skip


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """The inner sizes of MiniLM's and BERT-base's products."""
    return [case(*shape, 40 if small else 65536, device) for shape in SHAPES]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
