"""Packing, hashing and planning against plain Python."""

from itertools import pairwise

import numpy as np
from helpers import FIRST_ID, PAIR_TEMPLATE, TEXT_TEMPLATE, encoded, split
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask.core.arrays import take_ragged
from fastmask.core.memo import Memo
from fastmask.models.packing import Template, Variants, batch_starts, hash_variants, pack_variants
from fastmask.scoring.blocks import distinct_sentences, make_blocks
from fastmask.scoring.cascade import uncertified
from fastmask.scoring.method import Rules
from fastmask.scoring.methods.greedy import GreedyBlock, advance
from fastmask.scoring.methods.leave_one_out import LeaveOneOutBlock
from fastmask.scoring.methods.prefix import PrefixBlock
from fastmask.scoring.variants import whole

FULL = -1
"""Names the whole sentence here."""
BLOCKS = {"greedy": GreedyBlock, "prefix": PrefixBlock, "leave-one-out": LeaveOneOutBlock}

QUICK = settings(deadline=None, max_examples=60)
words = st.lists(st.integers(FIRST_ID, 9), min_size=1, max_size=10)
context = st.lists(st.integers(FIRST_ID, 9), min_size=1, max_size=3)


def naive(template: Template, method, words, kept, i, context, room) -> tuple[list[int], list[int]]:
    """A variant's ids and types; ``kept``: the positions in greedy's buffer."""
    content = {
        "greedy": [words[k] for k in kept if k < i] + words[i : i + 1],
        "prefix": words[: i + 1],
        "leave-one-out": words[:i] + words[i + 1 :],
    }[method]
    content = (words if i == FULL else content)[:room]
    first = [*template.prefix.tolist(), *context, *template.middle.tolist()]
    second = [*content, *template.suffix.tolist()]
    return first + second, [0] * len(first) + [template.content_type] * len(second)


def block_of(sentences, contexts, method, max_length):
    aspects = None if contexts is None else [[(c, 0)] for c in contexts]
    template = TEXT_TEMPLATE if contexts is None else PAIR_TEMPLATE
    everything = np.arange(len(sentences))
    (block,) = make_blocks(encoded(sentences, aspects=aspects), everything, template, max_length, 1 << 20)
    rules = Rules(0.05, None, np.zeros((2, 50), bool), False, 0)
    return BLOCKS[method](block, None, uncertified("float32"), rules), template


def described(scored, units, indices):
    """Its variants; index FULL is the whole sentence."""
    full = indices == FULL
    parts = whole(scored.block, units[full]), scored.variants(units[~full], indices[~full])
    order = np.argsort(np.concatenate([np.flatnonzero(full), np.flatnonzero(~full)]))
    table, lengths = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("table", "lengths"))
    return Variants(table, lengths)


def assert_packed(scored, method, template, kept, max_length):
    """Every variant of every unit, packed in one batch, is the naive one; equal ones alone have equal hashes."""
    block = scored.block
    counts = np.diff(block.offsets)
    cursors = scored.walk.cursor if method == "greedy" else counts - 1
    asked = [(u, i) for u, n in enumerate(counts) for i in range(FULL, min(n, cursors[u] + 1))]
    units, indices = (np.array(column, np.int32) for column in zip(*asked, strict=True))
    variants = described(scored, units, indices)
    hashes, lengths = hash_variants(block, variants), variants.lengths
    batch = pack_variants(block, variants)
    sentences, contexts = split(block.offsets, block.input_ids), split(block.context_offsets, block.context_ids)
    found = {}
    for (u, i), h, (a, b) in zip(asked, hashes.tolist(), pairwise(batch.cu_seqlens), strict=True):
        special = len(template.prefix) + len(template.middle) + len(template.suffix)
        room = max(max_length - special - len(contexts[u]), 0)
        ids, types = naive(template, method, sentences[u], kept[u], i, contexts[u], room)
        assert batch.input_ids[a:b].tolist() == ids and batch.token_type_ids[a:b].tolist() == types
        assert found.setdefault(h, ids) == ids
    assert len(found) == len({tuple(ids) for ids in found.values()})
    assert batch.max_seqlen == max(lengths) and len(batch) == len(asked)


@st.composite
def problems(draw):
    sentences = draw(st.lists(words, min_size=1, max_size=5, unique_by=tuple))
    contexts = draw(st.none() | st.lists(context, min_size=len(sentences), max_size=len(sentences)))
    return sentences, contexts, draw(st.sampled_from([8, 9, 128]))


@given(problems(), st.sampled_from(["prefix", "leave-one-out"]))
@QUICK
def test_variants_known_at_once(problem, method):
    sentences, contexts, max_length = problem
    scored, template = block_of(sentences, contexts, method, max_length)
    assert_packed(scored, method, template, [[]] * len(sentences), max_length)


@given(problems(), st.integers(0, 99))
@QUICK
def test_greedys_buffer(problem, seed):
    sentences, contexts, max_length = problem
    scored, template = block_of(sentences, contexts, "greedy", max_length)
    rng = np.random.default_rng(seed)
    block, walk, (z, _, important) = scored.block, scored.walk, scored.decided
    kept = [[] for _ in sentences]
    active = np.arange(len(block.room), dtype=np.int32)
    while len(active):
        assert_packed(scored, "greedy", template, kept, max_length)
        at = block.offsets[active] + walk.cursor[active]
        z[at], important[at] = rng.random(len(at)), rng.random(len(at)) < 0.5
        asked = list(zip(active.tolist(), walk.cursor[active].tolist(), important[at].tolist(), strict=True))
        full = {u for u, _, _ in asked if len(kept[u]) >= block.room[u]}
        advance(block, walk, active, scored.decided)
        active = active[walk.cursor[active] < np.diff(block.offsets)[active]]
        for u, i, left_out in asked:
            n = block.offsets[u + 1] - block.offsets[u]
            assert walk.cursor[u] == (n if u in full else i + 1)
            if u not in full and not left_out:
                kept[u].append(i)
            if u in full:  # every later variant is this one: all take its answer
                rest = slice(block.offsets[u] + i, block.offsets[u + 1])
                assert len(set(z[rest].tolist())) == len(set(important[rest].tolist())) == 1
        assert set(active.tolist()) == {u for u, _, _ in asked if walk.cursor[u] < np.diff(block.offsets)[u]}
    assert not np.isnan(z).any()


