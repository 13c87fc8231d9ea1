"""Finished shards -> training sequences in other trainers' formats, under the field names of NVIDIA's BERT.

The tokens are corrupted once, as ``pretrain`` corrupts them in its first epoch. Sequences without a mask are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import numpy as np

from ..core.config import ExportConfig
from ..core.directories import claim, new_directory
from ..core.durable import write_atomically
from ..core.errors import FastmaskError, ModelError
from .corruption import corrupt
from .sequences import Example
from .stream import TrainingStream

SEQUENCES = 16384
"""Sequences of a file; all of them are held in memory."""
MDS_HASH = "sha1"


def export_shards(config: ExportConfig) -> dict:
    """Writes ``config.out`` whole or not at all.

    Returns:
        ``sequences``, ``masked``, ``dropped`` (masks beyond ``max_predictions``) and ``files``, all counts; and
        ``tokenizer``, the name of the model whose tokens these are.

    Raises:
        OutputError: the shards are unfinished or damaged, or ``out`` is taken or cannot be written.
        ModelError: the shards' tokenizer is gone, changed, or has no mask or padding token.
        FastmaskError: no sequence has a mask, or a package that the format needs is not installed.
    """
    if config.to == "nvidia-hdf5":
        _h5py()
    with claim(config.out, config.overwrite) as out:
        return _export(config, out)


def _export(config: ExportConfig, out: Path) -> dict:
    stream = TrainingStream(config.shards, max_length=config.max_length, seed=0, shuffle=False, masked_only=True)
    corruption = _Corruption(config, stream.tokenizer, stream.ordinary)
    counts = {"sequences": 0, "masked": 0, "dropped": 0, "files": 0}
    files = []
    with new_directory(out, config.overwrite) as folder:
        examples_left = stream.epoch()
        for index in count():
            examples = list(islice(examples_left, SEQUENCES))
            if not examples:
                break
            table = corruption.table(examples, counts["sequences"])
            files.append(_WRITERS[config.to](folder, index, table))
            kept = int(np.count_nonzero(table["masked_lm_positions"]))
            counts["sequences"] += len(examples)
            counts["masked"] += kept
            counts["dropped"] += sum(len(example.at) for example in examples) - kept
        if not files:
            raise FastmaskError(f"{config.shards}: holds no sequence with a mask")
        counts["files"] = len(files)
        if config.to == "mds":
            write_atomically(folder / "index.json", _json({"version": 2, "shards": files}))
    return {**counts, "tokenizer": stream.tokenizer["name"]}


class _Corruption:
    """Examples to a table of NVIDIA's fields."""

    def __init__(self, config: ExportConfig, recorded: dict, ordinary: np.ndarray):
        special = recorded["special_ids"]
        for role in ("mask", "pad"):
            if special.get(role) is None:
                raise ModelError(f"{recorded['name']}: the tokenizer has no {role} token")
        self.config, self.mask_id, self.pad_id = config, special["mask"], special["pad"]
        self.ordinary = ordinary

    def table(self, examples: Sequence[Example], first: int) -> np.ndarray:
        """N sequences, the first of them number ``first`` of the export, as ``fields_of`` [N]."""
        table = np.zeros(len(examples), fields_of(self.config.max_length, self.config.max_predictions))
        table["input_ids"] = self.pad_id
        for number, (fields, example) in enumerate(zip(table, examples, strict=True), first):
            chosen = self._chosen(len(example.at), number)
            at = example.at[chosen]
            fields["input_ids"][: len(example)] = corrupt(
                example.input_ids, at, example.row[chosen], example.sentence[chosen], example.position[chosen],
                seed=self.config.seed, epoch=0, mask_id=self.mask_id, ordinary=self.ordinary,
            )  # fmt: skip
            fields["input_mask"][: len(example)] = 1
            fields["masked_lm_positions"][: len(at)] = at
            fields["masked_lm_ids"][: len(at)] = example.input_ids[at]
        return table

    def _chosen(self, masks: int, number: int) -> np.ndarray:
        """Which masks of sequence ``number`` are kept, int64 ascending: all, or a random choice of as many as may be.

        The first ones would leave the ends of long sequences without any.
        """
        most = self.config.max_predictions
        if masks <= most:
            return np.arange(masks)
        return np.sort(np.random.default_rng((self.config.seed, number)).choice(masks, most, replace=False))


def fields_of(max_length: int, max_predictions: int) -> np.dtype:
    """NVIDIA's fields with their dtypes, in the order of their names, which is also that of an MDS sample.

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


def _h5py():
    try:
        import h5py
    except ImportError:
        raise FastmaskError("--to nvidia-hdf5: needs h5py; pip install 'fastmask[export]'") from None
    return h5py


def _write_hdf5(folder: Path, index: int, table: np.ndarray) -> str:
    # NVIDIA's trainer reads the files that have "training" in their names
    name = f"training-{index:05d}.hdf5"
    with _h5py().File(folder / name, "w") as file:
        for field in table.dtype.names or ():
            file.create_dataset(field, data=table[field], compression="gzip")
    return name


def _write_jsonl(folder: Path, index: int, table: np.ndarray) -> str:
    name = f"training-{index:05d}.jsonl"
    write_atomically(folder / name, b"".join(_json(fields) for fields in _trimmed(table)))
    return name


def _trimmed(table: np.ndarray) -> Iterator[dict]:
    """The sequences without padding, as lists."""
    for row in table:
        tokens, masks = int(row["input_mask"].sum()), int(np.count_nonzero(row["masked_lm_positions"]))
        ends = {"masked_lm_ids": masks, "masked_lm_positions": masks}
        yield {
            field: int(row[field]) if row[field].ndim == 0 else row[field][: ends.get(field, tokens)].tolist()
            for field in table.dtype.names or ()
        }


def _write_mds(folder: Path, index: int, table: np.ndarray) -> dict:
    """Writes a MosaicML shard and returns its entry in the index (format version 2; all fields of fixed size).

    The format is written here because mosaicml-streaming itself cannot be installed beside transformers 5.
    """
    columns = [_mds_column(name, table.dtype[name]) for name in table.dtype.names or ()]
    layout = {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": [MDS_HASH],
        "size_limit": None,
        "column_names": [name for name, _, _ in columns],
        "column_encodings": [encoding for _, encoding, _ in columns],
        "column_sizes": [size for _, _, size in columns],
    }
    head = json.dumps(layout, sort_keys=True).encode()
    first = 4 + 4 * (len(table) + 1) + len(head)
    offsets = np.arange(len(table) + 1, dtype=np.int64) * table.dtype.itemsize + first
    if offsets[-1] >= 2**32:
        raise FastmaskError("--max-length: an MDS shard would be larger than its 4 GiB")
    data = np.uint32(len(table)).tobytes() + offsets.astype("<u4").tobytes() + head + table.tobytes()
    name = f"shard.{index:05d}.mds"
    write_atomically(folder / name, data)
    raw = {"basename": name, "bytes": len(data), "hashes": {MDS_HASH: hashlib.sha1(data).hexdigest()}}
    return {**layout, "samples": len(table), "raw_data": raw, "zip_data": None}


def _mds_column(name: str, kind: np.dtype) -> tuple[str, str, int]:
    encoding = kind.base.name if not kind.shape else f"ndarray:{kind.base.name}:{kind.shape[0]}"
    return name, encoding, kind.itemsize


def _json(value: dict) -> bytes:
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()


_WRITERS = {"nvidia-hdf5": _write_hdf5, "jsonl": _write_jsonl, "mds": _write_mds}
