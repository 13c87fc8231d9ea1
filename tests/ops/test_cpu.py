"""The numba kernels against the torch truth: at most twice torch's own error, on odd shapes, into poisoned outputs."""

import numpy as np
import pytest
import torch
from common import SEQUENCES, assert_as_good_as_torch, bounds_of, normal, poisoned
from fastmask_kernels import cpu, launch, reference
from fastmask_kernels.layouts import Sequences

SHAPES = [(64, 4), (64, 2), (128, 2), (384, 12), (768, 12)]
"""Hidden size and heads: head sizes 16, 32, 64, 32, 64."""
DTYPES = [torch.float32, torch.bfloat16]

lengths_and_shapes = [
    pytest.mark.parametrize("lengths", SEQUENCES.values(), ids=SEQUENCES),
    pytest.mark.parametrize(("hidden", "heads"), SHAPES, ids=lambda n: str(n)),
    pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"]),
]


def over(*marks):
    def decorate(test):
        for mark in marks:
            test = mark(test)
        return test

    return decorate


def attend(qkv, bounds, heads, out):
    longest, nothing = int(bounds.diff().max()), torch.empty(0, 0)
    arrays = map(launch._array, (nothing, nothing, out))
    cpu.varlen_attention(*map(launch._array, (qkv, bounds)), longest, heads, longest, *arrays)


@over(*lengths_and_shapes)
def test_varlen_attention(lengths, hidden, heads, dtype):
    bounds = bounds_of(lengths)
    qkv = normal(sum(lengths), 3 * hidden, scale=2.0).to(dtype)
    out = poisoned(sum(lengths), hidden, dtype=dtype)
    attend(qkv, bounds, heads, out)
    exact = reference.varlen_attention(qkv.double(), bounds, max(lengths), heads)
    assert_as_good_as_torch(out, reference.varlen_attention(qkv, bounds, max(lengths), heads), exact)


@over(*lengths_and_shapes)
def test_cls_attention(lengths, hidden, heads, dtype):
    bounds = bounds_of(lengths)
    x = normal(sum(lengths), hidden).to(dtype)
    query = normal(len(lengths), heads, hidden, seed=1, scale=hidden**-0.5)
    out = poisoned(len(lengths), heads * hidden, dtype=torch.float32)
    arrays = map(launch._array, (query.view(len(lengths), -1), x, bounds))
    cpu.cls_attention(*arrays, max(lengths), heads, launch._array(out))
    exact = reference.cls_attention(query.double(), x.double(), bounds, max(lengths), heads)
    by_torch = reference.cls_attention(query, x, bounds, max(lengths), heads)
    assert_as_good_as_torch(out.view_as(exact), by_torch, exact)


@pytest.mark.parametrize("tokens", [1, 2, 17, 131])
@pytest.mark.parametrize("hidden", [16, 64, 112, 384, 768])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("in_place", [False, True])
def test_residual_layernorm(tokens, hidden, dtype, in_place):
    x, residual = normal(tokens, hidden, scale=3.0).to(dtype), (normal(tokens, hidden, seed=1) + 0.5).to(dtype)
    weight, bias = normal(hidden, seed=2), normal(hidden, seed=3)
    exact = reference.residual_layernorm(x.double(), residual.double(), weight.double(), bias.double(), 1e-12)
    by_torch = reference.residual_layernorm(x, residual, weight, bias, 1e-12)
    out = x if in_place else poisoned(tokens, hidden, dtype=dtype)
    before = residual.clone()
    cpu.residual_layernorm(*map(launch._array, (x, residual, weight, bias)), 1e-12, launch._array(out))
    assert_as_good_as_torch(out, by_torch, exact)
    assert torch.equal(residual, before)


@pytest.mark.parametrize("tokens", [1, 17, 131])
@pytest.mark.parametrize("hidden", [16, 112, 768])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
def test_norms_before_a_block(tokens, hidden, dtype):
    """Layer norm alone, and the sum with its layer norm: the sum is float32's and takes the residual's place."""
    x, residual = normal(tokens, hidden, scale=3.0).to(dtype), normal(tokens, hidden, seed=1) + 0.5
    parameters = normal(hidden, seed=2), normal(hidden, seed=3), 1e-5
    wide = [t.double() for t in parameters[:2]]
    ops = launch.CpuOps(dtype)
    for rows in (x, residual):
        alone = ops.layernorm(rows, *parameters)
        exact = reference.layernorm(rows.double(), *wide, 1e-5)
        assert alone.dtype == dtype
        assert_as_good_as_torch(alone, launch.TorchOps(dtype).layernorm(rows, *parameters), exact)
    expected = x + residual
    _, exact = reference.add_layernorm(x.double(), residual.double(), *wide, 1e-5)
    _, by_torch = reference.add_layernorm(x, residual, *parameters)
    total, found = ops.add_layernorm(x, residual, *parameters)
    assert torch.equal(total, expected) and total is residual and found.dtype == dtype
    assert_as_good_as_torch(found, by_torch, exact)


