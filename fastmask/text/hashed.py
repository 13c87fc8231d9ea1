"""Inputs as they were when they were hashed: what is scored must be what was hashed."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence

from ..core.errors import InputError, Unreadable
from ..core.plain import Json
from ..core.urls import is_url
from .listing import input_files
from .places import Places
from .streams import BUFFER, STDIN, Place, Stamp, changed, check_path, open_input, source_name, standard_input_is_file


class HashedInputs:
    """Inputs as they were when they were hashed.

    Args:
        paths: of the inputs.
        places: takes note of where shards begin, in the same pass.

    Attributes:
        entries: ``{"name", "bytes", "sha256"}`` of each; null size and hash for standard input that is a pipe.
        stamps: by path, what tells whether one is still the same.
        places, rows: where each shard begins and how many rows there are; None where that was not asked, or where an
            input cannot be read twice.

    Raises:
        Unreadable: a path cannot be read, or something writes to it.
    """

    def __init__(self, paths: Sequence[str], places: Places | None = None):
        self.entries: list[dict] = []
        self.stamps: dict[str, Stamp] = {}
        for path in input_files(paths):
            check_path(path)
            size = digest = None
            if path != STDIN or standard_input_is_file():
                size, digest, self.stamps[path] = _hashed(path, places)
            else:
                places = None
            self.entries.append({"name": path, "bytes": size, "sha256": digest})
        self.places = None if places is None else places.found
        self.rows = None if places is None else places.rows

    def check(self, stores: bool = False) -> None:
        """Raise Unreadable, naming it, for an input that is not what was hashed; costs a look at each, no reading.

        Args:
            stores: also look at what is in a store, a request each; whether one is still the same is seen whenever it
                is opened, too.
        """
        for entry in self.entries:
            path, was = entry["name"], self.stamps.get(entry["name"])
            if was is None or (is_url(path) and not stores) or (now := _stamp(path)) == was:
                continue
            # a new name, another link or other rights are no change; but time and size can be forged
            if not was.same_content(now) or _hashed(path)[1] != entry["sha256"]:
                raise changed(path)
            self.stamps[path] = now


class PlannedInputs(HashedInputs):
    """Inputs that were hashed for a plan, perhaps on another machine, and have not changed since.

    Args:
        entries, places, rows: as they were found then.
        stamps: size and time of change of each by its name, as they were then. One with others, or without, is hashed.
        shards: those that will be read: only the inputs that these are in are looked at; None: all.

    Raises:
        Unreadable: one cannot be read, or has another content.
    """

    def __init__(
        self,
        entries: list[dict],
        places: Sequence[Sequence[int]],
        rows: int | None,
        stamps: Mapping[str, list[int]],
        shards: range | None = None,
    ):
        self.entries, self.rows, self.stamps = entries, rows, {}
        self.places = [Place(*place) for place in places]
        for entry in entries if shards is None else entries[self._read_for(shards)]:
            path = entry["name"]
            check_path(path)
            self.stamps[path] = _stamp(path)
            if stamps.get(path) != self.stamps[path].of_any_machine:
                _, digest, self.stamps[path] = _hashed(path)
                if digest != entry["sha256"]:
                    raise changed(path)

    def _read_for(self, shards: range) -> slice:
        """Return which inputs neighbouring shards are in."""
        assert self.places is not None
        if not shards:
            return slice(0)
        last = self.places[shards.stop].input if shards.stop < len(self.places) else len(self.entries) - 1
        return slice(self.places[shards.start].input, last + 1)


def describe_inputs(paths: Sequence[str]) -> list[dict]:
    """Return the ``entries`` of HashedInputs."""
    return HashedInputs(paths).entries


def _stamp(path: str) -> Stamp:
    try:
        return Stamp.of(open_input(path) if path == STDIN else path)
    except OSError:
        raise changed(path) from None


class _Hashing(io.RawIOBase):
    """Reads a file forward, and hashes what it reads."""

    def __init__(self, file: io.BufferedReader):
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True  # it knows where it is

    def tell(self) -> int:
        return self.size

    def readinto(self, buffer) -> int:
        number = self._file.readinto(buffer)
        self.digest.update(memoryview(buffer)[:number])
        self.size += number
        return number


def _hashed(path: str, places: Places | None = None) -> tuple[int, str, Stamp]:
    """Return size, sha256 and stamp of a file that stays the same meanwhile; ``places`` takes what it reads, too."""
    with open_input(path) as file:
        file.seek(0)  # standard input may have been read before
        stamp, hashing = Stamp.of(file), _Hashing(file)
        if places is not None:
            places.add(path, io.BufferedReader(hashing, BUFFER))
        rest = bytearray(BUFFER)
        while hashing.readinto(rest):
            pass
        file.seek(0)
        if not stamp.same_content(Stamp.of(file)):
            raise Unreadable(source_name(path), None, None, "is being written to; run it when that is done")
    return hashing.size, hashing.digest.hexdigest(), stamp


def inputs_again(manifest: Json, advice: str = "") -> HashedInputs:
    """Return the inputs that finished shards were made from.

    Args:
        manifest: of the shards.
        advice: what helps where that was standard input.

    Raises:
        InputError: an input is gone or has changed, or was standard input.
    """
    recorded = manifest["inputs"]
    paths = [entry.get("name", "") for entry in recorded]
    if STDIN in paths:
        raise InputError("<stdin>", None, None, f"cannot be read again{advice}")
    if gone := [path for path in paths if not is_url(path) and not os.path.isabs(path) and not os.path.exists(path)]:
        raise InputError(gone[0], None, None, f"no such file in {os.getcwd()}; run this where the shards were made")
    inputs = HashedInputs(paths)
    for was, now in zip(recorded, inputs.entries, strict=True):
        if was.get("sha256") != now["sha256"]:
            raise InputError(now["name"], None, None, "has changed since the shards were made")
    return inputs
