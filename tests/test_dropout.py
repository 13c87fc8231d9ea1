"""Dropout of the trainer: the probability, the scale and the gradient are torch's; the numbers follow its generator."""

import pytest
import torch
from torch import nn

from fastmask.models.dropout import Dropout, keep_mask, replace_dropout

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped(dtype, p):
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(1001, 999, dtype=dtype), p)
    assert mask.dtype == dtype and set(mask.unique().tolist()) == {0.0, 1.0}
    spread = (p * (1 - p) / mask.numel()) ** 0.5
    dropped = mask.double().eq(0)
    assert dropped.double().mean().item() == pytest.approx(p, abs=5 * spread)
    # of neighbours, which share a random number, as of any two
    pairs = dropped[:, :-1] & dropped[:, 1:]
    assert pairs.double().mean().item() == pytest.approx(p * p, abs=5 * (p * p / mask.numel()) ** 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 0, 4), (7, 16)], ids=str)
def test_output_and_gradient_by_hand(shape, dtype):
    states = torch.randn(shape).to(dtype).requires_grad_()
    weights = torch.randn(shape).to(dtype)
    torch.manual_seed(3)
    mask = keep_mask(states, 0.1)
    torch.manual_seed(3)
    out = Dropout(0.1)(states)
    out.backward(weights)
    torch.testing.assert_close(out, (states.double() * mask / 0.9).to(dtype))
    torch.testing.assert_close(states.grad, (weights.double() * mask / 0.9).to(dtype))


def test_a_transposed_input():
    states = torch.randn(6, 4).t()
    torch.manual_seed(3)
    mask = keep_mask(states, 0.3)
    torch.manual_seed(3)
    torch.testing.assert_close(Dropout(0.3)(states), states * mask / 0.7)


def test_every_call_draws_anew_and_the_generator_s_state_brings_it_back():
    states, dropout = torch.ones(500), Dropout(0.5)
    torch.manual_seed(0)
    first, state, second = dropout(states), torch.get_rng_state(), dropout(states)
    assert not first.equal(second)
    torch.set_rng_state(state)
    assert dropout(states).equal(second)


@pytest.mark.parametrize("dropout", [Dropout(0.5).eval(), Dropout(0.0)])
def test_nothing_is_dropped(dropout):
    states = torch.randn(100)
    assert dropout(states).equal(states)


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_what_is_not_made_here_is_torch_s(p):
    states = torch.randn(100, dtype=torch.float64)
    torch.manual_seed(0)
    expected = nn.functional.dropout(states, p)
    torch.manual_seed(0)
    assert Dropout(p)(states).equal(expected)


@pytest.mark.parametrize("training", [True, False])
def test_replacing_keeps_probabilities_mode_and_other_modules(training):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.0), nn.Dropout1d(0.2)))
    replace_dropout(model.train(training))
    assert all(module.training == training for module in model.modules())
    kinds = [(type(module), getattr(module, "p", None)) for module in (model[1], model[2][0], model[2][1])]
    assert kinds == [(Dropout, 0.3), (Dropout, 0.0), (nn.Dropout1d, 0.2)]
