"""A training stream as torch's DataLoader takes it, with any number of workers."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import IterableDataset, get_worker_info

from .sequences import Example
from .stream import TrainingStream


class TorchStream(IterableDataset):
    """The stream's ``(epoch, Example)`` items for a ``torch.utils.data.DataLoader``, divided among its workers.

    The loader gives the same items in the same order, and the same batches, with any number of workers. Workers read
    ahead, so the loader does not move the stream: whoever takes n items off it calls ``stream.advance(n)``, and then
    ``stream.state_dict()`` is where training stands.

    Args:
        stream: of this rank; workers get a copy each time the loader is iterated, so not with ``persistent_workers``.
        batch_size: the loader's own ``batch_size``, 1 for None. The loader needs a ``collate_fn`` of the caller's.
    """

    def __init__(self, stream: TrainingStream, batch_size: int = 1):
        self.stream, self.batch_size = stream, batch_size

    def __iter__(self) -> Iterator[tuple[int, Example]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        return self.stream.part(worker, workers, self.batch_size)
