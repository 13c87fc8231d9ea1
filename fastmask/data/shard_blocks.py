"""Several shard directories as one corpus of blocks of sentences, of which only the metadata is in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.arrays import offsets_of, within
from ..core.errors import FastmaskError, OutputError
from ..shards.columns import flat, list_lengths, numbers, present
from ..shards.reader import ShardSet, masked_words, open_shards
from ..shards.schema import manifest_path
from ..shards.table import ROW_GROUP
from .sequences import Sentences

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_TOKENS = 2**18
"""Tokens that a block has at least, but for the last."""
_PROBABILITIES = "mask_prob"


class Corpus:
    """The sentences of finished shard directories, one directory after the other, in ``len()`` blocks.

    A block is a run of whole row groups (ROW_GROUP rows of a shard, or what it has) with at least BLOCK_TOKENS tokens.
    Documents are numbered on from one directory to the next.

    Args:
        shards: a directory, or several made with one tokenizer.
        check_hashes: read the shards once to compare their SHA-256.
        sample: give the tokens with a ``mask_prob`` above 0 as candidates, instead of the masks.

    Attributes:
        manifests: one for each directory.
        tokenizer: the tokenizer's record in them.
        tokens: int64 [blocks], tokens of each block, nearly.
        digest: a hash of all that is in the shards.
        paths: the directories; name: the same, for messages.

    Raises:
        OutputError: a directory is not finished, of another format version, or a shard (named) is damaged.
        FastmaskError: the tokenizers differ; or, when read, shards to sample from have no probabilities.
    """

    def __init__(self, shards: str | Sequence[str], *, check_hashes: bool = False, sample: bool = False):
        sets = [open_shards(path, check_hashes=check_hashes) for path in _paths(shards)]
        self.manifests = [each.manifest for each in sets]
        self.tokenizer = _one_tokenizer(sets)
        hashes = [[entry["sha256"] for entry in manifest["shards"]] for manifest in self.manifests]
        self.digest = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
        self._sample = sample
        self.paths = [str(each.path) for each in sets]
        self.name = ", ".join(self.paths)
        blocks = list(_make_blocks(sets))
        self._blocks = [parts for parts, _ in blocks]
        self.tokens = np.array([tokens for _, tokens in blocks], np.int64)

    def __len__(self) -> int:
        return len(self._blocks)

    def read(self, block: int) -> Sentences:
        """Return the sentences of a block; OutputError names a shard that is damaged."""
        return _concatenated([_sentences(part, self._sample) for part in self._blocks[block]])


@dataclass(frozen=True, slots=True)
class Part:
    """Rows ``start`` to ``stop`` of shard ``shard`` of a directory; ``base`` is added to its document numbers."""

    shards: ShardSet
    shard: int
    start: int
    stop: int
    base: int


def _make_blocks(sets: Sequence[ShardSet]) -> Iterator[tuple[tuple[Part, ...], int]]:
    """Return the blocks in corpus order, and about how many tokens each has: its share of its shard's."""
    parts: list[Part] = []
    tokens = base = 0
    for shards in sets:
        for entry in shards.manifest["shards"]:
            rows = entry["rows"]
            for start in range(0, rows, ROW_GROUP):
                stop = min(start + ROW_GROUP, rows)
                parts.append(Part(shards, entry["index"], start, stop, base))
                tokens += entry["tokens"] * (stop - start) // rows
                if tokens >= BLOCK_TOKENS:
                    yield tuple(parts), tokens
                    parts, tokens = [], 0
        base += max((entry["end_row"] for entry in shards.manifest["shards"]), default=0)
    if parts:
        yield tuple(parts), tokens


def _sentences(part: Part, sample: bool) -> Sentences:
    """Return the part's sentences, with masks or with candidates."""
    by_word = part.shards.manifest["config"].get("unit") == "word"
    chosen_by = _PROBABILITIES if sample and part.shards.version > 1 else "mask_index"
    columns = ["row", "sentence", "input_ids", chosen_by, *(["word"] if by_word else [])]
    table = part.shards.read_rows(part.shard, part.start, part.stop, columns)
    lengths, input_ids = list_lengths(table["input_ids"]), flat(table["input_ids"])
    if sample:
        mask_index, masks, prob = candidates(_probabilities(part.shards, table), lengths)
    else:
        mask_index, masks, prob = flat(table["mask_index"]), list_lengths(table["mask_index"]), None
    row, sentence = numbers(table["row"]) + part.base, numbers(table["sentence"])
    word = masked_words(flat(table["word"]), lengths, mask_index, masks) if by_word else mask_index
    return Sentences(row, sentence, offsets_of(lengths), input_ids, offsets_of(masks), mask_index, word, prob)


def _probabilities(shards: ShardSet, table: pa.Table) -> np.ndarray:
    """Return float32 [T], the probability to mask each token; FastmaskError where there are none."""
    if _PROBABILITIES not in table.column_names or not present(table[_PROBABILITIES]).all():
        method = shards.manifest["config"].get("method")
        raise FastmaskError(f"{shards.path}: has no mask_prob to draw masks by; --method {method} gives none")
    return flat(table[_PROBABILITIES])


def candidates(prob: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tokens that may be masked: positions int32 [M], how many of each sentence int64 [N], float32 [M].

    Args:
        prob: float32 [T], the probability to mask each token.
        lengths: int [N], tokens of each sentence.
    """
    flat_index = np.flatnonzero(prob > 0)
    owner = np.repeat(np.arange(len(lengths)), lengths)[flat_index]
    position = within(lengths)[flat_index].astype(np.int32)
    return position, np.bincount(owner, minlength=len(lengths)), prob[flat_index]


def _concatenated(parts: Sequence[Sentences]) -> Sentences:
    if len(parts) == 1:
        return parts[0]
    row, sentence, input_ids, mask_index, word = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("row", "sentence", "input_ids", "mask_index", "mask_word")
    )
    offsets, mask_offsets = (
        offsets_of(np.concatenate([np.diff(getattr(part, name)) for part in parts]))
        for name in ("offsets", "mask_offsets")
    )
    probs = [part.mask_prob for part in parts if part.mask_prob is not None]
    prob = np.concatenate(probs) if probs else None
    return Sentences(row, sentence, offsets, input_ids, mask_offsets, mask_index, word, prob)


def _paths(shards: str | Sequence[str]) -> list[str]:
    paths = [fspath(shards)] if isinstance(shards, str | PathLike) else [fspath(path) for path in shards]
    if not paths:
        raise FastmaskError("name at least one shard directory")
    return paths


def _one_tokenizer(sets: Sequence[ShardSet]) -> dict[str, Any]:
    """Return the manifests' tokenizer record; its name may differ (a model may have been moved), its content not."""
    records: list[dict[str, Any]] = [shards.manifest["tokenizer"] for shards in sets]
    for shards, record in zip(sets, records, strict=True):
        for key in ("vocabulary_sha256", "special_ids"):
            if key not in record:
                raise OutputError(f"{manifest_path(shards.path)}: the tokenizer's {key} are not in it")
            if record[key] != records[0][key]:
                raise FastmaskError(f"{shards.path}: made with another tokenizer than {sets[0].path} ({key})")
        if "name" not in record:
            raise OutputError(f"{manifest_path(shards.path)}: the tokenizer's name is not in it")
        if len({each["vocab_size"] for each in (record, records[0]) if "vocab_size" in each}) > 1:
            raise FastmaskError(f"{shards.path}: made with another tokenizer than {sets[0].path} (vocab_size)")
    return records[0]
