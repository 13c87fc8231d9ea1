"""The file of a run's statistics: what a method counted over the whole corpus. Plan and manifest have its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..core.durable import os_errors_named, write_atomically
from ..core.errors import OutputError
from ..core.plain import Json, read_regular
from ..core.urls import Url
from .manifest import STATISTICS_ENTRY, whole_fault
from .schema import STATISTICS, file_fault


def statistics_entry(statistics: bytes | None) -> Json:
    """Return what plan and certificate say of statistics; nothing without any."""
    if statistics is None:
        return {}
    return {"statistics": {"bytes": len(statistics), "sha256": hashlib.sha256(statistics).hexdigest()}}


def recorded(fields: Json | None) -> Json:
    """Return the entry in a plan or certificate, as ``statistics_entry`` makes it."""
    return {"statistics": fields["statistics"]} if fields and "statistics" in fields else {}


def statistics_fault(out: Path | Url, fields: Json) -> str | None:
    """Return what is wrong with a directory's statistics by its plan or certificate; None if nothing is."""
    if not (entry := recorded(fields)):
        return None
    return whole_fault(entry["statistics"], STATISTICS_ENTRY) or file_fault(out / STATISTICS, entry["statistics"], True)


def read_statistics(out: Path | Url, fields: Json) -> bytes | None:
    """Return the statistics that a plan or certificate speaks of; None where it speaks of none.

    Raises:
        OutputError: they are not what was written.
    """
    if fault := statistics_fault(out, fields):
        raise OutputError(f"{out / STATISTICS}: {fault}")
    return read_regular(out / STATISTICS) if recorded(fields) else None


def write_statistics(out: Path | Url, statistics: bytes | None) -> None:
    """Write statistics, if there are some.

    Raises:
        OutputError: they could not be written.
    """
    if statistics is not None:
        with os_errors_named(out):
            write_atomically(out / STATISTICS, statistics)


def replace_statistics(out: Path | Url, statistics: bytes | None, fields: Json) -> None:
    """Write a finished run's statistics again.

    Raises:
        OutputError: they could not be written, or are not those that its certificate speaks of.
    """
    if statistics_entry(statistics) != recorded(fields):
        raise OutputError(f"{out / STATISTICS}: made again, but not to the same bytes as before: another machine or "
                          "library version")  # fmt: skip
    write_statistics(out, statistics)
