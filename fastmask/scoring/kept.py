"""A corpus kept on disk between two passes over it, so that it is read and tokenized once."""

from __future__ import annotations

import os
import pickle
from collections.abc import Container, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from ..core.durable import os_errors_named
from ..core.records import EncodedSentences
from ..core.urls import Url


class KeptShards:
    """Keeps all shards of a corpus in a temporary file, or none: then there was no room for them.

    The file has no name. No other process finds it, and it is gone however this one ends.

    Args:
        folder: where it is; for a store, where the system has such files. None: nothing is kept.
        free_share: how large it may be, as a share of the space then left: the shards that the run writes need a third
            of its size.
    """

    def __init__(self, folder: Path | Url | None, free_share: float = 0.5):
        self._folder, self._free_share = folder if isinstance(folder, Path) else None, free_share
        self._begins: dict[int, int] = {}
        self._file = None
        if folder is not None:
            with suppress(OSError):
                self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115  # close() closes it

    def __bool__(self) -> bool:
        """Return whether all shards are there that were put."""
        return self._file is not None

    def put(self, index: int, shard: EncodedSentences) -> None:
        """Keep a shard; without room for it, give up what is kept."""
        if self._file is None:
            return
        try:
            self._begins[index] = self._file.tell()
            pickle.dump(shard, self._file, pickle.HIGHEST_PROTOCOL)
            self._file.flush()
            space = os.fstatvfs(self._file.fileno())
            has_room = self._file.tell() <= self._free_share * space.f_bavail * space.f_frsize
        except OSError:
            has_room = False
        if not has_room:
            self.close()

    def taken(self, shards: Iterator[tuple[int, EncodedSentences]]) -> Iterator[EncodedSentences]:
        """Yield shards and keep them."""
        for index, shard in shards:
            self.put(index, shard)
            yield shard

    def shards(self, wanted: Container[int]) -> Generator[tuple[int, EncodedSentences]]:
        """Yield those that are wanted, in the order in which they were put."""
        assert self._file is not None
        for index, begin in self._begins.items():
            if index in wanted:
                with os_errors_named(self._folder or Path("temporary file")):
                    self._file.seek(begin)
                    shard: EncodedSentences = pickle.load(self._file)
                yield index, shard
                del shard  # while the next one is read

    def close(self) -> None:
        """Give up what is kept."""
        if self._file is not None:
            with suppress(OSError):  # of what was not written yet
                self._file.close()
        self._file = None
