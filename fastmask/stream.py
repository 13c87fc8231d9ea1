"""Shards to a stream of training sequences: shuffled, divided among ranks, resumed exactly, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from os import PathLike, fspath

import numba as nb
import numpy as np
from fastmask_kernels.splitmix import mix

from .dataset import ShardSet, open_shards
from .errors import FastmaskError, OutputError
from .schema import MANIFEST, ROW_GROUP, list_lengths
from .sequences import Example, Examples, Frame, Sentences, check_room, examples_of

BLOCK_TOKENS = 2**18
"""A block is a run of sentences with at least as many tokens, in row groups; sequences do not cross its border."""
WINDOW_TOKENS = 2**23
"""Tokens of the blocks that are in memory, and shuffled, together."""
COLUMNS = ["row", "sentence", "input_ids", "mask_index"]


class TrainingStream:
    """An endless iterator of ``(epoch, Example)`` over finished shard directories.

    **Order.** Sentences are taken in *blocks*: neighbouring row groups (16,384 rows, or what a shard has) with at least
    BLOCK_TOKENS tokens, which never depend on the epoch. In each epoch the blocks are shuffled and taken in *windows*
    of WINDOW_TOKENS tokens (at least one block); the sequences of a window are shuffled and come out. The order is a
    pure function of the shards, ``seed`` and epoch. Without ``shuffle`` it is the corpus's own in every epoch.

    **Ranks.** The epochs one after the other are one endless sequence, of which rank r takes places r, r + world,
    r + 2 * world ... So each sequence comes exactly once an epoch, whatever ``world`` is: when it does not divide
    ``len(stream)``, the last turn of an epoch is filled up from the next, and nothing is dropped or repeated.

    **Memory.** One window: WINDOW_TOKENS tokens (4 bytes each) and what belongs to them, or one block if that is
    larger; and a number per block.

    **Resuming.** ``state_dict`` holds the epoch and how many sequences of it all ranks have had, supposing that all
    have had as many as this one; it may be loaded by any rank of any ``world``. Going on costs a look at the sequences
    before that place in its epoch.

    Several directories follow each other; their documents are numbered on, so that ``Example.row`` tells them apart.

    Args:
        shards: a finished directory, or several made with one tokenizer.
        max_length: longest sequence, special tokens included.
        seed: of the order, at least 0.
        shuffle: whether to.
        pack: let documents share a sequence, and
        masked_only: leave out sequences without a masked token, as ``sequences.examples_of`` says.
        rank, world: which of how many equal parts of the stream this is.
        check_hashes: read the shards once to compare their SHA-256.

    Attributes:
        manifests: one for each directory.
        tokenizer: the tokenizer's record in them, with ``special_ids``.
        rank, world: as given.

    Raises:
        OutputError: a directory is not finished, of another format version, or a shard (named) is damaged; the last
            also while iterating.
        FastmaskError: the directories' tokenizers differ or lack special tokens, or ``max_length`` is too small; while
            iterating: there is no sequence at all.
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
        rank: int = 0,
        world: int = 1,
        check_hashes: bool = False,
    ):
        if not 0 <= rank < world:
            raise FastmaskError(f"rank {rank} of {world}: ranks are 0 to world - 1")
        self._sets = [open_shards(path, check_hashes=check_hashes) for path in _paths(shards)]
        self.manifests = [each.manifest for each in self._sets]
        self.tokenizer = _one_tokenizer(self._sets)
        self.rank, self.world = rank, world
        self._seed, self._shuffle = seed, shuffle
        check_room(max_length)
        frame = Frame.of(self.tokenizer["special_ids"], self.tokenizer["name"])
        self._join = {"max_length": max_length, "frame": frame, "pack": pack, "masked_only": masked_only}
        self._blocks = _make_blocks(self._sets)
        self._counts = np.full(len(self._blocks), -1, np.int64)
        self._uncounted = len(self._blocks)
        self._epoch = self._example = 0

    def __len__(self) -> int:
        """Sequences of an epoch, over all ranks. The first call reads the shards once if no epoch was finished yet."""
        for block in np.flatnonzero(self._counts < 0):
            self._examples(block)
        return int(self._counts.sum())

    def __iter__(self) -> Iterator[tuple[int, Example]]:
        """From where the stream stands, without end; each item moves it on. One iterator at a time."""
        first = self._example + self.rank
        for item in self._walk(self._epoch, count(first, self.world)):
            self.advance(1)
            yield item

    def part(self, worker: int, workers: int, batch_size: int = 1) -> Iterator[tuple[int, Example]]:
        """What worker ``worker`` of ``workers`` has to fetch of this rank's items: every workers-th run of batch_size.

        Taken in turns, a run from each worker, the items are those of ``iter(stream)`` in the same order. This does not
        move the stream: who puts the parts together calls ``advance``.
        """
        first = self._example + self.rank
        turns = count(worker, workers)
        numbers = (turn * batch_size + k for turn in turns for k in range(batch_size))
        return self._walk(self._epoch, (first + number * self.world for number in numbers))

    def epoch(self, number: int = 0) -> Iterator[Example]:
        """This rank's sequences of one epoch alone; the stream is not moved.

        Ranks may get one more or less than others. For held-out data; training iterates over the stream itself.
        """
        places = count(self.rank, self.world)
        return (example for _, example in self._one_epoch(number, 0, next(places), places))

    def advance(self, items: int) -> None:
        """Moves the stream as if ``items`` more had been taken from ``iter(stream)``."""
        self._example += items * self.world
        if not self._uncounted and (length := len(self)):
            self._epoch, self._example = self._epoch + self._example // length, self._example % length

    def state_dict(self) -> dict:
        """Where the stream stands and what it streams, JSON-ready."""
        return {"stream": self._identity(), "epoch": self._epoch, "example": self._example}

    def load_state_dict(self, state: dict) -> None:
        """Moves the stream to where another one, of the same shards and settings but any rank and world, stood.

        Raises:
            FastmaskError: the other one's shards or settings were not these; the first difference is named.
        """
        here, there = self._identity(), state["stream"]
        for name in here:
            if here[name] != there.get(name):
                raise FastmaskError(f"the training data was at another {name}: {there.get(name)}, now {here[name]}")
        self._epoch, self._example = state["epoch"], state["example"]

    def _identity(self) -> dict:
        """What decides the order: hash of the shards, and the settings by name."""
        digest = hashlib.sha256()
        for entry in (entry for manifest in self.manifests for entry in manifest["shards"]):
            digest.update(entry["sha256"].encode())
        settings = {name: self._join[name] for name in ("max_length", "pack", "masked_only")}
        return {"shards": digest.hexdigest(), "seed": self._seed, "shuffle": self._shuffle, **settings}

    def _walk(self, epoch: int, places: Iterator[int]) -> Iterator[tuple[int, Example]]:
        """The items at ascending ``places``, counted from the start of ``epoch`` on through later ones."""
        place, start = next(places), 0
        while True:
            place, end = yield from self._one_epoch(epoch, start, place, places)
            if end == start:
                masked = " with a mask" if self._join["masked_only"] else ""
                raise FastmaskError(f"{', '.join(str(each.path) for each in self._sets)}: holds no sequence{masked}")
            epoch, start = epoch + 1, end

    def _one_epoch(self, epoch: int, start: int, place: int, places: Iterator[int]):
        """Yields the items of one epoch at ``place`` and ``places``; the epoch's first place is ``start``.

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
                    yield epoch, window[which[at]][index[at]]
                    place = next(places)
            start = end
        return place, start

    def _windows(self, epoch: int) -> list[np.ndarray]:
        """Blocks int64 [B] of each window, in the epoch's order."""
        tokens = np.array([block.tokens for block in self._blocks], np.int64)
        order = np.arange(len(tokens))
        if self._shuffle:
            order = np.argsort(_keys(_chain(self._seed, epoch), len(tokens)), kind="stable")
        windows: list[list[int]] = []
        room = 0
        for block in order:
            if tokens[block] > room:
                windows.append([])
                room = WINDOW_TOKENS
            windows[-1].append(block)
            room -= tokens[block]
        return [np.array(window) for window in windows]

    def _window_order(self, epoch: int, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The order of a window's E sequences: int64 [E] which of its blocks, int64 [E] which sequence of that."""
        sizes = self._counts[blocks]
        which = np.repeat(np.arange(len(blocks)), sizes)
        index = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        if not self._shuffle:
            return which, index
        keys = [_keys(_chain(self._seed, epoch, block), size) for block, size in zip(blocks, sizes, strict=True)]
        order = np.argsort(np.concatenate(keys), kind="stable")
        return which[order], index[order]

    def _examples(self, block: int) -> Examples:
        """Reads a block and joins its sentences."""
        parts = [_sentences(self._sets[part.set], part) for part in self._blocks[block].parts]
        examples = examples_of(_concatenated(parts), **self._join)
        if self._counts[block] < 0:
            self._counts[block] = len(examples)
            self._uncounted -= 1
        return examples


@dataclass(frozen=True, slots=True)
class Part:
    """Rows ``start`` to ``stop`` of shard ``shard`` of directory ``set``; ``base`` is added to document numbers."""

    set: int
    shard: int
    start: int
    stop: int
    base: int


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring parts that are joined together, and how many tokens they have, nearly."""

    parts: tuple[Part, ...]
    tokens: int


def _make_blocks(sets: Sequence[ShardSet]) -> list[Block]:
    """All sentences as blocks, in corpus order. Tokens of a part are its share of its shard's."""
    blocks, parts, tokens, base = [], [], 0, 0
    for number, shards in enumerate(sets):
        for entry in shards.manifest["shards"]:
            rows = entry["rows"]
            for start in range(0, rows, ROW_GROUP):
                stop = min(start + ROW_GROUP, rows)
                parts.append(Part(number, entry["index"], start, stop, base))
                tokens += entry["tokens"] * (stop - start) // rows
                if tokens >= BLOCK_TOKENS:
                    blocks.append(Block(tuple(parts), tokens))
                    parts, tokens = [], 0
        base += max((entry["end_row"] for entry in shards.manifest["shards"]), default=0)
    return [*blocks, *([Block(tuple(parts), tokens)] if parts else [])]


def _sentences(shards: ShardSet, part: Part) -> Sentences:
    """The part's sentences, checked as far as indices go: shards may have been edited since they were hashed."""
    import pyarrow.compute as pc

    table = shards.read_rows(part.shard, part.start, part.stop, COLUMNS)
    lengths, masks = (list_lengths(table[name]) for name in ("input_ids", "mask_index"))
    input_ids, mask_index = (pc.list_flatten(table[name]).to_numpy() for name in ("input_ids", "mask_index"))
    if ((mask_index < 0) | (mask_index >= np.repeat(lengths, masks))).any():
        path = shards.path / shards.manifest["shards"][part.shard]["file"]
        raise OutputError(f"{path}: mask_index leaves its sentence")
    row, sentence = table["row"].to_numpy() + part.base, table["sentence"].to_numpy()
    return Sentences(row, sentence, _offsets(lengths), input_ids, _offsets(masks), mask_index)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _concatenated(parts: Sequence[Sentences]) -> Sentences:
    if len(parts) == 1:
        return parts[0]
    row, sentence, input_ids, mask_index = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("row", "sentence", "input_ids", "mask_index")
    )
    offsets, mask_offsets = (
        _offsets(np.concatenate([np.diff(getattr(part, name)) for part in parts]))
        for name in ("offsets", "mask_offsets")
    )
    return Sentences(row, sentence, offsets, input_ids, mask_offsets, mask_index)


