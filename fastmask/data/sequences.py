"""Sentences of shards to training sequences: joined up to a length, framed by special tokens, masks kept in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np

from ..core.arrays import JIT
from ..core.errors import FastmaskError
from ..core.records import FRAME


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Where sequences come from.

    Attributes:
        shards: the directory, the first of several.
        tokenizer: the record of its tokenizer in its manifest.
    """

    shards: str
    tokenizer: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One training sequence of n tokens, m of them masked.

    Attributes:
        input_ids: int32 [n], special tokens included, not corrupted.
        at: int32 [m], masked places in ``input_ids``, ascending.
        row: int64 [m], sentence: int32 [m], position: int32 [m]: the key of each masked token, which decides what it
            becomes (``corruption.corrupt``).
        word: int32 [m], the word that each is of; their positions where tokens are masked one by one.
        origin: whose tokens these are; None where that is not known.
        prob: float32 [m], above 0: these are candidates, still to be drawn by it (``sampling.drawn``); None: they are
            masked.
    """

    input_ids: np.ndarray
    at: np.ndarray
    row: np.ndarray
    sentence: np.ndarray
    position: np.ndarray
    word: np.ndarray
    origin: Origin | None = None
    prob: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens of a sequence: ``first`` in front, ``last`` at its end and between packed documents.

    ``origin`` is whose they are, for the sequences to tell.
    """

    first: int
    last: int
    origin: Origin | None = None

    @classmethod
    def of(cls, special_ids: Mapping[str, int | None], name: str, origin: Origin | None = None) -> Frame:
        """Return [CLS] and [SEP], or <s> and </s>, of the special ids in a manifest (id by role).

        Args:
            special_ids: the tokenizer's.
            name: the tokenizer's name, for messages.
            origin: of the sequences.

        Raises:
            FastmaskError: the tokenizer has neither.
        """
        ids: list[int] = []
        for roles in (("cls", "bos"), ("sep", "eos")):
            known = [found for role in roles if (found := special_ids.get(role)) is not None]
            if not known:
                raise FastmaskError(f"{name}: the tokenizer has no {' or '.join(roles)} token to put around a sequence")
            ids.append(known[0])
        return cls(ids[0], ids[1], origin)


@dataclass(frozen=True, slots=True, eq=False)
class Sentences:
    """N sentences with T tokens, M of them masked, in corpus order.

    Attributes:
        row: int64 [N], sentence: int32 [N]: which document, which sentence of it.
        offsets: int64 [N + 1] into ``input_ids`` int32 [T], from 0 to T.
        mask_offsets: int64 [N + 1] into ``mask_index`` int32 [M], from 0 to M; ascending in each sentence.
        mask_word: int32 [M], the word of each mask; its position where tokens are masked one by one.
        mask_prob: float32 [M], above 0: the masks are candidates, see ``Example``; None: they are masks.
    """

    row: np.ndarray
    sentence: np.ndarray
    offsets: np.ndarray
    input_ids: np.ndarray
    mask_offsets: np.ndarray
    mask_index: np.ndarray
    mask_word: np.ndarray
    mask_prob: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row)


class Examples(Sequence[Example]):
    """The training sequences of a run of sentences, each built when it is asked for.

    Args:
        sentences: none of them empty or longer than a sequence has room for.
        starts, ends: int64 [E], the half-open range of sentences of each sequence.
        frame: the special tokens.
    """

    def __init__(self, sentences: Sentences, starts: np.ndarray, ends: np.ndarray, frame: Frame):
        self.sentences, self.starts, self.ends, self.frame = sentences, starts, ends, frame

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def tokens(self) -> int:
        """Return the number of tokens of all sequences, special ones included."""
        s = self.sentences
        begun = np.concatenate([[0], np.cumsum(s.row[1:] != s.row[:-1])])
        separators = 1 + begun[self.ends - 1] - begun[self.starts]  # one after each document
        return int((1 + s.offsets[self.ends] - s.offsets[self.starts] + separators).sum())

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices
        s, frame = self.sentences, self.frame
        arrays = s.row, s.sentence, s.offsets, s.input_ids, s.mask_offsets, s.mask_index
        built = _build(*arrays, self.starts[index], self.ends[index], frame.first, frame.last)
        input_ids, at, row, sentence, position = built
        masks = slice(s.mask_offsets[self.starts[index]], s.mask_offsets[self.ends[index]])
        prob = None if s.mask_prob is None else s.mask_prob[masks]
        return Example(input_ids, at, row, sentence, position, s.mask_word[masks], frame.origin, prob)


