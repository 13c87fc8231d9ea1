"""The packed encoder against torch's own F.linear on the same products, and where its time goes.

    python benchmarks/bench_encoder.py [--model DIR] [--data FILE.jsonl] [--tokens 2048] [--threads 0] [--out FILE]
        [--shape modernbert-base]

With --shape the model is one of random weights, --model says whose tokenizer it has, and the batch is of prefixes.
The batch is made of greedy variants of the data's sentences, so its mix of lengths is that of real scoring.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest import mock

import harness
import numpy as np
import torch
import torch.nn.functional as F
from fastmask_kernels import launch
from transformers import AutoModelForSequenceClassification, ModernBertConfig

from fastmask.core.arrays import take_ragged
from fastmask.core.config import ScoreConfig
from fastmask.core.records import EncodedSentences, PackedBatch, ScoredSentences
from fastmask.models.directory import load_tokenizer, quiet_transformers, resolve_model
from fastmask.models.encoder import DTYPES, build_encoder
from fastmask.models.family_reader import family_weights
from fastmask.models.family_weights import FamilyWeights
from fastmask.models.packing import Template
from fastmask.models.pieces import never_masked
from fastmask.models.template import template_of
from fastmask.models.weights import load_classifier
from fastmask.scoring.engine import Engine, score_certain
from fastmask.scoring.method import load_method
from fastmask.text.documents import read_documents
from fastmask.text.sentences import Segmenter
from fastmask.text.stop_words import stop_words
from fastmask.text.tokens import TextEncoder

MODEL = harness.SHARED / "models/mr-minilm"
DATA = harness.SHARED / "data/mr/test.jsonl"
PRECISIONS = ("float32", "bfloat16")
SHAPES = {"modernbert-base": ModernBertConfig}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
STAGES = ("products", "attention", "layer norm", "embedding")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the floating-point operations of an encoder follow from; a gated feed-forward has two matrices in."""

    hidden: int
    intermediate: int
    layers: int
    gated: bool = False

    def products(self) -> list[tuple[int, int]]:
        """(K, N) of a block's matrix products: query-key-value, attention output, feed-forward in and out."""
        h, f = self.hidden, self.intermediate
        return [(h, 3 * h), (h, h), (h, f * (1 + self.gated)), (f, h)]

    def row_flops(self) -> int:
        """Operations of one block's products on one row."""
        return sum(2 * k * n for k, n in self.products())

    def flops(self, tokens: int, sequences: int) -> int:
        """Operations of the products that are needed: every row of all blocks but the last, there [CLS] only.

        Where positions are rotary, the last block's keys and values are needed of every row.
        """
        last = 2 * 2 * self.hidden**2 * tokens if self.gated else 0
        return self.row_flops() * ((self.layers - 1) * tokens + sequences) + last


def shape_of(model) -> Shape:
    """The shape of an encoder of a known family."""
    weights = model if isinstance(model, FamilyWeights) else family_weights(model)
    if weights is None:
        raise SystemExit(f"{model.config.model_type}: not a family with a packed encoder")
    first = weights.layers[0]
    return Shape(weights.hidden, first.output.weight.shape[1], len(weights.layers), hasattr(first, "gated"))


def random_model(shape: str, tokenizer_of: Path, folder: str) -> Path:
    """Write a classifier of random weights with another model's tokenizer."""
    torch.manual_seed(0)
    config = SHAPES[shape](**SPECIAL)
    with quiet_transformers():
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_of / name, folder)
    return Path(folder)


def encode_file(model: str, data: Path) -> EncodedSentences:
    """All sentences of a file by fastmask's own front end, with their documents' labels."""
    files = resolve_model(model)
    documents, segmenter = list(read_documents([str(data)])), Segmenter("sentence")
    spans = [segmenter.split(document.text) for document in documents]
    return TextEncoder(load_tokenizer(files).backend_tokenizer).encode(
        documents, spans, classes=files.classes, first_row=0, end_row=len(documents)
    )


def sentences_at(shard: EncodedSentences, chosen: np.ndarray, labelled: bool = True) -> EncodedSentences:
    """Sentences ``chosen`` int [R], ascending, of plain text; not ``labelled``: the class is the classifier's."""
    offsets, index = take_ragged(shard.offsets, np.arange(len(shard.input_ids)), chosen)
    label = shard.label[chosen] if labelled else np.full(len(chosen), -1, np.int32)
    return replace(
        shard, row=shard.row[chosen], sentence=shard.sentence[chosen], offsets=offsets, label=label, unit_label=label,
        input_ids=shard.input_ids[index], char_start=shard.char_start[index], char_end=shard.char_end[index],
        unit_sentence=np.arange(len(chosen), dtype=np.int32), context_offsets=np.zeros(len(chosen) + 1, np.int64),
    )  # fmt: skip


