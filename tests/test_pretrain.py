"""``pretrain``: the loss is transformers' own, a step is one however it is divided, a kill changes no bit."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import fastmask, golden, refusal, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from shard_samples import FIELDS, IDENTITY, build
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from fastmask.config import ScoreConfig
from fastmask.config_pretrain import PretrainConfig
from fastmask.corruption import corrupt
from fastmask.dataset import open_shards
from fastmask.errors import FastmaskError, ModelError, OutputError
from fastmask.models import resolve_model
from fastmask.pipeline import score_corpus
from fastmask.sequences import Example
from fastmask.shards import RunDirectory
from fastmask.stream import TrainingStream
from fastmask.train import checkpoint, state
from fastmask.train.loop import train
from fastmask.train.mlm import pretrain
from fastmask.train.mlm_batches import Builder, Part, prefetched
from fastmask.train.mlm_model import MaskedLoss, load_masked_lm
from fastmask.train.packed import enable_packing, pack
from fastmask.train.progress import Progress

SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 64, "vocab_size": 97}  # fmt: skip
FAMILIES = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE, type_vocab_size=1),
    "electra": ElectraConfig(**SHAPE, embedding_size=16),
    "distilbert": DistilBertConfig(vocab_size=97, dim=24, n_layers=2, n_heads=3, hidden_dim=40,
                                   max_position_embeddings=64),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def without_dropout(config):
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def padded_loss(model, sequences, at):
    """transformers' own loss on a padded batch, labels -100 where nothing is masked; id 4 is the mask."""
    longest, padding = max(map(len, sequences)), model.config.pad_token_id
    ids = np.full((len(sequences), longest), padding)
    labels, attend = np.full_like(ids, -100), np.zeros_like(ids)
    for row, (sequence, places) in enumerate(zip(sequences, at, strict=True)):
        ids[row, : len(sequence)], attend[row, : len(sequence)] = sequence, 1
        labels[row, places], ids[row, places] = sequence[places], 4
    return model(torch.tensor(ids), attention_mask=torch.tensor(attend), labels=torch.tensor(labels)).loss


def packed_part(sequences, at) -> Part:
    corrupted = [np.where(np.isin(np.arange(len(s)), places), 4, s) for s, places in zip(sequences, at, strict=True)]
    starts = np.cumsum([0, *map(len, sequences)])
    places = np.concatenate([a + start for a, start in zip(at, starts, strict=False)]).astype(np.int64)
    packed = pack(corrupted, [np.zeros(len(s), np.int64) for s in sequences])
    return Part(packed, torch.tensor(places), torch.tensor(np.concatenate(sequences)[places]))


