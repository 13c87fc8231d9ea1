"""What an H200 should reach, from bytes and operations alone: written down before anything is measured."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import gpu_arms
import gpu_text
import numpy as np
from bench_encoder import Shape
from op_harness import OpCase

H200 = {"copy_gb_per_second": 4300.0, "fp16_tflops": 790.0, "fp32_tflops": 50.0}
"""Assumed: device-to-device copies, read plus written, and large matrix products."""
LAUNCH_MICROSECONDS = 3.0
"""What a kernel takes that does next to nothing."""
GAP_MICROSECONDS = 1.5
"""Between two kernels of a stream that never runs dry."""
BATCH_TOKENS, BLOCK_KERNELS = 65_536, 8
"""Of a full batch, and kernels that a block starts; three times the batches, for float32, the last steps and splits."""
HALVES = 3
"""Half-precision products of its own size that a float32 product is made of."""
IMPORTANT_SHARE = 0.28
"""Of tokens, in the suite's models of random weights."""
RECHECKED = 0.02
"""Share of decisions that float16 leaves open."""
CALIBRATION_SENTENCES = 160


@dataclass(frozen=True, slots=True)
class Work:
    """What greedy asks about on average in one sentence: real tokens, special ones included.

    Attributes:
        tokens: of all variants; variants: how many; whole: tokens of the whole sentence.
    """

    tokens: float
    variants: float
    whole: float


def op_row(case: OpCase) -> tuple:
    """Op, case, megabytes, GFLOP, expected microseconds, what bounds it, and an empty cell for what is measured."""
    bounds = {
        "launch": LAUNCH_MICROSECONDS,
        "copy": case.bytes / H200["copy_gb_per_second"] / 1e3,
        case.matrix_rate.removesuffix("_tflops"): case.flops / H200[case.matrix_rate] / 1e6,
    }
    bound = max(bounds, key=bounds.get)
    return case.op, case.name, case.bytes / 1e6, case.flops / 1e9 or None, bounds[bound], bound, None


def op_rows(ops: list[str], device: str) -> list[tuple]:
    """Every case of the ops' benchmarks; ``device`` is where their inputs are made."""
    return [op_row(case) for op in ops for case in importlib.import_module(f"bench_{op}").cases(device)]


def greedy_work(sentences: int = 2000) -> Work:
    """Of the suite's reviews, IMPORTANT_SHARE of their tokens left out at random."""
    reviews, rng = gpu_text.reviews(sentences), np.random.default_rng(0)
    tokens, variants, lengths = 0, 0, np.diff(reviews.offsets)
    for length in lengths.tolist():
        masked = set(np.flatnonzero(rng.random(length) < IMPORTANT_SHARE).tolist())
        found = gpu_arms.variants_of("greedy", list(range(length)), masked)
        tokens, variants = tokens + sum(map(len, found)) + 2 * len(found), variants + len(found)
    return Work(tokens / sentences, variants / sentences, float(lengths.mean()) + 2)


def shape_named(name: str) -> Shape:
    """Of ``gpu_arms.SHAPES``."""
    shape = gpu_arms.SHAPES[name]
    return Shape(shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"])


def job_seconds(shape: Shape, work: Work, sentences: int) -> dict[str, float]:
    """Seconds that greedy takes on so many sentences, by what they go to; the device never waits for the host."""
    products = shape.flops(round(work.tokens), round(work.variants)) / (H200["fp16_tflops"] * 1e12)
    stages = _stage_bytes(shape, 2) * work.tokens / (H200["copy_gb_per_second"] * 1e9)
    exact = _exact_per_token(shape)
    calibration = CALIBRATION_SENTENCES / sentences
    kernels = 3 * work.tokens * sentences / BATCH_TOKENS * BLOCK_KERNELS * shape.layers
    return {
        "products, float16": products * sentences,
        "stages between them, float16": stages * sentences,
        "P(y|s), float32": exact * work.whole * sentences,
        "rechecks, float32": exact * RECHECKED * work.tokens * sentences,
        "calibration, float32": exact * calibration * work.tokens * sentences,
        "gaps between kernels": kernels * GAP_MICROSECONDS / 1e6,
    }


def _stage_bytes(shape: Shape, width: int) -> float:
    """Bytes a token of attention, bias and GELU and two layer norms in all blocks but the last, and the embedding."""
    h, f = shape.hidden, shape.intermediate
    return width * (4 * h + 2 * f + 2 * 3 * h) * (shape.layers - 1) + (4 + width) * h


def _exact_per_token(shape: Shape) -> float:
    """Seconds of a token at float32: products by halves, rows split for each of them, stages twice as wide."""
    products = HALVES * shape.row_flops() * (shape.layers - 1) / (H200["fp16_tflops"] * 1e12)
    split = (4 + 3 * 2) * (3 * shape.hidden + shape.intermediate) * (shape.layers - 1)
    return products + (split + _stage_bytes(shape, 4)) / (H200["copy_gb_per_second"] * 1e9)


def padded_seconds(shape: Shape, work: Work, sentences: int) -> float:
    """The authors' procedure: every variant 128 rows, every row through all blocks, float32."""
    rows = gpu_arms.MAX_LENGTH * work.variants * sentences
    products = shape.row_flops() * shape.layers * rows / (H200["fp32_tflops"] * 1e12)
    return products + _stage_bytes(shape, 4) * rows / (H200["copy_gb_per_second"] * 1e9)


def job_rows(sentences: int) -> list[tuple]:
    """What; predicted for BERT-base, measured (nothing yet); the same for MiniLM."""
    work = greedy_work()
    columns = [_job_column(shape_named(name), work, sentences) for name in ("bert-base", "minilm")]
    return [(what, columns[0][what], None, columns[1][what], None) for what in columns[0]]


def _job_column(shape: Shape, work: Work, sentences: int) -> dict[str, float]:
    parts, tokens = job_seconds(shape, work, sentences), work.tokens * sentences
    seconds, padded = sum(parts.values()), padded_seconds(shape, work, sentences)
    return {f"{part}, s": value for part, value in parts.items()} | {
        "all, s": seconds, "real tokens/s": tokens / seconds, "padded fp32, real tokens/s": tokens / padded,
        "times padded": padded / seconds,
    }  # fmt: skip