def load_parts(model: str) -> tuple[torch.nn.Module, Template, np.ndarray]:
    """The float32 classifier, its template for plain text, and what is never masked (bool [2, V])."""
    files = resolve_model(model)
    tokenizer = load_tokenizer(files)
    template = template_of(tokenizer.backend_tokenizer, files.name, is_pair=False)
    return load_classifier(files, torch.float32), template, never_masked(tokenizer, stop_words("english"))


def load_engine(model: str, config: ScoreConfig, kind: type[Engine] = Engine) -> Engine:
    """An engine for plain text, as ``fastmask score`` makes it."""
    classifier, template, stop_tokens = load_parts(model)
    return kind(load_method(config), classifier, template, config, stop_tokens)


def greedy_variants(scored: ScoredSentences, threshold: float, room: int) -> list[tuple[int, ...]]:
    """The content tokens of every variant that the greedy rule asks about, whole sentences included."""
    s, variants = scored.sentences, []
    for n in range(len(s)):
        ids = s.input_ids[s.offsets[n] : s.offsets[n + 1]].tolist()
        variants.append(tuple(ids[:room]))
        kept: list[int] = []
        drops = scored.importance[s.offsets[n] : s.offsets[n + 1]].tolist() if scored.scored[n] else []
        for token, drop in zip(ids, drops, strict=False):
            variants.append(tuple([*kept, token][:room]))
            if drop >= threshold:
                kept.append(token)
    return variants


def pack(variants: list[tuple[int, ...]], prefix: np.ndarray, suffix: np.ndarray) -> PackedBatch:
    """Variants, shortest first, as one batch of single texts."""
    rows = [[*prefix.tolist(), *variant, *suffix.tolist()] for variant in sorted(variants, key=len)]
    cu_seqlens = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    ids = np.array([token for row in rows for token in row], np.int32)
    return PackedBatch(ids, np.zeros_like(ids), cu_seqlens, max(map(len, rows)))


def realistic_batch(engine: Engine, shard: EncodedSentences, tokens: int) -> PackedBatch:
    """Greedy variants of the shard's sentences drawn at random, about ``tokens`` of them, special tokens included."""
    scored, _ = score_certain(engine, shard)
    variants = greedy_variants(scored, engine.config.threshold, engine.config.max_length - special_tokens(engine))
    return drawn_batch(engine, variants, tokens)


def prefixes_batch(engine: Engine, shard: EncodedSentences, tokens: int) -> PackedBatch:
    """Prefixes of the shard's sentences drawn at random: what greedy asks about where no token is important."""
    parts = (shard.input_ids[a:b].tolist() for a, b in pairwise(shard.offsets))
    return drawn_batch(engine, [tuple(ids[:n]) for ids in parts for n in range(1, 1 + len(ids))], tokens)


def special_tokens(engine: Engine) -> int:
    """How many stand around a text."""
    return len(engine.backend.template.prefix) + len(engine.backend.template.suffix)


def drawn_batch(engine: Engine, variants: list[tuple[int, ...]], tokens: int) -> PackedBatch:
    """Variants drawn at random, about ``tokens`` of them, special tokens included."""
    template, special = engine.backend.template, special_tokens(engine)
    order = np.random.default_rng(0).permutation(len(variants))
    lengths = np.array([len(variants[i]) + special for i in order])
    drawn = order[: np.searchsorted(np.cumsum(lengths), tokens)]
    if len(drawn) == len(order):
        raise SystemExit(f"the data has fewer than {tokens} tokens of variants: take more sentences or fewer tokens")
    return pack([variants[i] for i in drawn], template.prefix, template.suffix)


def linear_stack(shape: Shape, tokens: int, precision: str) -> Callable[[], None]:
    """One block's four products by torch's F.linear, bias included, on random rows."""
    dtype = DTYPES[precision]
    parts = [
        (torch.randn(tokens, k).to(dtype), torch.randn(n, k).to(dtype), torch.randn(n).to(dtype))
        for k, n in shape.products()
    ]

    @torch.inference_mode()
    def run() -> None:
        for x, weight, bias in parts:
            F.linear(x, weight, bias)

    return run


def linear_gflops(shape: Shape, tokens: int, precision: str, threads: int) -> dict:
    """GFLOP/s of F.linear on ``tokens`` rows: a batch a core, one batch on all cores, and the better of the two."""
    work, gflop = linear_stack(shape, tokens, precision), shape.row_flops() * tokens / 1e9
    rates = {"per_core": harness.rate_per_core(work, threads), "together": harness.rate_together(work, threads)}
    rates = {name: gflop * rate for name, rate in rates.items()}
    return rates | {"best": max(rates.values())}


