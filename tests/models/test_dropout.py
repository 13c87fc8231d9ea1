"""Dropout for the CPU: how much is left out, that the expectation stays, and gradients of attention with it."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from fastmask.models.dropout import Dropout, attention_with_dropout, is_drawn, use_drawn_dropout

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 1 / 3, 0.9])
def test_share_and_expectation(p, dtype):
    count = 1_000_003  # no multiple of four
    out = use_drawn_dropout(torch.nn.Dropout(p)).train()(torch.full((count,), 2.0, dtype=dtype))
    kept = (out != 0).double()
    assert kept.mean().item() == pytest.approx(1 - p, abs=5 * (p * (1 - p) / count) ** 0.5)
    assert out[out != 0].unique().tolist() == [pytest.approx(2 / (1 - p), rel=0.004)]
    # neighbours, and places in the draw of 64 bits, know nothing of each other
    for step in (1, 2, 3, 4):
        together = np.corrcoef(kept[:-step], kept[step:])[0, 1]
        assert abs(together) < 5 / count**0.5
    for place in range(4):
        assert kept[place::4].mean().item() == pytest.approx(1 - p, abs=5 * (4 * p * (1 - p) / count) ** 0.5)


def test_the_gradient_is_that_of_what_was_kept():
    values = torch.ones(2, 5, 3, requires_grad=True)
    out = use_drawn_dropout(torch.nn.Dropout(0.4)).train()(values)
    out.sum().backward()
    assert 0 < (out == 0).sum() < 30
    torch.testing.assert_close(values.grad, out.detach())


def test_modules_that_draw():
    no_and_all = torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Dropout(1.0))
    model = torch.nn.Sequential(torch.nn.Dropout(0.1), no_and_all,
                                torch.nn.AlphaDropout(0.1))  # fmt: skip
    assert [type(module) for module in use_drawn_dropout(model).modules()] == [
        torch.nn.Sequential, Dropout, torch.nn.Sequential, Dropout, Dropout, torch.nn.AlphaDropout]  # fmt: skip
    values = torch.randn(3, 4)
    assert torch.equal(model.eval()(values), values)
    none, nothing = model.train()[1]
    assert torch.equal(none(values), values) and not nothing(values).any()
    assert [is_drawn(p) for p in (0.0, 1e-6, 0.1, 1.0)] == [False, False, True, False]


def test_one_random_state_gives_the_same():
    module, values = use_drawn_dropout(torch.nn.Dropout(0.3)), torch.randn(7, 11)
    state = torch.get_rng_state()
    first, other = module(values), module(values)
    torch.set_rng_state(state)
    assert torch.equal(module(values), first) and not torch.equal(first, other)


def sees(length: int) -> dict:
    """Masks by name: all see all; the last two places hold nothing; a window of three places."""
    place = torch.arange(length)
    return {"all": None, "padded": (place < length - 2)[None, None, None], "near": (place[:, None] - place).abs() < 3}


@pytest.mark.parametrize("name", sees(1))
@pytest.mark.parametrize("length", [3, 6])
def test_gradients_of_attention_are_those_by_differences(length, name):
    inputs = [torch.randn(2, 2, length, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    state = torch.get_rng_state()

    def same_draw(query, key, value):
        torch.set_rng_state(state)
        return attention_with_dropout(query, key, value, sees(length)[name], 0.3, 0.5)

    assert torch.autograd.gradcheck(same_draw, inputs)


@pytest.mark.parametrize("name", sees(1))
def test_attention_is_in_the_mean_that_without_dropout(name):
    query, key, value = (torch.randn(1, 2, 7, 8) for _ in range(3))
    many = [each.expand(20_000, -1, -1, -1) for each in (query, key, value)]
    mask = sees(7)[name]
    out = attention_with_dropout(*many, mask, 0.1, 0.35).double()
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.35)[0].double()
    error = out.std(0) / len(out) ** 0.5
    assert ((out.mean(0) - expected).abs() < 5 * error).all()


def test_products_are_in_the_dtype_of_autocast():
    query, key, value = (torch.randn(2, 2, 9, 8, requires_grad=True) for _ in range(3))
    state = torch.get_rng_state()
    exact = attention_with_dropout(query, key, value, None, 0.2, 0.35)
    exact.pow(2).sum().backward()
    gradients = [each.grad.clone() for each in (query, key, value)]
    torch.set_rng_state(state)
    query.grad = key.grad = value.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        near = attention_with_dropout(query, key, value, None, 0.2, 0.35)
    assert near.dtype == torch.bfloat16
    torch.testing.assert_close(near.float(), exact, rtol=0.03, atol=0.03)
    near.float().pow(2).sum().backward()
    for each, gradient in zip((query, key, value), gradients, strict=True):
        assert each.grad.dtype == torch.float32
        assert (each.grad - gradient).norm() < 0.02 * gradient.norm()
