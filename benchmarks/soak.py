"""Kill every command that writes at random moments, let it go to its end, and compare bytes.

A kill is a real SIGKILL, in turns after a random time and at a random one of the calls that change the disk. What was
killed is started again, and perhaps killed again, until it may go to its end. A command that replaces something must
have left the old or the new result whole after every kill; in the end the bytes are those of a run that nothing
happened to, and nothing else is left beside them.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import harness
from soak_commands import CORPUS, MODEL, Case, cases, write_base

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
               "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
"""Set before torch is loaded: a process with threads cannot be forked, and bytes may depend on their number."""
ALLOCATOR_THREADS = 4
"""Threads of this process and of Arrow's allocator, which is ready for a fork."""
DISK = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link")
TIMED = {"tokens_per_second", "weights", "files"}
"""Keys of JSON files that hold how long something took, or when a file was changed."""
LAST = ("_manifest.json", "metrics.json", "pretrain.json")
"""What the commands write last."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: ``code`` as subprocess has it, and what it told of itself when it was not killed."""

    code: int
    seconds: float
    said: str
    calls: int = 0
    modules: tuple[str, ...] = ()


def start(arguments: tuple[str, ...], place: Path, after: float | None = None, at: int | None = None) -> Ended:
    """Run a command in a child that has everything imported, killed after some seconds or at a call of DISK."""
    there, here = os.pipe()
    log = place.parent / "log.txt"
    began = time.perf_counter()
    if not (child := os.fork()):
        os.close(there)
        _command(arguments, place, log, here, at)
    os.close(here)
    ready, _, _ = select.select([there], [], [], after)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with open(there, "rb") as pipe:
        told = json.loads(pipe.read() or b"{}")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    return Ended(code, time.perf_counter() - began, said, told.get("calls", 0), tuple(told.get("modules", ())))


def _command(arguments: tuple[str, ...], place: Path, log: Path, pipe: int, at: int | None) -> None:
    """Be the command, and never return."""
    code = 70
    try:
        os.chdir(place)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        calls = 0

        def count(event: str, details: tuple) -> None:
            nonlocal calls
            if event in DISK and not (event == "open" and _only_reads(details)):
                if calls == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1

        sys.addaudithook(count)
        from fastmask.cli import cli

        try:
            cli(list(arguments), prog_name="fastmask")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
        os.write(pipe, json.dumps({"calls": calls, "modules": [*sys.modules]}).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _only_reads(details: tuple) -> bool:
    _, mode, flags = details
    return not flags & (os.O_WRONLY | os.O_RDWR) if flags is not None else not {*"wax+"} & {*str(mode)}


def contents(place: Path) -> dict[str, bytes]:
    """Return every file below a directory but locks, without what tells of time; a directory is an entry, too."""
    found = {}
    for path in sorted(place.rglob("*")):
        if not path.name.endswith("lock"):
            found[str(path.relative_to(place))] = _timeless(path) if path.is_file() else b""
    return found


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        return data
    try:
        return b"\n".join(json.dumps(_without(json.loads(part))).encode() for part in _documents(path, data))
    except ValueError:
        return data


def _documents(path: Path, data: bytes) -> list[bytes]:
    return data.splitlines() if path.suffix == ".jsonl" else [data]


def _without(value):
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in TIMED}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


