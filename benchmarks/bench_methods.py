"""The speed of each method: ``fastmask score`` against ``--method random``, and ``gradient`` against plain passes.

    python benchmarks/bench_methods.py [--corpus FILE.jsonl] [--model DIR] [--lines 500] [--turns 3] [--out FILE]

Whole commands in processes of their own, in turns, text to shards and start-up included. Methods that go by words read
the whole corpus, those that ask a model its first ``--lines``. Then, in one process, ``gradient`` on more lines (it
calibrates on 160 sentences) against one forward and backward pass a sentence by the packed path. Floors: word methods
70 % of random's tokens/s, gradient 3 times the plain passes.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import bench_startup
import harness
import numpy as np

CORPUS, MODEL = harness.SHARED / "data/mr/train.jsonl", harness.SHARED / "models/mr-minilm"
BACKGROUND = harness.SHARED / "data/general/news.txt"
YARDSTICK = "random"
BY_WORDS = {"log-odds": [], "word-list": ["--words", "sentiment"], "difference": ["--background"]}
BY_CLASSIFIER = ("greedy", "prefix", "leave-one-out", "gradient")
OTHERS = {"masker": "TokenClassification", "entropy": "MaskedLM"}
"""Methods that ask another model: one with the classifier's encoder and a new head, which is as much work."""
WARM_LINES = 100


def with_head(model: str, task: str, folder: Path) -> str:
    """Save a model for another task, the encoder and tokenizer of ``model`` and a new head; return its directory."""
    import torch
    import transformers

    from fastmask.models.directory import load_tokenizer, quiet_transformers, resolve_model

    files = resolve_model(model)
    torch.manual_seed(0)
    with quiet_transformers():
        kind = getattr(transformers, f"AutoModelFor{task}")
        kind.from_pretrained(files.dir, dtype=torch.float32).save_pretrained(folder)
    load_tokenizer(files).save_pretrained(folder)
    return str(folder)


def first_lines(corpus: Path, lines: int, path: Path) -> str:
    """Write the first lines of a file as a file of their own; return its name."""
    with corpus.open("rb") as stream:
        path.write_bytes(b"".join(islice(stream, lines)))
    return str(path)


def commands(options, work: Path) -> dict[str, list[str]]:
    """Return each arm's command; random's first."""
    some = first_lines(options.corpus, options.lines, work / f"some{options.corpus.suffix}")
    fastmask = [sys.executable, "-m", "fastmask", "score", "--segment", "line", "--threads", str(options.threads), "-q",
                "--stop-words", options.stop_words]  # fmt: skip

    def command(method: str, corpus: str, model: str, *more: str) -> list[str]:
        return [*fastmask, corpus, "-o", str(work / f"{method}.masks"), "--method", method, "--model", model, *more]

    model, corpus = str(options.model), str(options.corpus)
    made = {YARDSTICK: command(YARDSTICK, corpus, model)}
    for name, more in BY_WORDS.items():
        made[name] = command(name, corpus, model, *more, *([str(options.background)] if name == "difference" else []))
    for name in BY_CLASSIFIER:
        made[name] = command(name, some, model)
    for name, task in OTHERS.items():
        made[name] = command(name, some, with_head(model, task, work / f"{name}-model"))
    return {name: arm for name, arm in made.items() if name in (*options.methods, YARDSTICK)}


def run(name: str, command: list[str], work: Path) -> dict:
    """Return what a command took, and how many tokens it read."""
    cost = bench_startup.run(command, work)
    totals = json.loads((work / f"{name}.masks" / "_manifest.json").read_text())["totals"]
    return cost | {"tokens": totals["tokens"], "masked": totals["masked"]}


def summary(runs: dict[str, list[dict]]) -> dict[str, dict]:
    """Return each arm's tokens a second and their share of random's, by the clock and of the CPU; medians of turns."""
    found = {}
    for name, arm in runs.items():
        rates = {field: [one["tokens"] / one[field] for one in arm] for field in ("seconds", "cpu")}
        base = {field: [one["tokens"] / one[field] for one in runs[YARDSTICK]] for field in rates}
        shares = {field: statistics.median(map(float.__truediv__, rates[field], base[field])) for field in rates}
        found[name] = {
            "tokens": arm[0]["tokens"], "masked": arm[0]["masked"],
            "seconds": statistics.median(one["seconds"] for one in arm),
            "tokens_per_second": statistics.median(rates["seconds"]), "share_of_random": shares["seconds"],
            "tokens_per_cpu_second": statistics.median(rates["cpu"]), "share_of_random_cpu": shares["cpu"],
        }  # fmt: skip
    return found


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Return the wall and the CPU seconds of ``work``."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def plain_passes(model: str, sentences: Sequence[np.ndarray], threads: int) -> Callable[[], None]:
    """Return a function that runs one forward and backward pass over sentences, a batch a core, by the packed path.

    The backward pass goes to the embeddings of the tokens alone, not to the weights: less than in training.
    """
    import torch

    from fastmask.models.directory import resolve_model
    from fastmask.models.module_encoder import BATCH_ELEMENTS
    from fastmask.models.trainable import class_logits, enable_packing, pack
    from fastmask.models.weights import load_classifier

    module = enable_packing(load_classifier(resolve_model(model), torch.float32)).requires_grad_(False)
    # a leaf in the place of the embeddings
    module.get_input_embeddings().register_forward_hook(lambda layer, given, rows: rows.detach().requires_grad_())
    order = sorted(sentences, key=len)
    ends = np.cumsum([len(ids) for ids in order]) // (BATCH_ELEMENTS // module.config.hidden_size)
    batches = [[order[i] for i in np.flatnonzero(ends == number)] for number in np.unique(ends)]

    def passes(ids: list[np.ndarray]) -> None:
        class_logits(module, pack(ids, [np.zeros_like(one) for one in ids], "cpu", True)).amax(1).sum().backward()

    def run() -> None:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(passes, batches))

    return run