@pytest.mark.parametrize("lengths", [(1, 7, 33, 17, 5), (9, 9, 9), (4,)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers(family, lengths):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = AutoModelForMaskedLM.from_config(without_dropout(copy.deepcopy(FAMILIES[family]))).train()
    sequences = [rng.integers(5, 97, length) for length in lengths]
    # one sequence without a mask, unless it is the only one
    at = [np.sort(rng.permutation(n)[: max(1, n // 3)]) for n in lengths]
    at[0] = at[0][: 0 if len(lengths) > 1 else None]
    model.zero_grad()
    expected = padded_loss(model, sequences, at)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    masked = sum(map(len, at))
    loss = MaskedLoss(enable_packing(model), torch.float32)(packed_part(sequences, at)) / masked
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(gradients)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=2e-6, msg=name)


def test_a_part_without_masks_has_loss_0_and_gradients_0():
    model = enable_packing(AutoModelForMaskedLM.from_config(copy.deepcopy(FAMILIES["bert"])))
    loss = MaskedLoss(model, torch.float32)(packed_part([np.arange(5, 11)], [np.empty(0, np.int64)]))
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_bfloat16_products_are_near():
    torch.manual_seed(0)
    model = enable_packing(AutoModelForMaskedLM.from_config(copy.deepcopy(FAMILIES["bert"])).eval())
    part = packed_part([np.arange(5, 40)], [np.arange(3, 30, 4)])
    exact, near = (MaskedLoss(model, dtype)(part).item() for dtype in (torch.float32, torch.bfloat16))
    assert near != exact and near == pytest.approx(exact, rel=0.01)


def save_model(path: Path, model, tokenizer_of: str) -> str:
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tokenizer_of) / name, path)
    return str(path)


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


def quiet(line: str) -> None:
    pass


def weights(out) -> dict[str, torch.Tensor]:
    return load_file(Path(out) / "model.safetensors")


def largest_difference(left, right) -> float:
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def log_of(out) -> list[dict]:
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_a_model_that_transformers_loads(config, files):
    lines = []
    config = replace(config, max_steps=40, lr=5e-3, save_every=20, eval=(str(files / "held"),))
    result = pretrain(config, lines.append)
    log = log_of(config.out)
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 40 and losses[-1] < losses[0] - 1
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 41))
    assert result["tokens"] == sum(line["tokens"] for line in log if "loss" in line)
    assert [entry["step"] for entry in result["held_out"]] == [20, 40]
    assert [line["held_out_loss"] for line in log if "held_out_loss" in line] == [e["loss"] for e in result["held_out"]]
    assert json.loads((Path(config.out) / "pretrain.json").read_text()) == result
    assert lines[-1].startswith(f"{config.out}: 40 steps") and not any("head" in line for line in lines)
    assert not list(Path(config.out).glob("*checkpoint*")) and not list(Path(config.out).glob(".*"))
    model = AutoModelForMaskedLM.from_pretrained(config.out)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    # of its own tokenizer: shards go on fitting the trained model
    assert resolve_model(config.out).tokenizer_sha256 == resolve_model(config.init).tokenizer_sha256


def test_the_held_out_loss_by_hand(config, files):
    """One sequence at a time through transformers, with the corruption of epoch 0."""
    result = pretrain(replace(config, max_steps=2, eval=(str(files / "held"),)), quiet)
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
    pretrain(config, quiet)
    other = replace(config, out=str(tmp_path / "measured"), eval=(str(files / "held"),), save_every=1)
    pretrain(other, quiet)
    assert largest_difference(config.out, other.out) == 0.0


def test_an_encoder_gets_a_head_tied_to_its_embeddings(config, mr_tiny):
    lines = []
    pretrain(replace(config, init=mr_tiny, max_steps=1), lines.append)
    assert any("no masked-language-model head: a new one, tied to its word embeddings" in line for line in lines)
    names = weights(config.out)
    assert "cls.predictions.transform.dense.weight" in names and "cls.predictions.decoder.weight" not in names


def test_an_encoder_whose_config_unties_gets_a_tied_head_all_the_same(tmp_path, mr_tiny):
    shape = {**SHAPE, "vocab_size": 8192, "tie_word_embeddings": False}
    bare = save_model(tmp_path / "bare", AutoModel.from_config(RobertaConfig(**shape)), mr_tiny)
    model, missing = load_masked_lm(resolve_model(bare))
    assert missing and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    whole = save_model(tmp_path / "whole", AutoModelForMaskedLM.from_config(RobertaConfig(**shape)), mr_tiny)
    model, missing = load_masked_lm(resolve_model(whole))
    assert not missing and model.get_output_embeddings().weight is not model.get_input_embeddings().weight


def test_a_step_in_several_parts_is_the_step_in_one(config, files, tmp_path):
    one = replace(config, init=str(files / "smooth"), part_tokens=100_000)
    pretrain(one, quiet)
    several = replace(one, out=str(tmp_path / "several"), part_tokens=50)
    pretrain(several, quiet)
    assert 0 < largest_difference(one.out, several.out) < 1e-4
    assert [line["masked"] for line in log_of(one.out)] == [line["masked"] for line in log_of(several.out)]


def test_gradients_of_parts_add_up():
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    steps = train(lambda x: (weight * x).sum(), [(0.25, 0.5)], optimizer, lambda step: 1.0, parts=lambda batch: batch)
    assert list(steps) == [(0, 0.0)] and weight.item() == -0.75


def test_a_gradient_that_is_not_finite_leaves_the_weights():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    steps = train(lambda x: (weight - x).sqrt().sum(), [1.0], optimizer, lambda step: 1.0)
    with pytest.raises(FastmaskError, match="the gradient's norm is inf at step 0"):
        next(steps)
    assert weight.item() == 1.0


def example(rng, length, masks, row) -> Example:
    at = np.sort(rng.permutation(length)[:masks]).astype(np.int32)
    return Example(rng.integers(5, 97, length).astype(np.int32), at, np.full(masks, row), np.zeros(masks, np.int32), at)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.booleans()), min_size=1, max_size=20),
       st.integers(1, 80), st.integers(0, 2**32))  # fmt: skip
