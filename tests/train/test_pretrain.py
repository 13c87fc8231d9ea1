"""``pretrain``: what a run leaves; a step is one however it is divided; a kill changes no bit; faults are one line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import fastmask, golden, held, kill_held, refusal, write_jsonl
from pretrain_samples import PROCESS, SHAPE, largest_difference, log_of, save_model, weights, without_dropout
from shard_samples import FIELDS, IDENTITY, build
from transformers import AutoModelForMaskedLM, BertConfig

from fastmask import __version__
from fastmask.core.config import ScoreConfig
from fastmask.core.config_train import PretrainConfig
from fastmask.core.errors import FastmaskError, ModelError, OutputError
from fastmask.data.corruption import corrupt
from fastmask.data.stream import TrainingStream
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.mlm_model import MaskedLoss
from fastmask.models.tokenizer import tokenizer_hash
from fastmask.pipeline import score_corpus
from fastmask.shards.reader import open_shards
from fastmask.shards.writer import RunDirectory
from fastmask.train import checkpoint, run_directory
from fastmask.train.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def files(tmp_path_factory, mr_tiny, golden_dir):
    """Two shard sets and three models, made once."""
    root = tmp_path_factory.mktemp("files")
    texts = [{"text": row["text"]} for row in golden(golden_dir, "mr_tiny_0.05")][:150]
    for name, rows in (("train", texts[:110]), ("held", texts[110:])):
        corpus = write_jsonl(root / f"{name}.jsonl", rows)
        score_corpus([corpus], str(root / name), ScoreConfig(model=mr_tiny, method="random", mask_rate=0.2))
    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": 8192}
    save_model(root / "model", AutoModelForMaskedLM.from_config(BertConfig(**shape)), mr_tiny)
    smooth = AutoModelForMaskedLM.from_config(without_dropout(BertConfig(**shape)))
    save_model(root / "smooth", smooth, mr_tiny)
    return root


@pytest.fixture
def config(files, tmp_path) -> PretrainConfig:
    return PretrainConfig((str(files / "train"),), str(tmp_path / "out"), str(files / "model"), batch_size=8,
                          max_steps=6, save_every=2, lr=1e-3, precision="float32", max_length=64)  # fmt: skip


def test_a_run_learns_and_leaves_a_model_that_transformers_loads(config, files, said):
    config = replace(config, max_steps=40, lr=5e-3, save_every=20, eval=(str(files / "held"),))
    result = pretrain(config)
    log = log_of(config.out)
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 40 and losses[-1] < losses[0] - 1
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 41))
    assert result["tokens"] == sum(line["tokens"] for line in log if "loss" in line)
    assert [entry["step"] for entry in result["held_out"]] == [20, 40]
    assert [line["held_out_loss"] for line in log if "held_out_loss" in line] == [e["loss"] for e in result["held_out"]]
    assert json.loads((Path(config.out) / "pretrain.json").read_text()) == result
    assert said.messages[-1].startswith(f"{config.out}: 40 steps") and not any("head" in line for line in said.messages)
    assert not list(Path(config.out).glob("*checkpoint*")) and not list(Path(config.out).glob(".*"))
    model = AutoModelForMaskedLM.from_pretrained(config.out)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    # of its own tokenizer: shards go on fitting the trained model
    assert len({tokenizer_hash(load_tokenizer(resolve_model(one))) for one in (config.out, config.init)}) == 1


def test_the_held_out_loss_by_hand(config, files):
    """One sequence at a time through transformers, with the corruption of epoch 0."""
    result = pretrain(replace(config, max_steps=2, eval=(str(files / "held"),)))
    model = AutoModelForMaskedLM.from_pretrained(config.out).eval()
    total = masked = 0
    stream = TrainingStream(str(files / "held"), max_length=64, seed=config.seed, masked_only=True)
    ordinary = np.setdiff1d(np.arange(8192), [v for v in stream.tokenizer["special_ids"].values() if v is not None])
    for example in stream.epoch(0):
        keys = {"seed": config.seed, "epoch": 0, "mask_id": stream.tokenizer["special_ids"]["mask"]}
        ids = corrupt(example.input_ids, example.at, example.row, example.sentence, example.position, **keys,
                      ordinary=ordinary.astype(np.int32))  # fmt: skip
        with torch.no_grad():
            logits = model(torch.tensor(ids[None].astype(np.int64))).logits[0, example.at]
        labels = torch.tensor(example.input_ids[example.at].astype(np.int64))
        total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        masked += len(labels)
    assert result["held_out"][-1]["loss"] == pytest.approx(total / masked, rel=1e-5)


def test_measuring_does_not_change_training(config, files, tmp_path):
    pretrain(config)
    other = replace(config, out=str(tmp_path / "measured"), eval=(str(files / "held"),), save_every=1)
    pretrain(other)
    assert largest_difference(config.out, other.out) == 0.0


def test_an_encoder_gets_a_head_tied_to_its_embeddings(config, mr_tiny, said):
    pretrain(replace(config, init=mr_tiny, max_steps=1))
    line = f"{mr_tiny} has no masked-language-model head: a new one, tied to its word embeddings, is trained"
    assert line in said.messages
    names = weights(config.out)
    assert "cls.predictions.transform.dense.weight" in names and "cls.predictions.decoder.weight" not in names


def test_a_step_in_several_parts_is_the_step_in_one(config, files, tmp_path):
    one = replace(config, init=str(files / "smooth"), part_tokens=100_000)
    pretrain(one)
    several = replace(one, out=str(tmp_path / "several"), part_tokens=50)
    pretrain(several)
    assert 0 < largest_difference(one.out, several.out) < 1e-4
    assert [line["masked"] for line in log_of(one.out)] == [line["masked"] for line in log_of(several.out)]


def command(config: PretrainConfig) -> list[str]:
    options = {"batch-size": 8, "max-steps": config.max_steps, "save-every": config.save_every, "lr": config.lr,
               "precision": "float32", "max-length": 64, "init": config.init, "out": config.out}  # fmt: skip
    flat = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    held_out = [text for name in config.eval for text in ("--eval", name)]
    keep = ["--keep", config.keep] if config.keep else []
    return [sys.executable, "-m", "fastmask", "pretrain", *config.shards, *flat, *held_out, *keep]


def stored(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(config, tmp_path, said):
    """SIGKILL twice, where a checkpoint is to take its name; dropout makes the random state count."""
    config = replace(config, max_steps=90, save_every=3, keep="0.05,0.4")
    pretrain(replace(config, out=str(tmp_path / "whole")))
    out = Path(config.out)
    for step in (6, 42):
        child = held(f"*/checkpoint-{step:08d}", 1, *command(config)[3:], env={**os.environ, "OMP_NUM_THREADS": "1"})
        kill_held(child)
        assert child.returncode == -signal.SIGKILL
        assert not (out / "pretrain.json").exists() and list(out.glob("checkpoint-*"))
    pretrain(config)
    assert any(line.startswith("resumes after step ") for line in said.messages)
    for model in (".", "at-0.05", "at-0.4"):
        assert stored(out / model) == stored(tmp_path / "whole" / model)
    for name in ("loss", "tokens", "masked", "lr"):
        assert [line[name] for line in log_of(out)] == [line[name] for line in log_of(tmp_path / "whole")]


def test_two_processes_take_the_steps_of_one(config, files, tmp_path):
    """Means over masked tokens, not over processes: their shares differ in masks."""
    config = replace(config, init=str(files / "smooth"), max_steps=5, eval=(str(files / "held"),))
    alone = pretrain(replace(config, out=str(tmp_path / "alone")))
    (tmp_path / "process.py").write_text(PROCESS)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "process.py"))
    run = subprocess.run([sys.executable, *launcher, *command(config)[3:]], capture_output=True, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("5 steps, 2 x cpu") == 1
    assert largest_difference(config.out, tmp_path / "alone") < 1e-4
    logs = [[line for line in log_of(out) if "loss" in line] for out in (config.out, tmp_path / "alone")]
    assert [line["masked"] for line in logs[0]] == [line["masked"] for line in logs[1]]
    losses, expected = ([line["loss"] for line in lines] for lines in logs)
    assert losses == pytest.approx(expected, rel=1e-5)
    held_out = json.loads((Path(config.out) / "pretrain.json").read_text())["held_out"]
    assert [e["loss"] for e in held_out] == pytest.approx([e["loss"] for e in alone["held_out"]], rel=1e-5)


def test_a_finished_run_is_left_alone_and_another_is_refused_or_begins_again(config, said):
    pretrain(config)
    before = (Path(config.out) / "pretrain.json").stat().st_mtime_ns
    pretrain(replace(config, save_every=5))
    assert said.messages[-1].endswith("nothing to do")
    assert (Path(config.out) / "pretrain.json").stat().st_mtime_ns == before
    run = Path(config.out) / "run.json"
    run.write_text(run.read_text().replace(__version__, "0.1.77"))  # by another patch release
    pretrain(config)
    assert said.messages[-1].endswith("nothing to do")
    run.write_text(run.read_text().replace("0.1.77", "0.99.0"))
    with pytest.raises(OutputError, match=r'fastmask_version was "0\.99\.0", is now'):
        pretrain(config)
    run.write_text(run.read_text().replace("0.99.0", __version__))
    with pytest.raises(OutputError, match=r"--lr was 0\.001, is now 0\.002 \(--overwrite"):
        pretrain(replace(config, lr=2e-3))
    pretrain(replace(config, lr=2e-3, overwrite=True))
    assert len(log_of(config.out)) == 6 and log_of(config.out)[1]["lr"] == 2e-3


def test_somebody_elses_directory_is_refused(config):
    Path(config.out).mkdir()
    (Path(config.out) / "thesis.tex").touch()
    with pytest.raises(OutputError, match="exists already"):
        pretrain(config)


def test_batches_by_tokens_end_with_the_sequence_that_reaches_them(config):
    config = replace(config, batch_size=None, batch_tokens=200, max_steps=None, epochs=2)
    result = pretrain(config)
    counts = [line["tokens"] for line in log_of(config.out)]
    assert all(200 <= count < 264 for count in counts)
    assert result["step"] == len(counts) > 10


def test_epochs_are_whole_steps(config):
    stream = TrainingStream(config.shards, max_length=64, seed=0, masked_only=True)
    config = replace(config, max_steps=None, epochs=2, batch_size=50, save_every=100)
    assert pretrain(config)["step"] == -(-2 * len(stream) // 50)


def test_models_are_kept_on_the_way(config, monkeypatch):
    monkeypatch.setattr(run_directory.TrainingRun, "_remove_checkpoints", lambda self, keep="": None)
    pretrain(replace(config, keep="0.3,0.67"))  # steps 2 and 4 of 6
    out = Path(config.out)
    assert sorted(path.name for path in out.glob("at-*")) == ["at-0.3", "at-0.67"]
    for kept, step in (("at-0.3", 2), ("at-0.67", 4)):
        assert stored(out / kept) == stored(out / f"checkpoint-{step:08d}") != stored(out)
        AutoModelForMaskedLM.from_pretrained(out / kept)
    with pytest.raises(FastmaskError, match=r"--keep 0\.01: there are only 6 steps"):
        pretrain(replace(config, keep="0.01", out=f"{out}-2"))


def test_documents_share_sequences_when_packed(config):
    packed = TrainingStream(config.shards, max_length=64, seed=0, masked_only=True, pack=True)
    config = replace(config, max_steps=None, epochs=1, batch_size=len(packed), pack=True)
    result = pretrain(config)
    assert result["step"] == 1 and result["tokens"] == packed.tokens
    assert len(packed) < len(TrainingStream(config.shards, max_length=64, seed=0, masked_only=True))


@pytest.mark.parametrize(("bad", "kept"), [(3, []), (4, [2]), (5, [2]), (6, [4])])
def test_divergence_is_one_line_and_the_last_good_checkpoint_is_kept(config, monkeypatch, bad, kept):
    """A checkpoint is every two steps; one from which no step was good is of no use."""
    calls = []
    forward = MaskedLoss.forward

    def poisoned(self, part):
        calls.append(part)
        return forward(self, part) * (float("nan") if len(calls) == bad else 1.0)

    monkeypatch.setattr(MaskedLoss, "forward", poisoned)
    names = [f"checkpoint-{step:08d}" for step in kept]
    last = re.escape(f"{config.out}/{names[-1]}") if kept else "none yet"
    with pytest.raises(FastmaskError, match=rf"diverged: the loss is nan at step {bad - 1}; .* checkpoint: {last}$"):
        pretrain(config)
    assert sorted(path.name for path in Path(config.out).glob("checkpoint-*")) == names
    assert all((Path(config.out) / name / "model.safetensors").exists() for name in names)


@pytest.mark.parametrize("place", ["_settle", "safetensors"])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_gone_on_from(config, monkeypatch, place, tmp_path):
    saves = []
    settle, save_file = checkpoint._settle, safetensors.torch.save_file

    def full(*arguments):
        saves.append(arguments)
        if len(saves) == 2:
            if place == "_settle":
                raise OSError(28, "No space left on device")
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        return (settle if place == "_settle" else save_file)(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint if place == "_settle" else safetensors.torch,
                      "_settle" if place == "_settle" else "save_file", full)  # fmt: skip
        with pytest.raises(OutputError, match=r"checkpoint-00000004: .*No space left"):
            pretrain(config)
    assert [path.name for path in Path(config.out).glob("*checkpoint*")] == ["checkpoint-00000002"]
    pretrain(config)
    whole = replace(config, out=str(tmp_path / "whole"))
    pretrain(whole)
    assert largest_difference(config.out, whole.out) == 0.0


def test_a_damaged_checkpoint_is_named(config, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_directory.TrainingRun, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pretrain(config)
    file = Path(config.out) / "checkpoint-00000006" / "training.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="checkpoint-00000006: is damaged"):
        pretrain(config)


def test_shards_of_another_tokenizer_are_refused(config, tmp_path, files):
    other = tmp_path / "other"
    shutil.copytree(config.init, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["film"], vocabulary["movie"] = vocabulary["movie"], vocabulary["film"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        ModelError, match=f"train: was made with the tokenizer of .*mr-tiny, which is not that of {other}"
    ):
        pretrain(replace(config, init=str(other)))


def test_a_tokenizer_that_was_written_anew_is_the_same(config, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(config.init, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    assert pretrain(replace(config, init=str(other)))["step"] == 6


def test_shards_without_a_mask(config, files, tmp_path):
    bare = tmp_path / "bare"
    identity = {**IDENTITY, "tokenizer": open_shards(files / "train").manifest["tokenizer"]}
    with RunDirectory.open(str(bare), ScoreConfig().as_dict(), identity) as run:
        run.write_shard(0, build([5, 7], [[], []]))
        run.finish(FIELDS)
    with pytest.raises(FastmaskError, match="bare: no token is masked"):
        pretrain(replace(config, shards=(str(bare),)))


def test_steps_larger_than_the_data(config):
    with pytest.raises(FastmaskError, match=r"sequences with masks, fewer than a step's 5,000 \(--batch-size\)"):
        pretrain(replace(config, batch_size=5000))
    with pytest.raises(
        FastmaskError, match=r"tokens in sequences with masks, fewer than a step's 50,000 \(--batch-tokens\)"
    ):
        pretrain(replace(config, batch_size=None, batch_tokens=50_000))


@pytest.mark.parametrize(("change", "option"), [
    ({"shards": ()}, "SHARDS"), ({"batch_tokens": 5}, "--batch-size, --batch-tokens"),
    ({"epochs": 1}, "--max-steps, --epochs"), ({"batch_size": 0}, "--batch-size 0"), ({"lr": 0.0}, "--lr"),
    ({"warmup": -0.1}, "--warmup"), ({"weight_decay": -1.0}, "--weight-decay"), ({"precision": "int8"}, "--precision"),
    ({"device": "tpu"}, "--device"), ({"save_every": 0}, "--save-every"), ({"seed": -1}, "--seed"),
    ({"keep": "0.5,0.2"}, "--keep"), ({"keep": "1"}, "--keep"),
])  # fmt: skip
def test_bad_options_are_named(config, change, option):
    with pytest.raises(FastmaskError, match=option):
        replace(config, **change)


def test_the_command(config):
    arguments = command(config)[3:]
    done = fastmask(*arguments)
    assert done.exit_code == 0 and done.stdout == "" and "6 steps, " in done.stderr.splitlines()[-1]
    assert "nothing to do" in fastmask(*arguments).stderr
    assert "--lr was 0.001, is now 0.1" in refusal(fastmask(*arguments, "--lr", "0.1", "--quiet"))
