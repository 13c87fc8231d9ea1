"""Masking a corpus with a masker: real tokens a second and the share of torch's own matrix rate.

    python benchmarks/bench_masker.py [--corpus FILE.txt] [--model DIR] [--lines 0] [--threads 0] [--out FILE]

The masker is ``--model`` with a head of two classes for every token, drawn from a fixed seed: the work is that of a
trained one. The clock is around the whole job, text to finished shards, certificate included, after a warm-up on a
few lines; F.linear is timed before and after it in the same process.
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path

import bench_encoder as encoder
import harness

CORPUS = harness.SHARED / "data/yelp/corpus.txt"
WARM_LINES = 400
BATCH_TOKENS = 2048  # of the F.linear that it is compared with, as in bench_encoder
SPECIAL = 2  # [CLS] and [SEP], which are computed like any token


def make_masker(model: str, folder: Path) -> str:
    """A token classifier in ``folder`` with the encoder and tokenizer of ``model``."""
    import torch
    from transformers import AutoModelForTokenClassification

    from fastmask.models.directory import load_tokenizer, quiet_transformers, resolve_model

    files = resolve_model(model)
    torch.manual_seed(0)
    with quiet_transformers():
        masker = AutoModelForTokenClassification.from_pretrained(files.dir, num_labels=2, dtype=torch.float32)
        masker.save_pretrained(folder)
    load_tokenizer(files).save_pretrained(folder)
    return str(folder)


def first_lines(corpus: Path, lines: int, path: Path) -> str:
    """The first ``lines`` lines of a text, all for 0, as a file of their own."""
    with corpus.open(encoding="utf-8") as stream:
        path.write_text("".join(islice(stream, lines or None)), encoding="utf-8")
    return str(path)


def masker_arm(folder: Path, corpus: Path, model: str, lines: int, threads: int) -> dict:
    """The whole job and what it is measured against."""
    import torch

    from fastmask.core.config import ScoreConfig
    from fastmask.models.directory import resolve_model
    from fastmask.models.weights import load_classifier
    from fastmask.pipeline import score_corpus

    masker = make_masker(model, folder / "masker")
    options = ScoreConfig(model=masker, method="masker", segment="line", threads=threads)
    score_corpus([first_lines(corpus, WARM_LINES, folder / "warm.txt")], str(folder / "warm"), options)
    text = first_lines(corpus, lines, folder / "text.txt")
    classifier = load_classifier(resolve_model(model), torch.float32)
    shape = encoder.shape_of(classifier)
    before = encoder.linear_gflops(shape, BATCH_TOKENS, "float32", threads)["best"]
    manifest, cost = harness.measured(lambda: score_corpus([text], str(folder / "out"), options))
    after = encoder.linear_gflops(shape, BATCH_TOKENS, "float32", threads)["best"]
    totals = manifest["totals"]
    tokens = totals["tokens"] + SPECIAL * totals["rows"]
    useful = tokens * shape.layers * shape.row_flops() / 1e9
    return cost | {
        "lines": totals["rows"], "tokens": tokens, "masked": totals["masked"],
        "tokens_per_second": tokens / cost["seconds"], "gflops": useful / cost["seconds"],
        "linear_gflops": (before + after) / 2, "linear_before_and_after": [before, after],
        "share_of_linear": useful / cost["seconds"] / ((before + after) / 2),
        "certificate": manifest["certificate"],
    }  # fmt: skip


def show(report: dict) -> None:
    """The report as a table."""
    columns = ("lines", "real tokens", "seconds", "tokens/s", "GFLOP/s", "F.linear GFLOP/s", "share", "peak MB")
    keys = ("lines", "tokens", "seconds", "tokens_per_second", "gflops", "linear_gflops", "share_of_linear", "peak_mb")
    caption = "float32; operations of the products of all rows; repeated sentences, computed once, count each time"
    harness.print_table(f"masker, {report['model']}", columns, [[report["run"][key] for key in keys]], caption)


def options_of(arguments: list[str] | None = None):
    """The command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--model", type=Path, default=encoder.MODEL)
    parser.add_argument("--lines", type=int, default=0, help="of the corpus; 0 is all")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show, write."""
    options = options_of(arguments)
    threads = harness.cores(options.threads)
    machine = harness.machine(options.threads)
    with tempfile.TemporaryDirectory() as name:
        run = harness.isolated(masker_arm, Path(name), options.corpus, str(options.model), options.lines, threads)
    report = {"benchmark": "masker", "model": options.model.name, "machine": machine, "run": run}
    show(report)
    harness.write_json(options.out, report)


if __name__ == "__main__":
    main()
