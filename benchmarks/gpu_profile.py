"""Where a job's time on the GPU goes: kernels by stage, and the gaps between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Span = tuple[str, float, float]
"""A kernel's name, start and end in microseconds."""

PRODUCTS = "matrix products"
STAGES = {
    PRODUCTS: ("gemm", "nvjet", "cutlass", "xmma", "splitk", "cublas", "gemv", "dot_kernel"),
    "embedding": ("embed",),
    "attention": ("attention", "softmax"),
    "layer norm": ("layernorm", "layer_norm"),
    "bias and GELU": ("bias_gelu", "geglu", "gelu"),
    "head": ("log_odds",),
    "halves": ("split_half",),
    "copies": ("memcpy", "memset"),
}
"""Stage -> what a kernel's name has in it, whichever comes first; all else is "other"."""
LONGEST_NAME = 120


def stage_of(kernel: str) -> str:
    """The stage of a kernel by its name."""
    name = kernel.lower()
    return next((stage for stage, parts in STAGES.items() if any(part in name for part in parts)), "other")


def stages(spans: Iterable[Span]) -> dict:
    """Seconds by stage, of gaps in which the device did nothing, and of all but matrix products; the longest kernels.

    Kernels that ran side by side count each for itself in the stages, but only once in ``busy``.
    """
    spans = sorted(spans, key=lambda span: span[1])
    by_stage, by_name = Counter(), Counter()
    busy, end = 0.0, spans[0][1] if spans else 0.0
    for name, start, stop in spans:
        by_stage[stage_of(name)] += (stop - start) / 1e6
        by_name[name[:LONGEST_NAME]] += (stop - start) / 1e6
        busy += max(0.0, stop - max(start, end)) / 1e6
        end = max(end, stop)
    span = (end - spans[0][1]) / 1e6 if spans else 0.0
    return {
        "kernels": len(spans), "span_seconds": span, "busy_seconds": busy, "gap_seconds": span - busy,
        "seconds_by_stage": dict(by_stage.most_common()), "seconds_not_in_products": span - by_stage[PRODUCTS],
        "longest_kernels": [{"name": n, "stage": stage_of(n), "seconds": t} for n, t in by_name.most_common(20)],
    }  # fmt: skip


def profiled(work: Callable[[], object], device: str) -> dict:
    """``work`` once under the profiler; without a CUDA device it runs, and there is nothing to tell."""
    if device != "cuda":
        work()
        return {}
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    events = (event for event in seen.events() if event.device_type == DeviceType.CUDA)
    return stages((event.name, event.time_range.start, event.time_range.end) for event in events)
