"""Replacing directories: the old one stays until the new one is complete."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .durable import FileLock, os_errors_named, sync
from .errors import OutputError
from .urls import Url


def check_free(out: str | Path, overwrite: bool) -> Path:
    """Return ``out`` as a path that a directory may be written to.

    Raises:
        OutputError: it is a file, or a directory with something in it and ``overwrite`` is off.
    """
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise OutputError(f"{out}: is not a directory")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise OutputError(f"{out}: exists already; give another --out, or --overwrite")
    return path


@contextmanager
def claim(out: str | Path, overwrite: bool) -> Iterator[Path]:
    """Lock ``out`` for this process until it has been made by ``new_directory``; yield its real path.

    What a killed process left there is put back or removed first. A symbolic link stays, and its target is made.

    Raises:
        OutputError: it is taken, as ``check_free`` says, or in use, or nothing can be written beside it.
    """
    path, lock = _reserve(out)
    try:
        check_free(out, overwrite)
        shutil.rmtree(begun_beside(path), ignore_errors=True)
        yield path
    finally:
        lock.release()


def _reserve(out: str | Path) -> tuple[Path, FileLock]:
    """Lock what is beside ``out``, follow its symbolic links, and undo what a killed process left."""
    path = Path(os.path.realpath(out))
    if os.path.ismount(path):
        raise OutputError(f"{out}: a mounted directory cannot be replaced; give one inside it")
    with os_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(_lock_of(path))
        except BlockingIOError:
            raise OutputError(f"{out}: another fastmask run is writing it") from None
        try:
            _recover(path)
        except BaseException:
            lock.release()
            raise
    return path, lock


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.fastmask-lock")


def recover(out: str | Path | Url) -> None:
    """Put ``out`` back, or remove what was left beside it, if a process was killed while replacing it.

    Raises:
        OutputError: the process is still at work.
    """
    if isinstance(out, Url):  # where nothing is made beside
        return
    path = Path(os.path.realpath(out))
    if _lock_of(path).exists() or _left(path, "old") or _left(path, "new"):
        _reserve(path)[1].release()


@contextmanager
def new_directory(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a directory to fill, beside ``path``, that takes its name when it is complete; on an error it is removed.

    This process must have locked ``path``, by ``claim`` or by the lock of a directory that it is in.

    Raises:
        OutputError: ``path`` is taken, as ``check_free`` says, or cannot be written.
    """
    check_free(path, overwrite)
    fresh = _beside(path, "new")
    try:
        with os_errors_named(path):
            fresh.mkdir(parents=True)
            yield fresh
            _sync_tree(fresh)
            replace_directory(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def begun_beside(path: Path) -> Path:
    """Return where a directory is made that is to replace ``path`` and may need several starts."""
    path = Path(os.path.realpath(path))
    return path.with_name(f".{path.name}.begun")


def what_was_begun(path: Path | Url) -> str:
    """Return the end of a sentence that names what is there to replace ``path``, empty where nothing is."""
    if isinstance(path, Url):
        return ""
    begun = begun_beside(path)
    return f"; {begun} is what was begun to replace it" if begun.is_dir() else ""


def drop_begun(out: Path | Url) -> None:
    """Remove what was begun to replace ``out``, which is to stay; OutputError if it is being made."""
    if not isinstance(out, Url) and begun_beside(out).is_dir():
        path, lock = _reserve(out)
        try:
            shutil.rmtree(begun_beside(path), ignore_errors=True)
        finally:
            lock.release()


class Replacement:
    """A directory that is to replace ``out``, made beside it, in several starts if need be.

    Args:
        out: the directory, locked by this process.
        is_ours: whether a file name in ``out`` belongs to the result; all others are the user's and are kept.

    Attributes:
        path: where it is made, locked for this process until ``close``.

    Raises:
        OutputError: it is in use, or nothing can be written beside it.
    """

    def __init__(self, out: Path, is_ours: Callable[[str], bool]):
        self.out, self._lock = _reserve(out)
        self.path, self._is_ours = begun_beside(self.out), is_ours
        try:
            with os_errors_named(self.path):
                self.path.mkdir(exist_ok=True)
        except BaseException:
            self._lock.release()
            raise

    def clear(self) -> None:
        """Remove what was made so far, of other settings than now."""
        shutil.rmtree(self.path)
        self.path.mkdir()

    def install(self) -> Path:
        """Replace the old directory by the new one, which is complete; return its path."""
        self._take_over()
        sync(self.path)
        replace_directory(self.path, self.out)
        return self.out

    def _take_over(self) -> None:
        """Link the user's own files into the new directory; the old one keeps them until it is removed."""
        for stale in self._users(self.path):  # of an ``install`` that was killed
            shutil.rmtree(stale) if stale.is_dir() and not stale.is_symlink() else stale.unlink()
        for path in self._users(self.out):
            target = self.path / path.name
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, target, symlinks=True, copy_function=_link)
            else:
                _link(path, target)

    def _users(self, directory: Path) -> list[Path]:
        return [path for path in directory.iterdir() if not self._is_ours(path.name)]

    def close(self, keep: bool) -> None:
        """Release the lock; ``keep`` what was made so far for the next start."""
        try:
            if not keep:
                shutil.rmtree(self.path, ignore_errors=True)
        finally:
            self._lock.release()


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # not every file system has links
        shutil.copy2(source, target, follow_symlinks=False)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}")


def _left(path: Path, kind: str) -> list[Path]:
    """Return what processes left beside ``path``, but not what belongs to a directory named a.new or a.old-2."""
    name = re.compile(rf"\.{re.escape(path.name)}\.{kind}-\d+")
    try:
        return [other for other in path.parent.iterdir() if name.fullmatch(other.name)]
    except OSError:  # there is no such folder, or its names may not be read
        return []


def _recover(path: Path) -> None:
    """Undo what ``replace_directory`` was killed in: put ``path`` back if it is gone, and remove what else was left."""
    for left in _left(path, "new"):
        shutil.rmtree(left)
    for old in sorted(_left(path, "old"), key=lambda left: left.stat().st_mtime, reverse=True):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            old.rename(path)
        else:
            _discard(old, path)


def _sync_tree(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in (*names, "."):
            sync(Path(folder, name))


def replace_directory(fresh: Path, path: Path) -> None:
    """Rename ``fresh`` to ``path``; what was there is deleted only once the new directory is in place."""
    old = fresh
    if not path.exists():
        fresh.rename(path)
    elif not exchange(fresh, path):
        old = _beside(path, "old")
        path.rename(old)
        try:
            fresh.rename(path)
        except BaseException:
            old.rename(path)
            raise
    sync(path.parent)
    if old.exists():
        _discard(old, path)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two directories, so that each name always has one; return False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchanging = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchanging) == 0


def _discard(old: Path, path: Path) -> None:
    """Remove what was replaced, first under a name that is never put back: half of it may be gone."""
    doomed = _beside(path, "new")
    with suppress(OSError):
        old.rename(doomed)
        shutil.rmtree(doomed)
