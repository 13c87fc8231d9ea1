"""All that a GPU has to tell, in one command of at most eight minutes: tests, masks, ceilings, ops, whole jobs.

    python benchmarks/gpu_suite.py --out DIR [--minutes 8] [--commit ID]
    python benchmarks/gpu_suite.py --out DIR --rehearse     # the same code at toy sizes in the interpreter, untimed
    python benchmarks/gpu_suite.py --predict                # rooflines, from bytes and operations alone

Needs neither spaCy nor ../shared. DIR gets gpu_suite.json, written anew after every section, and the tables as text.
Exits 1 when a section failed, a test is red or a mask is wrong, and 2 without a CUDA device.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is first imported

import harness  # first: it finds fastmask  # isort: skip
import gpu_predict
import gpu_report
import gpu_sections
import op_harness
import triton
from gpu_arms import Place
from gpu_sections import OutOfTime, Section, Sizes, Skip, Suite

NO_DEVICE = "there is no CUDA device: --rehearse tries the code without one, --predict prints what one should reach"
IN_INTERPRETER = "TRITON_INTERPRET is set: kernels would run in the interpreter; unset it, or --rehearse"
NO_REHEARSAL = "there is a CUDA device: run without --rehearse, or hide it with CUDA_VISIBLE_DEVICES="


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in what runs inside when ``seconds`` have passed."""

    def stop(*_) -> None:
        raise OutOfTime("the time for the whole suite was over while this ran")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_section(suite: Suite, section: Section) -> dict:
    """A section's report, whatever becomes of it."""
    _, needs, run = section
    left = suite.left()
    if left < needs:
        return {"skipped": f"{max(left, 0):.0f} s were left of the suite's time, and it takes about {needs:.0f} s"}
    try:
        with stopped_after(left):
            return run(suite)
    except (Skip, OutOfTime) as reason:
        return {"skipped": str(reason)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def run(suite: Suite) -> None:
    """Every section, one after the other, each on file as soon as it is done."""
    for section in gpu_sections.sections(suite.sizes.shapes):
        name, start = section[0], time.monotonic()
        print(f"{name} ...", flush=True)
        found = run_section(suite, section)
        if suite.place.timed:
            found["section_seconds"] = round(time.monotonic() - start, 1)
        suite.report["sections"][name] = found
        suite.write()
        gc.collect()
        if suite.place.device == "cuda":
            torch.cuda.empty_cache()


def described(commit: str | None) -> dict:
    """What the numbers are measured on."""
    found = harness.machine(0) | {"triton": triton.__version__, "torch": torch.__version__}
    found |= {"commit": commit or _output("git", "rev-parse", "HEAD"), "cuda": torch.version.cuda}
    status = None if commit else _output("git", "status", "--porcelain")
    found["changed_since_commit"] = None if status is None else bool(status)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_mb"] = torch.cuda.get_device_properties(0).total_memory / 2**20
        found["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return found


def _output(*command: str) -> str | None:
    """What a command prints, None where there is no such command or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=harness.ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def suite_of(options, deadline: float) -> Suite:
    """The run that the options ask for, nothing done yet."""
    rehearse = options.rehearse
    place = Place("cpu", "triton", timed=False) if rehearse else Place("cuda", "auto", timed=True)
    report = {"benchmark": "gpu_suite", "rehearsal": rehearse, "machine": described(options.commit)}
    if rehearse:
        report["note"] = (
            "toy sizes in Triton's interpreter, to try the code: nothing was timed, and nothing here is a result"
        )
    report |= {"models": {}, "sections": {}}
    return Suite(place, gpu_sections.REHEARSAL if rehearse else Sizes(), options.out, deadline, report)


def finish(suite: Suite) -> int:
    """Shows the tables, writes them beside the JSON; 1 when something is wrong."""
    faults = gpu_report.faults(suite.report)
    with contextlib.redirect_stdout(io.StringIO()) as tables:
        gpu_report.show(suite.report)
    text = tables.getvalue()
    (suite.out / "gpu_suite.txt").write_text(text, encoding="utf-8")
    print(text)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def refusal(rehearse: bool) -> str:
    """Why the suite cannot start, "" if it can: timed runs want a device and compiled kernels, rehearsals neither."""
    interpreted = triton.knobs.runtime.interpret
    if not torch.cuda.is_available():
        return "" if rehearse else NO_DEVICE
    if rehearse:
        return "" if interpreted else NO_REHEARSAL
    return IN_INTERPRETER if interpreted else ""


def predict() -> None:
    """Prints rooflines of every op's benchmark and of greedy on whole jobs."""
    limits = ", ".join(f"{op_harness.CEILINGS[name]} {value:,.0f}" for name, value in gpu_predict.H200.items())
    columns = ("op", "case", "MB", "GFLOP", "expected us", "bound by", "measured us")
    rows = gpu_predict.op_rows(gpu_sections.op_names(), "cpu")
    harness.print_table("ops on an H200", columns, rows, f"assumed: {limits}")
    sentences = Sizes().sentences
    rows = gpu_predict.job_rows(sentences)
    columns = ("what", "BERT-base", "measured", "MiniLM", "measured")
    harness.print_table(f"greedy on {sentences:,} reviews, {gpu_predict.greedy_work()}", columns, rows)


def options_of(arguments: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for the reports")
    parser.add_argument("--minutes", type=float, default=8, help="sections that would end later are left out")
    parser.add_argument("--commit", help="what is measured, for a copy without its git history")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes in Triton's interpreter, nothing timed")
    parser.add_argument("--predict", action="store_true", help="only print what an H200 should reach")
    options = parser.parse_args(arguments)
    if not options.predict and options.out is None:
        parser.error("--out DIR is missing")
    return options


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    start = time.monotonic()
    options = options_of(arguments)
    if options.predict:
        predict()
        return 0
    if reason := refusal(options.rehearse):
        print(reason, file=sys.stderr)
        return 2
    suite = suite_of(options, start + 60 * options.minutes)
    run(suite)
    return finish(suite)


if __name__ == "__main__":
    sys.exit(main())