def results_of(found: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Return the contents by what is replaced as one: a model, shards, an export, a file; what is hidden is not one."""
    whole = {name.rpartition("/")[0] for name in found if name.rpartition("/")[2] in LAST}
    grouped: dict[str, dict[str, bytes]] = {}
    for name, data in found.items():
        if not any(part.startswith(".") for part in name.split("/")):
            top = next((head for head in whole if name.startswith(f"{head}/")), name.partition("/")[0])
            grouped.setdefault(top, {})[name.removeprefix(f"{top}/")] = data
    return grouped


class Soak:
    """One command under kills.

    Attributes:
        counts: kills, runs, and everything that went wrong.
        findings: what went wrong, in words.
    """

    def __init__(self, case: Case, folder: Path, dice: random.Random):
        self.case, self.folder, self.dice = case, folder, dice
        self.counts: Counter = Counter()
        self.findings: list[str] = []
        self.place = folder / "work"
        self.old = self._alone(case.before, "old") if case.before else {}
        if case.before:
            (folder / "work").rename(folder / "before")
        self._fresh()
        self.whole = self._start()
        self.new = contents(self.place)

    def _alone(self, arguments: tuple[str, ...], name: str) -> dict[str, bytes]:
        self.place.mkdir()
        ended = start(arguments, self.place)
        if ended.code:
            raise RuntimeError(f"{self.case.name}, {name}: {ended.said}")
        return contents(self.place)

    def _fresh(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        if self.case.before:
            shutil.copytree(self.folder / "before", self.place, symlinks=True)
        else:
            self.place.mkdir()

    def _start(self) -> Ended:
        ended = start(self.case.arguments, self.place)
        if ended.code:
            raise RuntimeError(f"{self.case.name}: {ended.said}")
        return ended

    def soak(self, kills: int) -> None:
        """Kill it so many times, over as many lives as that takes."""
        began = time.perf_counter()
        while self.counts["kills"] < kills:
            self._life(min(self.dice.randint(1, 9), kills - self.counts["kills"]))
        self.counts["seconds"] = round(time.perf_counter() - began)

    def _life(self, kills: int) -> None:
        """From the beginning to the end, killed so many times on the way unless it ends before."""
        self._fresh()
        history = []
        for _ in range(kills):
            if self.dice.random() < 0.5:
                moment = {"after": self.dice.uniform(0, self.whole.seconds)}
            else:
                moment = {"at": self.dice.randrange(self.whole.calls)}
            history.append(moment)
            ended = self._started(history, **moment)
            if ended.code != -signal.SIGKILL:
                break
            self.counts["kills"] += 1
            self.counts["kills at a call" if "at" in moment else "kills after a time"] += 1
            self._check_whole(history)
        else:
            self._started(history)
        self._check_end(history)

    def _started(self, history: list, **moment) -> Ended:
        ended = start(self.case.arguments, self.place, **moment)
        self.counts["runs"] += 1
        if ended.code not in (0, -signal.SIGKILL):
            # killed when all was done: some commands then say that there is a result
            if "exists already" in ended.said and contents(self.place) == self.new:
                self.counts["whole already"] += 1
            else:
                self._found("failures", history, ended.said)
        return ended

    def _check_whole(self, history: list) -> None:
        """Each old result is there, or the new one in its place."""
        now, old, new = (results_of(each) for each in (contents(self.place), self.old, self.new))
        for name in old:
            # what is beside the steps of a recipe tells how far it is
            is_ledger = self.case.name.startswith("run") and name == "out"
            if not is_ledger and now.get(name) not in (old[name], new.get(name)):
                self._found("lost results", history, f"{name} is neither the old nor the new one")

    def _check_end(self, history: list) -> None:
        now = contents(self.place)
        if lost := [name for name in self.new if name not in now]:
            self._found("lost results", history, str(lost))
        if other := [name for name in self.new if name in now and now[name] != self.new[name]]:
            self._found("byte differences", history, str(other))
        locks = [path.name for path in self.place.rglob("*lock")]
        if left := [*(name for name in now if name not in self.new), *locks]:
            self._found("leftovers", history, str(left))

    def _found(self, kind: str, history: list, what: str) -> None:
        self.counts[kind] += 1
        self.findings.append(f"{kind}: {self.case.name}: {history}: {what}")
        print(self.findings[-1], flush=True)


def warm(base: Path) -> None:
    """Import what the commands import, and make what they read."""
    score = ("score", CORPUS, "-o", "masks", "--model", MODEL, "--threads", "1", "--shard-rows", "6", "-q")
    for command in (score, ("train-masker", "masks", "-o", "masker", "--init", MODEL, "--epochs", "1", "-q")):
        ended = start(command, base)
        if ended.code:
            raise RuntimeError(ended.said)
        load(ended.modules)


def load(modules: tuple[str, ...]) -> None:
    """Import modules that a command has imported, so that the next child need not."""
    for name in modules:
        if name.partition(".")[0] != "__main__" and name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)
    if len(os.listdir("/proc/self/task")) > ALLOCATOR_THREADS:
        raise RuntimeError("an import has started a thread: nothing can be forked any more")


def report_of(kills: int, seed: int, folder: Path, only: str) -> dict:
    """Soak every command whose name has ``only`` in it."""
    began = time.perf_counter()
    os.environ |= {**ENVIRONMENT, "MPLCONFIGDIR": str(folder)}
    write_base(folder / "base")
    warm(folder / "base")
    chosen = [case for case in cases() if only in case.name]
    total, rows, findings = sum(case.share for case in chosen), {}, []
    print(f"ready after {time.perf_counter() - began:.0f} s", flush=True)
    for number, case in enumerate(chosen):
        (folder / str(number)).mkdir()
        (folder / str(number) / "base").symlink_to(folder / "base")
        soak = Soak(case, folder / str(number), random.Random(f"{seed} {case.name}"))
        load(soak.whole.modules)
        # measured again: what it imported at first it does not import now
        soak._fresh()
        soak.whole = soak._start()
        soak.soak(math.ceil(kills * case.share / total))
        findings += soak.findings
        rows[case.name] = {"seconds of a run": round(soak.whole.seconds, 2), "calls of a run": soak.whole.calls,
                           **{kind: soak.counts[kind] for kind in KINDS}}  # fmt: skip
        print(f"{case.name}: {rows[case.name]}", flush=True)
        shutil.rmtree(folder / str(number))
    return {"kills": sum(row["kills"] for row in rows.values()), "seed": seed, "commands": rows, "findings": findings}


KINDS = ("kills", "kills after a time", "kills at a call", "runs", "whole already", "failures", "lost results",
         "byte differences", "leftovers", "seconds")  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if anything was found."""
    parser = harness.parser(__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands with this in their names")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = report_of(options.kills, options.seed, Path(folder), options.only)
    print(f"{report['kills']} kills, {len(report['findings'])} findings")
    if options.out:
        harness.write_json(options.out, {**report, "machine": harness.machine(1)})
    return bool(report["findings"])


if __name__ == "__main__":
    sys.exit(main())
