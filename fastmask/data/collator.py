"""Shards for Hugging Face's ``Trainer``: rows or sequences to corrupted, padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.config import SHARES, demand, shares_fault
from ..core.errors import FastmaskError, ModelError
from ..models.tokenizer import check_tokenizer, special_ids, vocabulary
from .corruption import corrupt, ordinary_ids, whole_numbers
from .sequences import Example, Frame, Origin, Sentences, check_room, examples_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

ROW_FIELDS = ("row", "sentence", "input_ids", "mask_index")
IGNORED = -100
"""The label that transformers leaves out of the loss."""


class SelectiveMaskCollator:
    """A ``data_collator`` that masks what the shards say: the counterpart of ``DataCollatorForLanguageModeling``.

    A batch is made of any of

    - rows of shards as dictionaries: from ``open_shards(out)``, from ``datasets.load_dataset("parquet", ...)`` in any
      format or from ``remap_masks``; or such rows as columns, which is what a slice of ``datasets`` or pandas rows is.
      Each is a sequence of its own, cut on the right at ``max_length``, unless ``pack``. Give ``TrainingArguments``
      ``remove_unused_columns=False``, or the trainer takes the masks away;
    - ``Example``s, already joined or packed, or ``(epoch, Example)`` pairs as a ``TorchStream`` gives them.

    What a masked token becomes depends on (seed, epoch, row, sentence, position) alone. Pairs bring their epoch with
    them; for the others it is ``epoch``, which ``set_epoch`` moves on: without that every epoch sees the same
    corruption. Worker processes have a copy of the collator and learn of a new epoch only when they are started
    anew, so leave ``dataloader_persistent_workers`` off.

    Args:
        tokenizer: of the model in training, which must be the one of the ``input_ids``. Sequences of a stream tell
            whose they are, and others are refused; rows do not.
        max_length: longest sequence made of rows, special tokens included.
        seed: of the corruption.
        pack: let the rows of a batch share sequences, ``[CLS] a [SEP] b [SEP]``, as many as fit; for rows alone.
        token_type_ids: give them, all 0; DistilBERT's models take none.
        shares: of masked tokens that become [MASK], become a random one, and stay unchanged; their sum is 1.

    Raises:
        ModelError: the tokenizer has no mask, padding, or framing token; when called: the shards have another one.
        FastmaskError: ``max_length`` is too small, or ``shares`` are none; when called: a row lacks a column, has ids
            that the tokenizer does not know or masks outside, or no token of a batch is masked, so that its loss would
            be NaN.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 512,
        seed: int = 0,
        pack: bool = False,
        token_type_ids: bool = True,
        shares: Sequence[float] = SHARES,
    ):
        special: Mapping[str, Any] = special_ids(tokenizer)
        name = tokenizer.name_or_path or "the tokenizer"
        self._vocab_size, all_special_ids = vocabulary(tokenizer)
        for role in ("mask", "pad"):
            if special[role] is None:
                raise ModelError(f"{name}: the tokenizer has no {role} token")
        check_room(max_length)
        demand(not (fault := shares_fault(shares)), f"shares {list(shares)}", fault)
        self.max_length, self.seed, self.pack, self.epoch = max_length, seed, pack, 0
        self._mask_id, self._pad_id = special["mask"], special["pad"]
        self._tokenizer, self._name = tokenizer, name
        self._origin: Origin | None = None
        self._frame, self._ordinary = Frame.of(special, name), ordinary_ids(self._vocab_size, all_special_ids)
        self._token_type_ids, self._shares = token_type_ids, tuple(shares)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, at least 0, of rows and sequences that come without one."""
        self.epoch = epoch

    def __call__(
        self,
        features: Sequence[Mapping[str, Any]] | Sequence[Example] | Sequence[tuple[int, Example]] | Mapping[str, Any],
    ) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask``, ``labels`` and, unless turned off, ``token_type_ids``.

        All are int64 [B, L] with L the batch's longest sequence; ``labels`` are -100 but at masked tokens. With rows, B
        is the number of sequences that they make: fewer with ``pack``, and a row without tokens makes none.
        """
        import torch

        pairs = list(self._pairs(features))
        if not any(len(example.at) for _, example in pairs):
            raise FastmaskError("no token of a batch is masked; leave rows without masks out")
        shape = len(pairs), max(len(example) for _, example in pairs)
        input_ids = np.full(shape, self._pad_id, np.int64)
        attention_mask, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        for k, (epoch, example) in enumerate(pairs):
            input_ids[k, : len(example)] = self._corrupted(epoch, example)
            attention_mask[k, : len(example)] = 1
            labels[k, example.at] = example.input_ids[example.at]
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if self._token_type_ids:
            arrays["token_type_ids"] = np.zeros(shape, np.int64)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _corrupted(self, epoch: int, example: Example) -> np.ndarray:
        if example.input_ids.max() >= self._vocab_size:
            unknown = f"id {example.input_ids.max()} in row {example.row[0] if len(example.row) else '?'}"
            raise FastmaskError(f"{unknown}: the tokenizer has {self._vocab_size} ids; the shards have another one "
                                "(fastmask remap makes masks for this one)")  # fmt: skip
        return corrupt(
            example.input_ids, example.at, example.row, example.sentence, example.position,
            seed=self.seed, epoch=epoch, mask_id=self._mask_id, ordinary=self._ordinary,
            shares=self._shares,
        )  # fmt: skip

    def _pairs(self, features: Any) -> Iterator[tuple[int, Example]]:
        features = _as_rows(features) if _has_keys(features) else features
        rows = [feature for feature in features if _has_keys(feature)]
        if not rows:
            yield from (self._pair(item) for item in features)
            return
        if len(rows) < len(features):
            raise FastmaskError("a batch mixes rows of shards with sequences")
        for group in [rows] if self.pack else [[row] for row in rows]:
            joined = examples_of(_sentences(group), max_length=self.max_length, frame=self._frame, pack=self.pack)
            yield from ((self.epoch, joined[k]) for k in range(len(joined)))

    def _pair(self, item: object) -> tuple[int, Example]:
        epoch, example = item if isinstance(item, tuple) and len(item) == 2 else (self.epoch, item)
        if not isinstance(example, Example):
            raise FastmaskError(
                f"a batch holds rows of shards as dictionaries, or sequences of a stream, not a {_kind(item)}"
            )
        self._check_origin(example.origin)
        return epoch, example

    def _check_origin(self, origin: Origin | None) -> None:
        """Refuse shards of another tokenizer: their ids would be taken for other tokens."""
        if origin is None or origin is self._origin:
            return
        if self._tokenizer.is_fast:
            check_tokenizer(origin.shards, origin.tokenizer, self._tokenizer, self._name)
        self._origin = origin


