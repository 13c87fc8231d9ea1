"""Files in stores that fsspec knows (s3://, gs://, hf://, https://, memory://), used like those of a disk.

A name with a scheme is a ``Url``, any other a ``Path``; ``path_of`` tells. Whatever a store does wrong is an OSError
with the URL and one line. A store shows an object whole or not at all, and has neither renames, appends nor locks.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .errors import FastmaskError, first_line

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(::[A-Za-z0-9+.:-]*)?://")
_LOCAL = ("file", "local")
_BLOCK = 1 << 22
"""Bytes that are asked for at a time."""
_WAITS = (0.2, 1.0, 4.0)
"""Seconds between tries, after faults on the way; most drivers try again by themselves, too."""
_VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "blob_id", "generation", "content_md5",
             "LastModified", "last_modified", "Last-Modified", "updated", "mtime", "modified", "created")  # fmt: skip
"""Where stores tell one version of an object from another, the surest first."""
_DRIVERS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}
"""Scheme -> the extra that has its driver."""
Result = TypeVar("Result")


def is_url(name: object) -> bool:
    """Return whether a name is that of a file or directory in a store."""
    found = _URL.match(str(name))
    return isinstance(name, Url) or (found is not None and (found[2] is not None or found[1].lower() not in _LOCAL))


def path_of(name: str | Path | Url) -> Path | Url:
    """Return the file or directory that a name means: ``file://`` is a path, too."""
    if isinstance(name, Path | Url):
        return name
    if is_url(name):
        return Url(name)
    local = _URL.match(name)
    return Path(name[local.end() :] if local else name)


def prefetch(directory: Path | Url) -> None:
    """Ask a store for the sizes of all files in a directory at once, so that it is not asked about each."""
    if isinstance(directory, Url):
        directory.iterdir()


class UrlStat(NamedTuple):
    """What a store says of an object, by ``os.stat``'s names.

    Attributes:
        version: another one for other content, where the store tells; else 0.
    """

    st_size: int
    st_mode: int
    version: int


