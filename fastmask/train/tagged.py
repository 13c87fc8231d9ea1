"""Finished shards as sentences whose tokens are labelled: 1 where masked, 0 elsewhere, none on special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import FastmaskError
from ..models.directory import ModelFiles
from ..models.template import template_of
from ..models.tokenizer import check_tokenizer
from ..shards.reader import open_shards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNLABELLED = -100
_COLUMNS = ["row", "input_ids", "importance", "mask_index"]


@dataclass(frozen=True, slots=True)
class TaggedSentences:
    """N sentences as a token classifier reads them.

    Attributes:
        input_ids, token_types: N arrays, int32 [n_i] each, special tokens included.
        labels: N arrays, int64 [n_i] each: 0, 1, or UNLABELLED.
        lengths: int64 [N], the n_i.
        is_typed: whether the model is given the token types.
        document: int64 [N], ascending numbers of the documents they are from.
    """

    input_ids: list[np.ndarray]
    token_types: list[np.ndarray]
    labels: list[np.ndarray]
    lengths: np.ndarray
    document: np.ndarray
    is_typed: bool

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def masked(self) -> int:
        """Return how many tokens are labelled 1."""
        return int(sum((labels == 1).sum() for labels in self.labels))

    def take(self, chosen: np.ndarray) -> TaggedSentences:
        """Return the sentences that ``chosen`` int [R] names."""
        lists = self.input_ids, self.token_types, self.labels
        input_ids, token_types, labels = ([values[i] for i in chosen] for values in lists)
        lengths, document = self.lengths[chosen], self.document[chosen]
        return TaggedSentences(input_ids, token_types, labels, lengths, document, self.is_typed)


def read_tagged(
    paths: Sequence[str], files: ModelFiles, tokenizer: PreTrainedTokenizerBase, max_length: int, is_typed: bool
) -> TaggedSentences:
    """Return the scored sentences of some shard directories, all in memory, cut on the right at ``max_length`` tokens.

    Args:
        paths: the directories, documents of one before those of the next.
        files, tokenizer: of the model that reads them.
        is_typed: whether it is given token types.

    Raises:
        OutputError: one is not finished, or damaged.
        ModelError: the shards are of another tokenizer.
        FastmaskError: there is no scored sentence in them.
    """
    template = template_of(tokenizer.backend_tokenizer, files.name, False)
    around = len(template.prefix), len(template.suffix)
    room = max_length - sum(around)
    ids, types, labels, document, first = [], [], [], [], 0
    for path in paths:
        shards = open_shards(path)
        check_tokenizer(path, shards.manifest["tokenizer"], tokenizer, files.name)
        for row, tokens, masked in _scored(shards.batches([*_COLUMNS, "sentence"])):
            tags = np.zeros(len(tokens), np.int64)
            tags[masked] = 1
            inputs, kinds = template.around(tokens[:room])
            ids.append(inputs)
            types.append(kinds * is_typed)
            labels.append(np.pad(tags[:room], around, constant_values=UNLABELLED))
            document.append(first + row)
        first += shards.manifest["totals"]["documents"]
    if not ids:
        raise FastmaskError(f"{', '.join(paths)}: no sentence was scored, so there are no masks to learn")
    return TaggedSentences(ids, types, labels, np.array([len(one) for one in ids]), np.array(document), is_typed)


def _scored(batches: Iterable) -> Iterable[tuple[int, np.ndarray, np.ndarray]]:
    """Yield document number, tokens int32 [n] and masked positions int32 [m] of each sentence that was scored."""
    for batch in batches:
        columns = [batch.column(name) for name in _COLUMNS]
        for row, ids, importance, masked in zip(*columns, strict=True):
            if importance.is_valid and len(ids):
                yield row.as_py(), ids.values.to_numpy(), masked.values.to_numpy()


def split_documents(
    sentences: TaggedSentences, share: float, rng: np.random.Generator
) -> tuple[TaggedSentences, TaggedSentences]:
    """Return the training sentences, and those of a random ``share`` of the documents (at least one).

    Raises:
        FastmaskError: there is one document only.
    """
    documents = np.unique(sentences.document)
    if len(documents) < 2:
        raise FastmaskError("the shards have one document with a scored sentence: none can be held out; give --dev")
    count = min(max(1, round(share * len(documents))), len(documents) - 1)
    held_out = np.isin(sentences.document, rng.permutation(documents)[:count])
    return sentences.take(np.flatnonzero(~held_out)), sentences.take(np.flatnonzero(held_out))