def gradient_arm(corpus: str, model: str, stop_words: str, threads: int, work: Path) -> dict:
    """Return what ``gradient`` takes from text to shards, and the plain passes before and after it."""
    from fastmask.core.config import ScoreConfig
    from fastmask.models.directory import load_tokenizer, resolve_model
    from fastmask.pipeline import score_corpus
    from fastmask.shards.reader import open_shards

    config = ScoreConfig(model=model, method="gradient", segment="line", stop_words=stop_words, threads=threads)
    suffix = Path(corpus).suffix
    score_corpus([first_lines(Path(corpus), WARM_LINES, work / f"warm{suffix}")], str(work / "warm"), config)
    scoring = timed(lambda: score_corpus([corpus], str(work / "out"), config))
    tokenizer, shards = load_tokenizer(resolve_model(model)), open_shards(str(work / "out"))
    first, last = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    texts = [np.array(first + row["input_ids"] + last, np.int32) for row in shards]
    plain = plain_passes(model, texts, threads)
    plain()
    twice = [timed(plain) for _ in range(2)]
    passes = {field: statistics.mean(one[field] for one in twice) for field in scoring}
    return {
        "sentences": len(texts), "tokens": sum(map(len, texts)), "gradient": scoring, "plain": passes,
        "plain_runs": twice,
        "times_plain": scoring["seconds"] / passes["seconds"], "times_plain_cpu": scoring["cpu"] / passes["cpu"],
    }  # fmt: skip


def show(report: dict) -> None:
    """Print both tables."""
    columns = ("method", "tokens", "seconds", "tokens/s", "of random's", "tokens per CPU second", "of random's, CPU")
    keys = ("tokens", "seconds", "tokens_per_second", "share_of_random", "tokens_per_cpu_second", "share_of_random_cpu")
    rows = [[name, *(arm[key] for key in keys)] for name, arm in report["arms"].items()]
    harness.print_table(
        f"methods, {report['model']}, whole commands",
        columns,
        rows,
        "medians over turns; a method that asks a model has one",
    )
    if found := report["gradient"]:
        times = {"seconds": found["times_plain"], "cpu": found["times_plain_cpu"]}
        rows = [[field, found["gradient"][field], found["plain"][field], times[field]] for field in times]
        title = f"gradient against a plain forward and backward pass of {found['sentences']:,} sentences"
        harness.print_table(title, ("", "gradient", "plain", "ratio"), rows, "text to shards, in one warm process")


def options_of(arguments: list[str] | None = None):
    """The command line."""
    every = [*BY_WORDS, *BY_CLASSIFIER, *OTHERS]
    parser = harness.parser(__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="labelled, .jsonl")
    parser.add_argument("--background", type=Path, default=BACKGROUND)
    parser.add_argument("--model", type=Path, default=MODEL, help="a classifier")
    parser.add_argument("--lines", type=int, default=500, help="of the corpus, for methods that ask a model")
    parser.add_argument("--gradient-lines", type=int, default=1000, help="for gradient against plain passes")
    parser.add_argument("--stop-words", default="language", help="as of score")
    parser.add_argument("--turns", type=int, default=3, help="of random and of the methods that go by words")
    parser.add_argument("--methods", nargs="+", choices=every, default=every)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show, write."""
    options = options_of(arguments)
    machine = harness.machine(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        arms = {name: partial(run, name, command, work) for name, command in commands(options, work).items()}
        by_words = [name for name in arms if name in (YARDSTICK, *BY_WORDS)]
        for name in by_words:  # files into memory, kernels compiled
            arms[name]()
        runs = harness.interleaved(arms, {name: options.turns if name in by_words else 1 for name in arms})
        gradient = None
        if "gradient" in options.methods:
            some = first_lines(options.corpus, options.gradient_lines, work / f"gradient{options.corpus.suffix}")
            threads = harness.cores(options.threads)
            gradient = harness.isolated(gradient_arm, some, str(options.model), options.stop_words, threads, work)
    report = {"benchmark": "methods", "model": options.model.name, "corpus": options.corpus.name, "machine": machine,
              "arms": summary(runs), "runs": runs, "gradient": gradient}  # fmt: skip
    show(report)
    harness.write_json(options.out, report)


if __name__ == "__main__":
    main()
