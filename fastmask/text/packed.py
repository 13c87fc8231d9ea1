"""Compressed inputs as streams of what they hold."""

from __future__ import annotations

import gzip
import io
from typing import Any

from ..core.errors import first_line

PACKINGS = {".gz": "gzip", ".zst": "zstd"}
"""Endings of compressed files."""
_BLOCK = 1 << 13
"""Bytes that are unpacked at a time; of a file that is cut short so many at most are lost before the cut."""

Stream = io.BufferedReader | gzip.GzipFile


def unpacked(file: io.BufferedReader, packing: str) -> Stream:
    """Return what a file holds as a stream that closes it, too; ``packing`` is its ending of PACKINGS, or "" """
    if packing == ".gz":
        return _Gzip(file)
    return io.BufferedReader(_Zstd(file), _BLOCK) if packing == ".zst" else file


class _Gzip(gzip.GzipFile):
    def __init__(self, file: io.BufferedReader):
        super().__init__(fileobj=file, mode="rb")
        self._under = file

    def close(self) -> None:
        super().close()
        self._under.close()


class _Open:
    """A file that stays open when whoever reads it is done."""

    closed = False

    def __init__(self, file: io.BufferedReader):
        self.read = file.read

    def close(self) -> None:
        pass


class _Zstd(io.RawIOBase):
    """Reads forward; to go back is to begin again."""

    def __init__(self, file: io.BufferedReader):
        self._file = file
        self._begin()

    def _begin(self) -> None:
        import pyarrow as pa

        self._at, self._stream = 0, pa.CompressedInputStream(pa.PythonFile(_Open(self._file), "r"), "zstd")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        offset += {io.SEEK_SET: 0, io.SEEK_CUR: self._at}[whence]
        if offset < self._at:
            self._file.seek(0)
            self._begin()
        while self._at < offset and self.readinto(bytearray(min(offset - self._at, 1 << 20))):
            pass
        return self._at

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except OSError as error:
            fault = "is cut short" if "runcated" in str(error) else f"is corrupt: {first_line(error)}"
            raise OSError(f"zstd stream {fault}") from error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
