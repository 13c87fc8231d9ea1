"""What the benchmarks share: fresh processes, clocks, memory, the machine's description, tables and JSON."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]  # this checkout, installed or not, before any other
_LIBRARIES = ("torch", "transformers", "tokenizers", "numba", "numpy", "pyarrow", "spacy", "captum")


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with the options that every benchmark has; ``description`` is the module's docstring."""
    made = argparse.ArgumentParser(description=description.partition("\n")[0])
    made.add_argument("--threads", type=int, default=0, help="cores for every arm; 0 is all")
    made.add_argument("--out", type=Path, help="also write the report to this JSON file")
    return made


def cores(threads: int) -> int:
    """``--threads`` as a number of cores."""
    return threads or os.cpu_count() or 1


def machine(threads: int) -> dict:
    """What a number was measured on. A load above 0 at the start means that other work shared the cores."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": cores(threads),
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def isolated(function: Callable, *args):
    """``function(*args)`` in a fresh Python process: nothing warm, no one else's memory. Errors come back."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def megabytes(field: str) -> float:
    """A field of /proc/self/status: "VmRSS", what the process holds now, or "VmHWM", the most it ever held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _forget_peak() -> None:
    with contextlib.suppress(PermissionError):  # then the peak is that since the process began, an upper bound
        Path("/proc/self/clear_refs").write_text("5")


def measured(work: Callable[[], object]) -> tuple[object, dict]:
    """Runs ``work`` once: its result, and the seconds, the memory held before it and the peak during it (MB)."""
    gc.collect()
    _forget_peak()
    loaded, start = megabytes("VmRSS"), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return result, {"seconds": seconds, "loaded_mb": loaded, "peak_mb": max(megabytes("VmHWM"), loaded)}


def interleaved(arms: Mapping[str, Callable[[], dict]], repeats: Mapping[str, int]) -> dict[str, list[dict]]:
    """Calls every arm once, in order, then again those with repeats left, so that drift hits all of them alike."""
    runs: dict[str, list[dict]] = {name: [] for name in arms}
    for turn in range(max(repeats.values(), default=0)):
        for name, arm in arms.items():
            if turn < repeats[name]:
                runs[name].append(arm())
                print(f"  {name} {turn + 1}/{repeats[name]}: {runs[name][-1].get('seconds', 0):.2f} s", flush=True)
    return runs


def spread(seconds: Iterable[float]) -> dict:
    """Median (what ratios are made of), best and number of some timings."""
    values = list(seconds)
    return {"median": statistics.median(values), "best": min(values), "runs": len(values)}


def rate_per_core(work: Callable[[], object], threads: int, at_least: float = 0.5) -> float:
    """Calls a second of ``work``, one caller a core with one torch thread each, for about ``at_least`` seconds."""
    import torch

    def calls(count: int) -> None:
        for _ in range(count):
            work()

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(calls, [2] * threads))
        once = _seconds(lambda: calls(1))
        count = max(2, int(at_least / once))
        seconds = _seconds(lambda: list(pool.map(calls, [count] * threads)))
    return threads * count / seconds


def rate_together(work: Callable[[], object], threads: int, at_least: float = 0.5) -> float:
    """Calls a second of ``work``, one caller whose torch operations use all ``threads``."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for _ in range(2):
        work()
    count = max(2, int(at_least / _seconds(work)))
    seconds = _seconds(lambda: [work() for _ in range(count)])
    torch.set_num_threads(before)
    return count / seconds


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence], caption: str = "") -> None:
    """A table on the terminal; None is an empty cell and numbers get three or four digits."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=caption or None, box=box.SIMPLE, padding=0, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def write_json(path: Path | None, report: dict) -> None:
    """The report as a file, if one is wanted."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")