class TimedOps:
    """Another set of ops, with a stopwatch for each stage."""

    def __init__(self, ops, seconds: dict[str, float]):
        self.ops, self.seconds, self.name = ops, seconds, ops.name
        self.embed = self._timed("embedding", ops.embed)
        self.residual_layernorm = self._timed("layer norm", ops.residual_layernorm)
        self.add_layernorm = self._timed("layer norm", ops.add_layernorm)
        self.varlen_attention = self._timed("attention", ops.varlen_attention)
        self.cls_attention = self._timed("attention", ops.cls_attention)

    def linear(self, layer, activation: str = "none"):
        """See ``launch.CpuOps.linear``."""
        return self._timed("products", self.ops.linear(layer, activation))

    def gated_linear(self, layer, activation: str):
        """See ``launch.CpuOps.gated_linear``."""
        return self._timed("products", self.ops.gated_linear(layer, activation))

    def _timed(self, stage: str, function: Callable) -> Callable:
        def run(*args):
            start = time.perf_counter()
            result = function(*args)
            self.seconds[stage] += time.perf_counter() - start
            return result

        return run


def stage_shares(model, batch: PackedBatch, precision: str, repeats: int = 20) -> dict[str, float]:
    """Share of each stage in a single-thread forward; what no op accounts for is "head and other"."""
    seconds = dict.fromkeys(STAGES, 0.0)
    select = launch.cpu_ops
    with mock.patch.object(launch, "cpu_ops", lambda *args: TimedOps(select(*args), seconds)):
        encoder = build_encoder(model, precision)
    torch.set_num_threads(1)
    encoder.logits(batch)
    seconds.update(dict.fromkeys(STAGES, 0.0))
    start = time.perf_counter()
    for _ in range(repeats):
        encoder.logits(batch)
    total = time.perf_counter() - start
    return {stage: spent / total for stage, spent in seconds.items()} | {
        "head and other": 1 - sum(seconds.values()) / total
    }


def encoder_row(engine: Engine, batch: PackedBatch, precision: str, threads: int, repeats: int) -> dict:
    """Encoder and F.linear in turns, a batch a core: rates, share and split by stage."""
    shape, encoder = shape_of(engine.backend.model), build_encoder(engine.backend.model, precision)
    tokens, sequences = len(batch.input_ids), len(batch)
    gflop = shape.flops(tokens, sequences) / 1e9
    pairs = []
    for _ in range(repeats):
        ours = gflop * harness.rate_per_core(partial(encoder.logits, batch), threads)
        pairs.append((ours, linear_gflops(shape, tokens, precision, threads)))
    ours, linear = float(np.median([p[0] for p in pairs])), float(np.median([p[1]["best"] for p in pairs]))
    return {
        "precision": precision, "kernels": encoder.name, "tokens": tokens, "sequences": sequences,
        "tokens_per_second": ours / gflop * tokens, "gflops": ours, "linear_gflops": linear,
        "share_of_linear": ours / linear, "linear_runs": [p[1] for p in pairs],
        "stages_single_thread": stage_shares(engine.backend.model, batch, precision),
    }  # fmt: skip


def run(options) -> dict:
    """The report, made in this process."""
    threads = harness.cores(options.threads)
    engine = load_engine(str(options.model), ScoreConfig(precision="float32", threads=threads))
    shard = encode_file(str(options.model), options.data)
    some = sentences_at(shard, np.arange(min(len(shard), options.sentences)))
    # random weights say of no word that it matters
    batch = (prefixes_batch if options.shape else realistic_batch)(engine, some, options.tokens)
    rows = [encoder_row(engine, batch, precision, threads, options.repeats) for precision in PRECISIONS]
    return {"benchmark": "encoder", "model": options.model.name, "machine": harness.machine(threads), "rows": rows}


def show(report: dict) -> None:
    """The report as two tables."""
    rows, model = report["rows"], report["model"]
    columns = ("precision", "tokens", "sequences", "tokens/s", "GFLOP/s", "F.linear GFLOP/s", "share")
    keys = ("precision", "tokens", "sequences", "tokens_per_second", "gflops", "linear_gflops", "share_of_linear")
    caption = "medians; useful operations only; F.linear: the better of a batch a core and one batch on all cores"
    harness.print_table(f"encoder, {model}", columns, [[row[key] for key in keys] for row in rows], caption)
    names = [*STAGES, "head and other"]
    shares = [[row["precision"], *(row["stages_single_thread"][name] for name in names)] for row in rows]
    harness.print_table("share of a single-thread forward", ("precision", *names), shares)


def options_of(arguments: list[str] | None = None):
    """The command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--shape", choices=SHAPES, help="a model of random weights instead")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sentences", type=int, default=64, help="whose variants the batch is drawn from")
    parser.add_argument("--tokens", type=int, default=2048, help="of the batch; about what a greedy step packs")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show, write."""
    options = options_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.shape:
            options.model = random_model(options.shape, options.model, folder)
        report = run(options) | ({"model": options.shape} if options.shape else {})
    show(report)
    harness.write_json(options.out, report)


if __name__ == "__main__":
    main()
