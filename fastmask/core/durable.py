"""Files that survive a kill or a power cut: written whole or not at all. And locks: one writer a directory."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import OutputError
from .plain import read_regular
from .urls import Url

TEMPORARY = ".fastmask-tmp"
"""How the names of half-written files end."""


@contextmanager
def os_errors_named(path: Path | Url) -> Iterator[None]:
    """Turn an OSError (disk full, no permission...) into one line that names its file, or else ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {error.filename or path}: {error.strerror or error}") from error


def write_atomically(path: Path | Url, data: bytes, shared: bool = False) -> None:
    """Write a file to a temporary name, fsync, rename, fsync its directory; on an error nothing is left.

    A store has no need of that: it shows a file whole or not at all.

    Args:
        path, data: name and content.
        shared: whether other processes may write the same file at the same time.
    """
    if isinstance(path, Url):
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}{f'.{secrets.token_hex(4)}' if shared else ''}{TEMPORARY}")
    try:
        _write(temporary, data, os.O_CREAT | os.O_TRUNC)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def json_bytes(document: dict[str, Any]) -> bytes:
    """Return a document as a readable JSON file in UTF-8; what has no UTF-8 (some file names) is escaped."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def append(path: Path | Url, data: bytes, part: str) -> None:
    """Append to a file and fsync it; on an error the file is cut back to what it was.

    In a store, which cannot append, it becomes a file beside it, whose name ends in ``part``; one of that name is
    replaced. ``read_appended`` reads them all.
    """
    if isinstance(path, Url):
        (path.parent / f"{path.name}.{part}").write_bytes(data)
        return
    size = path.stat().st_size
    try:
        _write(path, data, os.O_APPEND)
    except BaseException:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def read_appended(path: Path | Url) -> bytes:
    """Return what was written to a file and appended to it; OSError if it is not a regular one."""
    if not isinstance(path, Url):
        return read_regular(path)
    parts = [one for one in path.parent.iterdir() if one.name.startswith(f"{path.name}.")]
    return path.read_bytes() + path.parent.read_all(parts)


def _write(path: Path, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(directory: Path | Url, files: Iterable[Path | Url]) -> None:
    """Remove files of a directory, missing ones too, and make that durable."""
    for file in files:
        file.unlink(missing_ok=True)
    sync(directory)


def remove_temporaries(directory: Path | Url) -> None:
    """Remove what a killed ``write_atomically`` left."""
    remove(directory, [path for path in directory.iterdir() if path.name.endswith(TEMPORARY)])


def sync(path: Path | Url) -> None:
    """Make a file's content durable, or renames and removals in a directory; in a store they are."""
    if isinstance(path, Url):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked_directory(path: Path | Url, name: str) -> FileLock | NoLock:
    """Make a directory if it is not there and lock the file ``name`` in it; OutputError when another process has it."""
    try:
        return lock_in(path, name)
    except BlockingIOError:
        raise OutputError(f"{path}: another fastmask run is writing here") from None


def lock_in(directory: Path | Url, name: str, shared: bool = False) -> FileLock | NoLock:
    """Make a directory if it is not there and lock a file in it, as ``FileLock`` does; a store has no locks."""
    if isinstance(directory, Url):
        return NoLock()
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{directory} is a file, not a directory")
    directory.mkdir(parents=True, exist_ok=True)
    return FileLock(directory / name, shared)


class NoLock:
    """What stands for a lock where there are none."""

    def release(self) -> None:
        """Do nothing."""


class FileLock:
    """An exclusive lock, dropped by the system however its process ends. ``release`` removes the file.

    Args:
        path: of the file.
        shared: several may hold it, as long as nobody holds it alone; the last one removes the file.

    Raises:
        BlockingIOError: another process, or another FileLock of this one, holds it.
    """

    def __init__(self, path: Path, shared: bool = False):
        self.path, self._shared = path, shared
        self._descriptor: int | None = None
        # whoever releases the lock removes its file: a lock on a file that is no longer there locks nothing
        while self._descriptor is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                if self._is_at_path(descriptor):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._descriptor is not None:
            try:
                # its directory may have been replaced, and another process have a lock in the new one
                with suppress(OSError):
                    if self._shared:  # while others hold it that is an error
                        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if self._is_at_path(self._descriptor):
                        self.path.unlink()
            finally:
                os.close(self._descriptor)
                self._descriptor = None