def examples_of(
    sentences: Sentences, *, max_length: int, frame: Frame, pack: bool = False, masked_only: bool = False
) -> Examples:
    """Join sentences to training sequences, as the paper's authors do, or pack them.

    Joined: ``[CLS] s1 s2 .. sk [SEP]``, consecutive sentences of one document, as many as fit. Packed: documents
    follow each other in a sequence, ``[CLS] a1 a2 [SEP] b1 [SEP]``, a [SEP] after each document (FULL-SENTENCES of
    RoBERTa, section 4.2), as many sentences as fit. Either way a sentence is not split; one longer than ``max_length``
    less the two special tokens is cut on the right, and sentences without tokens are left out.

    Args:
        sentences: in corpus order; a document's are consecutive.
        max_length: longest sequence, special tokens included.
        frame: the special tokens.
        pack: let documents share a sequence.
        masked_only: leave out the sequences that have no masked token, and no candidate; they add nothing to the loss.

    Raises:
        FastmaskError: ``max_length`` has no room for a token.
    """
    room = check_room(max_length)
    sentences = _fitted(sentences, room)
    new_document = np.ones(len(sentences), bool)
    new_document[1:] = sentences.row[1:] != sentences.row[:-1]
    starts = _starts(np.diff(sentences.offsets), new_document, room, pack)
    ends = np.append(starts[1:], len(sentences)) if len(starts) else starts
    if masked_only:
        masked = sentences.mask_offsets[ends] > sentences.mask_offsets[starts]
        starts, ends = starts[masked], ends[masked]
    return Examples(sentences, starts, ends, frame)


def check_room(max_length: int) -> int:
    """Return how many ordinary tokens a sequence has room for; FastmaskError when there is none."""
    if max_length <= FRAME:
        raise FastmaskError(f"max_length {max_length}: a sequence has {FRAME} special tokens and at least one other")
    return max_length - FRAME


def _fitted(s: Sentences, room: int) -> Sentences:
    """Return the sentences that are not empty, each cut at ``room`` tokens."""
    lengths, masks = np.diff(s.offsets), np.diff(s.mask_offsets)
    input_ids, mask_index, mask_word, prob = s.input_ids, s.mask_index, s.mask_word, s.mask_prob
    if (lengths > room).any():
        position = np.arange(len(input_ids)) - np.repeat(s.offsets[:-1], lengths)
        input_ids, keep = input_ids[position < room], mask_index < room
        owner = np.repeat(np.arange(len(s)), masks)[keep]
        mask_index, mask_word, masks = mask_index[keep], mask_word[keep], np.bincount(owner, minlength=len(s))
        prob = None if prob is None else prob[keep]
        lengths = np.minimum(lengths, room)
    real = lengths > 0
    offsets, mask_offsets = (np.concatenate([[0], np.cumsum(n[real])]) for n in (lengths, masks))
    return Sentences(s.row[real], s.sentence[real], offsets, input_ids, mask_offsets, mask_index, mask_word, prob)


@nb.njit(**JIT)
def _starts(lengths: np.ndarray, new_document: np.ndarray, room: int, pack: bool) -> np.ndarray:
    """Return the first sentence of each sequence, int64 [E]: lengths int64 [N], 1 to room; new_document bool [N]."""
    starts, count, used = np.empty(len(lengths), np.int64), 0, 0
    for i in range(len(lengths)):
        separator = 1 if new_document[i] else 0
        fits = used + separator + lengths[i] <= room
        if i > 0 and fits and (pack or not new_document[i]):
            used += separator + lengths[i]
        else:
            starts[count] = i
            count += 1
            used = lengths[i]
    return starts[:count].copy()


@nb.njit(**JIT)
def _build(
    row: np.ndarray,
    sentence: np.ndarray,
    offsets: np.ndarray,
    input_ids: np.ndarray,
    mask_offsets: np.ndarray,
    mask_index: np.ndarray,
    start: int,
    end: int,
    first: int,
    last: int,
) -> tuple[np.ndarray, ...]:
    """Return the arrays of an Example, newly made: sentences ``start`` to ``end`` between ``first`` and ``last``."""
    documents = 1
    for i in range(start + 1, end):
        documents += row[i] != row[i - 1]
    ids = np.empty(1 + offsets[end] - offsets[start] + documents, np.int32)
    masks = mask_offsets[end] - mask_offsets[start]
    at, position = np.empty(masks, np.int32), np.empty(masks, np.int32)
    masked_row, masked_sentence = np.empty(masks, np.int64), np.empty(masks, np.int32)
    ids[0], place, m = first, 1, 0
    for i in range(start, end):
        if i > start and row[i] != row[i - 1]:
            ids[place] = last
            place += 1
        for k in range(mask_offsets[i], mask_offsets[i + 1]):
            at[m], position[m] = place + mask_index[k], mask_index[k]
            masked_row[m], masked_sentence[m] = row[i], sentence[i]
            m += 1
        for k in range(offsets[i], offsets[i + 1]):
            ids[place] = input_ids[k]
            place += 1
    ids[place] = last
    return ids, at, masked_row, masked_sentence, position
