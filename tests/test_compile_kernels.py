"""Every Triton op compiles for the GPUs that are meant, without spills; what does not is named."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

FAULTY_OP = """
import triton
import triton.language as tl
from fastmask_kernels.compiled import Case

@triton.jit
def add(x, y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    one = tl.load(x + at)
    tl.store(y + at, one + tl.trans(one) + tl.sum(one, axis=0)[:, None] * tl.max(one, axis=1)[None, :])

def cases():
    pointers = {"x": "*fp32", "y": "*fp32"}
    return [Case(f"add/{size}", add, pointers, {"SIZE": size}, num_warps=1) for size in (16, 96, 128)]
"""


def compile_kernels(*arguments, **environment) -> subprocess.CompletedProcess:
    path = os.pathsep.join(map(str, [ROOT, ROOT / "kernels", *environment.pop("path", [])]))
    command = [sys.executable, str(ROOT / "benchmarks/compile_kernels.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def test_every_op_compiles_for_every_architecture_without_spills():
    done = compile_kernels("--brief")  # spills take local memory: no disassembler is needed to see them
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(any(f" sm_{arch} " in line for line in lines) for arch in (80, 90, 100))
    assert lines[-1].endswith(" 0 at fault")


def test_cases_at_fault_are_named(tmp_path):
    """16 is fine, 96 is no block size, and 128 x 128 values are too many for one warp's registers."""
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty/__init__.py").touch()
    (tmp_path / "faulty/add.py").write_text(FAULTY_OP)
    options = {"path": [tmp_path], "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = compile_kernels("--package", "faulty", "--arch", 90, "--workers", 1, **options)
    assert done.returncode == 1
    fails, spills = done.stderr.splitlines()
    assert fails.startswith("add/96 for sm_90 does not compile: ")
    assert spills.startswith("add/128 for sm_90 spills: ")
    assert "3 compilations of 3 cases, 2 at fault" in done.stdout


def test_an_op_that_is_not_there():
    done = compile_kernels("no_such_op")
    assert done.returncode == 1 and "no_such_op" in done.stderr
