"""Scoring against the padded procedure, padded Hugging Face batches and Captum, on the same sentences in one run.

    python benchmarks/bench_score.py [--model DIR] [--data FILE.jsonl] [--sentences 1000] [--threads 0] [--out FILE]
                                     [--arms padded hf-32 ...] [--padded-sentences K] [--repeats 3]

Every arm runs in a process of its own. Models are loaded and code is warmed up before the clock, on sentences that are
not in the set; all that fastmask does for its certificate (calibration, rechecks, audit) is inside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bench_encoder as encoder
import harness
import numpy as np
from baselines import Task, captum_arm, padded_arm

from fastmask.core.config import ScoreConfig
from fastmask.core.records import PackedBatch, ScoredSentences
from fastmask.scoring.engine import Engine, score_certain

ARMS = ("fastmask", "fastmask-fp32", "padded", "hf-32", "hf-128", "fastmask-loo", "captum")
LEAVE_ONE_OUT = ("fastmask-loo", "captum")
KEPT = ("masks", "real_tokens", "distinct_tokens", "distinct_variants", "first_level", "cores_used_as",
        "certificate", "rechecked_share", "encoder_work")  # fmt: skip
POOL = 1024  # sentences in lockstep from which the hf arms make batches of rows of like length
WARM_UP = 176  # more than a calibration takes, so that every precision is warm
FLOOR, AIM = 12, 20  # times the padded procedure
LOO_FLOOR, LOO_AIM = 5, 8  # against Captum


class CountingEncoder:
    """Another encoder, counting what goes through it."""

    def __init__(self, inner, batches: list[tuple[int, int]]):
        self.inner, self.batches = inner, batches

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def logits(self, batch: PackedBatch, memory: object) -> np.ndarray:
        """See ``Encoder``."""
        self.batches.append((len(batch.input_ids), len(batch)))
        return self.inner.logits(batch, memory)


class CountingEngine(Engine):
    """An engine that notes (tokens, variants) of every batch, by precision."""

    def __init__(self, *args):
        super().__init__(*args)
        self.batches: dict[str, list[tuple[int, int]]] = {}
        self.uncounted, self.backend.encoder = self.backend.encoder, self.counted

    def counted(self, precision: str) -> CountingEncoder:
        """The backend's encoder of a precision, counting."""
        return CountingEncoder(self.uncounted(precision), self.batches.setdefault(precision, []))

    def work(self) -> dict:
        """Batches, tokens, variants and median batch tokens of each precision, calibration included."""
        return {
            name: {"batches": len(seen), "tokens": sum(t for t, _ in seen), "variants": sum(v for _, v in seen),
                   "median_batch_tokens": int(np.median([t for t, _ in seen]))}
            for name, seen in self.batches.items() if seen
        }  # fmt: skip


def fastmask_arm(task: Task, precision: str, method: str) -> dict:
    """fastmask's engine as ``fastmask score`` runs it, and what it sent through its encoders."""
    options = ScoreConfig(precision=precision, method=method, threads=task.threads, threshold=task.threshold)
    score_certain(encoder.load_engine(task.model, options), task.warm_up)
    engine = encoder.load_engine(task.model, options, CountingEngine)
    (scored, _), cost = harness.measured(lambda: score_certain(engine, task.sentences))
    masks = np.split(scored.mask_index, scored.mask_offsets[1:-1])
    certificate = scored.certificate
    return (
        cost
        | {
            "masks": [mask.tolist() for mask in masks],
            "certificate": certificate,
            "rechecked_share": sum(certificate["rechecked"].values()) / max(1, certificate["decisions"]),
            "encoder_work": (work := engine.work()),
            "first_level": max(work, key=lambda name: work[name]["tokens"]),
            "shape": encoder.shape_of(engine.backend.model),
        }
        | (needed(scored, task) if method == "greedy" else {})
    )


def needed(scored: ScoredSentences, task: Task) -> dict:
    """Real tokens of the greedy rule's variants, and the tokens and number of the distinct ones among them."""
    variants = encoder.greedy_variants(scored, task.threshold, task.max_length - 2)
    distinct = set(variants)
    return {
        "real_tokens": sum(map(len, variants)) + 2 * len(variants),
        "distinct_tokens": sum(map(len, distinct)) + 2 * len(distinct),
        "distinct_variants": len(distinct),
    }