class Url:
    """A file or directory in a store, with what of ``pathlib.Path`` is used here; only its name is kept."""

    def __init__(self, url: str):
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"Url({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self._url}/{name}")

    @property
    def name(self) -> str:
        """Return the last part of the name, without what a web server is asked."""
        name = self._url.rpartition("/")[2]
        return name.partition("?")[0] if self._url.startswith("http") else name

    @property
    def parent(self) -> Url:
        """Return the directory that it is in."""
        return Url(self._url.rpartition("/")[0])

    def stat(self) -> UrlStat:
        """Return what its store says of it; FileNotFoundError if it is not there."""
        return self.tried(lambda fs, path: _stat_of(fs.info(path)))

    def exists(self) -> bool:
        """Return whether it is there, as a file or a directory."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Return whether it is a directory: names of others begin with its name."""
        try:
            return stat.S_ISDIR(self.stat().st_mode)
        except FileNotFoundError:
            return False

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return self.exists() and not self.is_dir()

    def iterdir(self) -> Iterator[Url]:
        """Return what is in a directory as it is now; nothing where there is none."""
        self.refresh()
        try:
            names = self.tried(lambda fs, path: [name for name in fs.ls(path, detail=False) if name != path])
        except FileNotFoundError:
            names = []
        return iter(sorted({self / name.rstrip("/").rpartition("/")[2] for name in names}, key=str))

    def refresh(self) -> None:
        """Forget what a driver knows of the directory, or of that of the file, so that it asks again."""
        self.tried(lambda fs, path: fs.invalidate_cache(path))

    def files(self, pattern: str | None = None) -> list[str]:
        """Return the names of the files below a directory, or those that a pattern (``*``, ``?``, ``[a-z]``) gives."""

        def found(fs: Any, path: str) -> list[str]:
            names = fs.glob(path) if pattern else fs.find(path)
            files = (name for name in names if not name.endswith("/"))  # which stands for a folder in some stores
            return sorted(str(fs.unstrip_protocol(name)) for name in files if not pattern or fs.isfile(name))

        return (Url(pattern) if pattern else self).tried(found)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open it for reading."""
        assert mode == "rb"
        self.refresh()
        return io.BufferedReader(UrlReader(self), _BLOCK)

    def read_bytes(self) -> bytes:
        """Return its content."""
        return self.tried(lambda fs, path: bytes(fs.cat_file(path)))

    def read_all(self, files: Sequence[Url]) -> bytes:
        """Return the content of files of its store, one after the other, fetched together."""

        def read(fs: Any, _: str) -> bytes:
            paths = [file._place()[1] for file in files]
            found = fs.cat(paths) if paths else {}
            return b"".join(found[path] for path in paths)

        return self.tried(read)

    def write_bytes(self, data: bytes) -> None:
        """Write it whole, over what is there."""
        self.tried(lambda fs, path: fs.pipe_file(path, data))

    def create(self, data: bytes) -> None:
        """Write it whole; FileExistsError if it is there and the store can tell."""
        self.tried(lambda fs, path: fs.pipe_file(path, data, mode="create"))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it."""
        try:
            self.tried(lambda fs, path: fs.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def tried(self, action: Callable[[Any, str], Result]) -> Result:
        """Return what comes of ``action(fs, path)``, tried again after faults on the way."""
        for wait in (*_WAITS, None):
            try:
                return action(*self._place())
            except (FastmaskError, MemoryError):
                raise
            except Exception as fault:
                error = _cause_of(fault)
                if wait is None or not _is_passing(error):
                    raise _as_os_error(error, self._url) from fault
            time.sleep(wait)
        raise AssertionError

    def _place(self) -> tuple[Any, str]:
        """Return the store and the path in it; FastmaskError if there is no driver for it."""
        from fsspec.core import url_to_fs

        try:
            fs, path = url_to_fs(self._url)  # kept by fsspec, for each process and thread
            return fs, path
        except ImportError as error:
            scheme = self._url.partition(":")[0].lower()
            extra = f" (pip install 'fastmask[{_DRIVERS[scheme]}]')" if scheme in _DRIVERS else ""
            raise FastmaskError(f"{self._url}: {first_line(error)}{extra}") from None
        except ValueError as error:
            raise FastmaskError(f"{self._url}: {first_line(error)}") from None


class UrlReader(io.RawIOBase):
    """Reads an object forward or anywhere; what fails on the way is read again. One without ranges is copied first.

    Attributes:
        url: of it.
    """

    def __init__(self, url: Url):
        self.url, self._at = url, 0
        self._size, mode, _ = url.stat()
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(url))
        self._file = url.tried(lambda fs, path: fs.open(path, "rb", block_size=_BLOCK))
        if str(url).startswith("http") and not self._has_ranges():
            self._file = url.tried(_copy)
            self._size = self._file.tell()

    def _has_ranges(self) -> bool:
        try:
            self._file.seek(max(self._size - 1, 0))
            self._file.read(1)
        except (OSError, ValueError):
            return False
        return True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        def read(*_: Any) -> bytes:
            self._file.seek(self._at)
            return bytes(self._file.read(len(buffer)))

        data = self.url.tried(read)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _copy(fs: Any, path: str) -> Any:
    """Return a temporary file with the bytes of an object that can only be read from its beginning."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (returned)
    with fs.open(path, "rb", block_size=0) as file:
        shutil.copyfileobj(file, copy, _BLOCK)
    return copy


def _stat_of(info: dict[str, Any]) -> UrlStat:
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), None)
    number = int.from_bytes(hashlib.sha256(version.encode()).digest()[:7], "big") if version else 0
    kind = stat.S_IFDIR if info.get("type") == "directory" else stat.S_IFREG
    return UrlStat(int(info.get("size") or 0), kind, number)


def _cause_of(error: Exception) -> Exception:
    """Return what a driver says, or what is behind it: for the one of the web every fault is a missing file."""
    cause = error.__cause__
    is_web = type(cause).__module__.partition(".")[0] == "aiohttp" and getattr(cause, "status", None) != 404
    return cause if is_web and isinstance(cause, Exception) else error


def _is_passing(error: Exception) -> bool:
    """Return whether a fault may be gone the next time: a connection that broke, a server that is busy."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    is_broken = isinstance(error, ConnectionError | TimeoutError) or kinds & {
        "ClientPayloadError",
        "ServerConnectionError",
    }
    return bool(is_broken) or getattr(error, "status", None) in (429, 500, 502, 503, 504)


def _as_os_error(error: Exception, url: str) -> OSError:
    """Return what a driver raised as an OSError that names the URL and says in one line what is wrong."""
    status = getattr(error, "status", None)
    kinds: tuple[type[OSError], ...] = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError)
    kind = next((one for one in kinds if isinstance(error, one)), PermissionError if status in (401, 403) else OSError)
    if kind is FileNotFoundError:
        reason = _without_name(error, url) or "no such file"
    elif isinstance(error, NotImplementedError):
        reason = "its store is read only"
    else:
        reason = _without_name(error, url) or type(error).__name__
    return kind(getattr(error, "errno", None) or errno.EIO, reason, url)


def _without_name(error: Exception, url: str) -> str:
    """Return what a driver says, without the name alone, which the message has already."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = first_line(Exception(text)) if text.strip() else ""
    return "" if line.strip("'\"/") and url.endswith(line.strip("'\"/")) else line
