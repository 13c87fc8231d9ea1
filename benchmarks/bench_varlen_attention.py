"""Attention over packed greedy variants, shaped as MR's: 65,536 tokens, variants of 3 to 40; and over full texts.

    python benchmarks/bench_varlen_attention.py [--device cuda|cpu] [--out FILE]

Torch gets the same variants sorted by length, so that it can batch those of equal length.
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from fastmask_kernels import reference
from fastmask_kernels.layouts import Rotary, rotary_of
from fastmask_kernels.varlen_attention import attention_tiles, tile_rows, varlen_attention

TOKENS = 65536
SHAPES = (
    ("MiniLM", 384, 12, torch.float16),
    ("BERT-base", 768, 12, torch.float16),
    ("BERT-base", 768, 12, torch.float32),
)


def variant_lengths(tokens: int) -> torch.Tensor:
    """Lengths of variants of about so many tokens together, int64: 3 to 40, 13 on average."""
    return 3 + (38 * torch.rand(max(1, tokens // 13), generator=torch.Generator().manual_seed(0)) ** 2.6).long()


def bounds_of(lengths: torch.Tensor) -> torch.Tensor:
    """cu_seqlens int32 [B + 1]."""
    return torch.nn.functional.pad(torch.cumsum(lengths, 0), (1, 0)).int()


def case(
    model: str, hidden: int, heads: int, dtype: torch.dtype, lengths, device: str, window=None, turned=False
) -> op_harness.OpCase:
    """One shape."""
    rows = int(lengths.sum())
    qkv = torch.randn(rows, 3 * hidden, device=device).to(dtype)
    cu_seqlens = bounds_of(lengths)
    row_sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths).int()
    tiles = torch.from_numpy(attention_tiles(cu_seqlens.numpy(), tile_rows(dtype)))
    integers = [t.to(device) for t in (cu_seqlens, row_sequence, tiles)]
    precision, longest = "fp32" if dtype == torch.float32 else "fp16", int(lengths.max())
    rotary = rotary_of(160000.0, hidden // heads, longest) if turned else None
    rotary = rotary and Rotary(*(t.to(device) for t in rotary))
    seen = lengths if window is None else lengths.clamp(max=2 * window + 1)
    return op_harness.OpCase(
        "varlen_attention", f"{model}, {precision}, {rows:,} rows, {len(lengths):,} sequences to {longest}",
        partial(varlen_attention, qkv, *integers, heads, window, rotary),
        partial(reference.varlen_attention, qkv, bounds_of(lengths.sort().values), longest, heads, window, rotary),
        qkv.nbytes + rows * hidden * dtype.itemsize + sum(t.nbytes for t in integers),
        4 * hidden * int((lengths * seen).sum()),
    )  # fmt: skip


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """Variants of MR's lengths in all models, texts of 128 tokens in BERT-base's, one of 8,192 in ModernBERT's."""
    tokens = 78 if small else TOKENS
    found = [case(*shape, variant_lengths(tokens), device) for shape in SHAPES]
    texts = torch.full((1 if small else tokens // 128,), 128)
    found.append(case("BERT-base", 768, 12, torch.float16, texts, device))
    modern = "ModernBERT-base, turned", 768, 12
    found += [
        case(*modern, dtype, variant_lengths(tokens), device, None, True) for dtype in (torch.float16, torch.float32)
    ]
    long = torch.full((1,), 100 if small else 8192)
    name = "ModernBERT-base, turned, window 64"
    return [*found, case(name, 768, 12, torch.float16, long, device, 64, True)]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
