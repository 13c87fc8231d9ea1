"""What is wrong with shards, models or the disk is one line of the real commands, and costs no checkpoint."""

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import contents, fastmask, golden, held, kill_held, process, refusal, write_jsonl
from safetensors.numpy import load_file, save_file
from shard_samples import FIELDS, IDENTITY, build

from fastmask.core.config import ScoreConfig
from fastmask.pipeline import score_corpus
from fastmask.shards.reader import open_shards
from fastmask.shards.writer import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")
COMMANDS = {
    "pretrain": ("--max-steps", 4, "--batch-size", 4, "--save-every", 2, "--max-length", 64, "--precision", "float32"),
    "train-masker": ("--epochs", 1, "--batch-size", 8),
    "export": ("--to", "jsonl"),
}
TRAINERS = "pretrain", "train-masker"


@pytest.fixture(scope="module")
def shards(tmp_path_factory, golden_dir, mr_tiny) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:40]]
    corpus = write_jsonl(folder / "corpus.jsonl", rows)
    score_corpus([corpus], str(folder / "good"), ScoreConfig(model=mr_tiny, shard_rows=20))
    return folder / "good"


@pytest.fixture
def copy(shards, tmp_path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


@pytest.fixture
def model(mr_tiny, tmp_path) -> Path:
    return Path(shutil.copytree(mr_tiny, tmp_path / "model"))


def run(command: str, shards, out, init, *more):
    start = () if command == "export" else ("--init", init)
    return fastmask(command, shards, *start, "-o", out, *COMMANDS[command], *more)


def assert_refused(result, out: Path, *words: str) -> str:
    """Exit status 1, and one line after those that say what is being done; no model, nothing that looks finished."""
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("fastmask: error: ") and "unexpected" not in line and "Traceback" not in result.stderr
    for word in words:
        assert word in line, line
    assert not out.exists() or not {"model.safetensors", "pretrain.json"} & set(os.listdir(out))
    return line


def another_version(copy: Path) -> str:
    manifest = json.loads((copy / "_manifest.json").read_text())
    (copy / "_manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    return "_manifest.json: format version 99; this fastmask reads versions 1 to 2"


def unfinished(copy: Path) -> str:
    (copy / "_manifest.json").unlink()
    return "not finished (no _manifest.json)"


def missing(copy: Path) -> str:
    (copy / "shard-00001.parquet").unlink()
    return "shard-00001.parquet: is missing"


def cut(copy: Path) -> str:
    shard = copy / "shard-00001.parquet"
    size = shard.stat().st_size
    os.truncate(shard, size - 10)
    return f"shard-00001.parquet: has {size - 10} bytes instead of {size}"


def damaged(copy: Path) -> str:
    shard = copy / "shard-00001.parquet"
    data = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    data[100 : len(data) // 2 : 40] ^= 0xFF
    shard.write_bytes(data.tobytes())
    return "shard-00001.parquet: damaged ("


@pytest.mark.parametrize("harm", [another_version, unfinished, missing, cut, damaged])
@pytest.mark.parametrize("command", COMMANDS)
def test_shards_that_cannot_be_read(command, harm, copy, mr_tiny, tmp_path):
    words = harm(copy)
    line = assert_refused(run(command, copy, tmp_path / "out", mr_tiny), tmp_path / "out", words)
    assert str(copy) in line


def test_held_out_shards_that_cannot_be_read(shards, copy, mr_tiny, tmp_path):
    words = damaged(copy)
    for command, option in (("pretrain", "--eval"), ("train-masker", "--dev")):
        out = tmp_path / command
        assert_refused(run(command, shards, out, mr_tiny, option, copy), out, f"{copy}/{words}")


@pytest.mark.parametrize("command", TRAINERS)
def test_shards_of_another_tokenizer(command, shards, model, tmp_path):
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    words["film"], words["movie"] = words["movie"], words["film"]
    file.write_text(json.dumps(tokenizer))
    assert_refused(
        run(command, shards, tmp_path / "out", model), tmp_path / "out", str(shards), str(model), "tokenizer"
    )


# --- few masks or none ---


def made(out: Path, shards: Path, masked: list[list[int]]) -> Path:
    """Shards of a sentence of nine tokens for each list of ``masked``, in the tokenizer of ``shards``."""
    identity = {**IDENTITY, "tokenizer": open_shards(shards).manifest["tokenizer"]}
    with RunDirectory.open(str(out), ScoreConfig().as_dict(), identity) as directory:
        directory.write_shard(0, build([9] * len(masked), masked))
        directory.finish(FIELDS)
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_no_mask_at_all(command, shards, mr_tiny, tmp_path):
    bare = made(tmp_path / "bare", shards, [[]] * 20)
    words = "holds no sequence with a mask" if command == "export" else "no token is masked"
    assert_refused(run(command, bare, tmp_path / "out", mr_tiny), tmp_path / "out", f"{bare}: {words}")


def test_no_mask_to_measure_by(shards, mr_tiny, tmp_path):
    bare = made(tmp_path / "bare", shards, [[]] * 20)
    assert_refused(run("pretrain", shards, tmp_path / "out", mr_tiny, "--eval", bare), tmp_path / "out",
                   f"{bare}: no token is masked")  # fmt: skip
    assert_refused(run("train-masker", shards, tmp_path / "out", mr_tiny, "--dev", bare), tmp_path / "out",
                   f"{bare}: no token is masked, so that no epoch is the best")  # fmt: skip
    # one masked sentence of two is either learned from or held out
    two = made(tmp_path / "two", shards, [[1], []])
    assert_refused(run("train-masker", two, tmp_path / "out", mr_tiny), tmp_path / "out", "masked")


def test_sequences_without_a_mask_are_left_out(shards, mr_tiny, tmp_path):
    some = made(tmp_path / "some", shards, [[1, 3] if i % 4 == 0 else [] for i in range(20)])
    result = run("pretrain", some, tmp_path / "out", mr_tiny)
    assert result.exit_code == 0 and "5 sequences with masks" in result.stderr
    # four steps of four sequences, each with two masks
    assert json.loads((tmp_path / "out" / "pretrain.json").read_text())["masked"] == 32
    assert run("train-masker", some, tmp_path / "masker", mr_tiny, "--dev", some).exit_code == 0


def test_fewer_masked_sequences_than_a_step(shards, mr_tiny, tmp_path):
    some = made(tmp_path / "some", shards, [[1]] * 5 + [[]] * 200)
    words = "5 sequences with masks, fewer than a step's 112 (--batch-size)"
    for more in ((), ("--batch-size", 112), ("--epochs", 30)):
        result = fastmask("pretrain", some, "--init", mr_tiny, "-o", tmp_path / "out", *more)
        assert_refused(result, tmp_path / "out", f"{some}: {words}")


# --- numbers that are none ---


def test_a_model_with_a_nan_weight(shards, model, tmp_path):
    file = model / "model.safetensors"
    weights = load_file(file)
    name = "bert.encoder.layer.1.attention.self.query.weight"
    weights[name] = weights[name].copy()
    weights[name][0, 0] = np.nan
    save_file(weights, file, metadata={"format": "pt"})
    words = f"{model}: its weight {name} is not finite"
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "a fine film", "label": 1}])
    out = tmp_path / "out"
    for result in (
        *(run(command, shards, out, model) for command in TRAINERS),
        fastmask("finetune", corpus, "--init", model, "-o", out, "--epochs", 1),
        fastmask("score", corpus, "-o", out, "--model", model),
        fastmask("evaluate", "--arm", f"a={model}", "--test", corpus),
    ):
        assert words in refusal(result)


