"""Shards for Hugging Face's ``Trainer``: rows or sequences to corrupted, padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.arrays import offsets_of
from ..core.config import SHARES, demand, shares_fault
from ..core.errors import FastmaskError, ModelError
from ..core.words import counted
from ..models.tokenizer import check_tokenizer, special_ids, vocabulary
from .corruption import corrupt, ordinary_ids, whole_numbers
from .sampling import masked_at, scales
from .sequences import Example, Frame, Origin, Sentences, check_room, examples_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

ROW_FIELDS = ("row", "sentence", "input_ids")
"""What every row has; besides, what says which tokens are masked."""
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

    With ``sample``, masks of rows are drawn anew in each epoch from their ``mask_prob``, as ``TrainingStream`` with
    ``sample`` draws them: by the same key. Of a batch in which none is drawn the one that was nearest to it is masked,
    since a loss of no tokens would be NaN.

    Args:
        tokenizer: of the model in training, which must be the one of the ``input_ids``. Sequences of a stream tell
            whose they are, and others are refused; rows do not.
        max_length: longest sequence made of rows, special tokens included.
        seed: of the corruption, and of sampled masks.
        pack: let the rows of a batch share sequences, ``[CLS] a [SEP] b [SEP]``, as many as fit; for rows alone.
        token_type_ids: give them, all 0; DistilBERT's models take none.
        sample: draw the masks of rows from their probabilities; a stream draws its own.
        whole_words: with ``sample``, mask all tokens of a word or none, as shards of ``--unit word`` want it.
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
        sample: bool = False,
        whole_words: bool = False,
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
        self._sample = sample
        chosen_by = (*(["mask_prob"] if sample else ["mask_index"]), *(["word"] if sample and whole_words else []))
        self._fields = ROW_FIELDS + chosen_by
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
        if self._sample:
            pairs = _drawn(pairs, self.seed)
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
        features = _as_rows(features, self._fields) if _has_keys(features) else features
        rows = [feature for feature in features if _has_keys(feature)]
        if not rows:
            yield from (self._pair(item) for item in features)
            return
        if len(rows) < len(features):
            raise FastmaskError("a batch mixes rows of shards with sequences")
        for group in [rows] if self.pack else [[row] for row in rows]:
            joined = examples_of(
                _sentences(group, self._fields), max_length=self.max_length, frame=self._frame, pack=self.pack
            )
            yield from ((self.epoch, joined[k]) for k in range(len(joined)))

    def _pair(self, item: object) -> tuple[int, Example]:
        epoch, example = item if isinstance(item, tuple) and len(item) == 2 else (self.epoch, item)
        if not isinstance(example, Example):
            raise FastmaskError(
                f"a batch holds rows of shards as dictionaries, or sequences of a stream, not a {_kind(item)}"
            )
        if self._sample:
            raise FastmaskError("sample=True of the collator is for rows; give it to the TrainingStream instead")
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


def _drawn(pairs: list[tuple[int, Example]], seed: int) -> list[tuple[int, Example]]:
    """Return sequences with their masks drawn, at least one of them all if there is a candidate."""
    needed = [scales(example, seed=seed, epoch=epoch) for epoch, example in pairs]
    first = min((float(each.min()) for each in needed if len(each)), default=0.0)
    scale = max(1.0, np.nextafter(first, np.inf))
    return [(epoch, masked_at(example, each < scale)) for (epoch, example), each in zip(pairs, needed, strict=True)]


def _as_rows(columns: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Turn rows that come as columns into dictionaries."""
    _check_fields(columns, names)
    if any(not hasattr(columns[name], "__len__") for name in names):
        raise FastmaskError(
            "a batch is a list of rows, or a dictionary of columns; this is one row: put it into a list"
        )
    lists = [list(columns[name]) for name in names]
    if len({len(values) for values in lists}) > 1:
        lengths = ", ".join(f"{len(values)} {name}" for name, values in zip(names, lists, strict=True))
        raise FastmaskError(f"the columns of a batch have different lengths: {lengths}")
    return [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)]


def _check_fields(row: Mapping[str, Any], names: Sequence[str]) -> None:
    for field in names:
        if field not in row:
            hint = "is this a row of shards, and TrainingArguments(remove_unused_columns=False) set?"
            raise FastmaskError(f'a row has no "{field}": {hint}')


def _sentences(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Sentences:
    for row in rows:
        _check_fields(row, names)
    numbers = whole_numbers("row", [int(row["row"]) for row in rows], np.int64)
    sentence = whole_numbers("sentence", [int(row["sentence"]) for row in rows], np.int32)
    input_ids = _lists(rows, "input_ids")
    offsets, ids = offsets_of(np.array([len(ids) for ids in input_ids])), np.concatenate(input_ids)
    if "mask_prob" in names:
        masks, prob, word = _candidates(rows, input_ids, by_word="word" in names)
    else:
        masks = word = _lists(rows, "mask_index")
        prob = None
        for number, each, masked in zip(numbers, input_ids, masks, strict=True):
            if (np.diff(masked) <= 0).any() or (masked >= len(each)).any():
                raise FastmaskError(
                    f"row {number}: mask_index is not ascending or leaves its {counted(len(each), 'token')}"
                )
    mask_offsets = offsets_of(np.array([len(masked) for masked in masks]))
    # all masks are given, so that words are whole whatever they are
    return Sentences(numbers, sentence, offsets, ids, mask_offsets, np.concatenate(masks), np.concatenate(word), prob)


def _lists(rows: Sequence[Mapping[str, Any]], name: str) -> list[np.ndarray]:
    return [whole_numbers(f"row {row['row']}: {name}", row[name], np.int32) for row in rows]


def _candidates(
    rows: Sequence[Mapping[str, Any]], input_ids: list[np.ndarray], by_word: bool
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Return for each row the tokens that may be masked and what is masked as one with each; all their probabilities.

    Returns:
        lists of int32 [m], float32 [M], and lists of int32 [m].
    """
    probs = [_probabilities(row, len(ids)) for row, ids in zip(rows, input_ids, strict=True)]
    at = [np.flatnonzero(prob > 0).astype(np.int32) for prob in probs]
    word = at
    if by_word:
        words = _lists(rows, "word")
        for row, each, ids in zip(rows, words, input_ids, strict=True):
            demand(len(each) == len(ids), f"row {row['row']}: word", f"{len(each)} of them, {len(ids)} input_ids")
        word = [each[places] for each, places in zip(words, at, strict=True)]
    return at, np.concatenate([prob[places] for prob, places in zip(probs, at, strict=True)]), word


def _probabilities(row: Mapping[str, Any], tokens: int) -> np.ndarray:
    """Return a row's probabilities, float32 [n]."""
    values, name = row["mask_prob"], f"row {row['row']}: mask_prob"
    demand(values is not None, name, "is null; the method of its shards gives none")
    try:
        prob = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise FastmaskError(f"{name}: holds something else than numbers") from None
    demand(prob.shape == (tokens,), name, f"{list(prob.shape)} numbers for {tokens} input_ids")
    demand(bool(((prob >= 0) & (prob <= 1)).all()), name, "is not between 0 and 1 everywhere")
    return prob
