"""The journal of an unfinished run: a line for its settings, then one for each shard. What may be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .durable import TEMPORARY
from .errors import OutputError
from .plain import parse_json, read_regular
from .schema import MANIFEST, OLD_MANIFEST, SHARD_NAME, is_entry

JOURNAL, LOCK = "journal.jsonl", ".fastmask.lock"
RESULT_NEUTRAL = ("threads", "device")
"""Options that leave the result as it is, so that a resumed run may have others. The kind of device is in the
identity. ``batch_tokens`` is not one: it changes the last bits of an importance."""
VERSION = "fastmask_version"
"""Its third number may differ. A patch release writes the same bytes from the same input, or it is no patch release:
whatever changes a mask, a number, a layout or an option is a new minor version, and cannot resume an older run."""


def is_ours(name: str) -> bool:
    """Whether a file in a shard directory is of the run that wrote it, and not the user's."""
    known = name in (MANIFEST, OLD_MANIFEST, JOURNAL, LOCK) or name.endswith(TEMPORARY)
    return known or SHARD_NAME.fullmatch(name) is not None


def journal_line(record: dict) -> bytes:
    """A record as it is appended; ValueError or TypeError when it is not JSON."""
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def read_journal(path: Path) -> tuple[dict, dict[int, dict], int]:
    """Header, entries by shard index (the last of each), number of good bytes: the last line may be torn.

    Raises:
        OutputError: the first line is not a header.
    """
    records, good_bytes = [], 0
    for line in read_regular(path).splitlines(keepends=True):
        record = _parse(line)
        if record is None or (records and not is_entry(record)):
            break
        records.append(record)
        good_bytes += len(line)
    if not records or not isinstance(records[0].get("config"), dict):
        raise OutputError(f"{path}: damaged, its first line is not a journal's")
    return records[0], {entry["index"]: entry for entry in records[1:]}, good_bytes


def _parse(line: bytes) -> dict | None:
    with suppress(ValueError):
        record = parse_json(line)
        return record if line.endswith(b"\n") and isinstance(record, dict) else None
    return None


def differences(there: dict, here: dict) -> list[str]:
    """Return what keeps a run of header ``here`` from resuming one of header ``there``, a line for each setting."""
    was, now = _settings(there), _settings(here)
    names = [name for name in {**was, **now} if not _agree(name, was.get(name), now.get(name))]
    return [f"{name} was {was.get(name, 'absent')}, is now {now.get(name, 'absent')}" for name in names]


def listed(found: list[str]) -> str:
    """Return differences in a line, which a corpus of a thousand files does not make endless."""
    return "; ".join([*found[:20], f"and {len(found) - 20} more"] if len(found) > 20 else found)


def _agree(name: str, was: str | None, now: str | None) -> bool:
    if name == VERSION and was and now:  # a run of pretrain or of a recipe did not always note it
        return was.split(".")[:2] == now.split(".")[:2]
    return was == now or name == VERSION


def _settings(header: dict) -> dict[str, str]:
    """What must agree, as JSON, by option (``--stop-words``) or path in the identity (``model.sha256``)."""
    config = {name: value for name, value in header["config"].items() if name not in RESULT_NEUTRAL}
    options = {f"--{name.replace('_', '-')}": value for name, value in config.items()}
    return dict(_leaves("", {**options, **{key: value for key, value in header.items() if key != "config"}}))


def _leaves(path: str, value) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}[{index}]", inner)
    else:
        yield path, json.dumps(value)
