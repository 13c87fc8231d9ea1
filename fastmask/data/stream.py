"""Shards to a stream of training sequences: shuffled, divided among ranks, resumed exactly, in bounded memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import Any

import numba as nb
import numpy as np
from fastmask_kernels.splitmix import mix

from ..core.errors import FastmaskError
from ..models.tokenizer import recorded_tokenizer, vocabulary
from .corruption import ordinary_ids
from .sampling import Rates, drawn
from .sequences import Example, Examples, Frame, Origin, check_room, examples_of
from .shard_blocks import BLOCK_TOKENS, Corpus

WINDOW_TOKENS = 2**22
"""Tokens of the blocks that are in memory, and shuffled, together."""


class TrainingStream:
    """An endless iterator of ``(epoch, Example)`` over finished shard directories.

    **Order.** Sentences are joined within *blocks* (``corpus.Corpus``), so the sequences are the same in every epoch.
    In each epoch the blocks are shuffled and taken in *windows* of WINDOW_TOKENS tokens (at least one block); the
    sequences of a window are shuffled and come out. The order is a pure function of the sentences, ``seed`` and
    epoch: shards with the same sentences but other masks, such as a control, come in the same order (unless
    ``masked_only`` leaves out different ones). Without ``shuffle`` it is the corpus's own in every epoch.

    **Sampling.** With ``sample``, masks are drawn anew in each epoch from the shards' ``mask_prob``: each token by
    (``seed``, epoch, row, sentence, position), so that it does not matter which rank or worker has it. A sequence is
    there in every epoch if a token of it may be masked at all, also in epochs in which none is: so epochs have the
    same sequences, and ranks the same number of steps.

    **Ranks.** The epochs one after the other are one endless sequence, of which rank r takes places r, r + world,
    r + 2 * world ... So each sequence comes exactly once an epoch, whatever ``world`` is: when it does not divide
    ``len(stream)``, the last turn of an epoch is filled up from the next, and nothing is dropped or repeated.

    **Memory.** One window, or one block where that is larger: 4 bytes a token and about 60 a sentence, 75 MB measured
    for sentences of ten tokens; and two numbers per block. Sampling takes 12 bytes more for a token that may be masked.

    **Resuming.** ``state_dict`` holds the epoch and how many sequences of it all ranks have had, supposing that all
    have had as many as this one; it may be loaded by any rank of any ``world``. Going on costs a look at the sequences
    before that place in its epoch.

    Several directories follow each other; their documents are numbered on, so that ``Example.row`` tells them apart.

    Args:
        shards: a finished directory, or several made with one tokenizer.
        max_length: longest sequence, special tokens included.
        seed: of the order, and of sampled masks, at least 0.
        shuffle: whether to.
        pack: let documents share a sequence, and
        masked_only: leave out sequences without a masked token, as ``sequences.examples_of`` says.
        sample: draw masks from probabilities.
        rank: which part of the stream this is, and
        world: of how many equal ones.
        check_hashes: read the shards once to compare their SHA-256.

    Attributes:
        manifests: one for each directory.
        tokenizer: the tokenizer's record in them, with ``special_ids``.
        ordinary: int32 [K], the ids that a masked token may be replaced by.
        rank: as given.
        world: as given.
        scale: what sampling multiplies probabilities by, 1.0; it may be set between items (not with workers).

    Raises:
        OutputError: a directory is not finished, of another format version, or a shard (named) is damaged; the last
            also while iterating.
        FastmaskError: the directories' tokenizers differ or lack special tokens, or ``max_length`` is too small; while
            iterating: there is no sequence at all, or no probability to sample by.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        *,
        max_length: int,
        seed: int,
        shuffle: bool = True,
        pack: bool = False,
        masked_only: bool = False,
        sample: bool = False,
        rank: int = 0,
        world: int = 1,
        check_hashes: bool = False,
    ):
        if not 0 <= rank < world:
            raise FastmaskError(f"rank {rank} of {world}: ranks are 0 to world - 1")
        if not 0 <= seed < 2**63:
            raise FastmaskError(f"seed {seed}: 0 to 2**63 - 1")
        check_room(max_length)
        self._corpus = Corpus(shards, check_hashes=check_hashes, sample=sample)
        self.manifests, self.tokenizer = self._corpus.manifests, self._corpus.tokenizer
        self.rank, self.world = rank, world
        self._seed, self._shuffle, self._sample = seed, shuffle, sample
        self.scale, self._rates = 1.0, Rates()
        origin = Origin(self._corpus.paths[0], self.tokenizer)
        frame = Frame.of(self.tokenizer["special_ids"], self.tokenizer["name"], origin)
        join = {"max_length": max_length, "frame": frame, "pack": pack, "masked_only": masked_only}
        self._join: dict[str, Any] = join
        self._counts = np.full(len(self._corpus), -1, np.int64)
        self._tokens = np.zeros(len(self._corpus), np.int64)
        self._length = None if len(self._corpus) else 0
        self._epoch = self._example = 0

    def __len__(self) -> int:
        """Return the sequences of an epoch, over all ranks. The first call may read all shards once."""
        for block in np.flatnonzero(self._counts < 0):
            self._examples(int(block))
        return int(self._counts.sum())

    @property
    def tokens(self) -> int:
        """Return the tokens of an epoch's sequences, over all ranks, special ones included; as costly as ``len``."""
        len(self)
        return int(self._tokens.sum())

    @property
    def rates(self) -> Rates:
        """Return how many tokens sampling masks at which scale; as costly as ``len``."""
        len(self)
        return self._rates

    @cached_property
    def ordinary(self) -> np.ndarray:
        """Return the tokenizer's ids but the special ones; ModelError if neither shards nor tokenizer tell them."""
        if "vocab_size" in self.tokenizer:
            return ordinary_ids(self.tokenizer["vocab_size"], self.tokenizer["all_special_ids"])
        return ordinary_ids(*vocabulary(recorded_tokenizer(self.tokenizer)))

    def __iter__(self) -> Iterator[tuple[int, Example]]:
        """Yield items without end from the stream's position, which moves with each. Use one iterator at a time."""
        first = self._example + self.rank
        for item in self._walk(self._epoch, count(first, self.world)):
            self.advance(1)
            yield item

    def part(self, worker: int, workers: int, batch_size: int = 1) -> Iterator[tuple[int, Example]]:
        """Yield worker ``worker``'s share of this rank's items: of runs of batch_size, every ``workers``-th one.

        Taken in turns, a run from each worker, the items are those of ``iter(stream)`` in the same order. This does not
        move the stream: the caller that puts the parts together calls ``advance``.
        """
        first = self._example + self.rank
        turns = count(worker, workers)
        numbers = (turn * batch_size + k for turn in turns for k in range(batch_size))
        return self._walk(self._epoch, (first + number * self.world for number in numbers))

    def epoch(self, number: int = 0) -> Iterator[Example]:
        """Yield this rank's sequences of one epoch; the stream is not moved.

        Ranks may get one more or less than others. For held-out data; training iterates over the stream itself.
        """
        places = count(self.rank, self.world)
        return (example for _, example in self._one_epoch(number, 0, next(places), places))

    def advance(self, items: int) -> None:
        """Move the stream as if ``items`` more had been taken from ``iter(stream)``."""
        self._example += items * self.world
        if self._length:
            self._epoch, self._example = self._epoch + self._example // self._length, self._example % self._length

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's position and what it streams, JSON-ready."""
        return {"stream": self._identity(), "epoch": int(self._epoch), "example": int(self._example)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Move the stream to the position of another one, of the same shards and settings but any rank and world.

        Raises:
            FastmaskError: the other one had other shards or settings; the first difference is named.
        """
        here, there = self._identity(), {"sample": False, **state["stream"]}
        for name in here:
            if here[name] != there.get(name):
                raise FastmaskError(f"another stream's state: {name} was {there.get(name)}, here it is {here[name]}")
        # a sequence has a token at least, and each of the ranks may be one turn ahead
        most = 2 * int(self._corpus.tokens.sum()) + self.world
        if not (0 <= state["epoch"] < 2**31 and 0 <= state["example"] <= most):
            raise FastmaskError(
                f"another stream's state: epoch {state['epoch']}, sequence {state['example']} cannot be"
            )
        self._epoch, self._example = state["epoch"], state["example"]

    def _identity(self) -> dict[str, Any]:
        """Return what decides the order: hash of the shards, and the settings by name."""
        return {
            "shards": self._corpus.digest,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "sample": self._sample,
            **{name: self._join[name] for name in ("max_length", "pack", "masked_only")},
            # another version of fastmask may cut the corpus differently
            "block_tokens": BLOCK_TOKENS,
            "window_tokens": WINDOW_TOKENS,
        }

    def _walk(self, epoch: int, places: Iterator[int]) -> Iterator[tuple[int, Example]]:
        """Yield the items at ascending ``places``, counted from the start of ``epoch`` on through later ones."""
        place, start = next(places), 0
        while True:
            place, end = yield from self._one_epoch(epoch, start, place, places)
            if end == start:
                masked = " with a mask" if self._join["masked_only"] else ""
                raise FastmaskError(f"{self._corpus.name}: no sequence{masked} to train on")
            epoch, start = epoch + 1, end

    def _one_epoch(
        self, epoch: int, start: int, place: int, places: Iterator[int]
    ) -> Generator[tuple[int, Example], None, tuple[int, int]]:
        """Yield the items of one epoch at ``place`` and ``places``; the epoch's first place is ``start``.

        Returns:
            the first place beyond the epoch, and the epoch's end.
        """
        for blocks in self._windows(epoch):
            window = None
            if (self._counts[blocks] < 0).any():
                window = [self._examples(block) for block in blocks]
            end = start + int(self._counts[blocks].sum())
            if place < end:
                window = window or [self._examples(block) for block in blocks]
                which, index = self._window_order(epoch, blocks)
                while place < end:
                    at = place - start
                    example = window[which[at]][index[at]]
                    yield epoch, self._masked(epoch, example) if self._sample else example
                    place = next(places)
            start = end
        return place, start

    def _masked(self, epoch: int, example: Example) -> Example:
        return drawn(example, seed=self._seed, epoch=epoch, scale=self.scale)

    def _windows(self, epoch: int) -> list[np.ndarray]:
        """Return the blocks int64 [B] of each window, in the epoch's order."""
        tokens = self._corpus.tokens
        order = np.arange(len(tokens))
        if self._shuffle:
            order = np.argsort(_keys(_chain(self._seed, epoch), len(tokens)), kind="stable")
        windows: list[list[int]] = []
        room = 0
        for block in order:
            if not windows or tokens[block] > room:
                windows.append([])
                room = WINDOW_TOKENS
            windows[-1].append(int(block))
            room -= tokens[block]
        return [np.array(window) for window in windows]

    def _window_order(self, epoch: int, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of a window's E sequences: the block of each, int64 [E], and its number there, int64 [E]."""
        sizes = self._counts[blocks]
        which = np.repeat(np.arange(len(blocks)), sizes)
        index = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        if not self._shuffle:
            return which, index
        keys = [_keys(_chain(self._seed, epoch, block), size) for block, size in zip(blocks, sizes, strict=True)]
        order = np.argsort(np.concatenate(keys), kind="stable")
        return which[order], index[order]

    def _examples(self, block: int) -> Examples:
        """Read a block and join its sentences."""
        examples = examples_of(self._corpus.read(block), **self._join)
        if self._counts[block] < 0:
            self._counts[block], self._tokens[block] = len(examples), examples.tokens
            if self._sample:
                self._rates.add(examples)
            if (self._counts >= 0).all():
                self._length = int(self._counts.sum())
        return examples


def _chain(*values: int) -> np.uint64:
    state = np.uint64(values[0])
    for value in values[1:]:
        state = np.uint64(mix(state, np.int64(value)))
    return state


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _keys(state: np.uint64, n: int) -> np.ndarray:
    """Return random numbers to sort by, uint64 [n], the same on any machine and with any numpy."""
    keys = np.empty(n, np.uint64)
    for i in range(n):
        keys[i] = mix(state, i)
    return keys
