"""Format ``jsonl``: a sequence a line, without padding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...core.durable import write_atomically
from ..exporting import Format, json_line


class JsonLines(Format):
    """JSON lines."""

    def write(self, folder: Path, index: int, table: np.ndarray) -> None:
        """See ``Format.write``."""
        write_atomically(folder / f"training-{index:05d}.jsonl", b"".join(map(json_line, _trimmed(table))))


def _trimmed(table: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the sequences as lists."""
    for row in table:
        tokens, masks = int(row["input_mask"].sum()), int(np.count_nonzero(row["masked_lm_positions"]))
        ends = {"masked_lm_ids": masks, "masked_lm_positions": masks}
        yield {
            field: int(row[field]) if row[field].ndim == 0 else row[field][: ends.get(field, tokens)].tolist()
            for field in table.dtype.names or ()
        }


FORMAT = JsonLines()
