"""The processes that train one model together: each takes its share of a batch, gradients are exchanged (DDP)."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Ranks:
    """One process alone; ``TorchRanks`` is several.

    Attributes:
        rank, world: number of this process, and of all.
        device: what this process trains on: "cpu", "cuda", "cuda:1".
    """

    rank, world = 0, 1

    def __init__(self, device: str = "cpu"):
        self.device = device

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return the module to call in training, whose gradients are means over ranks after each backward pass."""
        return module

    def exchanging(self, last: bool) -> AbstractContextManager:
        """Return a context for a forward and backward pass; gradients are exchanged in the last one of a step only."""
        return nullcontext()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over ranks of a tensor of any shape, the same on every rank."""
        return values

    def total(self, counts: Sequence[int]) -> list[int]:
        """Return the sum over ranks of each count."""
        return list(counts)

    def gather(self, value: Any) -> list:
        """Return every rank's value, in the order of ranks, on every rank."""
        return [value]

    def stop(self) -> None:
        """Leave the group."""


class TorchRanks(Ranks):
    """Processes that ``torchrun`` started, over NCCL or gloo."""

    def __init__(self, device: str):
        import torch._dynamo  # which DDP imports anyway: afterwards, it would keep the group for ever
        import torch.distributed

        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        super().__init__(device)
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        self._wrapped: Any = None

    def wrap(self, module):
        """See ``Ranks.wrap``."""
        from torch.nn.parallel import DistributedDataParallel

        # views save a copy of every gradient
        self._wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True)
        return self._wrapped

    def exchanging(self, last):
        """See ``Ranks.exchanging``."""
        return nullcontext() if last else self._wrapped.no_sync()

    def mean(self, values):
        """See ``Ranks.mean``."""
        import torch.distributed

        values = values.clone()
        torch.distributed.all_reduce(values)
        return values / self.world

    def total(self, counts):
        """See ``Ranks.total``."""
        import torch.distributed

        sums = torch.tensor(counts, device=self.device)
        torch.distributed.all_reduce(sums)
        return sums.tolist()

    def gather(self, value):
        """See ``Ranks.gather``."""
        import torch.distributed

        values = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def stop(self):
        """See ``Ranks.stop``; nothing may still hold the wrapped module."""
        import torch.distributed

        # it keeps the group's threads, which may abort a process that ends before they do
        self._wrapped = None
        gc.collect()
        torch.distributed.destroy_process_group()


ALONE = Ranks()


def start_ranks(device: str) -> Ranks:
    """Return this process's place among those that ``torchrun`` started, or alone; ``device`` is "cpu" or "cuda"."""
    return TorchRanks(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Ranks(device)