def test_a_rate_that_is_too_large(shards, mr_tiny, tmp_path):
    out = tmp_path / "out"
    line = assert_refused(run("train-masker", shards, out, mr_tiny, "--lr", "1e30"), out, "training diverged")
    assert line.endswith("try a lower --lr") and not out.exists()
    line = assert_refused(run("pretrain", shards, out, mr_tiny, "--lr", "1e30"), out, "diverged: the loss is ")
    assert line.endswith("try a lower --lr; last good checkpoint: none yet")


def test_weights_that_overflow_are_not_saved(shards, mr_tiny, tmp_path):
    """After the last step no loss will tell."""
    some = made(tmp_path / "some", shards, [[1, 3]] * 20)
    options = ("--lr", "1e39", "--warmup", 0, "--overwrite")
    out = tmp_path / "masker"
    run("train-masker", some, out, mr_tiny)
    before = contents(out)
    result = run("train-masker", some, out, mr_tiny, *options, "--batch-size", 50)
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith(f"fastmask: error: {out}: not written, ")
    assert "is not finite in float32; try a lower --lr" in result.stderr and contents(out) == before

    out = tmp_path / "pretrain"
    result = run("pretrain", some, out, mr_tiny, *options, "--max-steps", 1)
    assert_refused(result, out, "checkpoint-00000001: not written", "not finite", "last good checkpoint: none yet")
    assert not list(out.glob("*checkpoint*"))