def linear_arm(task: Task, shape: encoder.Shape, tokens: dict[str, int]) -> dict:
    """F.linear's GFLOP/s by precision, at fastmask's own batch sizes: the yardstick."""
    return {p: encoder.linear_gflops(shape, count, p, task.threads) for p, count in tokens.items()}


def arms_of(task: Task, options) -> dict[str, tuple[Task, Callable, bool]]:
    """Name -> (task, arm, whether it is slow). The quick ones come first, so that later turns sandwich the slow."""
    few, loo = task.first(options.padded_sentences), task.first(options.loo_sentences, labelled=False)
    return {
        "fastmask": (task, partial(fastmask_arm, precision="auto", method="greedy"), False),
        "fastmask-fp32": (task, partial(fastmask_arm, precision="float32", method="greedy"), False),
        "padded": (few, partial(padded_arm, batch=32, at_once=32 * task.threads, pad_to=task.max_length), True),
        "hf-32": (task, partial(padded_arm, batch=32, at_once=POOL, pad_to=None), True),
        "hf-128": (task, partial(padded_arm, batch=128, at_once=POOL, pad_to=None), True),
        "fastmask-loo": (loo, partial(fastmask_arm, precision="auto", method="leave-one-out"), False),
        "captum": (loo, captum_arm, False),
    }


def load_task(model: Path, data: Path, sentences: int, threads: int) -> Task:
    """The first sentences of a file; those after them are the warm-up."""
    shard = encoder.encode_file(str(model), data)
    count = min(sentences, len(shard) - WARM_UP)
    if count < 1:
        raise SystemExit(f"{data}: {len(shard)} sentences are too few, {WARM_UP} are for the warm-up alone")
    parts = (encoder.sentences_at(shard, np.arange(*ends)) for ends in ((0, count), (count, count + WARM_UP)))
    return Task(str(model), *parts, threads)


def run(task: Task, options) -> dict:
    """Every arm in processes of their own, in turns, then the yardstick: {"arms": ..., "linear": ...}."""
    wanted = {n: arm for n, arm in arms_of(task, options).items() if n in options.arms}
    calls = {name: partial(harness.isolated, arm, on) for name, (on, arm, _) in wanted.items()}
    repeats = {name: options.slow_repeats if slow else options.repeats for name, (_, _, slow) in wanted.items()}
    runs = harness.interleaved(calls, repeats)
    ours = [runs[name][0] for name in ("fastmask", "fastmask-fp32") if name in runs]
    batches = {(p := one["first_level"]): one["encoder_work"][p]["median_batch_tokens"] for one in ours}
    linear = harness.isolated(linear_arm, task, ours[0]["shape"], batches) if ours else {}
    arms = {name: summary(len(wanted[name][0].sentences), runs[name], linear) for name in runs}
    return {"arms": arms, "linear": linear}


def summary(sentences: int, runs: list[dict], linear: dict) -> dict:
    """One arm's numbers from its runs; rates are those of the median run."""
    first, seconds = runs[0], harness.spread(one["seconds"] for one in runs)
    found = {key: first[key] for key in KEPT if key in first}
    found |= {
        "sentences": sentences,
        "seconds": seconds,
        "sentences_per_second": sentences / seconds["median"],
        "peak_mb": max(one["peak_mb"] for one in runs),
        "beyond_loaded_mb": max(one["peak_mb"] - one["loaded_mb"] for one in runs),
        "same_in_all_runs": all(one.get("masks") == first.get("masks") for one in runs),
    }
    if "real_tokens" in first:
        found["real_tokens_per_second"] = first["real_tokens"] / seconds["median"]
    if "distinct_tokens" in first:
        gflop = first["shape"].flops(first["distinct_tokens"], first["distinct_variants"]) / 1e9
        found["useful_gflops"] = gflop / seconds["median"]
        found["share_of_linear"] = found["useful_gflops"] / linear[first["first_level"]]["best"]
    return found


def compare(arms: dict[str, dict]) -> None:
    """Adds to each arm its masks' agreement with fastmask's and its speed as a multiple of the baseline's.

    An arm whose masks differ gets no ratio. Ratios of greedy arms are of real tokens a second: on the same sentences
    that is the ratio of sentences a second, too, and it stays fair when the baseline ran on the first of them only.
    """
    reference = arms.get("fastmask") or arms.get("fastmask-fp32")
    for arm in arms.values():
        if reference and "real_tokens" in arm:
            pairs = list(zip(arm["masks"], reference["masks"], strict=False))
            arm["same_masks"] = sum(a == b for a, b in pairs)
            arm["compared"] = len(pairs)
    _ratios(arms, "padded", "real_tokens_per_second")
    _ratios(arms, "captum", "sentences_per_second")


