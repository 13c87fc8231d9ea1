"""What an H200 should reach, from bytes and operations alone: written down before anything is measured."""

from __future__ import annotations

import importlib
import math
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
TRITON_MICROSECONDS, TORCH_MICROSECONDS = 15.0, 8.0
"""Seconds that Python takes for a Triton launch and for a torch operation; two threads share one interpreter."""
POOL_SENTENCES, POOL_ROUNDS = 4000, 54
"""Of a pool, and rounds that it takes: about as many as its longest sentence has tokens. None fills a batch."""
RECHECK_ROUNDS = 3
"""Rounds whose doubtful sentences are asked about together."""
BATCH_TOKENS = 65_536
"""Of a full batch, as whole sentences make them."""
HALVES = 3
"""Half-precision products of its own size that a float32 product is made of."""
IMPORTANT_SHARE = 0.28
"""Of tokens, in the suite's models of random weights."""
RECHECKED = 0.02
"""Share of decisions that float16 leaves open."""
CALIBRATION_SENTENCES = 160


@dataclass(frozen=True, slots=True)
class Launches:
    """What a batch starts, by where it was written: kernels of Triton's, and operations of torch's.

    Attributes:
        triton, torch: in each block; outer_triton, outer_torch: around them: the batch sent, embedded and decided on.
    """

    triton: int
    torch: int
    outer_triton: int = 2
    outer_torch: int = 30

    def kernels(self, layers: int) -> int:
        """On the device."""
        return layers * (self.triton + self.torch) + self.outer_triton + self.outer_torch

    def host_seconds(self, layers: int) -> float:
        """Return the seconds that Python takes."""
        triton, torch = layers * self.triton + self.outer_triton, layers * self.torch + self.outer_torch
        return (triton * TRITON_MICROSECONDS + torch * TORCH_MICROSECONDS) / 1e6


FLOAT16 = Launches(4, 4)
FLOAT32 = Launches(8, 7)
"""Rows are split in halves before each of a block's four products, and three get their bias in a pass of its own."""


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
    """Seconds of the device that greedy takes on so many sentences, by what they go to."""
    products = shape.flops(round(work.tokens), round(work.variants)) / (H200["fp16_tflops"] * 1e12)
    stages = _stage_bytes(shape, 2) * work.tokens / (H200["copy_gb_per_second"] * 1e9)
    exact = _exact_per_token(shape)
    calibration = CALIBRATION_SENTENCES / sentences
    halves, rechecks, whole = batches(work, sentences)
    kernels = halves * FLOAT16.kernels(shape.layers) + (rechecks + whole) * FLOAT32.kernels(shape.layers)
    shortest = rechecks * FLOAT32.kernels(shape.layers) * LAUNCH_MICROSECONDS / 1e6
    return {
        "products, float16": products * sentences,
        "stages between them, float16": stages * sentences,
        "P(y|s), float32": exact * work.whole * sentences,
        "rechecks, float32": max(exact * RECHECKED * work.tokens * sentences, shortest),
        "calibration, float32": exact * calibration * work.tokens * sentences,
        "gaps between kernels": kernels * GAP_MICROSECONDS / 1e6,
    }


def batches(work: Work, sentences: int) -> tuple[int, int, int]:
    """Of float16; of rechecks; and of whole sentences and calibration, which are full."""
    pools = math.ceil(sentences / POOL_SENTENCES)
    exact = (work.whole * sentences + work.tokens * CALIBRATION_SENTENCES) / BATCH_TOKENS
    return pools * POOL_ROUNDS, pools * math.ceil(POOL_ROUNDS / RECHECK_ROUNDS), math.ceil(exact)


def host_seconds(shape: Shape, work: Work, sentences: int) -> float:
    """Return the seconds that Python takes to start all batches; choosing what to ask next is not included."""
    halves, rechecks, whole = batches(work, sentences)
    return halves * FLOAT16.host_seconds(shape.layers) + (rechecks + whole) * FLOAT32.host_seconds(shape.layers)


def _stage_bytes(shape: Shape, width: int) -> float:
    """Bytes a token of attention, bias and GELU and two layer norms in all blocks but the last, and the embedding."""
    h, f = shape.hidden, shape.intermediate
    return width * (4 * h + 2 * f + 2 * 3 * h) * (shape.layers - 1) + (4 + width) * h


def _exact_per_token(shape: Shape) -> float:
    """Seconds of a token at float32: products by halves, rows split for each of them, biases, stages twice as wide."""
    products = HALVES * shape.row_flops() * (shape.layers - 1) / (H200["fp16_tflops"] * 1e12)
    split = (4 + 3 * 2) * (3 * shape.hidden + shape.intermediate) * (shape.layers - 1)
    biases = (4 + 4) * 5 * shape.hidden * (shape.layers - 1)
    return products + (split + biases + _stage_bytes(shape, 4)) / (H200["copy_gb_per_second"] * 1e9)


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
    device, host = sum(parts.values()), host_seconds(shape, work, sentences)
    seconds, padded = max(device, host), padded_seconds(shape, work, sentences)
    return {f"{part}, s": value for part, value in parts.items()} | {
        "all on the device, s": device, "starting it on the host, s": host, "the longer of both, s": seconds,
        "real tokens/s": tokens / seconds, "padded fp32, real tokens/s": tokens / padded,
        "times padded": padded / seconds,
    }  # fmt: skip
