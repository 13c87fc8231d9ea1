"""The fused head against plain torch, and answers that are known exactly."""

import pytest
import torch
from common import DEVICE, assert_as_good_as_torch, normal, poisoned
from fastmask_kernels import reference
from fastmask_kernels.layouts import head_of
from fastmask_kernels.log_odds import log_odds

INF, NAN = float("inf"), float("nan")


def ints(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def random_head(hidden, pooled, classes, activation, normed=False):
    scale = hidden**-0.5
    parameters = normal(pooled, hidden, seed=1, scale=scale), normal(pooled, seed=2, scale=0.1)
    outer = normal(classes, pooled, seed=3, scale=0.2), normal(classes, seed=4)
    norm = (*(normal(pooled, seed=n).to(DEVICE) for n in (5, 6)), 1e-5) if normed else None
    return head_of(*(t.to(DEVICE) for t in parameters), activation, *(t.to(DEVICE) for t in outer), norm)


def questions(count, rows, classes, seed=0):
    """Row and target of random variants."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(n, (count,), generator=generator).int().to(DEVICE) for n in (rows, classes)]


def check(rows, head, asked):
    """Into a poisoned output, no input changed."""
    inputs = [rows, head.dense_weight, head.dense_bias, head.weight, head.bias, *asked]
    before = [t.clone() for t in inputs]
    out = poisoned(len(asked[0]), dtype=torch.float64, device=DEVICE)
    found = log_odds(rows, head, *asked, out=out)
    assert found is out and all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    by_torch, exact = (reference.log_odds(given, head, *asked) for given in (rows, rows.double()))
    assert_as_good_as_torch(found, by_torch, exact)


@pytest.mark.parametrize(
    ("hidden", "pooled", "classes", "activation", "dtype"),
    [
        (128, 128, 2, "tanh", torch.float16),
        (128, 32, 3, "gelu", torch.float32),
        (384, 384, 2, "tanh", torch.bfloat16),
        (768, 768, 2, "tanh", torch.float16),
        (768, 768, 5, "relu", torch.float32),
        (1024, 1024, 2, "gelu", torch.bfloat16),
        (97, 131, 4, "tanh", torch.float32),
        (48, 64, 64, "relu", torch.float16),
    ],
)
def test_heads(hidden, pooled, classes, activation, dtype):
    """Several questions are about the same row; sizes that no block divides."""
    rows = normal(19, hidden).to(dtype).to(DEVICE)
    check(rows, random_head(hidden, pooled, classes, activation), questions(37, 19, classes))


@pytest.mark.parametrize(("pooled", "classes", "activation"), [(128, 2, "gelu"), (131, 5, "tanh"), (768, 3, "relu")])
def test_a_norm_before_the_classifier(pooled, classes, activation):
    """As transformers' ModernBertPredictionHead has it: also against torch's own modules."""
    head = random_head(48, pooled, classes, activation, normed=True)
    rows, (row, target) = normal(19, 48).to(DEVICE), questions(37, 19, classes)
    check(rows, head, (row, target))
    dense = torch.nn.functional.linear(rows.double(), head.dense_weight.double(), head.dense_bias.double())
    norm = torch.nn.LayerNorm(pooled, eps=1e-5, dtype=torch.float64, device=DEVICE).requires_grad_(False)
    norm.weight.copy_(head.norm_weight), norm.bias.copy_(head.norm_bias)
    pooled_rows = norm({"gelu": torch.nn.GELU(), "tanh": torch.nn.Tanh(), "relu": torch.nn.ReLU()}[activation](dense))
    exact = torch.nn.functional.linear(pooled_rows, head.weight.double(), head.bias.double())
    assert (reference.head_logits(rows.double(), head) - exact).abs().max() < 1e-12
    p = torch.softmax(exact, dim=1)[row.long(), target.long()]
    assert (log_odds(rows, head, row, target) - torch.logit(p)).abs().max() < 2e-5


@pytest.mark.parametrize("count", [1, 2, 15, 31, 32, 33, 127, 2503])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_numbers_of_questions(count, dtype):
    rows = normal(max(1, count // 2), 32).to(dtype).to(DEVICE)
    check(rows, random_head(32, 32, 3, "tanh"), questions(count, len(rows), 3, seed=count))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_answer_is_the_log_odds_of_the_softmax(dtype):
    """By torch's softmax in float64, of which the reference knows nothing."""
    rows, head = normal(11, 32).to(dtype).to(DEVICE), random_head(32, 32, 4, "tanh")
    row, target = questions(29, 11, 4)
    pooled = torch.tanh(rows.double() @ head.dense_weight.double().t() + head.dense_bias.double())
    p = torch.softmax(pooled @ head.weight.double().t() + head.bias.double(), dim=1)[row.long(), target.long()]
    assert (log_odds(rows, head, row, target) - torch.logit(p)).abs().max() < 1e-5


def hand_made(values, row=None, target=None) -> torch.Tensor:
    """Two classes and whole numbers: z of class 0 is the row's first value, exactly."""
    weight = torch.tensor([[1.0, -1.0], [0.0, 0.0]], device=DEVICE)
    dense = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], device=DEVICE)
    head = head_of(dense, torch.zeros(2, device=DEVICE), "relu", weight, torch.zeros(2, device=DEVICE))
    rows = torch.tensor([[value, 0.0] for value in values], device=DEVICE)
    asked = ints(list(range(len(values)) if row is None else row)), ints(target or [0] * len(row or values))
    found = log_odds(rows, head, *asked, out=poisoned(len(asked[0]), dtype=torch.float64, device=DEVICE))
    by_torch = reference.log_odds(rows, head, *asked)
    assert torch.equal(found.nan_to_num(99, 98, -98), by_torch.nan_to_num(99, 98, -98))
    return found


def test_answers_by_hand():
    assert hand_made([2.0, 0.0, -3.0, 40.0, -1000.0]).tolist() == [2.0, 0.0, -3.0, 40.0, -1000.0]
    assert hand_made([2.0, -5.0], row=[1, 0, 1], target=[0, 1, 1]).tolist() == [-5.0, -2.0, 5.0]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_row_that_overflowed_has_no_finite_answer():
    assert torch.isfinite(hand_made([INF, -INF, NAN, 3.0])).tolist() == [False, False, False, True]


def test_no_question():
    found = log_odds(normal(3, 16).to(DEVICE), random_head(16, 16, 2, "tanh"), *questions(0, 1, 2))
    assert found.dtype == torch.float64 and found.shape == (0,)


def test_refusals():
    head, asked = random_head(16, 16, 2, "tanh"), questions(3, 2, 2)
    rows = normal(2, 16).to(DEVICE)
    for wrong, words in [
        (rows.double(), "float64"),
        (rows.t().contiguous().t(), "contiguous"),
    ]:
        with pytest.raises(ValueError, match=words):
            log_odds(wrong, head, *asked)
    for other, words in [
        (head._replace(activation="silu"), "silu"),
        (head._replace(bias=head.bias[:1]), "1 classes"),
        (head._replace(dense_weight=head.dense_weight.t()), "head_of"),
    ]:
        with pytest.raises(ValueError, match=words):
            log_odds(rows, other, *asked)
    with pytest.raises(ValueError, match="int32"):
        log_odds(rows, head, asked[0].long(), asked[1])