def _paths(shards: str | Sequence[str]) -> list[str]:
    paths = [fspath(shards)] if isinstance(shards, str | PathLike) else [fspath(path) for path in shards]
    if not paths:
        raise FastmaskError("name at least one shard directory")
    return paths


def _one_tokenizer(sets: Sequence[ShardSet]) -> dict:
    """The manifests' tokenizer record; its name may differ (a model may have been moved), its content may not."""
    records = [shards.manifest["tokenizer"] for shards in sets]
    for shards, record in zip(sets, records, strict=True):
        for key in ("vocabulary_sha256", "special_ids"):
            if key not in record:
                raise OutputError(f"{shards.path / MANIFEST}: the tokenizer's {key} are not in it")
            if record[key] != records[0][key]:
                raise FastmaskError(f"{shards.path}: made with another tokenizer than {sets[0].path} ({key})")
    return records[0]


def _chain(*values: int) -> np.uint64:
    state = np.uint64(values[0])
    for value in values[1:]:
        state = np.uint64(mix(state, np.int64(value)))
    return state


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _keys(state, n):
    """uint64 [n], random numbers to sort by, the same on any machine and with any numpy."""
    keys = np.empty(n, np.uint64)
    for i in range(n):
        keys[i] = mix(state, i)
    return keys
