"""Compiles every Triton op at its tuned block sizes, without a GPU, and looks at the machine code.

    python benchmarks/compile_kernels.py [OP ...] [--arch 80 90 100] [--workers 2] [--package NAME] [--brief]

Registers, shared memory, what spills to local memory, and how wide global loads are, by case and architecture; exits 1
when a case does not compile or spills. The ops are the package's modules that have ``cases()``.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # in the interpreter there is nothing to compile; before triton's import

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHITECTURES = (80, 90, 100)
DIVISIBLE = ["tt.divisibility", 16]
RESOURCE = re.compile(r"\b(REG|STACK|LOCAL):(\d+)")
# Global to registers, global to shared memory, and the bulk copies of sm_90 and later, which are as wide as can be.
WIDE = re.compile(r"\b(?:LDG|LDGSTS)\.\S*?(?:128|256)\b|\b(?:UBLKCP|UTMALDG)\b")
LOAD = re.compile(r"\b(?:LDG|LDGSTS|UBLKCP|UTMALDG)\b")
SPILL = re.compile(r"\b(?:LDL|STL)\b")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A case's machine code for one architecture.

    Attributes:
        name: of the case; arch: 80 for sm_80.
        registers: a thread; shared: bytes a program; local: bytes of a thread's stack, where spills go.
        spills: instructions that read or write it.
        wide, loads: global loads of at least 16 bytes a thread, and all of them (instructions).
        error: why it did not compile, else "".
    """

    name: str
    arch: int
    registers: int = 0
    shared: int = 0
    local: int = 0
    spills: int = 0
    wide: int = 0
    loads: int = 0
    error: str = ""

    @property
    def complaint(self) -> str:
        """One line when it failed or spills, else ""."""
        where = f"{self.name} for sm_{self.arch}"
        if self.error:
            return f"{where} does not compile: {self.error}"
        if self.local or self.spills:
            return f"{where} spills: {self.local} bytes of local memory, {self.spills} instructions"
        return ""


def ops_of(package: str) -> list[str]:
    """Names of a package's modules that have ``cases``."""
    home = importlib.import_module(package)
    names = [module.name for module in pkgutil.iter_modules(home.__path__)]
    return [name for name in names if hasattr(importlib.import_module(f"{package}.{name}"), "cases")]


def source_of(case) -> ASTSource:
    """A case as what triton compiles: all pointers and the integers named ``aligned`` divisible by 16."""
    names = case.kernel.arg_names
    signature = {name: "constexpr" if name in case.constants else case.signature[name] for name in names}
    divisible = [n for n, name in enumerate(names) if signature[name].startswith("*") or name in case.aligned]
    constants = {(names.index(name),): value for name, value in case.constants.items()}
    return ASTSource(case.kernel, signature, constants, {(n,): [DIVISIBLE] for n in divisible})


def compiled(package: str, op: str, number: int, arch: int, brief: bool) -> Compiled:
    """Case ``number`` of an op for one architecture."""
    case = importlib.import_module(f"{package}.{op}").cases()[number]
    try:
        options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
        made = triton.compile(source_of(case), target=GPUTarget("cuda", arch, 32), options=options)
    except Exception as error:  # the compiler raises many types; whichever it is, the case is at fault
        lines = str(error).strip().splitlines()
        return Compiled(case.name, arch, error=f"{type(error).__name__}: {lines[-1] if lines else ''}")
    return Compiled(case.name, arch, shared=made.metadata.shared, **inspected(made.asm["cubin"], brief))


@lru_cache
def inspected(cubin: bytes, brief: bool) -> dict[str, int]:
    """What the machine code says; see ``Compiled``."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = (
            "" if brief else _tool("nvdisasm", "-ndf", "-c", file.name)
        )  # without its analysis of the data flow, which takes time
    found = {key: int(value) for key, value in RESOURCE.findall(usage)}
    counts = {"spills": SPILL, "wide": WIDE, "loads": LOAD}
    return {"registers": found["REG"], "local": found["STACK"] + found["LOCAL"]} | {
        name: len(pattern.findall(code)) for name, pattern in counts.items()
    }


def _tool(name: str, *arguments: str) -> str:
    """What one of the tools in triton's package prints."""
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def compile_all(package: str, ops: list[str], architectures: list[int], workers: int, brief: bool) -> list[Compiled]:
    """Every case of the ops for every architecture, in processes of their own."""
    counts = {op: len(importlib.import_module(f"{package}.{op}").cases()) for op in ops}
    work = [(package, op, n, arch, brief) for op in ops for n in range(counts[op]) for arch in architectures]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(compiled, *zip(*work, strict=True), chunksize=len(architectures)))


def show(found: list[Compiled]) -> None:
    """A line a case and architecture."""
    columns = ("case", "arch", "registers", "shared B", "local B", "spills", "16-byte loads", "all loads", "")
    print("{:<50} {:>6} {:>9} {:>9} {:>7} {:>6} {:>13} {:>9}  {}".format(*columns).rstrip())
    for one in found:
        flaw = "FAILED" if one.error else "SPILLS" if one.complaint else ""
        numbers = (one.registers, one.shared, one.local, one.spills, one.wide, one.loads)
        line = "{:<50} {:>6} {:>9} {:>9} {:>7} {:>6} {:>13} {:>9}  {}"
        print(line.format(one.name, f"sm_{one.arch}", *numbers, flaw).rstrip())


def options_of(arguments: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ops", nargs="*", help="all, if none is named")
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="90 is sm_90")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--brief", action="store_true", help="leave out what takes a disassembler: instructions")
    parser.add_argument("--package", default="fastmask_kernels", help="where the ops are")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Compile, show; 1 when a case failed or spills, with a line for each."""
    options = options_of(arguments)
    known = ops_of(options.package)
    unknown = sorted(set(options.ops) - set(known))
    if unknown or not known:
        print(f"{options.package} has no op with cases() called {' or '.join(unknown) or 'anything'}", file=sys.stderr)
        return 1
    found = compile_all(options.package, options.ops or known, options.arch, options.workers, options.brief)
    show(found)
    complaints = [one.complaint for one in found if one.complaint]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    print(f"{len(found)} compilations of {len({one.name for one in found})} cases, {len(complaints)} at fault")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
