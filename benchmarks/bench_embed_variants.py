"""Embeddings of packed greedy variants, shaped as MR's: 65,536 tokens, variants of 3 to 40.

    python benchmarks/bench_embed_variants.py [--device cuda|cpu] [--out FILE]

Token ids follow Zipf's law; the traffic counts each word row that occurs once.
"""

from __future__ import annotations

from functools import partial

import op_harness
import torch
from fastmask_kernels import reference
from fastmask_kernels.embed_variants import embed_variants
from fastmask_kernels.layouts import Special, Texts

VOCABULARY, PLACES = 30522, 512
NOTHING_REMOVED = 2**30
SHAPES = (("MiniLM", 384, torch.float16), ("BERT-base", 768, torch.float16), ("BERT-base", 768, torch.float32))


def greedy_batch(tokens: int, device: str):
    """variants int32 [V, 5], cu_seqlens, row_variant, texts and special tokens of about so many packed rows."""
    generator = torch.Generator().manual_seed(0)
    # of 1 to 38 content tokens, 11 on average: all tokens before the last were kept
    count = 1 + (38 * torch.rand(tokens // 13, generator=generator) ** 2.6).int()
    starts, total = torch.cumsum(count, 0).int() - count, int(count.sum())
    ids = VOCABULARY ** torch.rand(total, generator=generator)
    kept = torch.arange(total, dtype=torch.int32) - torch.repeat_interleave(starts, count)
    offsets = torch.cat([starts, torch.tensor([total])]).int()
    texts = Texts(offsets, ids.int(), torch.zeros_like(offsets), torch.empty(0, dtype=torch.int32), kept)
    units = torch.arange(len(count), dtype=torch.int32)
    variants = torch.stack([units, count - 1, count - 1, torch.full_like(units, NOTHING_REMOVED), count], 1)
    cu_seqlens = torch.nn.functional.pad(torch.cumsum(count + 2, 0), (1, 0)).int()
    row_variant = torch.repeat_interleave(units, count + 2)
    special = Special(torch.tensor([101, 102], dtype=torch.int32, device=device), 1, 0, 1, 0)
    packed = (t.to(device).contiguous() for t in (variants, cu_seqlens, row_variant))
    return *packed, Texts(*(t.to(device) for t in texts)), special


def case(name: str, hidden: int, dtype: torch.dtype, tokens: int, device: str) -> op_harness.OpCase:
    """One shape."""
    batch = greedy_batch(tokens, device)
    tables = tuple(torch.randn(n, hidden, device=device) * 0.05 for n in (VOCABULARY, PLACES, 2))
    norm = torch.randn(hidden, device=device), torch.randn(hidden, device=device)
    arguments = (*batch, tables, 0, *norm, 1e-12, dtype)
    variants, cu_seqlens, row_variant, texts, _ = batch
    words = len(torch.unique(texts.input_ids))
    longest = int(cu_seqlens.diff().max())
    read = sum(t.nbytes for t in (variants, cu_seqlens, row_variant, *texts)) + (words + longest + 4) * hidden * 4
    rows = len(row_variant)
    precision = "fp32" if dtype == torch.float32 else "fp16"
    return op_harness.OpCase(
        "embed_variants", f"{name}, {precision}, {rows:,} rows, {words:,} words", partial(embed_variants, *arguments),
        partial(reference.embed_variants, *arguments), read + rows * hidden * dtype.itemsize,
    )  # fmt: skip


def cases(device: str, small: bool = False) -> list[op_harness.OpCase]:
    """MiniLM and BERT-base in half precision, BERT-base in float32."""
    return [case(*shape, 39 if small else 65536, device) for shape in SHAPES]


if __name__ == "__main__":
    op_harness.main(__doc__, cases)
