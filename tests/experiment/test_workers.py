"""``fastmask run --jobs``: the same results, errors of one step, and no process left whatever ends the run."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import fastmask, golden, write_jsonl

from fastmask.core.errors import FastmaskError, InputError
from fastmask.experiment.run import Run
from fastmask.experiment.workers import KILLED, Workers, threads_of

RECIPE = """
out = "{out}"
init = "{model}"
methods = ["random-15"]
seeds = [1, 2]
pretrain-each-seed = true
curve = [0.5]
[task]
train = "train.jsonl"
test = "test.jsonl"
[in-domain]
corpus = "corpus.txt"
[finetune]
epochs = 1
[pretrain]
max-steps = 2
batch-size = 8
"""


@pytest.fixture
def folder(tmp_path, mr_tiny, golden_dir, monkeypatch):
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")]
    write_jsonl(tmp_path / "train.jsonl", rows[:32])
    write_jsonl(tmp_path / "test.jsonl", rows[32:62])
    (tmp_path / "corpus.txt").write_text("".join(row["text"] + "\n" for row in rows[98:120]), "utf-8")
    for out in ("alone", "beside"):
        (tmp_path / f"{out}.toml").write_text(RECIPE.format(model=mr_tiny, out=out), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(out: Path) -> dict[str, object]:
    """Models, masks and answers of a run, these without the name of the run's directory."""
    files = (path for end in ("model.safetensors", "*.parquet") for path in out.glob(f"**/{end}"))
    answers = {path: json.loads(path.read_text())["predicted"] for path in out.glob("**/predictions.json")}
    return {str(path.relative_to(out)): value for path, value in
            ({path: path.read_bytes() for path in files} | answers).items()}  # fmt: skip


def test_side_by_side_as_one_after_the_other(folder):
    """With as many threads a step, to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads_of(2))
    try:
        alone = fastmask("run", "alone.toml")
    finally:
        torch.set_num_threads(before)
    beside = fastmask("run", "beside.toml", "--jobs", "2")
    assert alone.exit_code == beside.exit_code == 0, beside.stderr
    one, two = made(folder / "alone"), made(folder / "beside")
    assert len(one) == 17 and one == two
    reports = [json.loads((folder / out / "report/report.json").read_text()) for out in ("alone", "beside")]
    assert reports[0]["arms"] == reports[1]["arms"] and reports[0]["curve"] == reports[1]["curve"]
    said = [line for line in beside.stderr.splitlines() if line.startswith("[")]
    assert len(said) == len({line.split()[1] for line in said}) and said[-1].endswith("report: evaluate")
    assert sorted(line for line in alone.stderr.splitlines() if line.startswith("[")) == sorted(said)
    again = fastmask("run", "beside.toml", "--jobs", "2", "-q")
    assert again.exit_code == 0 and again.stdout == fastmask("run", "beside.toml", "-q").stdout


def fail(marker: str) -> None:
    raise InputError(marker, 3, "text", "is not good")


def make(marker: str) -> None:
    time.sleep(0.2)
    Path(marker).touch()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_error_names_its_place_and_others_go_on(tmp_path):
    with Workers(2) as workers:
        workers.start("bad", partial(fail, "a.txt"))
        workers.start("good", partial(make, str(tmp_path / "made")))
        assert workers.is_full
        ended = {one.name: one for _ in range(2) if len(workers) for one in workers.ended()}
    assert str(ended["bad"].error) == 'a.txt:3: field "text": is not good' and ended["good"].error is None
    assert (tmp_path / "made").exists() and not multiprocessing.active_children()


def test_a_worker_that_is_killed(tmp_path):
    with pytest.raises(FastmaskError) as caught, Workers(2) as workers:
        workers.start("killed", die)
        workers.ended()
    assert str(caught.value) == KILLED


def test_an_interrupt_ends_the_workers_at_once():
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Workers(2) as workers:
        workers.start("long", partial(time.sleep, 1000))
        raise KeyboardInterrupt
    assert not multiprocessing.active_children() and time.monotonic() - started < 500


def test_workers_end_with_a_killed_run(folder):
    """No process goes on by itself, which would write what a resumed run writes."""
    child = subprocess.Popen([sys.executable, "-m", "fastmask", "run", "alone.toml", "--jobs", "2", "-q"])
    try:
        while not list(folder.glob("alone/finetuned/.none-1*")):
            assert child.poll() is None
            time.sleep(0.05)
        workers = subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True, text=True, check=True).stdout
    finally:
        child.kill()
        child.wait()
    assert len(workers.split()) >= 2
    while any(Path("/proc", number).exists() and alive(number) for number in workers.split()):
        time.sleep(0.05)
    with Run("alone.toml"):  # nobody has it
        pass


def alive(number: str) -> bool:
    return Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