def test_no_variant():
    scored, _ = block_of([[3]], None, "prefix", 8)
    variants = scored.variants(np.empty(0, np.int32), np.empty(0, np.int32))
    assert len(hash_variants(scored.block, variants)) == len(variants) == 0


def test_same_words_after_other_aspects_are_other_variants():
    block = block_of([[3, 4], [3, 4]], [[5], [6]], "greedy", 128)[0].block
    hashes = hash_variants(block, whole(block, block.units))
    assert hashes[0] != hashes[1]
    # nor may a word move from the aspect to the text
    block = block_of([[4, 3], [3]], [[5], [5, 4]], "prefix", 128)[0].block
    variants = whole(block, block.units)
    hashes = hash_variants(block, variants)
    assert hashes[0] != hashes[1] and variants.lengths[0] == variants.lengths[1]


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=30), st.sampled_from([1, 2**64 - 41, 0x9E37]))
@QUICK
def test_memo_numbers_what_is_new_in_order(batches, scale):
    memo, known = Memo(), {}
    for batch in batches:
        hashes = np.array([(value * scale) % 2**64 for value in batch], np.uint64)
        assert memo.slots(hashes).tolist() == [known.setdefault(int(h), len(known)) for h in hashes]
        assert memo.used == len(known)


def test_memo_grows():
    memo, hashes = Memo(), np.random.default_rng(0).integers(0, 2**63, 50_000).astype(np.uint64)
    hashes = np.unique(hashes)
    for part in np.array_split(hashes, 7):
        memo.slots(part)
    assert memo.slots(hashes).tolist() == list(range(len(hashes)))


@given(
    sentences=st.lists(st.lists(st.integers(FIRST_ID, 5), min_size=1, max_size=3), min_size=1, max_size=12),
    labels=st.lists(st.integers(-1, 1), min_size=12, max_size=12),
    tokens=st.sampled_from([1, 5, 1000]),
)
@QUICK
def test_blocks_have_each_distinct_sentence_once(sentences, labels, tokens):
    labels = labels[: len(sentences)]
    shard = encoded(sentences, labels)
    distinct, original = distinct_sentences(shard)
    keys = list(zip(map(tuple, sentences), labels, strict=True))
    assert distinct.tolist() == [n for n, key in enumerate(keys) if key not in keys[:n]]
    assert original.tolist() == [keys.index(key) for key in keys]
    blocks = make_blocks(shard, distinct, TEXT_TEMPLATE, 128, tokens)
    placed = [n for block in blocks for n in block.sentences.tolist()]
    assert sorted(placed) == distinct.tolist()
    lengths = [len(sentences[n]) for n in placed]
    assert lengths == sorted(lengths, reverse=True)
    for block in blocks:
        assert [sentences[n] for n in block.sentences] == split(block.offsets, block.input_ids)
        assert block.unit_label.tolist() == [labels[n] for n in block.sentences]
        assert len(block.sentences) == 1 or len(block.input_ids) <= tokens


def test_blocks_of_aspects():
    texts = [[3, 4], [5], [3, 4], [3, 4], [6]]
    aspects = [[([7], 0), ([8, 8], 1)], [], [([7], 0), ([8, 8], 1)], [([7], 0), ([8], 1)], [([7], 0)]]
    shard = encoded(texts, aspects=aspects)
    distinct, original = distinct_sentences(shard)
    assert distinct.tolist() == [0, 3, 4] and original.tolist() == [0, 1, 0, 3, 4]
    (block,) = make_blocks(shard, distinct, PAIR_TEMPLATE, 128)
    assert block.sentences.tolist() == [0, 3, 4] and block.unit_sentence.tolist() == [0, 0, 1, 1, 2]
    assert split(block.block.context_offsets, block.block.context_ids) == [[7], [8, 8], [7], [8], [7]]
    assert split(block.block.offsets, block.block.input_ids) == [[3, 4]] * 4 + [[6]]
    assert len(set(block.key.tolist())) == 5


def test_blocks_of_nothing():
    shard = encoded([[3], [4]], aspects=[[], []])
    distinct, original = distinct_sentences(shard)
    assert len(distinct) == 0 and len(original) == 2
    assert make_blocks(shard, distinct, PAIR_TEMPLATE, 128) == []


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.sampled_from([1, 7, 20, 64, 1000]))
@QUICK
def test_batches_stay_within_the_budget(lengths, budget):
    starts = batch_starts(np.array(lengths, np.int32), budget).tolist()
    expected, total = [], budget + 1
    for at, length in enumerate(lengths):
        total += length
        if total > budget:
            expected.append(at)
            total = length
    assert starts == expected and starts[0] == 0
    for a, b in pairwise([*starts, len(lengths)]):
        assert sum(lengths[a:b]) <= budget or b - a == 1


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6), st.data())
@QUICK
def test_take_ragged(lists, data):
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8))
    offsets = np.cumsum([0, *map(len, lists)])
    values = np.array([v for values in lists for v in values], np.int32)
    taken = take_ragged(offsets, values, np.array(chosen, np.int64))
    assert split(*taken) == [lists[n] for n in chosen]
