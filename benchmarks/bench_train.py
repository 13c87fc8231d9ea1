"""``fastmask pretrain`` against Hugging Face's ``Trainer``: the same text, model and batches in one run.

    python benchmarks/bench_train.py [--corpus FILE.txt] [--model DIR] [--lines 30000] [--batch-sizes 112 32]
                                     [--sequences 672] [--repeats 2] [--curve-steps 40] [--threads 0] [--out FILE]

Every run is a process of its own that trains ``WARM_STEPS`` steps before the clock starts. Then the loss curves of both
are laid side by side: the same weights, sequences, masks and corruption, without dropout.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from unittest import mock

import harness
import numpy as np

CORPUS = harness.SHARED / "data/yelp/corpus.txt"
MODEL = harness.SHARED / "models/mr-minilm"
FLOOR, AIM = 3, 5  # times the faster of hf-fp32 and hf-bf16
WARM_STEPS = 3
LR, CURVE_LR, MAX_LENGTH = 2e-5, 1e-4, 256
MASK_RATE = 0.2  # max(1, int(0.2 n)) of n tokens: on short lines about the 15 % that the collator draws
CURVE_BATCH = 32
HF_ARMS = {
    "hf-fp32": {},
    "hf-bf16": {"bf16": True},
    "hf-bf16-grouped": {"bf16": True, "train_sampling_strategy": "group_by_length"},
}
OUR_ARMS = {"fastmask": "auto", "fastmask-fp32": "float32"}


class Clock:
    """When each optimizer step ended, and what had been trained on: real tokens, all places, masked tokens."""

    def __init__(self):
        self.ended: list[tuple[float, float]] = []
        self.counts: list[tuple[int, int, int]] = []

    def tick(self) -> None:
        """A step has ended."""
        self.ended.append((time.perf_counter(), time.process_time()))

    def result(self) -> dict:
        """What the steps after the warm-up took."""
        (begun, cpu_begun), (ended, cpu_ended) = self.ended[WARM_STEPS - 1], self.ended[-1]
        steps = len(self.ended) - WARM_STEPS
        tokens, places, masked = np.array(self.counts[WARM_STEPS : WARM_STEPS + steps]).sum(axis=0).tolist()
        return {"seconds": ended - begun, "cpu_seconds": cpu_ended - cpu_begun, "steps": steps, "tokens": tokens,
                "places": places, "masked": masked, "peak_mb": harness.megabytes("VmHWM")}  # fmt: skip


def prepare(folder: Path, corpus: Path, model: str, lines: int) -> None:
    """``text.txt``, ``model`` with a masked-language-model head, ``smooth`` (the same without dropout), ``shards``."""
    import torch

    from fastmask.core.config import ScoreConfig
    from fastmask.models.directory import load_tokenizer, quiet_transformers, resolve_model
    from fastmask.models.mlm_model import load_masked_lm
    from fastmask.pipeline import score_corpus

    with corpus.open(encoding="utf-8") as stream:
        (folder / "text.txt").write_text("".join(line for line, _ in zip(stream, range(lines), strict=False)))
    torch.manual_seed(0)  # the new head
    files = resolve_model(model)
    masked_lm = load_masked_lm(files)[0]
    for name in ("model", "smooth"):
        with quiet_transformers():
            masked_lm.save_pretrained(folder / name)
        load_tokenizer(files).save_pretrained(folder / name)
        masked_lm.config.hidden_dropout_prob = masked_lm.config.attention_probs_dropout_prob = 0.0
    options = ScoreConfig(model=str(folder / "model"), method="random", mask_rate=MASK_RATE, segment="line")
    score_corpus([str(folder / "text.txt")], str(folder / "shards"), options)


def longest(model: Path) -> int:
    """Return MAX_LENGTH, or what the model has positions for."""
    return min(MAX_LENGTH, json.loads((model / "config.json").read_text())["max_position_embeddings"])


def pretrain_config(folder: Path, model: str, batch: int, steps: int, **options):
    """Settings of ``fastmask pretrain`` on the prepared folder; the directory that it writes is new."""
    from fastmask.core.config_train import PretrainConfig

    out, most = tempfile.mkdtemp(dir=folder), longest(folder / model)
    return PretrainConfig((str(folder / "shards"),), out, str(folder / model), batch_size=batch, max_steps=steps,
                          save_every=steps, max_length=most, device="cpu", overwrite=True, **options)  # fmt: skip


def fastmask_arm(folder: Path, batch: int, steps: int, threads: int, precision: str) -> dict:
    """``fastmask pretrain``; each step's end is taken where its progress is shown."""
    import torch

    from fastmask.report.progress import Progress
    from fastmask.train import pretrain

    torch.set_num_threads(threads)
    clock = Clock()

    class Clocked(Progress):
        def update(self, done: float, tokens: int, loss: float | None = None) -> None:
            clock.tick()

    config = pretrain_config(folder, "model", batch, WARM_STEPS + steps, precision=precision, lr=LR)
    with mock.patch.object(pretrain, "Progress", Clocked):
        pretrain.pretrain(config)
    lines = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text().splitlines()]
    clock.counts = [(line["tokens"], line["tokens"], line["masked"]) for line in lines]
    return clock.result()


