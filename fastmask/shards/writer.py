"""The writer of a shard directory: journal, resume, repair.

A run killed at any moment leaves what the next one needs. A shard counts once its line is in the journal, and
the run is finished once ``_manifest.json`` is there. Not for use from several threads at once.
"""

from __future__ import annotations

import json
from collections.abc import Set
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from ..core.directories import drop_begun, recover
from ..core.durable import os_errors_named, remove, remove_temporaries, write_atomically
from ..core.errors import OutputError
from ..core.locked import LockedDirectory, differences
from ..core.plain import Json, read_regular
from ..core.records import ScoredSentences
from ..core.urls import Url, path_of, prefetch
from .encoded import EncodedShard
from .journal import JOURNAL, LOCK, append_entry, is_ours, journal_line, journals_in, read_journal
from .parts import entries_of_parts, good_entries
from .plan import header_in, json_file, read_plan, write_plan
from .schema import (
    MANIFEST,
    OLD_MANIFEST,
    PLAN,
    PLANNED,
    SHARD_NAME,
    STATISTICS,
    build_manifest,
    file_content_fault,
    file_fault,
    has_ids,
    header_of,
    is_shard,
    make_header,
    manifest_path,
    open_parquet,
    parse_manifest,
    read_manifest,
    totals,
)
from .statistics import statistics_entry, write_statistics