def _ratios(arms: dict[str, dict], baseline: str, key: str) -> None:
    group = [arm for name, arm in arms.items() if (name in LEAVE_ONE_OUT) == (baseline in LEAVE_ONE_OUT)]
    for arm in group if baseline in arms else ():
        arm["ratio"] = arm[key] / arms[baseline][key] if identical_masks(arm) else None


def report_of(task: Task, options) -> dict:
    """The whole report, JSON-ready."""
    described = harness.machine(task.threads)
    found = run(task, options)
    compare(found["arms"])
    wrong = [name for name, arm in found["arms"].items() if not identical_masks(arm)]
    for arm in found["arms"].values():
        arm.pop("masks", None)
    config = {"model": Path(task.model).name, "data": options.data.name, "threshold": task.threshold}
    return {"benchmark": "score", "config": config, "machine": described, "arms_with_other_masks": wrong} | found


def identical_masks(arm: dict) -> bool:
    """Whether an arm's masks are fastmask's, in every run; true of arms that make no greedy masks."""
    return arm["same_in_all_runs"] and arm.get("same_masks") == arm.get("compared")


def show(report: dict) -> None:
    """The report as three tables."""
    arms, config = report["arms"], report["config"]
    greedy = {name: arm for name, arm in arms.items() if name not in LEAVE_ONE_OUT}
    columns = ("arm", "sents", "runs", "secs", "best", "sents/s", "toks/s", "x padded", "F.linear", "recheck",
               "peak MB", "beyond", "same")  # fmt: skip
    rows = [_row(name, arm) for name, arm in greedy.items()]
    caption = (
        f"medians; toks: real tokens of the rule's variants; x padded: floor {FLOOR}, aim {AIM}; F.linear: share of\n"
        "its rate; recheck: share of decisions; beyond: MB above model and libraries; same: masks as fastmask's"
    )
    if rows:
        harness.print_table(f"greedy, {config['model']} on {config['data']}", columns, rows, caption)
    loo = [(name, arm["sentences"], arm["seconds"]["runs"], arm["seconds"]["median"], arm["sentences_per_second"],
            arm.get("ratio"), arm["peak_mb"]) for name, arm in arms.items() if name in LEAVE_ONE_OUT]  # fmt: skip
    if loo:
        caption = f"Captum replaces by [MASK] what fastmask removes; x captum: floor {LOO_FLOOR}, aim {LOO_AIM}"
        columns = ("arm", "sentences", "runs", "seconds", "sent/s", "x captum", "peak MB")
        harness.print_table("leave-one-out", columns, loo, caption)
    linear = [(p, r["per_core"], r["together"]) for p, r in report["linear"].items()]
    if linear:
        harness.print_table("F.linear GFLOP/s", ("precision", "a batch a core", "one batch on all cores"), linear)


def _row(name: str, arm: dict) -> tuple:
    same = f"{arm['same_masks']}/{arm['compared']}" if "compared" in arm else None
    return (name, arm["sentences"], arm["seconds"]["runs"], arm["seconds"]["median"], arm["seconds"]["best"],
            arm["sentences_per_second"], arm["real_tokens_per_second"], arm.get("ratio"), arm.get("share_of_linear"),
            arm.get("rechecked_share"), arm["peak_mb"], arm["beyond_loaded_mb"], same)  # fmt: skip


def options_of(arguments: list[str] | None = None):
    """The command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--model", type=Path, default=encoder.MODEL)
    parser.add_argument("--data", type=Path, default=encoder.DATA)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--padded-sentences", type=int, default=0, help="padded arm on the first so many; 0 is all")
    parser.add_argument("--loo-sentences", type=int, default=300, help="leave-one-out arms on the first so many")
    parser.add_argument("--repeats", type=int, default=3, help="of fastmask and Captum")
    parser.add_argument("--slow-repeats", type=int, default=1, help="of the padded arms")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure, show, write; 1 when an arm's masks are not fastmask's."""
    options = options_of(arguments)
    task = load_task(options.model, options.data, options.sentences, harness.cores(options.threads))
    report = report_of(task, options)
    show(report)
    harness.write_json(options.out, report)
    if report["arms_with_other_masks"]:
        print(f"masks differ: {', '.join(report['arms_with_other_masks'])}")
    return 1 if report["arms_with_other_masks"] else 0


if __name__ == "__main__":
    sys.exit(main())
