"""Parts of one run, made at the same time by several processes, on several machines, in one directory.

No part writes what another one writes: each process has a journal of its own, and a shard has the same bytes whoever
makes it. So a part may be made twice, at the same time, too. ``writer.RunDirectory`` reads all journals.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from ..core.config_engine import Part
from ..core.durable import FileLock, NoLock, lock_in, os_errors_named, write_atomically
from ..core.errors import OutputError
from ..core.locked import differences, listed
from ..core.plain import Json
from ..core.urls import Url, prefetch
from .encoded import EncodedShard
from .journal import LOCK, PART_JOURNAL, PLANNING_LOCK, append_entry, journal_line, read_journal
from .plan import header_in, read_plan
from .schema import file_fault, manifest_path

log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_TRY = (0.05, 0.2, 0.5)


def part_journals(out: Path | Url) -> list[Path | Url]:
    """Return the journals of all parts in a directory."""
    return sorted((path for path in out.iterdir() if PART_JOURNAL.fullmatch(path.name)), key=str)


def parts_in(out: Path | Url) -> set[int]:
    """Return in how many parts a run was made, by the names of its journals; usually that is one number."""
    found = (PART_JOURNAL.fullmatch(path.name) for path in part_journals(out))
    return {int(name[2]) for name in found if name}


def entries_of_parts(out: Path | Url, header: Json) -> list[Json]:
    """Return the shards' entries that parts of the run of a header have written; one shard may have several."""
    found: list[Json] = []
    for path in part_journals(out):
        with suppress(OutputError, OSError):  # one that is begun has no line yet
            there, entries, _ = read_journal(path)
            if not differences(there, header):
                found += entries.values()
    return found


def check_plan(out: Path | Url, plan: Json, header: Json, mixed: bool) -> None:
    """Raise OutputError, naming the differences, unless a plan is that of a run; of ``mixed`` machines what runs may
    differ.
    """
    found = [one for one in differences(header_in(plan), header) if not (mixed and one.name.startswith("engine."))]
    if found:
        hint = "; --mixed lets machines differ" if all(one.name.startswith("engine.") for one in found) else ""
        raise OutputError(f"{out}: planned with other settings: {listed(found)}{hint}")


def check_complete(out: Path | Url, missing: list[int], shards: int) -> None:
    """Raise OutputError, naming the parts to run again, where shards are missing."""
    if not missing:
        return
    numbers = parts_in(out)
    of = numbers.pop() if len(numbers) == 1 else 0
    parts = [Part(number, of) for number in range(1, of + 1)]
    again = [f"--part {part}" for part in parts if not {*part.shards(shards)}.isdisjoint(missing)]
    which = f"run {listed(again)} again" if again else f"the first is {missing[0]}; run the parts that have not ended"
    raise OutputError(f"{out}: {len(missing)} of {shards} shards are missing: {which}")


@contextmanager
def planning(out: Path | Url) -> Iterator[None]:
    """Let one process at a time plan a directory inside a ``with``."""
    with os_errors_named(out):
        lock, is_told = None, False
        while lock is None:
            try:
                lock = lock_in(out, PLANNING_LOCK)
            except BlockingIOError:
                if not is_told:
                    log.info(f"{out}: waiting for another process to make the plan")
                is_told = True
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        lock.release()


class PartDirectory:
    """A planned directory as one part of the run writes it; ``with`` gives it back.

    Args:
        out: the directory.
        part: which part.
        header: of this run, as ``schema.make_header`` makes it.
        mixed: whether what runs may differ from what the plan was made with.

    Attributes:
        plan: the run's plan.
        wanted: the part's shards.
        entries: the good ones' entries, by index.
        is_finished: whether the whole run is.

    Raises:
        OutputError: there is no plan, it is of other settings, or a process that is no part writes here.
    """

    def __init__(self, out: Path | Url, part: Part, header: Json, mixed: bool = False):
        self.path, self.part = out, part
        self._journal: Path | Url | None = None
        with os_errors_named(out):
            self._lock = _shared_lock(out)
        try:
            self._open(header, mixed)
        except BaseException:
            self.close()
            raise

    def _open(self, header: Json, mixed: bool) -> None:
        plan = read_plan(self.path)
        if plan is None:
            raise OutputError(f"{self.path}: its plan has been removed; make it again by fastmask plan")
        check_plan(self.path, plan, header, mixed)
        self.plan, self.is_finished = plan, manifest_path(self.path).exists()
        self.wanted = self.part.shards(len(plan["places"]))
        mine = [entry for entry in entries_of_parts(self.path, header_in(plan)) if entry["index"] in self.wanted]
        self.entries = good_entries(self.path, mine)

    @property
    def rows(self) -> int:
        """Return how many rows the part's shards have."""
        shard_rows = self.plan["config"]["shard_rows"]
        return int(min(self.wanted.stop * shard_rows, self.plan["rows"]) - self.wanted.start * shard_rows)

    def write_shard(self, index: int, shard: EncodedShard) -> None:
        """Write a shard, then journal it; OutputError where that cannot be done."""
        with os_errors_named(self.path):
            write_atomically(self.path / shard.entry["file"], shard.data, shared=True)
            if self._journal is None:
                name = f"journal-{self.part.number}-of-{self.part.of}.{secrets.token_hex(6)}.jsonl"
                write_atomically(self.path / name, journal_line(header_in(self.plan)))
                self._journal = self.path / name
            append_entry(self._journal, shard.entry)
        self.entries[index] = shard.entry

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shared_lock(out: Path | Url) -> FileLock | NoLock:
    """Return the lock that parts hold together; a part that ends has it alone for a moment, to remove its file."""
    for wait in (*_SECONDS_TO_TRY, None):
        with suppress(BlockingIOError):
            return lock_in(out, LOCK, shared=True)
        if wait is not None:
            time.sleep(wait)
    raise OutputError(f"{out}: another fastmask run is writing here")


def good_entries(out: Path | Url, entries: list[Json]) -> dict[int, Json]:
    """Return for each shard the entry, of several perhaps, that its file is as it says; none where no entry is.

    A store keeps what it was given, and gives all of it: there a file is read only to choose between entries.
    """
    good: dict[int, Json] = {}
    kinds = {(entry["index"], entry["sha256"]) for entry in entries}
    times = Counter(index for index, _ in kinds)
    prefetch(out)
    for entry in entries:
        hashes = not isinstance(out, Url) or times[entry["index"]] > 1
        if entry["index"] not in good and not file_fault(out / entry["file"], entry, hashes):
            good[entry["index"]] = entry
    return good
