"""Format ``mds``: MosaicML's shards.

They are written here because mosaicml-streaming itself cannot be installed beside transformers 5.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ...core.durable import write_atomically
from ...core.errors import FastmaskError
from ..exporting import Format, json_line

HASH = "sha1"


class MosaicShards(Format):
    """Shards and their index (format version 2; all fields of fixed size)."""

    def write(self, folder: Path, index: int, table: np.ndarray) -> dict[str, Any]:
        """See ``Format.write``; returned is the shard's entry in the index."""
        layout = _layout(table.dtype)
        head = json.dumps(layout, sort_keys=True).encode()
        first = 4 + 4 * (len(table) + 1) + len(head)
        offsets = np.arange(len(table) + 1, dtype=np.int64) * table.dtype.itemsize + first
        if offsets[-1] >= 2**32:
            raise FastmaskError("--max-length: an MDS shard would be larger than its 4 GiB")
        data = np.uint32(len(table)).tobytes() + offsets.astype("<u4").tobytes() + head + table.tobytes()
        name = f"shard.{index:05d}.mds"
        write_atomically(folder / name, data)
        raw = {"basename": name, "bytes": len(data), "hashes": {HASH: hashlib.sha1(data).hexdigest()}}
        return {**layout, "samples": len(table), "raw_data": raw, "zip_data": None}

    def finish(self, folder: Path, files: list[Any]) -> None:
        """See ``Format.finish``: write the index."""
        write_atomically(folder / "index.json", json_line({"version": 2, "shards": files}))


def _layout(fields: np.dtype) -> dict[str, Any]:
    """Return what a shard says of its fields."""
    columns = [_column(name, fields[name]) for name in fields.names or ()]
    return {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": [HASH],
        "size_limit": None,
        "column_names": [name for name, _, _ in columns],
        "column_encodings": [encoding for _, encoding, _ in columns],
        "column_sizes": [size for _, _, size in columns],
    }


def _column(name: str, kind: np.dtype) -> tuple[str, str, int]:
    """Return a field's name, encoding and size in bytes."""
    encoding = kind.base.name if not kind.shape else f"ndarray:{kind.base.name}:{kind.shape[0]}"
    return name, encoding, kind.itemsize


FORMAT = MosaicShards()
