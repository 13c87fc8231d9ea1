"""The paper's question at a small scale: does selective masking beat random masking, and either no TaskPT at all?

A 2 x 128 BERT is pre-trained from scratch with random masks on the shared text (GenePT). Then ``fastmask run`` does
what the paper does on MR with the Yelp corpus as in-domain text: a classifier, a masker, the masks of the masker and
those of exact greedy scoring on the whole corpus, an equal-count random control of either, pre-training anew for every
seed (TaskPT), fine-tuning. Hyper-parameters were chosen on MR's development set, with other seeds.

Writes OUT.json, OUT.svg and OUT.md. Stopped, it goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import harness

DATA, MODELS = harness.SHARED / "data", harness.SHARED / "models"
TINY = MODELS / "mr-tiny"
"""Its tokenizer serves; its weights are not used."""
GENEPT_ROWS = ("mr/train.jsonl", "restaurant/train.jsonl")
"""Read for their texts alone, beside the Yelp corpus."""
GENEPT = {
    "max_steps": 3000,
    "batch_size": 112,
    "lr": 1e-3,
    "warmup": 0.1,
    "max_length": 128,
    "seed": 1,
    "save_every": 500,
}
SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}

METHODS = ("masker", "greedy")
GENEPT_FIGURES = ("step", "tokens", "masked")
RECIPE = """\
out = "{work}/run"
init = "{work}/genept"
methods = ["masker", "greedy"]
seeds = {seeds}
pretrain-each-seed = true

[task]
train = "{data}/mr/train.jsonl"
dev = "{data}/mr/dev.jsonl"
test = "{data}/mr/test.jsonl"

[in-domain]
corpus = "{data}/yelp/corpus.txt"

[finetune]
lr = 5e-4
epochs = 3
max-length = 128

[train-masker]
lr = 5e-4
epochs = 6

[pretrain]
lr = 5e-4
warmup = 0.2
batch-size = 112
max-steps = 300
max-length = 128
"""


def make_genept(work: Path) -> dict:
    """WORK/genept, a masked-language model pre-trained from random weights on masks at random; what that took."""
    from fastmask.core.config import ScoreConfig
    from fastmask.core.config_train import PretrainConfig
    from fastmask.pipeline import score_corpus
    from fastmask.train.pretrain import pretrain

    _write_text(work / "genept.txt")
    if not (work / "random-weights").is_dir():
        _save_random_model(work / "random-weights")
    masks = ScoreConfig(model=str(TINY), method="random", segment="line")
    score_corpus([str(work / "genept.txt")], str(work / "genept-masks"), masks)
    settings = {"shards": (str(work / "genept-masks"),), "init": str(work / "random-weights"), **GENEPT}
    return pretrain(PretrainConfig(out=str(work / "genept"), **settings))


def _write_text(path: Path) -> None:
    """A text a line."""
    with path.open("w", encoding="utf-8") as out:
        with (DATA / "yelp/corpus.txt").open(encoding="utf-8") as corpus:
            shutil.copyfileobj(corpus, out)
        for name in GENEPT_ROWS:
            with (DATA / name).open(encoding="utf-8") as rows:
                out.writelines(" ".join(json.loads(row)["text"].split()) + "\n" for row in rows)


def _save_random_model(directory: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    from fastmask.train.checkpoint import save_model

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    torch.manual_seed(1)
    shape = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **SHAPE)
    save_model(BertForMaskedLM(shape), tokenizer, directory, torch.float32)


def run(recipe: Path) -> dict:
    """The report of the recipe's run."""
    from fastmask.experiment.run import Run

    with Run(str(recipe)) as steps:
        return steps.run()


def masks_of(work: Path) -> dict:
    """Sentences, tokens and masks of each way to mask, and how well the masker learned."""
    totals = {
        arm: json.loads((work / f"run/masks/{arm}/_manifest.json").read_text("utf-8"))["totals"] for arm in METHODS
    }
    masker = json.loads((work / "run/masker/metrics.json").read_text("utf-8"))
    return {"in_domain": totals, "masker_dev": masker["dev"], "masker_train_sentences": masker["train_sentences"]}


def markdown(report: dict) -> str:
    """The arms, and of their differences those between arms that differ in one thing, as two tables."""
    from fastmask.experiment.questions import control_of
    from fastmask.report.comparison import points

    lines = ["| arm | MR test accuracy | sd over seeds |", "|---|---|---|"]
    for name, arm in report["arms"].items():
        lines.append(f"| {name} | {points(arm['accuracy']['mean'])} | {points(arm['accuracy']['sd'])} |")
    lines += ["", "| difference in points | mean | 95 % interval | p | detectable |", "|---|---|---|---|---|"]
    alike = [one for one in report["differences"] if one["baseline"] in ("none", control_of(one["arm"]))]
    for entry in sorted(alike, key=lambda one: one["baseline"] == "none"):
        figures = entry["accuracy"]
        interval = " to ".join(f"{100 * bound:+.2f}" for bound in figures["interval"])
        p = "-" if figures["p"] is None else f"{figures['p']:.2g}"
        cells = f"{entry['arm']} - {entry['baseline']}", f"{100 * figures['mean']:+.2f}", interval, p
        lines.append(f"| {' | '.join(cells)} | {points(figures['detectable'])} |")
    notes = (f"{name}: {text}." for name, text in report["method"].items())
    return "\n".join([*lines, "", f"{report['seeds']} seeds, {report['rows']:,} test rows.", *notes, ""])


def main() -> None:
    import torch

    from fastmask.experiment.recipe import PAPER_SEEDS

    options = harness.parser(__doc__)
    options.add_argument(
        "--work", type=Path, required=True, help="directory of models and masks; a stopped run is resumed"
    )
    options.add_argument("--seeds", type=int, default=len(PAPER_SEEDS), help="how many of the paper's ten seeds")
    arguments = options.parse_args()
    if not harness.SHARED.is_dir():
        options.error(f"{harness.SHARED}: the data and models are not there")
    torch.set_num_threads(harness.cores(arguments.threads))
    work, seeds = arguments.work.resolve(), list(PAPER_SEEDS[: arguments.seeds])
    work.mkdir(parents=True, exist_ok=True)
    machine, genept = harness.machine(arguments.threads), make_genept(work)
    recipe = work / "recipe.toml"
    recipe.write_text(RECIPE.format(work=work, data=DATA, seeds=seeds), "utf-8")
    figures = {name: genept[name] for name in GENEPT_FIGURES}
    report = {"machine": machine, "recipe": RECIPE, "genept": {**GENEPT, **figures}, **run(recipe),
              "masks": masks_of(work)}  # fmt: skip
    del report["runs"]
    print(markdown(report))
    if arguments.out is not None:
        harness.write_json(arguments.out, report)
        arguments.out.with_suffix(".md").write_text(markdown(report), "utf-8")
        shutil.copy(work / "run/report/report.svg", arguments.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
