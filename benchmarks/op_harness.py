"""What the benchmarks of single ops share: a case, its timing on a device, and the table of shares of the ceiling.

    python benchmarks/bench_<op>.py [--device cuda|cpu] [--out FILE]

On the CPU the ops run once each, at small shapes, in Triton's interpreter; nothing is timed there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import harness
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is first imported

COPY_BYTES = 4 << 30
SIDE = 8192  # of the square matrix products that give the matrix rates
CACHE_BYTES = 512 << 20  # several times the largest L2
RUNS = 5, 100  # fewest and most timed runs
SECONDS = 0.2  # about what the timed runs of a case take together
CEILINGS = {"copy_gb_per_second": "copy, GB/s", "fp16_tflops": "fp16, TFLOP/s", "fp32_tflops": "fp32, TFLOP/s"}


@dataclass(frozen=True, slots=True)
class OpCase:
    """One op at one shape.

    Attributes:
        op: stem of the op; name: the shape in words, as printed; float32 cases say "fp32" in it.
        run: calls the op once; its inputs are made beforehand.
        torch: the same by plain torch operations, or None where there is no sensible one.
        bytes: least traffic: every input read once, every output written once.
        flops: floating-point operations in matrix products (0 for memory-bound ops).
    """

    op: str
    name: str
    run: Callable[[], object]
    torch: Callable[[], object] | None
    bytes: int
    flops: int = 0

    @property
    def matrix_rate(self) -> str:
        """Which of CEILINGS its matrix products are measured by."""
        return "fp32_tflops" if "fp32" in self.name else "fp16_tflops"


class Stopwatch:
    """Median seconds of work on a CUDA device, by events, its inputs out of the cache before each run.

    A buffer larger than the cache is read, not written, in between: lines that were written would have to be written
    back during the run that is timed.
    """

    def __init__(self, device: str):
        self.buffer = torch.ones(CACHE_BYTES // 4, device=device)

    def seconds(self, work: Callable[[], object]) -> float:
        """See the class; ``work`` is run at least twice beforehand."""
        work()
        once = self._runs(work, 1)[0]
        return statistics.median(self._runs(work, max(RUNS[0], min(RUNS[1], int(SECONDS / once)))))

    def _runs(self, work: Callable[[], object], count: int) -> list[float]:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for start, end in events:
            self.buffer.sum()
            start.record()
            work()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in events]


def ceilings(device: str) -> dict[str, float]:
    """What the device reaches: copying (bytes read plus bytes written) and square products of random matrices."""
    watch = Stopwatch(device)
    source = torch.randint(-99, 99, (COPY_BYTES,), dtype=torch.int8, device=device)
    copying = watch.seconds(partial(torch.empty_like(source).copy_, source))
    found = {"copy_gb_per_second": 2 * COPY_BYTES / copying / 1e9}
    for name, dtype in (("fp16_tflops", torch.float16), ("fp32_tflops", torch.float32)):
        a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * SIDE**3 / watch.seconds(partial(torch.matmul, a, b)) / 1e12
    return found


def measure(cases: Sequence[OpCase], ceilings: dict[str, float]) -> list[dict]:
    """Each case's time on the CUDA device, what it makes of it, and that as shares of the ceilings."""
    watch = Stopwatch("cuda")
    return [_row(case, ceilings, watch) for case in cases]


@torch.inference_mode()
def _row(case: OpCase, ceilings: dict[str, float], watch: Stopwatch) -> dict:
    seconds = watch.seconds(case.run)
    by_torch = None if case.torch is None else watch.seconds(case.torch)
    gigabytes, tflops = case.bytes / seconds / 1e9, case.flops / seconds / 1e12
    return {
        "op": case.op, "case": case.name, "bytes": case.bytes, "flops": case.flops, "microseconds": seconds * 1e6,
        "gb_per_second": gigabytes, "share_of_copy": gigabytes / ceilings["copy_gb_per_second"],
        "tflops": tflops if case.flops else None,
        "share_of_matrix": tflops / ceilings[case.matrix_rate] if case.flops else None,
        "torch_microseconds": by_torch and by_torch * 1e6, "times_torch": by_torch and by_torch / seconds,
    }  # fmt: skip


def run_once(cases: Sequence[OpCase]) -> list[dict]:
    """Runs every case and its torch counterpart once, untimed."""
    for case in cases:
        case.run()
        if case.torch is not None:
            case.torch()
    return [{"op": c.op, "case": c.name, "bytes": c.bytes, "flops": c.flops} for c in cases]


def show(rows: Sequence[dict], ceilings: dict[str, float]) -> None:
    """Measured rows as a table."""
    keys = ("microseconds", "gb_per_second", "share_of_copy", "tflops", "share_of_matrix", "times_torch")
    columns = ("op", "case", "us", "GB/s", "of copy", "TFLOP/s", "of matrix", "x torch")
    caption = "medians, inputs not in the cache; " + show_ceilings(ceilings)
    if any("attention" in row["op"] for row in rows):
        caption += "\nattention by torch is a loop over runs of equal lengths, the gaps between its launches included"
    harness.print_table("ops", columns, [(r["op"], r["case"], *(r[key] for key in keys)) for r in rows], caption)


def show_ceilings(ceilings: dict[str, float]) -> str:
    """The ceilings in words."""
    return "measured ceilings: " + ", ".join(f"{CEILINGS[name]} {ceilings[name]:,.0f}" for name in CEILINGS)


def main(doc: str, cases: Callable[..., list[OpCase]], arguments: list[str] | None = None) -> None:
    """The command line of a ``bench_<op>.py``: ``cases(device, small)`` gives its cases."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write the rows to this JSON file")
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        report = {"timed": False, "rows": run_once(cases("cpu", small=True))}
        for row in report["rows"]:
            print(f"{row['op']}, {row['case']}: ran in the interpreter; nothing was timed")
    elif not torch.cuda.is_available():
        sys.exit("no CUDA device: --device cpu runs small shapes in the interpreter, untimed")
    else:
        limits = ceilings("cuda")
        report = {"timed": True, "gpu": torch.cuda.get_device_name(), "ceilings": limits}
        report["rows"] = measure(cases("cuda"), limits)
        show(report["rows"], limits)
    harness.write_json(options.out, report)