def test_parts_hold_every_sequence_once_corrupted_as_its_keys_say(shapes, part_tokens, seed):
    rng = np.random.default_rng(seed)
    shapes = sorted(shapes, key=lambda shape: shape[2])
    items = [(int(late), example(rng, n, min(n, m), row)) for row, (n, m, late) in enumerate(shapes)]
    ordinary = np.arange(5, 97, dtype=np.int32)
    parts = Builder(seed, 4, ordinary, part_tokens, "cpu").parts(items)
    expected = sorted(
        (corrupt(e.input_ids, e.at, e.row, e.sentence, e.position, seed=seed, epoch=epoch, mask_id=4,
                 ordinary=ordinary).tolist(), e.at.tolist(), e.input_ids[e.at].tolist())
        for epoch, e in items
    )  # fmt: skip
    got = []
    for part in parts:
        bounds, ids = part.packed.cu_seqlens.tolist(), part.packed.input_ids
        for start, end in pairwise(bounds):
            inside = (part.at >= start) & (part.at < end)
            got.append((ids[start:end].tolist(), (part.at[inside] - start).tolist(), part.labels[inside].tolist()))
        # at most one sequence past the budget
        assert len(ids) < part_tokens + max(n for n, *_ in shapes)
    assert sorted(got) == expected


def test_items_ahead_of_time_come_in_order_and_so_does_an_error():
    def items():
        yield from range(5)
        raise InterruptedError("no more")

    ahead = prefetched(items())
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InterruptedError):
        next(ahead)
    assert list(prefetched([])) == []


def test_the_thread_is_gone_when_nobody_wants_more():
    before = threading.active_count()
    ahead = prefetched(count())
    assert next(ahead) == 0 and threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before


def command(config: PretrainConfig, *launcher) -> list[str]:
    options = {"batch-size": 8, "max-steps": config.max_steps, "save-every": config.save_every, "lr": config.lr,
               "precision": "float32", "max-length": 64, "init": config.init, "out": config.out}  # fmt: skip
    flat = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    held_out = [text for name in config.eval for text in ("--eval", name)]
    return [sys.executable, *launcher, "-m", "fastmask", "pretrain", *config.shards, *flat, *held_out]


