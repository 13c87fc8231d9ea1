"""From a shard's sentences to blocks of work and back: equal sentences once, similar lengths together."""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from ..core.arrays import JIT, take_ragged, within
from ..core.records import EncodedSentences
from ..models.packing import Block, Template, make_block

# Tokens of all units of a block. A greedy round then packs about half as many, enough for full matrix products on one
# core, and a shard still makes enough blocks to keep every core busy to the end.
BLOCK_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class SentenceBlock:
    """S sentences with all their units, ready to be scored.

    Attributes:
        sentences: int64 [S], their numbers in the shard.
        offsets: int64 [S + 1], input_ids: int32 [T], the sentences' own tokens; word: int32 [T], their words.
        unit_sentence: int32 [U], each unit's sentence in this block; unit_label: int32 [U], -1 where unknown.
        key: uint64 [U], identity of the unit in the corpus, for the audit sample.
        is_aspect: whether the units are (aspect, text) pairs.
        block: the units' tokens.
    """

    sentences: np.ndarray
    offsets: np.ndarray
    input_ids: np.ndarray
    word: np.ndarray
    unit_sentence: np.ndarray
    unit_label: np.ndarray
    key: np.ndarray
    is_aspect: bool
    block: Block


@nb.njit(**JIT)
def _fold(state: np.uint64, values: np.ndarray) -> np.uint64:
    for value in values:
        state = (state ^ np.uint64(np.int64(value) + 2)) * np.uint64(0x9E3779B97F4A7C15)
        state ^= state >> np.uint64(29)
    return (state ^ np.uint64(len(values))) * np.uint64(0xBF58476D1CE4E5B9)


@nb.njit(**JIT)
def _sentence_hashes(
    offsets: np.ndarray,
    input_ids: np.ndarray,
    unit_start: np.ndarray,
    unit_label: np.ndarray,
    context_offsets: np.ndarray,
    context_ids: np.ndarray,
    word: np.ndarray,
    out: np.ndarray,
) -> None:
    for s in range(len(offsets) - 1):
        state = _fold(np.uint64(0x94D049BB133111EB), input_ids[offsets[s] : offsets[s + 1]])
        state = _fold(state, unit_label[unit_start[s] : unit_start[s + 1]])
        for u in range(unit_start[s], unit_start[s + 1]):
            state = _fold(state, context_ids[context_offsets[u] : context_offsets[u + 1]])
        if len(word):
            state = _fold(state, word[offsets[s] : offsets[s + 1]])
        out[s] = state


def distinct_sentences(shard: EncodedSentences, by_word: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Find which sentences have to be scored, and which repeat one of them: labels, aspects, if need be words, too.

    Returns:
        distinct int64 [S], ascending, sentences with at least one unit; original int64 [N], for each sentence of the
        shard the first one equal to it (itself, usually).
    """
    n = len(shard)
    unit_start = _unit_start(shard)
    hashes, word = np.empty(n, np.uint64), shard.word if by_word else shard.word[:0]
    contexts = shard.context_offsets, shard.context_ids
    _sentence_hashes(shard.offsets, shard.input_ids, unit_start, shard.unit_label, *contexts, word, hashes)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return np.sort(first[np.diff(unit_start)[first] > 0]), first[inverse]


def make_blocks(
    shard: EncodedSentences,
    sentences: np.ndarray,
    template: Template,
    max_length: int,
    block_tokens: int = BLOCK_TOKENS,
) -> list[SentenceBlock]:
    """Return blocks of about ``block_tokens`` from some sentences int64 [S] that have units, longest first.

    Sentences of similar lengths end in the same round, and the blocks that run last are the short ones.
    """
    unit_start = _unit_start(shard)
    lengths, units = np.diff(shard.offsets), np.diff(unit_start)
    order = sentences[np.argsort(-lengths[sentences], kind="stable")]
    ranges = _cut(lengths[order] * units[order], block_tokens)
    return [_block(shard, order[a:b], unit_start, template, max_length) for a, b in ranges]


def make_pools(
    shard: EncodedSentences, sentences: np.ndarray, template: Template, max_length: int, pool_tokens: int
) -> list[SentenceBlock]:
    """Return an even number of blocks of at most about ``pool_tokens`` with the same mix of lengths, for a device.

    Two are under way at a time, and both have work for it to their ends.
    """
    if not len(sentences):
        return []
    unit_start = _unit_start(shard)
    lengths, units = np.diff(shard.offsets), np.diff(unit_start)
    order = sentences[np.argsort(-lengths[sentences], kind="stable")]
    pairs = -(-int((lengths[order] * units[order]).sum()) // (2 * pool_tokens))
    count = min(2 * max(pairs, 1), len(order))
    return [_block(shard, order[n::count], unit_start, template, max_length) for n in range(count)]


def _unit_start(shard: EncodedSentences) -> np.ndarray:
    """Return int64 [N + 1]: each sentence's first unit."""
    return np.searchsorted(shard.unit_sentence, np.arange(len(shard) + 1)).astype(np.int64)


def _cut(work: np.ndarray, block_tokens: int) -> list[tuple[int, int]]:
    """Return half-open ranges of consecutive sentences with about ``block_tokens`` unit tokens: work int64 [S]."""
    ranges, start, total = [], 0, 0
    for at, tokens in enumerate(work.tolist()):
        if total and total + tokens > block_tokens:
            ranges.append((start, at))
            start, total = at, 0
        total += tokens
    return [*ranges, (start, len(work))] if len(work) else ranges


def _block(
    shard: EncodedSentences, chosen: np.ndarray, unit_start: np.ndarray, template: Template, max_length: int
) -> SentenceBlock:
    offsets, input_ids = take_ragged(shard.offsets, shard.input_ids, chosen)
    _, word = take_ragged(shard.offsets, shard.word, chosen)
    counts = (unit_start[1:] - unit_start[:-1])[chosen]
    units = np.repeat(unit_start[:-1][chosen], counts) + within(counts)
    unit_sentence = np.repeat(np.arange(len(chosen), dtype=np.int32), counts)
    context_offsets, context_ids = take_ragged(shard.context_offsets, shard.context_ids, units)
    context_offsets, context_ids = _cut_contexts(context_offsets, context_ids, template.longest_context(max_length))
    unit_offsets, unit_ids = take_ragged(offsets, input_ids, unit_sentence)
    row, number = shard.row[chosen][unit_sentence], shard.sentence[chosen][unit_sentence]
    key = (
        (row.astype(np.uint64) << np.uint64(24))
        ^ (number.astype(np.uint64) << np.uint64(8))
        ^ within(counts).astype(np.uint64)
    )
    room = template.room(np.diff(context_offsets), max_length)
    block = make_block(unit_offsets, unit_ids, context_offsets, context_ids, room, template)
    return SentenceBlock(
        chosen, offsets, input_ids, word, unit_sentence, shard.unit_label[units], key, shard.is_aspect, block
    )


def _cut_contexts(offsets: np.ndarray, ids: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ragged contexts, int64 [U + 1] and int32 [C], none longer than ``longest``."""
    lengths = np.diff(offsets)
    if not np.any(lengths > longest):
        return offsets, ids
    kept = np.concatenate([[0], np.cumsum(np.minimum(lengths, longest))])
    return kept, ids[within(lengths) < longest]