def hf_trainer(folder: Path, model: str, batch: int, steps: int, collate: Callable, dataset, **options):
    """A ``Trainer`` with ``pretrain``'s optimizer and schedule, and the list to which it adds each step's loss."""
    import torch
    from transformers import AutoModelForMaskedLM, PrinterCallback, Trainer, TrainingArguments

    from fastmask.models.directory import quiet_transformers

    losses: list[float] = []

    class Noting(Trainer):
        def training_step(self, *args, **named) -> torch.Tensor:
            loss = super().training_step(*args, **named)
            losses.append(loss.item())
            return loss

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=folder), per_device_train_batch_size=batch, max_steps=steps, use_cpu=True,
        optim="adamw_torch_fused", weight_decay=0.01, logging_strategy="no", save_strategy="no", report_to=[],
        disable_tqdm=True, **options,
    )  # fmt: skip
    with quiet_transformers():
        loaded = AutoModelForMaskedLM.from_pretrained(folder / model, dtype=torch.float32)
    trainer = Noting(model=loaded, args=arguments, train_dataset=dataset, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    return trainer, losses


def hf_arm(folder: Path, batch: int, steps: int, threads: int, options: dict) -> dict:
    """``Trainer`` and ``DataCollatorForLanguageModeling``, the text tokenised before the clock starts."""
    import torch
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling, TrainerCallback

    torch.set_num_threads(threads)
    tokenizer, clock = AutoTokenizer.from_pretrained(folder / "model"), Clock()
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    text = (folder / "text.txt").read_text().splitlines()
    made = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_special_tokens_mask=True)
    dataset = [{name: values[row] for name, values in made.items()} for row in range(len(text))]

    def collate(rows: list[dict]) -> dict:
        found = collator(rows)
        clock.counts.append((int(found["attention_mask"].sum()), found["input_ids"].numel(),
                             int((found["labels"] != -100).sum())))  # fmt: skip
        return found

    class Ticking(TrainerCallback):
        def on_step_end(self, *args, **named) -> None:
            clock.tick()

    trainer, _ = hf_trainer(folder, "model", batch, WARM_STEPS + steps, collate, dataset, learning_rate=LR,
                         warmup_steps=0.2, **options)  # fmt: skip
    trainer.add_callback(Ticking())
    trainer.train()
    return clock.result()


def our_curve(folder: Path, steps: int, precision: str) -> list[float]:
    """``pretrain``'s losses without dropout or warm-up (whose first step the two count differently)."""
    from fastmask.train.pretrain import pretrain

    config = pretrain_config(folder, "smooth", CURVE_BATCH, steps, precision=precision, lr=CURVE_LR, warmup=0.0)
    pretrain(config)
    return [json.loads(line)["loss"] for line in (Path(config.out) / "log.jsonl").read_text().splitlines()]


def hf_curve(folder: Path, steps: int, options: dict) -> list[float]:
    """The ``Trainer``'s losses on the same sequences with the same masks and corruption, in the same order."""
    from transformers import AutoTokenizer

    import fastmask

    stream = fastmask.TrainingStream(
        str(folder / "shards"), max_length=longest(folder / "smooth"), seed=0, masked_only=True
    )
    dataset = fastmask.TorchStream(stream, CURVE_BATCH)
    collate = fastmask.SelectiveMaskCollator(AutoTokenizer.from_pretrained(folder / "smooth"))
    trainer, losses = hf_trainer(folder, "smooth", CURVE_BATCH, steps, collate, dataset, learning_rate=CURVE_LR,
                                 **options)  # fmt: skip
    trainer.train()
    return losses