def steps_saved(out: Path) -> int:
    return max((int(path.name[-8:]) for path in out.glob("checkpoint-*")), default=0)


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(config, tmp_path):
    """SIGKILL twice, in the midst of a step or of a checkpoint; dropout makes the random state count."""
    config = replace(config, max_steps=90, save_every=3)
    pretrain(replace(config, out=str(tmp_path / "whole")), quiet)
    out = Path(config.out)
    for least in (3, 40):
        child = subprocess.Popen(command(config), stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while child.poll() is None and steps_saved(out) < least:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, child.stderr.read()
        child.stderr.close()
        assert not (out / "pretrain.json").exists() and list(out.glob("checkpoint-*"))
    lines = []
    pretrain(config, lines.append)
    assert any(line.startswith("goes on after step ") for line in lines)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    for name in ("loss", "tokens", "masked", "lr"):
        assert [line[name] for line in log_of(out)] == [line[name] for line in log_of(tmp_path / "whole")]


def test_two_processes_take_the_steps_of_one(config, files, tmp_path):
    """Means over masked tokens, not over processes: their shares differ in masks."""
    config = replace(config, init=str(files / "smooth"), max_steps=5, eval=(str(files / "held"),))
    alone = pretrain(replace(config, out=str(tmp_path / "alone")), quiet)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run = subprocess.run(command(config, *launcher), capture_output=True, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("5 steps, 2 x cpu") == 1
    assert largest_difference(config.out, tmp_path / "alone") < 1e-4
    logs = [[line for line in log_of(out) if "loss" in line] for out in (config.out, tmp_path / "alone")]
    assert [line["masked"] for line in logs[0]] == [line["masked"] for line in logs[1]]
    losses, expected = ([line["loss"] for line in lines] for lines in logs)
    assert losses == pytest.approx(expected, rel=1e-5)
    held_out = json.loads((Path(config.out) / "pretrain.json").read_text())["held_out"]
    assert [e["loss"] for e in held_out] == pytest.approx([e["loss"] for e in alone["held_out"]], rel=1e-5)


def test_a_finished_run_is_left_alone_and_another_is_refused_or_begins_again(config):
    pretrain(config, quiet)
    before, lines = (Path(config.out) / "pretrain.json").stat().st_mtime_ns, []
    pretrain(replace(config, save_every=5), lines.append)
    assert lines[-1].endswith("nothing to do")
    assert (Path(config.out) / "pretrain.json").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match=r"--lr was 0\.001, is now 0\.002 \(--overwrite"):
        pretrain(replace(config, lr=2e-3), quiet)
    pretrain(replace(config, lr=2e-3, overwrite=True), quiet)
    assert len(log_of(config.out)) == 6 and log_of(config.out)[1]["lr"] == 2e-3


def test_somebody_elses_directory_is_refused(config):
    Path(config.out).mkdir()
    (Path(config.out) / "thesis.tex").touch()
    with pytest.raises(OutputError, match="exists already"):
        pretrain(config, quiet)


def test_batches_by_tokens_end_with_the_sequence_that_reaches_them(config):
    config = replace(config, batch_size=None, batch_tokens=200, max_steps=None, epochs=2)
    result = pretrain(config, quiet)
    counts = [line["tokens"] for line in log_of(config.out)]
    assert all(200 <= count < 264 for count in counts)
    assert result["step"] == len(counts) > 10


def test_epochs_are_whole_steps(config):
    stream = TrainingStream(config.shards, max_length=64, seed=0, masked_only=True)
    config = replace(config, max_steps=None, epochs=2, batch_size=50, save_every=100)
    assert pretrain(config, quiet)["step"] == -(-2 * len(stream) // 50)


def test_divergence_is_one_line_and_the_checkpoint_is_kept(config, monkeypatch):
    calls = []
    forward = MaskedLoss.forward

    def poisoned(self, part):
        calls.append(part)
        return forward(self, part) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(MaskedLoss, "forward", poisoned)
    with pytest.raises(
        FastmaskError, match=r"diverged: the loss is nan at step 3; .* checkpoint: .*checkpoint-00000002$"
    ):
        pretrain(config, quiet)
    assert (Path(config.out) / "checkpoint-00000002" / "model.safetensors").exists()


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
            pretrain(config, quiet)
    assert [path.name for path in Path(config.out).glob("*checkpoint*")] == ["checkpoint-00000002"]
    pretrain(config, quiet)
    whole = replace(config, out=str(tmp_path / "whole"))
    pretrain(whole, quiet)
    assert largest_difference(config.out, whole.out) == 0.0


def test_a_damaged_checkpoint_is_named(config, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(state.TrainingRun, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pretrain(config, quiet)
    file = Path(config.out) / "checkpoint-00000006" / "training.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="checkpoint-00000006: is damaged"):
        pretrain(config, quiet)


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
        pretrain(replace(config, init=str(other)), quiet)


def test_a_tokenizer_that_was_written_anew_is_the_same(config, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(config.init, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    assert pretrain(replace(config, init=str(other)), quiet)["step"] == 6


def test_shards_without_a_mask(config, files, tmp_path):
    bare = tmp_path / "bare"
    identity = {**IDENTITY, "tokenizer": open_shards(files / "train").manifest["tokenizer"]}
    with RunDirectory.open(str(bare), {}, identity) as run:
        run.write_shard(0, build([5, 7], [[], []]))
        run.finish(FIELDS)
    with pytest.raises(FastmaskError, match="bare: no token is masked"):
        pretrain(replace(config, shards=(str(bare),)), quiet)


def test_steps_larger_than_the_data(config):
    with pytest.raises(FastmaskError, match=r"sequences have masks, fewer than a step's 5,000 \(--batch-size\)"):
        pretrain(replace(config, batch_size=5000), quiet)
    with pytest.raises(FastmaskError, match=r"tokens, fewer than a step's 50,000 \(--batch-tokens\)"):
        pretrain(replace(config, batch_size=None, batch_tokens=50_000), quiet)


def test_other_families_are_refused(config, tmp_path, mr_tiny):
    from transformers import AlbertConfig

    shape = {**SHAPE, "vocab_size": 8192, "embedding_size": 16}
    albert = save_model(tmp_path / "albert", AutoModelForMaskedLM.from_config(AlbertConfig(**shape)), mr_tiny)
    with pytest.raises(ModelError, match="of type albert; bert, roberta, distilbert, electra can be pre-trained"):
        pretrain(replace(config, init=albert), quiet)


@pytest.mark.parametrize(("change", "option"), [
    ({"shards": ()}, "SHARDS"), ({"batch_tokens": 5}, "--batch-size, --batch-tokens"),
    ({"epochs": 1}, "--max-steps, --epochs"), ({"batch_size": 0}, "--batch-size 0"), ({"lr": 0.0}, "--lr"),
    ({"warmup": -0.1}, "--warmup"), ({"weight_decay": -1.0}, "--weight-decay"), ({"precision": "int8"}, "--precision"),
    ({"device": "tpu"}, "--device"), ({"save_every": 0}, "--save-every"), ({"seed": -1}, "--seed"),
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


def test_progress_shows_loss_rate_and_time_left(monkeypatch):
    now, said, shown = [0.0], [], []
    monkeypatch.setattr("fastmask.train.progress.time.monotonic", lambda: now[0])
    plain, live = Progress(100, 0, said.append, None), Progress(100, 0, said.append, shown.append)
    for step in range(20):
        now[0] += 1.0
        plain.update(step, 2.0, 1000)
        live.update(step, 2.0, 1000)
    assert said == ["step 15 of 100: loss 2.0000, 1,000 tokens/s, 1:25 left"]
    assert len(shown) == 20 and shown[-1] == "step 20 of 100: loss 2.0000, 1,000 tokens/s, 1:20 left"
