"""The paper's question at a small scale: does selective masking beat random masking, and either no TaskPT at all?

A 2 x 128 BERT is pre-trained from scratch with random masks on the shared text (GenePT). Then ``fastmask run`` does what
the paper does on MR with the Yelp corpus as in-domain text: a classifier, a masker, the masks of the masker and those of
exact greedy scoring on the whole corpus, an equal-count random control of either, pre-training anew for every seed
(TaskPT), fine-tuning. All hyper-parameters were chosen on MR's development set with the arm that has no TaskPT.

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
GENEPT = {"max_steps": 3000, "batch_size": 112, "lr": 1e-3, "warmup": 0.1, "max_length": 128, "seed": 1, "save_every": 500}
SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}

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
epochs = 4
max-length = 128

[train-masker]
lr = 5e-4
epochs = 6

[pretrain]
lr = 5e-4
warmup = 0.2
batch-size = 112
max-steps = {steps}
max-length = 128
"""


def make_genept(work: Path) -> dict:
    """WORK/genept, a masked-language model pre-trained from random weights on masks at random; what that took."""
    from fastmask.config import ScoreConfig
    from fastmask.config_pretrain import PretrainConfig
    from fastmask.pipeline import score_corpus
    from fastmask.train.mlm import pretrain

    _write_text(work / "genept.txt")
    if not (work / "random-weights").is_dir():
        _save_random_model(work / "random-weights")
    masks = ScoreConfig(model=str(TINY), method="random", segment="line")
    score_corpus([str(work / "genept.txt")], str(work / "genept-masks"), masks)
    settings = {"shards": (str(work / "genept-masks"),), "init": str(work / "random-weights"), **GENEPT}
    return pretrain(PretrainConfig(out=str(work / "genept"), **settings), print)


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

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    torch.manual_seed(1)
    shape = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **SHAPE)
    BertForMaskedLM(shape).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def run(work: Path, seeds: list[int], steps: int) -> dict:
    """The recipe's report."""
    from fastmask.meter import NoMeter
    from fastmask.run import Run

    recipe = work / "recipe.toml"
    recipe.write_text(RECIPE.format(work=work, data=DATA, seeds=seeds, steps=steps), "utf-8")
    with Run(str(recipe)) as steps_of_run:
        return steps_of_run.run(print, None, NoMeter())


if __name__ == "__main__":
    import sys
    work=Path(sys.argv[1]); work.mkdir(parents=True, exist_ok=True)
    print(make_genept(work))
