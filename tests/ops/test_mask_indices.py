"""Mask positions against a plain Python sort, and against the host's own selection."""

import numpy as np
import pytest
import torch
from common import DEVICE
from fastmask_kernels import reference
from fastmask_kernels.mask_indices import mask_indices
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastmask.scoring.policy import cap_of, ragged_positions, select

SENTINEL = -77
INF, NAN = float("inf"), float("nan")


def expected(sentences, caps, largest) -> list[list[int]]:
    """Positions by Python's sort; a sentence is a list of (candidate, rank)."""
    found = []
    for tokens, cap in zip(sentences, caps, strict=True):
        ranked = [(r != r, 0 if r != r else -r if largest else r, i) for i, (c, r) in enumerate(tokens) if c]
        found.append(sorted(i for _, _, i in sorted(ranked)[:cap]))
    return found


def check(sentences, caps, largest, candidate_dtype=torch.int8):
    """Kernel and reference against Python; the rest of the output, and the inputs, stay as they were."""
    flat = [token for tokens in sentences for token in tokens]
    candidate = torch.tensor([c for c, _ in flat], dtype=candidate_dtype, device=DEVICE)
    rank = torch.tensor([r for _, r in flat], dtype=torch.float32, device=DEVICE)
    offsets = torch.tensor(np.cumsum([0, *map(len, sentences)]), dtype=torch.int64, device=DEVICE)
    arguments = candidate, rank, offsets, torch.tensor(caps, dtype=torch.int32, device=DEVICE)
    before = [t.clone() for t in arguments]
    out = torch.full((len(flat),), SENTINEL, dtype=torch.int32, device=DEVICE)
    mask_offsets, found = mask_indices(*arguments, largest, out=out)
    assert found is out and all(
        torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(arguments, before, strict=True)
    )
    positions = expected(sentences, caps, largest)
    bounds = np.cumsum([0, *map(len, positions)]).tolist()
    whole = [i for sentence in positions for i in sentence]
    assert mask_offsets.dtype == torch.int64 and mask_offsets.tolist() == bounds
    assert out.tolist() == whole + [SENTINEL] * (len(flat) - len(whole))
    by_torch = reference.mask_indices(*arguments, largest)
    assert by_torch[0].tolist() == bounds and by_torch[1].tolist() == whole and by_torch[1].dtype == torch.int32


def random_sentences(lengths, seed=0, values=None, share=0.7):
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal if values is None else lambda n: rng.choice(values, n)
    return [list(zip((rng.random(n) < share).tolist(), draw(n).tolist(), strict=True)) for n in lengths]


ranks = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, INF, -INF, NAN, -NAN]) | st.floats(width=32)
sentence = st.lists(st.tuples(st.booleans(), ranks), max_size=9)


@given(st.lists(sentence, min_size=1, max_size=6), st.lists(st.integers(0, 9), min_size=6, max_size=6), st.booleans())
@example([[(True, 0.0), (True, -0.0), (True, NAN), (True, INF)]], [1] * 6, True)
@settings(deadline=None, max_examples=50)
def test_any_ranks(sentences, caps, largest):
    check(sentences, caps[: len(sentences)], largest)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("values", [None, [0.0, 1.0, 2.0]], ids=["distinct", "ties"])
@pytest.mark.parametrize("lengths", [[1], [0, 2, 0], [31, 32, 33, 61], [63, 64, 65], [127, 128, 129], [257]], ids=str)
def test_lengths(lengths, values, largest):
    sentences = random_sentences(lengths, values=values)
    check(sentences, cap_of(np.array(lengths), 0.15), largest)
    check(sentences, [n // 2 for n in lengths], largest, torch.bool)
    check(sentences, lengths, largest)


def test_a_sentence_of_a_thousand():
    check(random_sentences([1031, 3], values=np.arange(300) / 7), [155, 1], False)


def test_thousands_of_sentences():
    lengths = np.random.default_rng(0).integers(0, 12, 1030)
    check(random_sentences(lengths), cap_of(lengths, 0.15), False)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_no_candidates(share):
    lengths = [5, 70, 1, 0]
    check(random_sentences(lengths, share=share), [2, 7, 1, 1], True)


@given(
    st.lists(st.lists(st.integers(-40, 40), max_size=14), min_size=1, max_size=5), st.sampled_from([None, 0.15, 0.5])
)
@settings(deadline=None, max_examples=25)
def test_the_hosts_selection(sentences, rate):
    """The host's bounds with no width: what is certain there is what the kernel chooses."""
    offsets = np.cumsum([0, *map(len, sentences)])
    value = np.array([v for values in sentences for v in values]) / 64
    candidate = np.random.default_rng(len(value)).random(len(value)) < 0.7
    cap = cap_of(np.diff(offsets), rate)
    chosen, _ = select(offsets, value, value, candidate, cap)
    arguments = (candidate, value.astype(np.float32), offsets, cap.astype(np.int32))
    mask_offsets, found = mask_indices(*(torch.from_numpy(a).to(DEVICE) for a in arguments), False)
    host_offsets, host_index = ragged_positions(offsets, chosen)
    assert mask_offsets.tolist() == host_offsets.tolist()
    assert found[: mask_offsets[-1]].tolist() == host_index.tolist()


def test_bounds_of_no_width_are_ambiguous_in_ties_alone():
    offsets, value = np.array([0, 3]), np.array([1.0, 1.0, 0.5])
    _, ambiguous = select(offsets, value, value, np.ones(3, bool), np.array([2]))
    assert ambiguous.tolist() == [True, True, False]
    check([[(True, v) for v in value]], [2], False)


def test_nothing():
    for sentences in ([], [[]], [[], []]):
        check(sentences, [1] * len(sentences), False)


def test_refusals():
    candidate, rank = torch.ones(2, dtype=torch.int8, device=DEVICE), torch.zeros(2, device=DEVICE)
    offsets = torch.tensor([0, 2], device=DEVICE)
    cap = torch.ones(1, dtype=torch.int32, device=DEVICE)
    for arguments, words in [
        ((candidate.float(), rank, offsets, cap), "candidates of torch.float32"),
        ((candidate, rank.double(), offsets, cap), "ranks of torch.float64"),
        ((candidate, rank, offsets.int(), cap), "int64"),
        ((candidate, rank, offsets, cap.long()), "int32"),
    ]:
        with pytest.raises(ValueError, match=words):
            mask_indices(*arguments, False)
