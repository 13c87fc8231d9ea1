"""Every op in plain torch, for any device and dtype: slow, and what tests compare the fast versions with."""

from __future__ import annotations

from itertools import groupby, pairwise

import torch
import torch.nn.functional as F

MOST_SCORES = 1 << 26
"""The most attention scores that are held at a time: as many as one head has over 8,192 tokens."""


def embed(input_ids, position_ids, token_type_ids, word, position, token_type, weight, bias, eps, dtype):
    """Return the layer norm of the three embeddings' sum: ids int [T], tables [*, H] -> [T, H] of ``dtype``."""
    total = word[input_ids] + position[position_ids] + token_type[token_type_ids]
    return F.layer_norm(total, total.shape[-1:], weight, bias, eps).to(dtype)


def residual_layernorm(x, residual, weight, bias, eps):
    """Return ``LayerNorm(x + residual)``: x, residual [T, H] -> [T, H]."""
    return layernorm(x + residual, weight, bias, eps)


def layernorm(x, weight, bias, eps):
    """Return the layer norm of every row: x [T, H] -> [T, H]."""
    return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps)


def add_layernorm(x, residual, weight, bias, eps):
    """Return ``x + residual`` of residual's dtype, and its layer norm of x's: x, residual [T, H] -> two [T, H]."""
    total = residual + x
    return total, layernorm(total, weight, bias, eps).to(x.dtype)