@pytest.mark.parametrize("lengths", SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
def test_mean_rows(lengths, dtype):
    """Of each sequence's rows alone, in float32: by hand here."""
    x, bounds = normal(sum(lengths), 48).to(dtype), bounds_of(lengths)
    exact = torch.stack([rows.double().sum(0) / len(rows) for rows in x.split(lengths)])
    by_torch = reference.mean_rows(x, bounds)
    assert by_torch.dtype == torch.float32 and (by_torch - exact).abs().max() < 1e-6
    found = launch.CpuOps(dtype).mean_rows(x, Sequences(bounds, max(lengths)))
    assert found.dtype == torch.float32
    assert_as_good_as_torch(found, by_torch, exact)


@pytest.mark.parametrize("tokens", [1, 2, 17, 131])
@pytest.mark.parametrize("hidden", [16, 64, 112, 384, 768])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
def test_embed(tokens, hidden, dtype):
    rng = np.random.default_rng(0)
    ids, places, types = (torch.tensor(rng.integers(0, n, tokens), dtype=torch.int32) for n in (50, 128, 2))
    tables = [normal(n, hidden, seed=n, scale=0.05) for n in (50, 128, 2)]
    weight, bias = normal(hidden, seed=2), normal(hidden, seed=3)
    arguments = (*tables, weight, bias)
    out = poisoned(tokens, hidden, dtype=dtype)
    cpu.embed(*map(launch._array, (ids, places, types, *arguments)), 1e-12, launch._array(out))
    wide = [t.double() for t in arguments]
    exact = reference.embed(ids, places, types, *wide, 1e-12, torch.float64)
    assert_as_good_as_torch(out, reference.embed(ids, places, types, *arguments, 1e-12, dtype), exact)


def test_a_constant_row_is_its_bias():
    x = torch.full((3, 64), 7.0)
    weight, bias, out = torch.ones(64), normal(64), poisoned(3, 64, dtype=torch.float32)
    cpu.residual_layernorm(*map(launch._array, (x, x, weight, bias)), 1e-12, launch._array(out))
    assert torch.equal(out, bias.expand(3, -1))


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_attention_scores_of_any_size(shift):
    """Large scores overflow no exponential; keys that are far from the query get no weight."""
    qkv = normal(33, 3 * 64)
    qkv[:, :64] *= 300
    qkv[:, 128:] += shift
    out, bounds = poisoned(33, 64, dtype=torch.float32), bounds_of([33])
    attend(qkv, bounds, 2, out)
    exact = reference.varlen_attention(qkv.double(), bounds, 33, 2)
    assert_as_good_as_torch(out, reference.varlen_attention(qkv, bounds, 33, 2), exact)


def test_sequences_do_not_see_each_other():
    lengths = [17, 5, 1, 30]
    qkv = normal(sum(lengths), 3 * 64)
    bounds = bounds_of(lengths)
    out = poisoned(sum(lengths), 64, dtype=torch.float32)
    attend(qkv, bounds, 4, out)
    for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        alone = poisoned(b - a, 64, dtype=torch.float32)
        attend(qkv[a:b].clone(), bounds_of([b - a]), 4, alone)
        assert torch.equal(out[a:b], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu"])
def test_linear(dtype, activation):
    layer = torch.nn.Linear(64, 80)
    x = normal(37, 64).to(dtype)
    exact = reference.linear(x.double(), layer.weight.to(dtype).double(), layer.bias.to(dtype).double(), activation)
    by_torch = launch.TorchOps(dtype).linear(layer, activation)(x)
    found = launch.CpuOps(dtype).linear(layer, activation)(x)
    assert_as_good_as_torch(found.detach(), by_torch.detach(), exact.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_gated_linear(dtype, activation):
    """The first half of the outputs is activated, the second is the gate, as in transformers' ModernBertMLP."""
    layer = torch.nn.Linear(64, 2 * 48)
    x = normal(37, 64).to(dtype)
    weight, bias = (p.detach().to(dtype).double() for p in (layer.weight, layer.bias))
    value, gate = (x.double() @ weight.T + bias).chunk(2, dim=1)
    exact = reference.linear(value, torch.eye(48).double(), torch.zeros(48).double(), activation) * gate
    found = launch.CpuOps(dtype).gated_linear(layer, activation)(x)
    assert found.dtype == dtype and found.shape == (37, 48)
    assert_as_good_as_torch(found, launch.TorchOps(dtype).gated_linear(layer, activation)(x).detach(), exact)


def test_bfloat16_rounds_to_nearest_even():
    """Stored as torch stores: the sum of x and 0 through a layer norm of unit scale."""
    values = normal(64, 64).to(torch.bfloat16)
    zeros, out = torch.zeros_like(values), poisoned(64, 64, dtype=torch.bfloat16)
    weight, bias = torch.ones(64), torch.zeros(64)
    cpu.residual_layernorm(*map(launch._array, (values, zeros, weight, bias)), 1e-12, launch._array(out))
    exact = torch.nn.functional.layer_norm(values.double(), (64,), eps=1e-12)
    ulps = (out.view(torch.int16).int() - exact.to(torch.bfloat16).view(torch.int16).int()).abs()
    assert ulps.max() <= 1 and (ulps == 0).float().mean() > 0.99


@pytest.mark.parametrize(("hidden", "head_dim", "fits"), [(64, 32, True), (64, 8, False), (72, 24, False)])
def test_kernels_are_chosen_by_shape(hidden, head_dim, fits):
    assert isinstance(launch.cpu_ops(torch.float32, hidden, head_dim), launch.CpuOps) == fits
    assert isinstance(launch.cpu_ops(torch.float64, hidden, head_dim), launch.TorchOps)