def test_a_checkpoint_that_cannot_be_gone_on_from_is_not_kept(shards, mr_tiny, tmp_path):
    """Its weights are finite, but they are of no use."""
    out, options = tmp_path / "out", ("--lr", "1e30", "--warmup", 0, "--save-every", 1)
    line = assert_refused(run("pretrain", shards, out, mr_tiny, *options), out, "diverged: the loss is ")
    assert line.endswith("at step 1; try a lower --lr; last good checkpoint: none yet")
    assert not list(out.glob("*checkpoint*"))
    line = assert_refused(run("pretrain", shards, out, mr_tiny, *options, "--eval", shards, "--overwrite"), out)
    assert "training diverged: the held-out loss is " in line and "after step 1" in line
    assert not list(out.glob("*checkpoint*"))


def test_steps_of_tokens_count_sequences_with_masks_alone(shards, mr_tiny, tmp_path):
    """Five of twenty sentences of nine tokens and two special ones: 55."""
    some, out = made(tmp_path / "some", shards, [[1]] * 5 + [[]] * 15), tmp_path / "out"
    options = ("--init", mr_tiny, "-o", out, "--epochs", 2)
    line = refusal(fastmask("pretrain", some, *options, "--batch-tokens", 56, "-q"))
    assert line.endswith(f"{some}: 55 tokens in sequences with masks, fewer than a step's 56 (--batch-tokens)")
    assert fastmask("pretrain", some, *options, "--batch-tokens", 55, "-q").exit_code == 0
    assert json.loads((out / "pretrain.json").read_text())["step"] == 2


# --- disks that are full ---


def file_size_limit(size: int):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def pretrain_arguments(shards, out, init) -> list[str]:
    options = ("--max-steps", 60, "--save-every", 20, "--batch-size", 4, "--max-length", 64, "--precision", "float32")
    return [str(value) for value in ("pretrain", shards, "--init", init, "-o", out, *options, "-q")]


def test_a_full_disk_keeps_the_checkpoint_before_and_it_is_gone_on_from(shards, mr_tiny, tmp_path):
    """Killed after the first checkpoint; the next one finds no room."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = pretrain_arguments(shards, out, mr_tiny)
    child = held("*/checkpoint-00000040", 1, *arguments, env=environment)
    kill_held(child)
    assert child.returncode == -signal.SIGKILL
    kept = max(path.name for path in out.glob("checkpoint-*"))
    before = contents(out / kept)
    limit = file_size_limit(len(before["model.safetensors"]) + 1000)  # the weights fit, the optimizer does not
    failed = process(*arguments, preexec_fn=limit, env=environment)
    assert failed.returncode == 1
    line = refusal(failed)
    assert line.startswith(f"fastmask: error: cannot write {out}/checkpoint-000000") and "File too large" in line
    assert line.endswith(f"; last good checkpoint: {out}/{kept}")
    assert [path.name for path in out.glob("*checkpoint*")] == [kept] and contents(out / kept) == before
    assert fastmask(*arguments).exit_code == 0
    assert fastmask(*pretrain_arguments(shards, whole, mr_tiny)).exit_code == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_log_that_has_no_room_is_one_line(shards, mr_tiny, tmp_path):
    out = tmp_path / "out"
    arguments = pretrain_arguments(shards, out, mr_tiny)
    failed = process(*arguments, preexec_fn=file_size_limit(1500))
    assert failed.returncode == 1
    assert refusal(failed) == f"fastmask: error: cannot write {out}/log.jsonl: File too large"


def test_a_masker_that_has_no_room_leaves_nothing(shards, mr_tiny, tmp_path):
    out = tmp_path / "out"
    arguments = ("train-masker", shards, "--init", mr_tiny, "-o", out, *COMMANDS["train-masker"], "-q")
    failed = process(*arguments, preexec_fn=file_size_limit(100_000))
    assert failed.returncode == 1 and f"cannot write {out}: " in refusal(failed)
    assert list(tmp_path.iterdir()) == []
