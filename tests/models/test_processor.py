"""Every precision on every processor: masks, products and training, here and with less than this processor has."""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numba as nb
import numpy as np
import pytest
import torch
from capability import ENVIRONMENT
from fastmask_kernels import processor, simd
from helpers import encoder_of, fastmask, golden, masks_of, real_engine, rows_of, write_jsonl

from fastmask.scoring.engine import score_certain
from fastmask.shards.reader import open_shards
from fastmask.text.frontend import encode_texts

ROOT = Path(__file__).parents[2]
PRETENDED = os.environ.get("FASTMASK_TEST_CAPABILITY")
TELLING = (
    "tests/models/test_processor.py",
    "tests/ops/test_cpu.py::test_linear",
    "tests/ops/test_cpu.py::test_attention_scores_of_any_size[0.0]",
    "tests/models/test_encoder.py::test_logits_are_transformers[bert]",
    "tests/models/test_encoder.py::test_cheap_precisions_are_near",
    "tests/train/test_pretrain_model.py::test_bfloat16_products_are_near",
)
"""What a processor could make fail, in a few seconds."""
NOT_TELLING = "not (with_less or one_place or other_processors or threads_of or float16)"


@pytest.mark.parametrize("capability", ENVIRONMENT)
def test_with_less_than_this_processor_has(capability):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", NOT_TELLING, *TELLING]
    own = {"FASTMASK_TEST_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | own)
    assert done.returncode == 0, done.stdout + done.stderr


def test_less_is_pretended():
    """What the tests with less rest on."""
    if PRETENDED:
        assert processor.capability() == {"avx2": "AVX2", "none": "DEFAULT"}[PRETENDED]
        assert not processor.can_pack(torch.bfloat16) and not processor.has_fast_bfloat16()
    assert processor.remark("auto", "cpu") is processor.remark("float32", "cpu") is None
    assert processor.remark("bfloat16", "cuda:0") is None
    assert (processor.remark("bfloat16", "cpu") is None) == processor.has_fast_bfloat16()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_what_can_be_packed_is(dtype):
    """A yes is true; a no to bfloat16, too."""
    weight, x = torch.eye(32).to(dtype), torch.ones(32, 32, dtype=dtype)
    if processor.can_pack(dtype):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        assert torch.equal(torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""), x)
    elif dtype == torch.bfloat16:
        with pytest.raises((RuntimeError, AttributeError, NotImplementedError)):
            torch.ops.mkldnn._reorder_linear_weight(weight)


def test_one_place_asks():
    asking = ("get_cpu_capability", "_is_mkldnn", "torch.cpu._is", "mkldnn.is_available", "cpuinfo().")
    files = [*(ROOT / "fastmask").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    assert {path.name for path in files if any(name in path.read_text("utf-8") for name in asking)} == {"processor.py"}


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float16", "float32"])
def test_golden_masks_at_every_precision(precision, mr_tiny, golden_dir):
    rows = golden(golden_dir, "mr_tiny_0.05")[:10]
    texts = [(row["text"], row["label"]) for row in rows]
    encoded = encode_texts(texts, encoder_of(mr_tiny))
    engine = real_engine(mr_tiny, precision=precision, stop_words="none", threads=1, calibration=12)
    scored, _ = score_certain(engine, encoded)
    assert masks_of(scored) == [sentence["important"] for row in rows for sentence in row["sentences"]]
    if precision != "auto":
        assert engine.levels[0] == engine.describe()["precision"] == precision  # never another one in silence


def test_the_manifest_and_the_user_are_told(mr_tiny, golden_dir, tmp_path):
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:3]]
    corpus, out = write_jsonl(tmp_path / "corpus.jsonl", rows), tmp_path / "out"
    result = fastmask("score", corpus, "-o", out, "--model", mr_tiny, "--precision", "bfloat16")
    assert result.exit_code == 0 and len(rows_of(out)) >= 3
    environment = open_shards(out).manifest["environment"]
    assert environment["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert environment["precision"] == "bfloat16"
    assert result.stderr.count("bfloat16 is slower than float32 on this processor") == (
        not processor.has_fast_bfloat16()
    )


@nb.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
def every_intrinsic(x, bits, out):
    a = simd.first_lanes(simd.load(x, 0), 5, np.float32(1.0))
    b = simd.fma(a, simd.load(bits, 0), simd.splat(x[0]))
    c = simd.exp(simd.sub(simd.mul(a, b), simd.add(a, simd.maximum(b, a))))
    simd.store(bits, 0, c)
    simd.store(out, 0, simd.splat(simd.sum_lanes(c) + simd.max_lanes(b)))


@pytest.mark.parametrize(
    ("triple", "cpu", "instruction"),
    [
        ("x86_64-unknown-linux-gnu", "x86-64", "mulps"),
        ("x86_64-unknown-linux-gnu", "haswell", "vfmadd"),
        ("x86_64-unknown-linux-gnu", "znver4", "zmm"),
        ("aarch64-unknown-linux-gnu", "generic", "fmla"),
        ("arm64-apple-darwin", "apple-m1", "fmla"),
    ],
)
def test_the_vectors_of_other_processors(triple, cpu, instruction):
    """Products, sums, maxima and exponentials are the processor's own instructions, not calls for each lane."""
    signature = (nb.float32[::1], nb.uint16[::1], nb.float32[::1])
    every_intrinsic.compile(signature)
    module = llvm.parse_assembly(
        "\n".join(
            line
            for line in every_intrinsic.inspect_llvm(signature).splitlines()
            if not line.startswith(("target triple", "target datalayout"))
        )
    )
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=2, reloc="pic", codemodel="default")
    module.triple, module.data_layout = triple, str(machine.target_data)
    code = machine.emit_assembly(module)
    assert instruction in code and "fmaf" not in code and "fmaxf" not in code and "expf" not in code


COMMAND = """
import subprocess, sys
from fastmask.cli import main
assert "torch" not in sys.modules
sys.argv = ["fastmask", "--help"]
try:
    main()
except SystemExit:
    show = "import os; print('policy', os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    subprocess.run([sys.executable, "-c", show], check=True)
"""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SHOW = "import os; print('policy', os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
LIBRARY = "import fastmask.scoring.api, fastmask.pipeline; " + SHOW


@pytest.mark.parametrize(
    ("code", "own", "policy"),
    [
        (COMMAND, {}, "PASSIVE 1000"),
        (COMMAND, {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        (LIBRARY, {}, "None None"),
    ],
    ids=["command", "own setting", "library"],
)
def test_threads_of_commands_sleep_while_they_wait(code, own, policy):
    """OpenMP is told before torch loads it, in processes that a command starts, too."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | own
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == f"policy {policy}"
