"""A shard as bytes, and its entry."""

from __future__ import annotations

import json
from typing import NamedTuple

from ..core.plain import Json
from ..core.records import ScoredSentences
from .journal import journal_line
from .schema import content_fault, shard_entry
from .table import shard_bytes, to_table


class EncodedShard(NamedTuple):
    """The bytes of a shard's file, and its entry in a journal."""

    data: bytes
    entry: Json

    @classmethod
    def of(cls, index: int, scored: ScoredSentences | EncodedShard) -> EncodedShard:
        """Encode a shard that is not encoded yet, and check it; ValueError if its arrays break the shard format."""
        if isinstance(scored, EncodedShard):
            return scored
        table = to_table(scored)
        data = shard_bytes(table)
        # through JSON, so that it equals the entry that a resumed run reads back
        entry = json.loads(journal_line(shard_entry(index, scored, data)))
        if fault := content_fault(table, entry, with_ids=scored.sentences.id is not None):
            raise ValueError(f"{entry['file']}: {fault}")
        return cls(data, entry)
