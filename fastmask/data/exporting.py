"""Finished shards -> training sequences in other trainers' formats, under the field names of NVIDIA's BERT.

Each epoch's tokens are corrupted, and its masks drawn where they are sampled, as ``pretrain`` does in that epoch; one
epoch follows the other. Sequences without a mask are left out.
How a format writes them is its own: see ``export/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config import EXPORT_FORMATS, ExportConfig, shares_of
from ..core.directories import claim, new_directory
from ..core.errors import FastmaskError, ModelError
from .corruption import corrupt
from .sequences import Example
from .stream import TrainingStream

SEQUENCES = 16384
"""Sequences of a file; all of them are held in memory."""


class Format:
    """A way to write sequences. A subclass is one file in ``export/``, which names an instance ``FORMAT``."""

    def check(self) -> None:
        """Raise FastmaskError if a package that it needs is not installed."""

    def write(self, folder: Path, index: int, table: np.ndarray) -> Any:
        """Write file number ``index`` with the sequences of a table (``fields_of`` [N]); return what ``finish`` needs.

        Raises:
            FastmaskError: they do not fit into one file.
        """
        raise NotImplementedError

    def finish(self, folder: Path, files: list[Any]) -> None:
        """Write what describes all the files, given what ``write`` returned of each."""


def load_format(name: str) -> Format:
    """Return the format that is called so."""
    form: Format = import_module(f".export.{EXPORT_FORMATS[name]}", __package__).FORMAT
    return form


def json_line(value: dict[str, Any]) -> bytes:
    """Return a value as a line of JSON."""
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()


def export_shards(config: ExportConfig, sequences: int = SEQUENCES) -> dict[str, Any]:
    """Write ``config.out`` whole or not at all, ``sequences`` in a file.

    Returns:
        ``sequences``, ``masked``, ``dropped`` (masks beyond ``max_predictions``) and ``files``, all counts; and
        ``tokenizer``, the name of the model whose tokens these are.

    Raises:
        OutputError: the shards are unfinished or damaged, or ``out`` is taken or cannot be written.
        ModelError: the shards' tokenizer is gone, changed, or has no mask or padding token.
        FastmaskError: no sequence has a mask, or a package that the format needs is not installed.
    """
    form = load_format(config.to)
    form.check()
    with claim(config.out, config.overwrite) as out:
        return _export(config, form, out, sequences)


def _export(config: ExportConfig, form: Format, out: Path, sequences: int) -> dict[str, Any]:
    stream = TrainingStream(config.shards, max_length=config.max_length, seed=config.seed, shuffle=False,
                            masked_only=True, sample=config.sample)  # fmt: skip
    corruption = _Corruption(config, stream.tokenizer, stream.ordinary)
    counts = {"sequences": 0, "masked": 0, "dropped": 0, "files": 0}
    files = []
    with new_directory(out, config.overwrite) as folder:
        examples_left = _epochs(stream, config.epochs)
        for index in count():
            examples = list(islice(examples_left, sequences))
            if not examples:
                break
            table = corruption.table(examples, counts["sequences"])
            files.append(form.write(folder, index, table))
            kept = int(np.count_nonzero(table["masked_lm_positions"]))
            counts["sequences"] += len(examples)
            counts["masked"] += kept
            counts["dropped"] += sum(len(example.at) for _, example in examples) - kept
        if not files:
            raise FastmaskError(f"{config.shards}: holds no sequence with a mask")
        counts["files"] = len(files)
        form.finish(folder, files)
    return {**counts, "tokenizer": stream.tokenizer["name"]}


def _epochs(stream: TrainingStream, epochs: int) -> Iterator[tuple[int, Example]]:
    """Yield the sequences of some epochs that have a mask there, each with its epoch."""
    return ((epoch, example) for epoch in range(epochs) for example in stream.epoch(epoch) if len(example.at))


class _Corruption:
    """Examples to a table of NVIDIA's fields."""

    def __init__(self, config: ExportConfig, recorded: dict[str, Any], ordinary: np.ndarray):
        special = recorded["special_ids"]
        for role in ("mask", "pad"):
            if special.get(role) is None:
                raise ModelError(f"{recorded['name']}: the tokenizer has no {role} token")
        self.config, self.mask_id, self.pad_id = config, special["mask"], special["pad"]
        self.ordinary, self.shares = ordinary, shares_of(config.corrupt)

    def table(self, examples: Sequence[tuple[int, Example]], first: int) -> np.ndarray:
        """Return N sequences of their epochs, the first one number ``first`` of the export, as ``fields_of`` [N]."""
        table = np.zeros(len(examples), fields_of(self.config.max_length, self.config.max_predictions))
        table["input_ids"] = self.pad_id
        for number, (fields, (epoch, example)) in enumerate(zip(table, examples, strict=True), first):
            chosen = self._chosen(example, number)
            at = example.at[chosen]
            fields["input_ids"][: len(example)] = corrupt(
                example.input_ids, at, example.row[chosen], example.sentence[chosen], example.position[chosen],
                seed=self.config.seed, epoch=epoch, mask_id=self.mask_id, ordinary=self.ordinary, shares=self.shares,
            )  # fmt: skip
            fields["input_mask"][: len(example)] = 1
            fields["masked_lm_positions"][: len(at)] = at
            fields["masked_lm_ids"][: len(at)] = example.input_ids[at]
        return table

    def _chosen(self, example: Example, number: int) -> np.ndarray:
        """Return which masks of sequence ``number`` are kept, int64 ascending: all, or as many as may be, at random.

        The first ones would leave the ends of long sequences without any. Words are kept whole or not at all.
        """
        most, masks = self.config.max_predictions, len(example.at)
        if masks <= most:
            return np.arange(masks)
        keys = example.row, example.sentence, example.word
        word = np.append(0, np.cumsum(np.logical_or.reduce([key[1:] != key[:-1] for key in keys])))
        drawn = np.random.default_rng((self.config.seed, number))
        sizes = np.bincount(word)
        if len(sizes) == masks or sizes.min() > most:
            return np.sort(drawn.choice(masks, most, replace=False))
        kept = []
        for one in drawn.permutation(len(sizes)):
            if sizes[one] <= most:
                kept.append(one)
                most -= sizes[one]
        return np.flatnonzero(np.isin(word, kept))


def fields_of(max_length: int, max_predictions: int) -> np.dtype:
    """Return NVIDIA's fields with their dtypes, in the order of their names, which is also that of an MDS sample.

    Unused places of ``masked_lm_positions`` are 0: the loader takes the first 0 as the end, and [CLS], at 0, is never
    masked. ``segment_ids`` and ``next_sentence_labels`` are 0 throughout: there is no next-sentence task.
    """
    return np.dtype(
        [
            ("input_ids", "<i4", (max_length,)),
            ("input_mask", "i1", (max_length,)),
            ("masked_lm_ids", "<i4", (max_predictions,)),
            ("masked_lm_positions", "<i4", (max_predictions,)),
            ("next_sentence_labels", "i1"),
            ("segment_ids", "i1", (max_length,)),
        ]
    )
