"""What scoring runs on: the processor or one device; its encoders, its threads, and how its work is cut."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from fastmask_kernels import processor

from ..core.background import usable_cores
from ..core.config import ScoreConfig
from ..core.errors import FastmaskError
from ..core.records import EncodedSentences
from ..models.device import choose_device
from ..models.encoder import Encoder, OutOfMemory, build_encoder
from ..models.family_reader import family_weights
from ..models.family_weights import FamilyWeights
from ..models.generic import GenericEncoder
from ..models.gpu import DeviceEncoder
from ..models.module_encoder import ModuleEncoder
from ..models.packing import Template
from ..models.probe import fault_of, unsteady
from .asking import Asker, DeviceAsker
from .blocks import BLOCK_TOKENS, SentenceBlock, make_blocks, make_pools

# Tokens of a calibration block on the processor: small, so that every core gets some.
CALIBRATION_BLOCK = 400
# Tokens of all units of a pool on a device. A greedy round packs at most half as many, a quarter on average, and two
# pools are under way: enough for a large GPU, whose memory they hardly touch.
POOL_TOKENS = 131072


class Stopped(Exception):
    """Raised in worker threads after ``Backend.stop``."""


class Backend:
    """Encoders of one model on one device, and the threads that use them.

    On the processor a block of sentences is a core's work: a batch a core scales better than one batch on all cores.
    A device has two blocks under way, each with a thread and a stream of its own, so that it never waits for the host.

    Args:
        model: float32 weights of a fast family, or a module in eval mode, not written to.
        template: its special tokens.
        config: the run's configuration.
        kind: class of the encoders, where the model is a module that runs as it is; None for what is fastest.
    """

    def __init__(
        self,
        model: FamilyWeights | torch.nn.Module,
        template: Template,
        config: ScoreConfig,
        kind: type[ModuleEncoder] | None = None,
    ):
        self.device, self.template, self.config, self.kind = choose_device(config.device), template, config, kind
        self.is_cuda = self.device.startswith("cuda")
        self.has_pools = self.is_cuda or config.kernels == "triton"
        if kind and config.kernels == "triton":
            raise FastmaskError(f"--kernels triton: there are none for --method {config.method}; use auto")
        _require_interpreter(self.has_pools and not self.is_cuda)
        self._given = model
        self._encoders: dict[str, Encoder] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._shortened = False
        self._streams = _streams(self.device) if self.is_cuda else ()

    @cached_property
    def model(self) -> FamilyWeights | torch.nn.Module:
        """Return what encoders are built of: the weights of a fast family, sent to the device once; or the module."""
        found = self._given
        if isinstance(found, torch.nn.Module) and not self.kind:
            found = family_weights(found) or found
        return found.to(self.device) if self.is_cuda and isinstance(found, FamilyWeights) else found

    @property
    def fastest(self) -> str:
        """Return the precision of a cascade's first level."""
        if self.has_pools:
            return "float16"
        return "bfloat16" if processor.has_fast_bfloat16() else "float32"

    def levels(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Return the precisions of a cascade that the model can run in: all of them on the fast path.

        Raises:
            FastmaskError: it cannot run in float32 or in --precision, or its answers vary from call to call.
        """
        first = self.encoder(wanted[0])
        if not isinstance(first, GenericEncoder) or first.runs_packed:
            return wanted
        if fault := unsteady(self.encoder("float32"), self.template, self.config.max_length):
            raise FastmaskError(f"the model cannot be scored with: {fault}")
        faults = {level: fault_of(self.encoder(level), self.template) for level in wanted}
        if faults.get(self.config.precision):
            raise FastmaskError(f"--precision {self.config.precision}: {faults[self.config.precision]}; use auto")
        able = tuple(level for level in wanted if not faults[level]) or ("float32",)
        self._shortened = self.config.certify and able[-1] != "float64"
        return able

    @property
    def remark(self) -> str | None:
        """Return a line for the user about the precisions on this machine, or None."""
        if self._shortened:
            return "the model cannot run in float64: what float32 leaves in doubt is decided by float32"
        return processor.remark(self.config.precision, self.device)

    @property
    def threads(self) -> int:
        """Return how many blocks are under way at a time; Triton's interpreter takes one."""
        if self.has_pools:
            return max(1, len(self._streams))
        return self.config.threads or usable_cores()

    def encoder(self, precision: str) -> Encoder:
        """Return the encoder of a precision, built at the first call. Workers ask before every batch, so they stop."""
        if self._stopped.is_set():
            raise Stopped
        with self._lock:
            if precision not in self._encoders:
                self._encoders[precision] = self._build(precision)
            return self._encoders[precision]

    def _build(self, precision: str) -> Encoder:
        try:
            if self.kind:
                built: Encoder = self.kind(self.model, precision, self.device, self.template)
            else:
                built = build_encoder(self.model, precision, self.device, self.config.kernels, self.template.typed)
        except OutOfMemory as error:
            raise FastmaskError(f"the model at {precision} does not fit in the memory of {self.device}") from error
        if self.is_cuda:  # other streams will read what this one has written
            torch.cuda.synchronize(self.device)
        return built

    def stop(self) -> None:
        """End what workers are doing soon, with Stopped."""
        self._stopped.set()

    def asker(self, block: SentenceBlock, levels: tuple[str, ...]) -> Asker:
        """Return what asks about a block's variants at the levels of a cascade."""
        how = block, self.encoder, levels, self.config.batch_tokens, self.config.model or "the model"
        return DeviceAsker(*how) if isinstance(self.encoder(levels[0]), DeviceEncoder) else Asker(*how)

    def blocks(
        self, shard: EncodedSentences, sentences: np.ndarray, for_calibration: bool = False
    ) -> list[SentenceBlock]:
        """Return sentences int64 [S] of a shard as blocks of work that suit the device."""
        how = shard, sentences, self.template, self.config.max_length
        if self.has_pools:
            return make_pools(*how, POOL_TOKENS)
        return make_blocks(*how, CALIBRATION_BLOCK if for_calibration else BLOCK_TOKENS)

    @contextmanager
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        """Yield the worker threads."""
        before, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # TF32 is another precision than the one that was calibrated
        streams: queue.SimpleQueue[torch.cuda.Stream] = queue.SimpleQueue()
        for stream in self._streams:
            streams.put(stream)
        start = (lambda: torch.cuda.set_stream(streams.get())) if streams.qsize() else self._use_one_core
        try:
            with ThreadPoolExecutor(self.threads, initializer=start) as pool:
                yield pool
        finally:
            # what a thread sets is the default of threads made later, the caller's own included
            torch.set_num_threads(before)
            torch.set_float32_matmul_precision(products)

    def _use_one_core(self) -> None:
        if not self.has_pools:
            torch.set_num_threads(1)

    def batch_tokens_halved(self) -> dict[str, int]:
        """Return, by precision, the token budget of a batch where memory has run out."""
        return {name: one.most_tokens for name, one in self._encoders.items() if one.most_tokens < sys.maxsize}

    def describe(self, precision: str) -> dict[str, Any]:
        """Return what runs, for the manifest: device, and back end and precision of the first level."""
        name = torch.cuda.get_device_name(self.device) if self.is_cuda else None
        kind = {"device": self.device.partition(":")[0]} | ({"gpu": name} if name else {})
        kernels = self._encoders[precision].name
        compiler = {"triton": version("triton")} if "triton" in kernels else {}
        highest = {"highest_precision": "float32"} if self._shortened else {}
        return kind | {"precision": precision, "kernels": kernels, "torch": torch.__version__} | compiler | highest


@cache
def _streams(device: str) -> tuple[torch.cuda.Stream, ...]:
    """Return the two streams of a device, always the same: torch reuses memory stream by stream."""
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


def _require_interpreter(wanted: bool) -> None:
    """Check that Triton is interpreted: its kernels run on the processor in no other way.

    Raises:
        FastmaskError: it is ``wanted`` and was not chosen.
    """
    if not wanted:
        return
    try:
        from fastmask_kernels.compiled import INTERPRETED
    except ImportError as error:
        raise FastmaskError("--kernels triton: triton is not installed; use auto") from error
    if not INTERPRETED:
        raise FastmaskError("--kernels triton without a CUDA device: set TRITON_INTERPRET=1 to interpret them (slow)")
