"""Fuzz everything that fastmask reads: no crash, no hang, no raw escape, in 100,000 cases and more.

A case is a good file, or a good directory, made hostile at a few places and read as the commands read it. It may
succeed or be refused in one clean line; all else is a finding, which has a kind. A case is known by its target, seed
and its number: ``--only TARGET --seed S --first NUMBER --cases 1`` makes it again. Cases run in forked processes, so
that a hang, an abort or memory without end costs one case.
"""

from __future__ import annotations

import faulthandler
import math
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

import fuzz_inputs
import fuzz_models
import fuzz_runs
import harness
from fuzz_world import World
from outcomes import DONE, REFUSED, Case, Outcome, attempt

HANG_SECONDS = 5.0
"""Of a case's own processor time: others may use the machine."""
WAIT_SECONDS = 60.0
"""By the clock, for a case that waits for something that never comes."""
MEMORY = 3 << 30
"""Bytes that a worker may take on top of what it began with."""
CASES_A_WORKER = 1500

_READERS = {
    f"{suffix}{'.gz' * zipped}": partial(fuzz_inputs.fuzz_format, suffix=suffix, zipped=zipped)
    for zipped in (False, True) for suffix in fuzz_inputs.FORMATS
}  # fmt: skip
TARGETS: dict[str, Case] = {
    **_READERS,
    "encoding": fuzz_inputs.fuzz_encoding,
    "recipe": fuzz_inputs.fuzz_recipe,
    "ledger": fuzz_runs.fuzz_ledger,
    "manifest": fuzz_runs.fuzz_manifest,
    "shard values": fuzz_runs.fuzz_shard_values,
    "shard bytes": fuzz_runs.fuzz_shard_bytes,
    "journal": fuzz_runs.fuzz_journal,
    "training run": fuzz_runs.fuzz_training,
    "predictions": fuzz_runs.fuzz_evaluate,
    "stop words": fuzz_runs.fuzz_stop_words,
    "config.json": fuzz_models.fuzz_config,
    "tokenizer.json": fuzz_models.fuzz_tokenizer,
    "weights": fuzz_models.fuzz_weights,
    "text": fuzz_models.fuzz_text,
}
SHARES = dict.fromkeys(_READERS, 4) | {
    "encoding": 6,
    "recipe": 3,
    "stop words": 2,
    "text": 0.2,
    "journal": 0.4,
    "training run": 0.15,
}
"""How many cases a target gets for one of another's: by what they cost."""


def run_case(target: str, seed: int, number: int, work: Path, world: World) -> Outcome:
    """Return how a case ends in this process; its folder is gone again, but for that of a finding."""
    folder, here = work / "case", os.getcwd()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    try:
        return attempt(TARGETS[target], Random(f"{target} {seed} {number}"), folder, world)
    finally:
        os.chdir(here)


# --- in a process of their own ---


def _serve(target: str, seed: int, numbers: range, work: Path, world, pipe) -> None:
    """Run cases one after the other, and send how each ended."""
    printed = os.open(work / "printed", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    trace = (work / "trace").open("w")
    faulthandler.enable(trace)
    faulthandler.register(signal.SIGUSR1, trace)
    warnings.simplefilter("always")
    warnings.simplefilter("ignore", DeprecationWarning)  # as Python has it
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in numbers:
        began = time.perf_counter()
        outcome = run_case(target, seed, number, work, world)
        seconds = time.perf_counter() - began
        if os.fstat(printed).st_size:
            said = (work / "printed").read_bytes()[:500].decode("utf-8", "replace")
            outcome = outcome if outcome.is_finding else Outcome(f"printed: {said[:60]!a}", said)
            os.ftruncate(printed, 0)
        pipe.send((number, outcome, seconds))


def watched(target: str, seed: int, numbers: range, work: Path, world) -> Iterator[tuple[int, Outcome, float]]:
    """Yield (number, outcome, seconds) of cases that run in forked processes, those that end or stall one as well."""
    context, waiting = multiprocessing.get_context("fork"), numbers
    while waiting:
        batch = waiting[:CASES_A_WORKER]
        pipe, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_serve, args=(target, seed, batch, work, world, theirs))
        worker.start()
        theirs.close()
        done = yield from _received(pipe, worker, batch, work)
        worker.join()
        waiting = waiting[done:]


def _received(pipe, worker, batch: range, work: Path):
    """Yield what a worker sends; return how many cases are done, the one that ended it among them."""
    for done, number in enumerate(batch):
        began = time.perf_counter()
        try:
            if _answers(pipe, worker.pid):
                yield pipe.recv()
                continue
            kind, seconds = "hang", time.perf_counter() - began
            os.kill(worker.pid, signal.SIGUSR1)
            time.sleep(0.5)  # it writes where it is
            worker.kill()
            worker.join()
        except EOFError:
            worker.join()
            kind, seconds = f"ended by {worker.exitcode}", time.perf_counter() - began
        trace = (work / "trace").read_text()
        yield number, Outcome(f"{kind} in {_place(trace)}", trace[:2000]), seconds
        return done + 1
    return len(batch)


