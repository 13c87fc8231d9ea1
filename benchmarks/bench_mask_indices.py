"""Mask positions of blocks of sentences: MR's, with stop words left out and a cap of 15 %, and few long ones.

python benchmarks/bench_mask_indices.py [--device cuda|cpu] [--out FILE]
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from fastmask_kernels import reference
from fastmask_kernels.mask_indices import mask_indices

SHAPES = (("MR sentences", 2600, 25), ("long sentences", 32, 2048))


def case(name: str, sentences: int, longest: int, device: str) -> op_harness.OpCase:
    """Sentences of ``longest`` tokens or up to a half more or less."""
    lengths = torch.randint(longest // 2, longest * 3 // 2 + 1, (sentences,), device=device)
    offsets = torch.nn.functional.pad(torch.cumsum(lengths, 0), (1, 0))
    tokens = int(offsets[-1])
    candidate = (torch.rand(tokens, device=device) < 0.6).to(torch.int8)
    rank = torch.randn(tokens, device=device)
    arguments = (candidate, rank, offsets, (lengths * 0.15).int().clamp(min=1), False)
    masked = len(reference.mask_indices(*arguments)[1])
    return op_harness.OpCase(
        "mask_indices", f"{sentences:,} {name}, {tokens:,} tokens", partial(mask_indices, *arguments),
        partial(reference.mask_indices, *arguments),
        sum(t.nbytes for t in arguments[:4]) + offsets.nbytes + 4 * masked,
    )  # fmt: skip


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """Many short sentences and few long ones."""
    return [case(name, 3 if small else sentences, 25 if small else n, device) for name, sentences, n in SHAPES]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
