"""Embeddings made from descriptors against those of variants written out as Python lists."""

import numpy as np
import pytest
import torch
from common import DEVICE, assert_as_good_as_torch, normal, poisoned
from fastmask_kernels import reference
from fastmask_kernels.embed_variants import embed_variants
from fastmask_kernels.layouts import Special, Texts
from hypothesis import given, settings
from hypothesis import strategies as st

WORDS, PLACES = 60, 520
NOTHING_REMOVED = 2**30
TEXT = ([1], [], [2], 0)
PAIR = ([1], [2], [2], 1)
ROBERTA = ([0], [2, 2], [2], 0)
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def ints(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def offsets_of(lists) -> torch.Tensor:
    return ints(np.cumsum([0, *map(len, lists)]).tolist())


class Problem:
    """Variants as descriptors and as lists; a unit is (tokens, context, positions kept so far)."""

    def __init__(self, units, asked, template=TEXT, max_length=128):
        prefix, middle, suffix, content_type = template
        self.texts = Texts(
            offsets_of([tokens for tokens, _, _ in units]),
            ints([token for tokens, _, _ in units for token in tokens]),
            offsets_of([context for _, context, _ in units]),
            ints([token for _, context, _ in units for token in context]),
            ints([at for tokens, _, kept in units for at in [*kept, *[-7] * (len(tokens) - len(kept))]]),
        )
        self.special = Special(ints(prefix + middle + suffix), len(prefix), len(middle), len(suffix), content_type)
        rows, self.lists, self.types = [], [], []
        for unit, method, index in asked:
            tokens, context, kept = units[unit]
            room = max_length - len(prefix + middle + suffix) - len(context)
            rows.append([unit, *self.descriptor(len(tokens), kept, method, index, room)])
            first, content = [*prefix, *context, *middle], self.content(tokens, kept, method, index)[:room]
            self.lists.append([*first, *content, *suffix])
            self.types.append([0] * len(first) + [content_type] * len([*content, *suffix]))
        self.variants = ints(rows).view(-1, 5)
        self.cu_seqlens = offsets_of(self.lists)
        self.row_variant = ints([v for v, ids in enumerate(self.lists) for _ in ids])

    @staticmethod
    def descriptor(n, kept, method, index, room) -> list[int]:
        before = min(len([at for at in kept if at < index]), room)
        return {
            "greedy": [before, index, NOTHING_REMOVED, min(before + 1, room)],
            "prefix": [0, 0, NOTHING_REMOVED, min(index + 1, room)],
            "leave-one-out": [0, 0, index, min(n - 1, room)],
            "full": [0, 0, NOTHING_REMOVED, min(n, room)],
        }[method]

    @staticmethod
    def content(tokens, kept, method, index) -> list[int]:
        return {
            "greedy": [tokens[at] for at in kept if at < index] + tokens[index : index + 1],
            "prefix": tokens[: index + 1],
            "leave-one-out": tokens[:index] + tokens[index + 1 :],
            "full": tokens,
        }[method]

    def tensors(self) -> list[torch.Tensor]:
        return [self.variants, self.cu_seqlens, self.row_variant, *self.texts, self.special.ids]

    def by_descriptors(self, function, tables, offset, norm, dtype, **options):
        packed = self.variants, self.cu_seqlens, self.row_variant, self.texts, self.special
        return function(*packed, tables, offset, *norm, 1e-12, dtype, **options)

    def by_lists(self, tables, offset, norm, dtype):
        ids = ints([token for variant in self.lists for token in variant])
        places = ints([place + offset for variant in self.lists for place in range(len(variant))])
        types = ints([kind for kinds in self.types for kind in kinds]).clamp(max=len(tables[2]) - 1)
        return reference.embed(ids, places, types, *tables, *norm, 1e-12, dtype)


def parameters(hidden, types=2):
    tables = [normal(n, hidden, seed=n, scale=0.05).to(DEVICE) for n in (WORDS, PLACES, types)]
    return tables, [normal(hidden, seed=s).to(DEVICE) for s in (2, 3)]


def double(tensors):
    return [t.double() for t in tensors]


def stored(values, dtype):
    """Of float32 values, rounded as the kernel's stores round; Triton's interpreter cuts bfloat16 off."""
    if dtype != torch.bfloat16 or DEVICE == "cuda":
        return values.to(dtype)
    return (values.view(torch.int32) >> 16 << 16).view(torch.float32).to(dtype)


def check(problem, hidden, dtype, offset=0, types=2):
    """The kernel into a poisoned output, and the reference, against lists; no input changes."""
    tables, norm = parameters(hidden, types)
    inputs = [*problem.tensors(), *tables, *norm]
    before = [t.clone() for t in inputs]
    out = poisoned(len(problem.row_variant), hidden, dtype=dtype, device=DEVICE)
    found = problem.by_descriptors(embed_variants, tables, offset, norm, dtype, out=out)
    assert found is out and all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    by_torch = problem.by_lists(tables, offset, norm, torch.float32)
    by_reference = problem.by_descriptors(reference.embed_variants, tables, offset, norm, dtype)
    assert torch.equal(by_reference, by_torch.to(dtype))
    assert_as_good_as_torch(
        out, stored(by_torch, dtype), problem.by_lists(double(tables), offset, double(norm), torch.float64)
    )


def random_units(lengths, context=0, seed=0):
    rng = np.random.default_rng(seed)

    def unit(length):
        tokens, aspect = (rng.integers(3, WORDS, n).tolist() for n in (length, rng.integers(context + 1)))
        return tokens, aspect, np.flatnonzero(rng.random(length) < 0.6).tolist()

    return [unit(length) for length in lengths]


def some_of_each(units):
    """The first, a middle and the last index of every unit, by every method."""
    asked = [(u, "full", 0) for u in range(len(units))]
    for method in ("greedy", "prefix", "leave-one-out"):
        indices = [sorted({0, len(tokens) // 2, len(tokens) - 1}) for tokens, _, _ in units]
        asked += [(u, method, i) for u, chosen in enumerate(indices) for i in chosen]
    return asked


@pytest.mark.parametrize(
    ("hidden", "dtype", "template"),
    [
        (128, torch.float16, TEXT),
        (384, torch.bfloat16, PAIR),
        (384, torch.float32, ROBERTA),
        (768, torch.float16, ROBERTA),
        (768, torch.bfloat16, TEXT),
        (1024, torch.float32, PAIR),
        (1536, torch.float16, TEXT),
    ],
)
def test_variants_of_every_method(hidden, dtype, template):
    units = random_units([1, 3, 7], context=0 if template is TEXT else 3)
    offset, types = (2, 1) if template is ROBERTA else (0, 2)
    check(Problem(units, some_of_each(units), template), hidden, dtype, offset, types)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", ["greedy", "prefix", "leave-one-out"])
def test_lengths(method, dtype):
    """Shorter than the room, as long, and longer: cut on the right."""
    units = random_units([1, 2, 61, 127, 128, 129], seed=1)
    check(Problem(units, [(u, method, len(tokens) - 1) for u, (tokens, _, _) in enumerate(units)]), 128, dtype)


def test_long_variants():
    units = random_units([511, 512, 513], seed=1)
    check(Problem(units, [(0, "greedy", 500), (1, "leave-one-out", 77), (2, "full", 0)], max_length=512), 64, DTYPES[0])


def test_thousands_of_variants():
    units = random_units(np.random.default_rng(0).integers(1, 4, 1030), seed=2)
    check(Problem(units, [(u, "leave-one-out", 0) for u in range(len(units))]), 32, torch.float32)


units_drawn = st.lists(
    st.tuples(
        st.lists(st.integers(3, WORDS - 1), min_size=1, max_size=12),
        st.lists(st.integers(3, WORDS - 1), max_size=4),
        st.sets(st.integers(0, 11)),
    ),
    min_size=1,
    max_size=4,
)


@given(units_drawn, st.sampled_from([TEXT, PAIR, ROBERTA, ([4, 5], [], [2, 6, 7], 1)]), st.data())
@settings(deadline=None, max_examples=20)
def test_any_variants(units, template, data):
    """Rooms down to one token; contexts also without a token between them and the content."""
    units = [(tokens, context, sorted(at for at in kept if at < len(tokens))) for tokens, context, kept in units]
    methods = st.sampled_from(["greedy", "prefix", "leave-one-out", "full"])
    asked = data.draw(st.lists(st.tuples(st.integers(0, len(units) - 1), methods, st.integers(0, 11)), min_size=1))
    asked = [(u, method, min(index, len(units[u][0]) - 1)) for u, method, index in asked]
    check(Problem(units, asked, template, max_length=data.draw(st.integers(10, 20))), 64, torch.float32)


def test_no_variant():
    tables, norm = parameters(64)
    problem = Problem([([3, 4], [], [])], [])
    out = problem.by_descriptors(embed_variants, tables, 0, norm, torch.float16)
    assert out.shape == (0, 64) and out.dtype == torch.float16


def test_refusals():
    problem = Problem([([3, 4], [], [])], [(0, "full", 0)])
    tables, norm = parameters(64)
    with pytest.raises(ValueError, match="float64"):
        problem.by_descriptors(embed_variants, tables, 0, norm, torch.float64)
    with pytest.raises(ValueError, match="float32"):
        problem.by_descriptors(embed_variants, double(tables), 0, norm, torch.float32)
    problem.variants = problem.variants.long()
    with pytest.raises(ValueError, match="int32"):
        problem.by_descriptors(embed_variants, tables, 0, norm, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_position_table_of_one_row_is_for_every_position(dtype):
    """For models whose positions come in by attention: the row is added everywhere, zero or not."""
    units = random_units([1, 9, 30])
    problem, (tables, norm) = Problem(units, some_of_each(units)), parameters(72)
    one, many = tables[1][5:6].clone(), tables[1][5:6].expand(PLACES, -1).contiguous()
    for function in (embed_variants, reference.embed_variants):
        found, expected = (
            problem.by_descriptors(function, (tables[0], table, tables[2]), 3, norm, dtype) for table in (one, many)
        )
        torch.testing.assert_close(found, expected)
