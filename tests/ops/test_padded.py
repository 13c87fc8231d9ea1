"""Attention over padded sequences against the loops of the reference."""

import numpy as np
import pytest
import torch
from fastmask_kernels import padded, reference
from fastmask_kernels.layouts import Sequences, rotary_of

HEADS, HIDDEN = 2, 16
LENGTHS = {"mixed": [3, 1, 7, 7, 2], "alike": [4, 4], "one": [1], "few": [1] * 9 + [300], "many": [1] * 60 + [300]}


def packed(lengths: list[int]) -> Sequences:
    bounds = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)
    return Sequences(bounds, max(lengths), torch.repeat_interleave(torch.tensor(lengths)).int())


@pytest.fixture(params=[None, 5], ids=["whole", "in parts"])
def few_scores(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(reference, "MOST_SCORES", request.param * 49)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_attention(lengths, turned, window, few_scores):
    sequences, rotary = packed(lengths), rotary_of(100.0, HIDDEN // HEADS, 512) if turned else None
    qkv = torch.randn(sum(lengths), 3 * HIDDEN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = padded.varlen_attention(qkv, sequences, HEADS, window, rotary)
    wanted = reference.varlen_attention(qkv, sequences.cu_seqlens, max(lengths), HEADS, window, rotary)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_attention_of_first_rows(lengths):
    sequences, random = packed(lengths), torch.Generator().manual_seed(0)
    query = torch.randn(len(lengths) + 3, HEADS, HIDDEN, generator=random, dtype=torch.float64)
    x = torch.randn(sum(lengths), HIDDEN, generator=random, dtype=torch.float64)
    found = padded.cls_attention(query, x, sequences, HEADS)
    wanted = reference.cls_attention(query, x, sequences.cu_seqlens, max(lengths), HEADS)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert not found[len(lengths) :].any()


def test_numbers_on_the_device_are_not_read(monkeypatch):
    """What reads them loops over the sequences; of sequences that are alike nothing does."""
    monkeypatch.setattr(reference, "_equal_runs", lambda bounds: pytest.fail("read"))
    sequences = packed(LENGTHS["mixed"])
    padded.varlen_attention(torch.zeros(20, 3 * HIDDEN), sequences, HEADS)
    padded.cls_attention(torch.zeros(5, HEADS, HIDDEN), torch.zeros(20, HIDDEN), sequences, HEADS)
