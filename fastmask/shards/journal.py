"""The journal of an unfinished run: a line for its settings, then one for each shard."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..core.durable import TEMPORARY, append, read_appended
from ..core.errors import OutputError
from ..core.plain import Json, parse_json
from ..core.urls import Url, path_of
from .schema import MANIFEST, OLD_MANIFEST, PLAN, PLANNED, SHARD_NAME, STATISTICS, is_entry
from .sound import entry_fault

JOURNAL, LOCK = "journal.jsonl", ".fastmask.lock"
PLANNING_LOCK = ".fastmask-planning.lock"
PART_JOURNAL = re.compile(r"journal-(\d{1,9})-of-(\d{1,9})\.[0-9a-f]+\.jsonl")
_ANY_JOURNAL = re.compile(r"journal(-\d+-of-\d+\.[0-9a-f]+)?\.jsonl(\.\d+)?")
_NAMES = (PLAN, PLANNED, STATISTICS, MANIFEST, OLD_MANIFEST, JOURNAL, LOCK, PLANNING_LOCK)


def is_ours(name: str) -> bool:
    """Return whether a file in a shard directory was written by fastmask, and not by the user."""
    known = name in _NAMES or name.endswith(TEMPORARY)
    return known or any(pattern.fullmatch(name) for pattern in (SHARD_NAME, PART_JOURNAL))


def without_results(names: Sequence[str], *outs: str) -> list[str]:
    """Return the names of files, less those that runs write: into ``outs``, and where a plan or a manifest is named."""
    folders = {_real(path_of(out)) for out in outs}
    folders |= {_real(path_of(name).parent) for name in names if name.rpartition("/")[2] in (PLAN, MANIFEST)}

    def is_result(name: str) -> bool:
        path = path_of(name)
        is_known = is_ours(path.name) or _ANY_JOURNAL.fullmatch(path.name) is not None
        return is_known and _real(path.parent) in folders

    return [name for name in names if not is_result(name)]


def _real(folder: Path | Url) -> str:
    return str(folder) if isinstance(folder, Url) else os.path.realpath(folder)


def journals_in(out: Any) -> list[Any]:
    """Return the files of all journals in a directory, a Path or Url, the run's own last."""
    found = [path for path in out.iterdir() if _ANY_JOURNAL.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.name == JOURNAL, path.name))


def append_entry(path: Path | Url, entry: Json) -> None:
    """Append a shard's entry to a journal; OSError where that cannot be done."""
    append(path, journal_line(entry), f"{entry['index']:05d}")


def journal_line(record: Json) -> bytes:
    """Return a record as a line of the journal; ValueError or TypeError when it is not JSON."""
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def read_journal(path: Path | Url) -> tuple[Json, dict[int, Json], int]:
    """Return header, entries by shard index (the last of each), number of good bytes: the last line may be torn.

    Raises:
        OutputError: the first line is not a header.
    """
    records: list[Json] = []
    good_bytes = 0
    for line in read_appended(path).splitlines(keepends=True):
        record = _parse(line)
        if record is None or (records and not (is_entry(record) and entry_fault(record) is None)):
            break
        records.append(record)
        good_bytes += len(line)
    if not records or not isinstance(records[0].get("config"), dict):
        raise OutputError(f"{path}: damaged, its first line is not a journal's")
    return records[0], {entry["index"]: entry for entry in records[1:]}, good_bytes


def _parse(line: bytes) -> Json | None:
    with suppress(ValueError):
        record = parse_json(line, finite=True)
        return record if line.endswith(b"\n") and isinstance(record, dict) else None
    return None
