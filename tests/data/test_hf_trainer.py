"""Hugging Face's ``Trainer`` on a stream: two processes, workers, accumulated gradients, a run that is resumed."""

import json
import math
import runpy
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from helpers import golden, write_jsonl
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, Trainer, TrainingArguments

from fastmask import ScoreConfig, SelectiveMaskCollator, TorchStream, TrainingStream, score_corpus

EXAMPLE = Path(__file__).parents[2] / "examples" / "hf_trainer.py"
RANDOM_GUESS = math.log(8192)
SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def shards(tmp_path_factory, mr_tiny, golden_dir) -> str:
    folder = tmp_path_factory.mktemp("trainer")
    rows = [{"text": row["text"]} for row in golden(golden_dir, "mr_tiny_0.05")[:40]]
    config = ScoreConfig(model=mr_tiny, method="random", mask_rate=0.2)
    score_corpus([write_jsonl(folder / "corpus.jsonl", rows)], str(folder / "out"), config)
    return str(folder / "out")


def tiny_bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(vocab_size=8192, **SHAPE))


def names(items) -> list[tuple]:
    """Epoch, and row and sentence of the first mask, of each sequence."""
    return [(int(epoch), int(example.row[0]), int(example.sentence[0])) for epoch, example in items]


def in_order(shards, count: int) -> list[tuple]:
    return names(islice(TrainingStream(shards, max_length=128, seed=0, masked_only=True), count))


PROCESS = """
import gc, json, runpy, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = [sys.argv[5], sys.argv[5] + "/data"]
from test_hf_trainer import AutoTokenizer, SelectiveMaskCollator, names, tiny_bert
example, shards, model, out = sys.argv[1:5]
seen = []
class Recorder(SelectiveMaskCollator):
    def __call__(self, features):
        seen.extend(names(features))
        return super().__call__(features)
train = runpy.run_path(example)["train"]
train.__globals__["SelectiveMaskCollator"] = Recorder
trainer = train(shards, tiny_bert(), AutoTokenizer.from_pretrained(model), out, 6, batch_size=3)
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
weights = sum(float(p.double().abs().sum()) for p in trainer.model.parameters())
report = {"seen": seen, "losses": losses, "weights": weights, "processes": trainer.args.world_size}
with open(f"{out}-{trainer.args.process_index}.json", "w") as file:
    json.dump(report, file)
del trainer  # as the example ends
gc.collect()
torch.distributed.destroy_process_group()
assert not any("gloo" in task.read_text() for task in Path("/proc/self/task").glob("*/comm"))
"""


def test_two_processes_read_every_sequence_once(shards, mr_tiny, tmp_path):
    """The example under torchrun; the loss is a mean over both, about that of a random guess, not their sum."""
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(script), str(EXAMPLE), shards, mr_tiny, str(tmp_path / "out"), str(Path(__file__).parents[1])]
    done = subprocess.run([*torchrun, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"out-{rank}.json").read_text()) for rank in range(2)]
    assert [rank["processes"] for rank in ranks] == [2, 2]
    # a turn of three sequences each; the loader is a batch ahead
    turns = [[tuple(name) for name in rank["seen"][k : k + 3]] for k in range(0, 21, 3) for rank in ranks]
    assert [name for turn in turns for name in turn] == in_order(shards, 42)
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["losses"] and all(abs(loss - RANDOM_GUESS) < 0.2 for loss in ranks[0]["losses"])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_two_processes(shards, workers):
    """As accelerate divides the stream, each of two processes with so many workers."""
    from accelerate.data_loader import IterableDatasetShard

    found = []
    for rank in range(2):
        stream = TrainingStream(shards, max_length=128, seed=0, masked_only=True)
        part = IterableDatasetShard(TorchStream(stream, 3), 3, num_processes=2, process_index=rank)
        loader = DataLoader(part, batch_size=3, collate_fn=names, num_workers=workers)
        found.append(list(islice(loader, 6)))
    assert sorted(name for batches in found for batch in batches for name in batch) == sorted(in_order(shards, 36))


def trained(shards, tokenizer, out, resume=None, **options) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=3, report_to=[], disable_tqdm=True, use_cpu=True,
        accelerator_config={"dispatch_batches": False}, logging_steps=1, max_steps=4, save_steps=2,
        learning_rate=1e-3, **options,
    )  # fmt: skip
    model = tiny_bert()
    model.accepts_loss_kwargs = False
    stream = TrainingStream(shards, max_length=128, seed=0, masked_only=True)
    trainer = Trainer(model=model, args=arguments, train_dataset=TorchStream(stream, 3),
                      data_collator=SelectiveMaskCollator(tokenizer))  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_resumed_with_workers_and_accumulated_gradients(shards, mr_tiny, tmp_path):
    """Going on from a checkpoint reads on where the stream was: the same losses, each about a random guess."""
    tokenizer = AutoTokenizer.from_pretrained(mr_tiny)
    whole, again = (
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        for trainer in (
            trained(shards, tokenizer, tmp_path, gradient_accumulation_steps=2),
            trained(shards, tokenizer, tmp_path, tmp_path / "checkpoint-2", gradient_accumulation_steps=2,
                    dataloader_num_workers=2),
        )
    )  # fmt: skip
    assert len(whole) == 4 and again == pytest.approx(whole, rel=1e-5)
    assert all(abs(loss - RANDOM_GUESS) < 0.3 for loss in whole)


def test_the_example_names_its_extra(monkeypatch, capsys):
    """Where accelerate is not installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert stopped.value.code.endswith("pip install -c constraints.txt '.[hf]'")