def _answers(pipe, pid: int) -> bool:
    """Wait for a case; returns whether it ended, or its process did."""
    used, began = _cpu_seconds(pid), time.perf_counter()
    while not pipe.poll(1.0):
        if _cpu_seconds(pid) - used > HANG_SECONDS or time.perf_counter() - began > WAIT_SECONDS:
            return False
    return True


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _place(trace: str) -> str:
    """Return the first function of fastmask's own in a trace of faulthandler's."""
    lines = [line.split('"')[1:] for line in trace.splitlines() if "/fastmask/" in line and '"' in line]
    return f"{Path(lines[0][0]).name}:{lines[0][1].rpartition(' in ')[2]}" if lines else "?"


# --- the report ---


class Tally:
    """What became of a target's cases."""

    def __init__(self, target: str):
        self.target, self.kinds, self.seconds = target, Counter(), 0.0
        self.slowest = (0.0, 0)
        self.findings: dict[str, list[int]] = defaultdict(list)
        self.details: dict[str, str] = {}

    def add(self, number: int, outcome: Outcome, seconds: float) -> bool:
        """Count a case; returns whether it is the first of a kind of finding."""
        self.kinds["finding" if outcome.is_finding else outcome.kind] += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, (seconds, number))
        if not outcome.is_finding:
            return False
        self.findings[outcome.kind].append(number)
        self.details.setdefault(outcome.kind, outcome.detail)
        return len(self.findings[outcome.kind]) == 1

    def as_dict(self) -> dict:
        """Return it as the report has it."""
        return {
            "cases": self.kinds.total(),
            **{kind: self.kinds[kind] for kind in (DONE, REFUSED, "finding")},
            "seconds": round(self.seconds, 1),
            "slowest": {"seconds": round(self.slowest[0], 3), "number": self.slowest[1]},
            "findings": {kind: numbers[:5] for kind, numbers in self.findings.items()},
        }


def fuzz(target: str, seed: int, numbers: range, work: Path, world, keep: Path | None) -> Tally:
    """Return the tally of a target's cases; the folder of the first of each kind of finding is kept in ``keep``."""
    tally = Tally(target)
    for number, outcome, seconds in watched(target, seed, numbers, work, world):
        if not tally.add(number, outcome, seconds):
            continue
        print(f"  {target} {number}: {outcome.kind}\n    {outcome.detail.rstrip()[-300:]!a}", flush=True)
        if keep:
            # the folder is the next case's by now: the case is made once more
            made = keep / f"{target.replace(' ', '-')}-{seed}-{number}"
            made.mkdir(parents=True, exist_ok=True)
            (made / "finding.txt").write_text(f"{outcome.kind}\n{outcome.detail}", errors="replace")
            list(watched(target, seed, range(number, number + 1), made, world))
    return tally


def shares(cases: int, targets: list[str]) -> dict[str, int]:
    """Return how many of the cases each target gets."""
    whole = sum(SHARES.get(name, 1) for name in targets)
    return {name: math.ceil(cases * SHARES.get(name, 1) / whole) for name in targets}


def report_of(tallies: list[Tally], seed: int, threads: int) -> dict:
    """Return the whole run's report."""
    kinds = sum((tally.kinds for tally in tallies), Counter())
    return {
        "machine": harness.machine(threads),
        "seed": seed,
        "hang": {"processor_seconds": HANG_SECONDS, "seconds": WAIT_SECONDS},
        "total": {"cases": kinds.total(), **{kind: kinds[kind] for kind in (DONE, REFUSED, "finding")}},
        "seconds": round(sum(tally.seconds for tally in tallies), 1),
        "targets": {tally.target: tally.as_dict() for tally in tallies},
    }


def main() -> None:
    """Fuzz, print, write the report; exit 1 if there is a finding."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")
    parser = harness.parser(__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", action="append", choices=TARGETS, help="a target; may be repeated")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    asked = parser.parse_args()
    memory = Path("/dev/shm")  # files are synced a thousand times
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        world = World.ready(Path(folder) / "world")

        def run(target: str, cases: int) -> Tally:
            work = Path(folder) / target.replace(" ", "-")
            work.mkdir()
            tally = fuzz(target, asked.seed, range(asked.first, asked.first + cases), work, world, asked.keep)
            print(target, tally.as_dict(), flush=True)
            return tally

        wanted = shares(asked.cases, asked.only or list(TARGETS))
        with ThreadPoolExecutor(harness.cores(asked.threads)) as pool:  # they wait for their forked workers
            tallies = list(pool.map(run, wanted, wanted.values()))
    report = report_of(tallies, asked.seed, asked.threads)
    harness.write_json(asked.out, report)
    print(report["total"])
    raise SystemExit(report["total"]["finding"] > 0)


if __name__ == "__main__":
    main()