def varlen_attention(qkv, cu_seqlens, max_seqlen, heads, window=None, rotary=None):
    """Return softmax attention inside each packed sequence: qkv [T, 3 * H], cu_seqlens int [B + 1] -> [T, H].

    ``window`` is how far a row may look to either side, None as far as it likes; queries and keys are turned by
    ``rotary``, if there is one.
    """
    head_dim = qkv.shape[1] // 3 // heads
    out = [qkv.new_empty(0, heads * head_dim)]
    for _, count, length, rows in _equal_runs(cu_seqlens):
        q, k, v = qkv[rows].view(count, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4).flatten(1, 2)
        if rotary is not None:
            q, k = turned(q, rotary), turned(k, rotary)
        few = max(1, MOST_SCORES // max(1, length) ** 2)
        parts = [attended(*part, None, window) for part in zip(q.split(few), k.split(few), v.split(few), strict=True)]
        context = torch.cat(parts).view(count, heads, length, head_dim)
        out.append(context.transpose(1, 2).reshape(count * length, heads * head_dim))
    return torch.cat(out)


def attended(q, k, v, seen, window):
    """Return the softmax attention of N heads of one length, [N, L, D] each; ``seen`` bool [N, 1, L] keys, or None."""
    scores = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    if window is not None:
        places = torch.arange(q.shape[1], device=q.device)
        scores = scores.masked_fill((places[:, None] - places).abs() > window, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


def turned(x, rotary):
    """Return x [N, L, D] turned by positions 0 to L - 1; cosines are float32's even in float64, as in transformers."""
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = (table[: x.shape[-2]].to(wide) for table in rotary)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def mean_rows(x, cu_seqlens):
    """Return the mean of each sequence's rows, at least float32: x [T, H], cu_seqlens int [B + 1] -> [B, H]."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.segment_reduce(x.to(wide), "mean", offsets=cu_seqlens.long(), axis=0)


def cls_attention(query, x, cu_seqlens, max_seqlen, heads):
    """Return the attention of one query per sequence and head over the sequence's own rows.

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
    """Yield (first sequence, how many, their length, their rows as a slice) for runs of neighbours of equal length."""
    bounds = cu_seqlens.tolist()
    first = 0
    for length, group in groupby(end - start for start, end in pairwise(bounds)):
        count = len(list(group))
        yield first, count, length, slice(bounds[first], bounds[first + count])
        first += count


def linear(x, weight, bias, activation="none"):
    """Return ``activation(x @ weight.T + bias)``: x [T, K], weight [N, K] -> [T, N]; none, gelu, gelu_tanh or relu."""
    return _activate(F.linear(x, weight, bias), activation)


def geglu(x, activation):
    """Return ``activation(x[:, :I]) * x[:, I:]``: x [T, 2 * I] -> [T, I]; gelu, gelu_tanh or relu."""
    value, gate = x.chunk(2, dim=1)
    return _activate(value, activation) * gate


def bias_gelu(x, bias, activation, scale=1.0):
    """Return ``activation(x * scale + bias)``: x [T, F], bias [F] -> [T, F]; gelu, gelu_tanh or relu."""
    return _activate(x * scale + bias.to(x.dtype), activation)


def split_half(x):
    """Split x float32 [T, K] -> float16 [T, 3 * K]: rows [lo, hi, hi] with hi = half(x) and lo = half(x - hi)."""
    hi = x.half()
    return torch.cat([(x - hi.float()).half(), hi, hi], dim=1)


def _activate(y, activation):
    if activation == "gelu":
        return F.gelu(y)
    if activation == "gelu_tanh":
        return F.gelu(y, approximate="tanh")
    return F.relu(y) if activation == "relu" else y


def embed_variants(variants, cu_seqlens, row_variant, texts, special, tables, first_position, weight, bias, eps, dtype):
    """Return the layer norm of V packed variants' embeddings: descriptors int [V, 5], row_variant int [T] -> [T, E].

    The descriptors, ``texts`` and ``special`` are those of ``embed_variants.embed_variants``; nothing synchronises.
    ``first_position`` may be all position ids, int [T], instead. A position table of one row is for every position.
    """
    row = row_variant.long()
    unit, buffered, following, removed, count = variants.long()[row].unbind(1)
    place = torch.arange(len(row), device=row.device) - cu_seqlens.long()[row]
    start, context_start = texts.offsets.long()[unit], texts.context_offsets.long()[unit]
    context = texts.context_offsets.long()[unit + 1] - context_start
    in_context = place - special.prefix
    in_content = in_context - context - special.middle
    position = following + in_content - buffered
    position = torch.where(position >= removed, position + 1, position)
    position = torch.where(in_content < buffered, _at(texts.kept, start + in_content), position)
    ids = _at(special.ids, place - context * (in_context >= 0) - count * (in_content >= 0))
    ids = torch.where(
        (in_context >= 0) & (in_context < context), _at(texts.context_ids, context_start + in_context), ids
    )
    ids = torch.where((in_content >= 0) & (in_content < count), _at(texts.input_ids, start + position), ids)
    types = (in_content >= 0).long() * min(special.content_type, len(tables[2]) - 1)
    word, position, token_type = tables
    positions = first_position.long() if isinstance(first_position, torch.Tensor) else place + first_position
    positions = positions if len(position) > 1 else torch.zeros_like(place)
    return embed(ids, positions, types, word, position, token_type, weight, bias, eps, dtype)


def _at(values, index):
    """Return ``values[index]`` int [T], anything where the index is outside."""
    padded = F.pad(values, (0, 1))
    return padded[index.clamp(0, len(values))].long()


def head_logits(rows, head):
    """Return class logits [B, C] of first rows [B, H], at least float32."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    activation = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}[head.activation]
    pooled = activation(F.linear(rows.to(wide), head.dense_weight.to(wide), head.dense_bias.to(wide)))
    if head.norm_weight is not None:
        pooled = layernorm(pooled, head.norm_weight, head.norm_bias, head.norm_eps)
    return F.linear(pooled, head.weight.to(wide), head.bias.to(wide))


def log_odds(rows, head, row, target):
    """Return log-odds float64 [V] of V questions about [CLS] rows [B, H]; see ``log_odds.log_odds``."""
    logits = head_logits(rows, head)[row.long()]
    index = target.long()[:, None]
    others = logits.scatter(1, index, -torch.inf)
    top = others.amax(1, keepdim=True)
    z = logits.gather(1, index).squeeze(1) - (top.squeeze(1) + (others - top).exp().sum(1).log())
    return z.double()


def apply_mask(
    input_ids, at, row, sentence, position, seed, epoch, mask_id, ordinary,
    masked=2**24 * 8 // 10, kept=2**24 * 9 // 10,
):  # fmt: skip
    """Return a copy of ``input_ids`` int [T] with its tokens ``at`` int [M] corrupted, by Python's integers.

    A token's key is (seed, epoch, row, sentence, position), int [M] the last three. A splitmix64 chain over it and 0
    gives 24 bits: below ``masked`` they mean [MASK], below ``kept`` no change (80 % and 10 %); else the chain over the
    key and 1 gives 32 bits that choose one of ``ordinary`` int [K].
    """
    out, ordinary = input_ids.tolist(), ordinary.tolist()
    for index, *key in zip(*(t.tolist() for t in (at, row, sentence, position)), strict=True):
        choice = _chain(seed, epoch, *key, 0) >> 40
        if choice < masked:
            out[index] = mask_id
        elif choice >= kept:
            out[index] = ordinary[(_chain(seed, epoch, *key, 1) >> 32) * len(ordinary) >> 32]
    return torch.tensor(out, dtype=input_ids.dtype, device=input_ids.device)


def _chain(state, *values):
    for value in values:
        state = ((state ^ value) + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state