def curves(folder: Path, steps: int) -> dict:
    """Both losses of every step by precision, and the largest relative difference."""
    found = {}
    for precision, options in (("float32", {}), ("bfloat16", {"bf16": True})):
        ours = harness.isolated(our_curve, folder, steps, precision)
        theirs = harness.isolated(hf_curve, folder, steps, options)
        worst = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
        found[precision] = {"fastmask": ours, "hf": theirs, "largest_relative_difference": worst}
    return found


def speed(folder: Path, batch: int, sequences: int, threads: int, repeats: int, arms: list[str]) -> dict:
    """All arms at one batch size, in turns."""
    steps = max(1, round(sequences / batch))
    known = {name: partial(fastmask_arm, precision=precision) for name, precision in OUR_ARMS.items()}
    known |= {name: partial(hf_arm, options=options) for name, options in HF_ARMS.items()}
    calls = {name: partial(harness.isolated, known[name], folder, batch, steps, threads) for name in arms}
    runs = harness.interleaved(calls, dict.fromkeys(calls, repeats))
    found = {name: summary(of_arm) for name, of_arm in runs.items()}
    baseline = max((found[name]["tokens_per_second"] for name in ("hf-fp32", "hf-bf16") if name in found), default=None)
    for arm in found.values():
        arm["ratio"] = baseline and arm["tokens_per_second"] / baseline
    return found


def summary(runs: list[dict]) -> dict:
    """One arm's numbers from its runs; rates are medians over runs."""
    tokens, places, masked = (sum(run[name] for run in runs) for name in ("tokens", "places", "masked"))
    return {
        "tokens_per_second": median(run["tokens"] / run["seconds"] for run in runs),
        "tokens_per_cpu_second": median(run["tokens"] / run["cpu_seconds"] for run in runs),
        "ms_per_step": median(1000 * run["seconds"] / run["steps"] for run in runs),
        "tokens_per_step": tokens / sum(run["steps"] for run in runs),
        "padding": 1 - tokens / places, "masked": masked / tokens,
        "peak_mb": max(run["peak_mb"] for run in runs), "runs": runs,
    }  # fmt: skip


def show(report: dict) -> None:
    """The report as a table for each batch size, and one for the curves."""
    columns = ("arm", "tokens/s", "ratio", "tokens/CPU-s", "ms a step", "tokens a step", "padding", "masked", "peak MB")
    keys = ("tokens_per_second", "ratio", "tokens_per_cpu_second", "ms_per_step", "tokens_per_step", "padding",
            "masked", "peak_mb")  # fmt: skip
    caption = f"real tokens, medians over runs; ratio: to the faster of hf-fp32 and hf-bf16; floor {FLOOR}, aim {AIM}"
    for batch, arms in report["speed"].items():
        rows = [(name, *(arm[key] for key in keys)) for name, arm in arms.items()]
        harness.print_table(f"{batch} sequences a step, {report['model']}", columns, rows, caption)
    rows = [(precision, found["fastmask"][0], found["fastmask"][-1], found["hf"][-1],
             found["largest_relative_difference"]) for precision, found in report["curves"].items()]  # fmt: skip
    columns = ("products", "first loss", "fastmask's last", "hf's last", "largest relative difference of a step")
    if rows:
        harness.print_table(f"loss over {report['curve_steps']} steps, no dropout", columns, rows)


def options_of(arguments: list[str] | None = None):
    """The command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--lines", type=int, default=30_000, help="of the corpus")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[112, 32], help="sequences a step")
    parser.add_argument("--sequences", type=int, default=672, help="of one run, after the warm-up")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--curve-steps", type=int, default=40, help="0: no loss curves")
    arms = [*OUR_ARMS, *HF_ARMS]
    parser.add_argument("--arms", nargs="+", choices=arms, default=arms)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show, write."""
    options, report = options_of(arguments), {}
    threads = harness.cores(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = {"benchmark": "train", "model": options.model.name, "lines": options.lines,
                  "machine": harness.machine(options.threads), "curve_steps": options.curve_steps}  # fmt: skip
        harness.isolated(prepare, folder, options.corpus, str(options.model), options.lines)
        report["speed"] = {
            batch: speed(folder, batch, options.sequences, threads, options.repeats, options.arms)
            for batch in options.batch_sizes
        }
        report["curves"] = curves(folder, options.curve_steps) if options.curve_steps else {}
    show(report)
    harness.write_json(options.out, report)


if __name__ == "__main__":
    main()