def _has_keys(value: object) -> bool:
    """Return whether a value is a dictionary or, as pandas' rows and tables, may be read as one."""
    return hasattr(value, "keys")


def _kind(value: object) -> str:
    return type(value).__name__


def _as_rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Turn rows that come as columns into dictionaries."""
    _check_fields(columns)
    if any(not hasattr(columns[name], "__len__") for name in ROW_FIELDS):
        raise FastmaskError(
            "a batch is a list of rows, or a dictionary of columns; this is one row: put it into a list"
        )
    lists = [list(columns[name]) for name in ROW_FIELDS]
    if len({len(values) for values in lists}) > 1:
        lengths = ", ".join(f"{len(values)} {name}" for name, values in zip(ROW_FIELDS, lists, strict=True))
        raise FastmaskError(f"the columns of a batch have different lengths: {lengths}")
    return [dict(zip(ROW_FIELDS, values, strict=True)) for values in zip(*lists, strict=True)]


def _check_fields(row: Mapping[str, Any]) -> None:
    for field in ROW_FIELDS:
        if field not in row:
            hint = "is this a row of shards, and TrainingArguments(remove_unused_columns=False) set?"
            raise FastmaskError(f'a row has no "{field}": {hint}')


def _sentences(rows: Sequence[Mapping[str, Any]]) -> Sentences:
    for row in rows:
        _check_fields(row)
    numbers = whole_numbers("row", [int(row["row"]) for row in rows], np.int64)
    sentence = whole_numbers("sentence", [int(row["sentence"]) for row in rows], np.int32)
    input_ids, mask_index = (
        [whole_numbers(f"row {row['row']}: {name}", row[name], np.int32) for row in rows]
        for name in ("input_ids", "mask_index")
    )
    for number, ids, masks in zip(numbers, input_ids, mask_index, strict=True):
        if (np.diff(masks) <= 0).any() or (masks >= len(ids)).any():
            raise FastmaskError(f"row {number}: mask_index is not ascending or leaves its {len(ids)} tokens")
    offsets, mask_offsets = (
        np.concatenate([[0], np.cumsum([len(values) for values in lists])]).astype(np.int64)
        for lists in (input_ids, mask_index)
    )
    masks = np.concatenate(mask_index)  # none of them is left out, so that words stay whole whatever they are
    return Sentences(numbers, sentence, offsets, np.concatenate(input_ids), mask_offsets, masks, masks)
