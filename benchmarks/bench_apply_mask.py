"""Corruption of a training batch: 15 % of its tokens are masked ones.

python benchmarks/bench_apply_mask.py [--device cuda|cpu] [--out FILE]
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from fastmask_kernels.apply_mask import apply_mask

VOCABULARY, MASK = 30522, 103


def case(tokens: int, device: str) -> op_harness.OpCase:
    """A batch of so many tokens, of sentences of 25."""
    ordinary = torch.arange(999, VOCABULARY, dtype=torch.int32, device=device)
    ids = torch.randint(999, VOCABULARY, (tokens,), device=device).int()
    at = torch.randperm(tokens, device=device)[: max(1, tokens * 15 // 100)].sort().values
    key = at // 25, (at % 3).int(), (at % 25).int()
    arguments = (ids, at, *key, 13, 1, MASK, ordinary)
    traffic = 2 * ids.nbytes + sum(t.nbytes for t in (at, *key)) + 4 * len(at)
    return op_harness.OpCase("apply_mask", f"{tokens:,} tokens", partial(apply_mask, *arguments), None, traffic)


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """A batch of 112 packed texts of up to 256 tokens, and one of a million tokens."""
    return [case(tokens, device) for tokens in ((99, 200) if small else (28672, 1 << 20))]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
