"""The torch truth of every op, for any device and dtype. Slow and plain; tests compare the fast versions with these."""

from __future__ import annotations

from itertools import groupby, pairwise

import torch
import torch.nn.functional as F


def embed(input_ids, position_ids, token_type_ids, word, position, token_type, weight, bias, eps, dtype):
    """Layer norm of the three embeddings' sum: ids int [T], tables [*, H] -> [T, H] of ``dtype``."""
    total = word[input_ids] + position[position_ids] + token_type[token_type_ids]
    return F.layer_norm(total, total.shape[-1:], weight, bias, eps).to(dtype)


def residual_layernorm(x, residual, weight, bias, eps):
    """``LayerNorm(x + residual)``: x, residual [T, H] -> [T, H]."""
    return F.layer_norm(x + residual, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps)


def varlen_attention(qkv, cu_seqlens, max_seqlen, heads):
    """Softmax attention inside each packed sequence: qkv [T, 3 * H], cu_seqlens int [B + 1] -> [T, H]."""
    head_dim = qkv.shape[1] // 3 // heads
    out = [qkv.new_empty(0, heads * head_dim)]
    for _, count, length, rows in _equal_runs(cu_seqlens):
        q, k, v = qkv[rows].view(count, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        probabilities = torch.softmax(q @ k.transpose(2, 3) / head_dim**0.5, dim=-1)
        out.append((probabilities @ v).transpose(1, 2).reshape(count * length, heads * head_dim))
    return torch.cat(out)


def cls_attention(query, x, cu_seqlens, max_seqlen, heads):
    """Attention of one query per sequence and head over the sequence's own rows.

    query [>= B, heads, H] already scaled and multiplied by the key matrix, x [T, H], cu_seqlens int [B + 1] -> the
    probability-weighted rows [>= B, heads, H], still to be multiplied by the value matrix; zero beyond B.
    """
    out = []
    for first, count, length, rows in _equal_runs(cu_seqlens):
        values = x[rows].to(query.dtype).view(count, length, -1)
        probabilities = torch.softmax(query[first : first + count] @ values.transpose(1, 2), dim=-1)
        out.append(probabilities @ values)
    sequences = len(cu_seqlens) - 1
    return torch.cat([*out, torch.zeros_like(query[sequences:])])


def _equal_runs(cu_seqlens):
    """(first sequence, how many, their length, their rows as a slice) for runs of neighbours of equal length."""
    bounds = cu_seqlens.tolist()
    first = 0
    for length, group in groupby(end - start for start, end in pairwise(bounds)):
        count = len(list(group))
        yield first, count, length, slice(bounds[first], bounds[first + count])
        first += count


def linear(x, weight, bias, activation="none"):
    """``activation(x @ weight.T + bias)``: x [T, K], weight [N, K] -> [T, N]; none, gelu, gelu_tanh or relu."""
    y = F.linear(x, weight, bias)
    if activation == "gelu":
        return F.gelu(y)
    if activation == "gelu_tanh":
        return F.gelu(y, approximate="tanh")
    return F.relu(y) if activation == "relu" else y
