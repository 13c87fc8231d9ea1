"""Attention with turned heads and a local window: the torch truth against transformers' own, the kernels against it."""

import pytest
import torch
from common import DEVICE, SEQUENCES, assert_as_good_as_torch, bounds_of, normal, poisoned
from fastmask_kernels import cpu, launch, reference
from fastmask_kernels.layouts import Rotary, Sequences, rotary_of
from fastmask_kernels.varlen_attention import attention_tiles, tile_rows, varlen_attention

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
WINDOWS = [None, 0, 5, 64]
LONG = [1, 30, 150, 64, 2]


def rotary_for(head_dim, theta=160000.0):
    return rotary_of(theta, head_dim, 200)


def by_transformers(qkv, heads, layer, window, theta):
    """[L, H] of one sequence's qkv [L, 3 * H] by transformers' ModernBertAttention: layer 0 global, layer 1 local."""
    from transformers import ModernBertConfig
    from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask
    from transformers.models.modernbert.modeling_modernbert import ModernBertAttention, ModernBertRotaryEmbedding

    hidden = qkv.shape[1] // 3
    kinds, rope = ["full_attention", "sliding_attention"], {"rope_type": "default", "rope_theta": theta}
    config = ModernBertConfig(
        hidden_size=hidden, num_attention_heads=heads, num_hidden_layers=2, layer_types=kinds, attention_dropout=0.0,
        local_attention=2 * window, rope_parameters=dict.fromkeys(kinds, rope),
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    attention = ModernBertAttention(config, layer).to(qkv.dtype)
    attention.Wqkv, attention.Wo = torch.nn.Identity(), torch.nn.Identity()
    x = qkv[None, :, :hidden]
    places = torch.arange(len(qkv))[None]
    cos_sin = ModernBertRotaryEmbedding(config)(x, places, kinds[layer])
    make_mask = create_bidirectional_sliding_window_mask if layer else create_bidirectional_mask
    mask = make_mask(config=config, inputs_embeds=x, attention_mask=None)
    return attention(qkv[None], position_embeddings=cos_sin, attention_mask=mask)[0][0]


@pytest.mark.parametrize("theta", [10000.0, 160000.0])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("window", [1, 8, 64])
def test_the_truth_is_transformers_own(layer, window, theta):
    lengths, heads, head_dim = [1, 9, 17, 100], 2, 32
    qkv = normal(sum(lengths), 3 * heads * head_dim, scale=2.0).double()
    width = window if layer else None
    found = reference.varlen_attention(
        qkv, bounds_of(lengths), max(lengths), heads, width, rotary_of(theta, head_dim, 100)
    )
    for rows, own in zip(qkv.split(lengths), found.split(lengths), strict=True):
        assert (own - by_transformers(rows, heads, layer, window, theta)).abs().max() < 1e-12


def on_device(qkv, lengths, heads, window, rotary):
    """The Triton op, into a poisoned output; its inputs are left as they were."""
    bounds = bounds_of(lengths)
    row_sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).int()
    tiles = torch.from_numpy(attention_tiles(bounds.numpy(), tile_rows(qkv.dtype)))
    inputs = [t.to(DEVICE) for t in (qkv, bounds, row_sequence, tiles)]
    tables = rotary and Rotary(*(t.to(DEVICE) for t in rotary))
    before = [t.clone() for t in inputs]
    out = poisoned(len(qkv), qkv.shape[1] // 3, dtype=qkv.dtype, device=DEVICE)
    assert varlen_attention(*inputs, heads, window, tables, out=out) is out
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    return out


def on_cpu(qkv, lengths, heads, window, rotary):
    """The numba op, into memory that held NaN."""
    ops, sequences = launch.CpuOps(qkv.dtype), Sequences(bounds_of(lengths), max(lengths))
    return ops.varlen_attention(qkv, sequences, heads, window, rotary)


def check(op, lengths, heads, head_dim, dtype, window, rotary):
    qkv = normal(sum(lengths), 3 * heads * head_dim, scale=2.0).to(dtype)
    plan = bounds_of(lengths), max(lengths), heads, window, rotary
    exact = reference.varlen_attention(qkv.double(), *plan)
    assert_as_good_as_torch(op(qkv, lengths, heads, window, rotary), reference.varlen_attention(qkv, *plan), exact)


@pytest.mark.parametrize(("op", "dtype"), [(on_cpu, F32), (on_cpu, BF16), (on_device, F32), (on_device, F16)])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows(op, dtype, turned, window):
    check(op, LONG, 1, 64, dtype, window, rotary_for(64) if turned else None)


@pytest.mark.parametrize(("op", "dtype"), [(on_cpu, F32), (on_cpu, BF16), (on_device, F32), (on_device, BF16)])
@pytest.mark.parametrize("lengths", [SEQUENCES["around 16"], SEQUENCES["primes"]], ids=str)
@pytest.mark.parametrize("head_dim", [32, 64])
def test_lengths(op, dtype, lengths, head_dim):
    check(op, lengths, 2, head_dim, dtype, 8, rotary_for(head_dim, 10000.0))


@pytest.mark.parametrize("ops", ["cpu", "triton"])
def test_narrow_heads_are_turned_by_torch(ops):
    """Halves of 8 columns fit neither kernel."""
    from fastmask_kernels.triton_ops import TritonOps

    lengths, rotary = [3, 20], rotary_for(16)
    qkv, bounds = normal(23, 3 * 32), bounds_of(lengths)
    made = launch.CpuOps(F32) if ops == "cpu" else TritonOps(F32)
    found = made.varlen_attention(qkv, Sequences(bounds, 20), 2, 4, rotary)
    assert torch.equal(found, reference.varlen_attention(qkv, bounds, 20, 2, 4, rotary))


def test_far_keys_have_no_part_in_a_row():
    """Rows beyond the window may change as they like: the bits stay."""
    qkv = normal(150, 3 * 64)
    changed = qkv.clone()
    changed[100:] = 7.0
    for op in (on_cpu, on_device):
        before, after = (op(x, [150], 2, 16, rotary_for(32)) for x in (qkv, changed))
        assert torch.equal(before[:84], after[:84]) and not torch.equal(before[84], after[84])


STRANGE_TABLES = {
    "other heads": rotary_of(1e4, 32, 9),
    "float64": Rotary(*(t.double() for t in rotary_for(64))),
    "strided": Rotary(*(t.T for t in rotary_of(1e4, 64, 32))),
}


@pytest.mark.parametrize("rotary", STRANGE_TABLES.values(), ids=STRANGE_TABLES)
def test_tables_that_it_cannot_read(rotary):
    with pytest.raises(ValueError, match="cos and sin"):
        on_device(normal(4, 3 * 64), [4], 1, None, rotary)


def test_thousands_of_keys_lose_no_digits():
    """At most twice torch's error, whose products sum in blocks."""
    qkv, bounds = normal(6000, 3 * 32), bounds_of([6000])
    exact = reference.varlen_attention(qkv.double(), bounds, 6000, 1)
    by_torch = reference.varlen_attention(qkv, bounds, 6000, 1)
    found = on_cpu(qkv, [6000], 1, None, None)
    assert (found - exact).abs().max() <= 2 * (by_torch - exact).abs().max()


def test_poison_is_overwritten():
    """The numba op writes every row and no more, also where the last tile of four queries is not full."""
    qkv, bounds, rotary = normal(23, 3 * 32), bounds_of([9, 14]), rotary_for(32)
    out = poisoned(25, 32, dtype=F32)
    cpu.varlen_attention(*map(launch._array, (qkv, bounds)), 14, 1, 3, *map(launch._array, (*rotary, out)))
    assert torch.isfinite(out[:23]).all() and out[23:].isnan().all()
