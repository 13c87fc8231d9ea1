"""The torch truth of every op, for any device and dtype. Slow and plain; tests compare the fast versions with these."""

from __future__ import annotations

from itertools import pairwise

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
    bounds = cu_seqlens.tolist()
    out = [_attend(qkv[start:end], heads) for start, end in pairwise(bounds)]
    return torch.cat(out) if out else qkv[:, : qkv.shape[1] // 3]


def _attend(qkv, heads):
    length, width = qkv.shape
    head_dim = width // 3 // heads
    q, k, v = qkv.view(length, 3, heads, head_dim).permute(1, 2, 0, 3)
    probabilities = torch.softmax(q @ k.transpose(1, 2) / head_dim**0.5, dim=-1)
    return (probabilities @ v).transpose(0, 1).reshape(length, heads * head_dim)


def cls_attention(query, x, cu_seqlens, max_seqlen, heads):
    """Attention of one query per sequence and head over the sequence's own rows.

    query [B, heads, H] already scaled and multiplied by the key matrix, x [T, H], cu_seqlens int [B + 1] -> the
    probability-weighted rows [B, heads, H], still to be multiplied by the value matrix.
    """
    bounds = cu_seqlens.tolist()
    out = []
    for b, (start, end) in enumerate(pairwise(bounds)):
        rows = x[start:end].to(query.dtype)
        out.append(torch.softmax(query[b] @ rows.T, dim=-1) @ rows)
    return torch.stack(out) if out else query


def linear(x, weight, bias, activation="none"):
    """``activation(x @ weight.T + bias)``: x [T, K], weight [N, K] -> [T, N]; none, gelu, gelu_tanh or relu."""
    y = F.linear(x, weight, bias)
    if activation == "gelu":
        return F.gelu(y)
    if activation == "gelu_tanh":
        return F.gelu(y, approximate="tanh")
    return F.relu(y) if activation == "relu" else y
