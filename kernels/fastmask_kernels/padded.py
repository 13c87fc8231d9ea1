"""Attention in plain torch over sequences filled up to the longest: reads no number on the device that it runs on."""

from __future__ import annotations

import torch

from . import reference
from .layouts import Sequences

FREE_ROWS = 16384
"""Rows that are filled up whatever the share of filling; of more, at most MOST_FILLING times those there are."""
MOST_FILLING = 4


def _is_dense(sequences: Sequences, rows: int) -> bool:
    """Return whether filling up makes not many more rows; else the loops of ``reference`` are better."""
    filled = (len(sequences.cu_seqlens) - 1) * sequences.max_seqlen
    return 0 < filled <= max(FREE_ROWS, MOST_FILLING * rows)


def varlen_attention(qkv, sequences: Sequences, heads, window=None, rotary=None):
    """See ``reference.varlen_attention``."""
    if not _is_dense(sequences, len(qkv)):
        return reference.varlen_attention(qkv, sequences.cu_seqlens, sequences.max_seqlen, heads, window, rotary)
    rows, inside, places = sequences.grid
    count, length = rows.shape
    q, k, v = qkv[rows].view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4).flatten(1, 2)  # [B * heads, L, D]
    if rotary is not None:
        q, k = reference.turned(q, rotary), reference.turned(k, rotary)
    few = max(1, reference.MOST_SCORES // length**2)
    seen = inside.repeat_interleave(heads, 0)[:, None]
    parts = zip(q.split(few), k.split(few), v.split(few), seen.split(few), strict=True)
    context = torch.cat([reference.attended(*part, window) for part in parts])
    return context.view(count, heads, length, -1).transpose(1, 2).flatten(2).flatten(0, 1)[places]


def cls_attention(query, x, sequences: Sequences, heads):
    """See ``reference.cls_attention``."""
    if not _is_dense(sequences, len(x)):
        return reference.cls_attention(query, x, sequences.cu_seqlens, sequences.max_seqlen, heads)
    rows, inside, _ = sequences.grid
    values = x[rows].to(query.dtype)
    scores = query[: len(rows)] @ values.transpose(1, 2)
    found = torch.softmax(scores.masked_fill(~inside[:, None], -torch.inf), dim=-1) @ values
    return torch.cat([found, torch.zeros_like(query[len(rows) :])])