class RunDirectory(LockedDirectory):
    """An output directory as a run writes it, from ``open`` or ``open_for_repair``, given back by ``with``.

    Attributes:
        header: format version, configuration and identity, as the run that began here had them.
        plan: the header and what else every shard is a function of, as ``write_plan`` was given it; None before that.
        entries: the good shards' entries (schema.ENTRY_KEYS) by index, while the run is not finished.
        manifest: the manifest, None while the run is not finished.
    """

    LOCK, KEPT = LOCK, "shard-*"

    def __init__(self, path: Path | Url, header: Json):
        super().__init__(path, header)
        self.plan: Json | None = None
        self.entries: dict[int, Json] = {}
        self.manifest: Json | None = None
        self._recorded: set[str] = set()

    @classmethod
    def open(
        cls, out: str, config: Json, identity: Json, overwrite: bool = False, advice: str | None = None
    ) -> RunDirectory:
        """Open ``out`` for writing: new, resumed, or ``finished`` by a run of the same settings.

        Args:
            config: ``ScoreConfig.as_dict()``.
            identity: what else decides the result, JSON-ready, with schema.IDENTITY_KEYS.
            overwrite: replace a run of other settings, or a damaged one, when the new one is finished: until then it is
                made beside. One of the same settings still resumes.
            advice: what to do instead where nothing is replaced.

        Raises:
            OutputError: it cannot be written, is in use, belongs to a run of other settings, or is damaged.
        """
        run = cls(path_of(out), make_header(config, identity))
        run.advice = advice or run.advice
        with os_errors_named(run.path):
            recover(run.path)
            if not run._is_finished(overwrite):
                if run.path.exists() and not run.path.is_dir():
                    raise OutputError(f"{run.path} is a file, not a directory")
                run.locked(lambda: run._prepare(overwrite))
            if overwrite and run.finished and not run.is_beside:
                drop_begun(run.path)
        return run

    @classmethod
    def open_for_repair(cls, out: str, identity: Json) -> RunDirectory:
        """Open the finished directory ``out`` for ``replace_shard``; its shards may be missing or damaged.

        Raises:
            OutputError: not finished, damaged manifest, in use, or the run had another identity.
        """
        manifest = read_manifest(out)
        run = cls(path_of(out), make_header(manifest["config"], identity))
        run.check_header(header_of(manifest))
        run.locked(lambda: remove_temporaries(run.path))
        run.manifest = manifest
        return run

    @property
    def finished(self) -> bool:
        """Return whether the manifest is written."""
        return self.manifest is not None

    def missing(self, shards: int) -> list[int]:
        """Return which of the first ``shards`` shards are still to be written."""
        return [index for index in range(shards) if index not in self.entries]

    def write_plan(self, fields: Json, statistics: bytes | None = None) -> None:
        """Write what every shard is a function of besides the header, before the first one.

        Args:
            fields: JSON-ready.
            statistics: of the corpus, where the method makes some.

        Raises:
            OutputError: it could not be written.
        """
        self.plan = {**self.header, **fields, **statistics_entry(statistics)}
        write_statistics(self.path, statistics)
        self.plan = write_plan(self.path, self.plan)

    def write_shard(self, index: int, scored: ScoredSentences | EncodedShard, of: Json | None = None) -> Json:
        """Write shard ``index``, anew where it is there already, then journal it; return its entry.

        Args:
            index: its number.
            scored: what is in it, or that encoded.
            of: the entry of the shard that it was made of, whose counts of labels it has; None counts them.

        Raises:
            OutputError: it could not be written; nothing is left that looks finished.
            ValueError: the arrays break the shard format, or the certificate is not JSON.
        """
        data, entry = EncodedShard.of(index, scored)
        entry |= {name: of[name] for name in ("labelled", "misclassified") if of and name in of}
        with os_errors_named(self.path):
            write_atomically(self.path / entry["file"], data)
            append_entry(self.path / JOURNAL, entry)
        self.entries[index] = entry
        return entry

    def finish(self, manifest_fields: Json) -> Json:
        """Write the manifest, remove the journal, take the place of what is replaced; return the manifest.

        Args:
            manifest_fields: ``certificate`` (the shards' merged), ``environment`` and maybe ``classes``, JSON-ready.

        Raises:
            OutputError: it could not be written; the directory can still be resumed.
            ValueError: a shard is missing.
        """
        entries = [self.entries[index] for index in sorted(self.entries)]
        if any(left["end_row"] != right["first_row"] for left, right in pairwise(entries)):
            raise OutputError(f"{self.path / JOURNAL}: damaged, the rows of its shards do not follow each other")
        self._write_manifest(build_manifest(self.header, entries, **manifest_fields))
        with os_errors_named(self.path):
            self._remove_journals()
            self.install()
        assert self.manifest is not None
        return self.manifest

    def replace_shard(self, index: int, scored: ScoredSentences | EncodedShard) -> bool:
        """Write shard ``index`` of a finished run again; returns whether its hash is the recorded one.

        When it is not, the shard's entry and the totals in the manifest are made to fit.

        Raises:
            OutputError: it could not be written.
            ValueError: as ``write_shard``.
        """
        data, entry = EncodedShard.of(index, scored)
        assert self.manifest is not None
        shards = list(self.manifest["shards"])
        same: bool = entry["sha256"] == shards[index]["sha256"]
        with os_errors_named(self.path):
            write_atomically(self.path / entry["file"], data)
        if not same:
            shards[index] = {**entry, "skipped": len(entry["skipped"])}
            self._write_manifest({**self.manifest, "shards": shards, "totals": totals(shards)})
        return same

    def _is_finished(self, overwrite: bool) -> bool:
        """Return whether nothing is to be done. Takes no lock: the directory may be on a read-only file system."""
        in_work = any((self.path / name).exists() for name in (JOURNAL, LOCK))
        if in_work or not manifest_path(self.path).exists():
            return False
        try:
            self._adopt_manifest(hashes=overwrite)
        except OutputError:
            if not overwrite:
                raise
        return self.finished

    def _prepare(self, overwrite: bool) -> None:
        remove_temporaries(self.path)
        try:
            self._adopt(overwrite)
        except OutputError:
            if not overwrite:
                raise
            self._own_shards()
            self._prepare_beside()

    def _prepare_beside(self) -> None:
        """Leave what is there as it is, and resume what is to replace it; a store has no renames: replace it there."""
        if isinstance(self.path, Url):
            self._start_over()
            return
        self.begin_beside(is_ours)
        remove_temporaries(self.path)
        try:
            self._adopt(hashes=True)
        except OutputError:  # begun with other settings
            self.start_beside_again()
            self._start_over()
        if self.finished:  # it was killed before it took its place
            self.install()

    def _adopt(self, hashes: bool) -> None:
        if manifest_path(self.path).exists():
            self._adopt_manifest(hashes)
            self._remove_journals()  # left by a kill between the two
        elif (self.path / JOURNAL).exists():
            self._adopt_journal()
        elif shards := self._shards():
            raise OutputError(f"{shards[0]}: no journal or manifest says which run wrote it")
        else:
            self._start_over()

    def _adopt_manifest(self, hashes: bool) -> None:
        path = manifest_path(self.path)
        manifest = parse_manifest(read_regular(path), str(path))
        self._recorded = {entry["file"] for entry in manifest["shards"]}
        self.check_header(header_of(manifest))
        prefetch(self.path)
        for entry in manifest["shards"]:
            if fault := file_fault(self.path / entry["file"], entry, hashes):
                raise OutputError(f"{self.path / entry['file']}: {fault} (verify --repair makes it again)")
        self.manifest = manifest

    def _adopt_journal(self) -> None:
        path = self.path / JOURNAL
        header, entries, good_bytes = read_journal(path)
        found = [*entries.values(), *entries_of_parts(self.path, header)]
        self._recorded = {entry["file"] for entry in found}
        plan = read_plan(self.path)
        if found:
            self.check_header(header)
        # without a shard there is nothing to protect: the mended input of a run that failed at once
        if plan is None or differences(header_in(plan), self.header):
            self._start_over()
            return
        good = good_entries(self.path, [entry for entry in found if self._is_sound(entry)])
        stale = self._own_shards(keep={entry["file"] for entry in good.values()})
        if path.stat().st_size > good_bytes:
            with path.open("r+b") as file:
                file.truncate(good_bytes)
        remove(self.path, stale)
        self.plan, self.header, self.entries = plan, header, good

    def _is_sound(self, entry: Json) -> bool:
        """Return whether a shard's footer agrees with an entry."""
        if isinstance(self.path, Url):  # which gives what was written
            return True
        with suppress(OutputError), open_parquet(self.path / entry["file"]) as file:
            return file_content_fault(file, entry, with_ids=has_ids(self.header)) is None
        return False

    def _remove_journals(self) -> None:
        """Remove what only an unfinished run has, last what says that it is one."""
        remove(self.path, [self.path / PLANNED])
        remove(self.path, journals_in(self.path))

    def _start_over(self) -> None:
        stale = self._own_shards()
        # first of all it must not look finished; then the journal, which says whose the shards are
        remove(self.path, [self.path / name for name in (MANIFEST, OLD_MANIFEST, PLAN, PLANNED, STATISTICS)])
        remove(self.path, journals_in(self.path))
        write_atomically(self.path / JOURNAL, journal_line(self.header))
        remove(self.path, stale)

    def _shards(self) -> list[Path]:
        return sorted((path for path in self.path.iterdir() if SHARD_NAME.fullmatch(path.name)), key=str)

    def _own_shards(self, keep: Set[str] = frozenset()) -> list[Path]:
        """Return the shards but ``keep``; OutputError if one was not written by fastmask, which must not touch it."""
        shards = [path for path in self._shards() if path.name not in keep]
        for path in shards:
            if path.name not in self._recorded and not is_shard(path):
                raise OutputError(f"{path}: not written by fastmask; move it or choose another directory")
        return shards

    def _write_manifest(self, manifest: Json) -> None:
        data = json_file(manifest)
        with os_errors_named(self.path):
            write_atomically(self.path / MANIFEST, data)
            remove(self.path, [self.path / OLD_MANIFEST])
        self.manifest = json.loads(data)
