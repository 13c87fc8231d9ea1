"""``fastmask run --jobs``: the same results, errors of one step, and no process left whatever ends the run."""

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from threading import Event

import pytest
import torch
from helpers import fastmask, golden, write_jsonl
from played_run import RECIPE as PLAYED
from played_run import play, played_score, played_training

from fastmask.core.errors import FastmaskError, InputError, line_of
from fastmask.core.log import listen
from fastmask.experiment.run import Run
from fastmask.experiment.workers import KILLED, Ended, Workers, threads_of

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


class Strange(Exception):
    """As some libraries have them: it can be pickled, but not made again from that."""

    def __init__(self, code: int, reason: str):
        super().__init__(f"{code}: {reason}")


def fail_strangely() -> None:
    raise Strange(404, "not there")


def make(marker: str) -> None:
    time.sleep(0.2)
    assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # a terminal sends it to the worker, too
    Path(marker).touch()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_error_names_its_place_and_others_go_on(tmp_path):
    with Workers(2) as workers:
        workers.start("bad", partial(fail, "a.txt"))
        workers.start("good", partial(make, str(tmp_path / "made")))
        assert workers.is_full
        ended = {one.name: one.error for one in (workers.ended(), workers.ended())}
        workers.start("strange", fail_strangely)
        strange = workers.ended().error
    assert str(ended["bad"]) == 'a.txt:3: field "text": is not good' and ended["good"] is None
    assert "in fail\n" in "".join(traceback.format_exception(ended["bad"]))
    assert line_of(strange) == "RuntimeError: Strange: 404: not there (unexpected; --debug shows where)"
    assert "in fail_strangely\n" in "".join(traceback.format_exception(strange))
    assert (tmp_path / "made").exists() and not multiprocessing.active_children()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


class Threads(ThreadPoolExecutor):
    """Workers that are threads, and can wait for each other."""

    def __init__(self, jobs: int):
        super().__init__(jobs)
        self.jobs, self.futures = jobs, {}

    @property
    def running(self):
        return list(self.futures.values())

    is_full = False

    def start(self, name, work):
        self.futures[self.submit(work)] = name

    def ended(self):
        future = next(iter(wait(self.futures, return_when=FIRST_COMPLETED).done))
        return Ended(self.futures.pop(future), [], future.exception())


def test_what_runs_beside_a_failed_step_is_recorded(tmp_path, mr_tiny, monkeypatch):
    """Also where the record finds a fault in another, whose text has changed; the first error is raised. In threads."""
    monkeypatch.chdir(tmp_path)
    play(monkeypatch)
    write_jsonl(tmp_path / "t.jsonl", [{"text": f"film {n}", "label": n % 2} for n in range(4)])
    (tmp_path / "c.txt").write_text("a film\n")
    recipe = PLAYED.format(model=mr_tiny, train="t.jsonl", lr=1e-4).replace('corpus = "t.jsonl"', 'corpus = "c.txt"')
    (tmp_path / "r.toml").write_text("methods = ['random-15']\n" + recipe.replace("[1]", "[1, 2]"))
    said = {"finetuned/none-2: failed": Event(), "masks/random-15: done": Event()}
    has_failed, is_done = said.values()
    lines = []

    def hear(level: int, line: str) -> None:
        lines.append(line)
        for begin in filter(line.startswith, said):
            said[begin].set()

    def finetuned(config):
        if config.seed == 2:
            raise InputError("t.jsonl", 1, None, "is not good")
        assert is_done.wait(100)
        played_training(config)

    def scored(*arguments, **options):
        assert has_failed.wait(100)
        (tmp_path / "c.txt").write_text("another film\n")
        played_score(*arguments, **options)

    monkeypatch.setattr("fastmask.experiment.run.Workers", Threads)
    monkeypatch.setattr("fastmask.train.finetune.finetune", finetuned)
    monkeypatch.setattr("fastmask.pipeline.score_corpus", scored)
    listener = listen(hear)
    try:
        with Run("r.toml") as run, pytest.raises(InputError, match=r"t\.jsonl:1: is not good"):
            run.run(jobs=3)
    finally:
        logging.getLogger("fastmask").removeHandler(listener)
    assert "finetuned/none-2: failed: t.jsonl:1: is not good; those that run are waited for: finetuned/none-1, " \
           "masks/random-15" in lines  # fmt: skip
    states = {planned.step.name: planned.state for planned in Run("r.toml").plan()}
    assert states["finetuned/none-1"] == "complete"
    assert states["masks/random-15"] == "begun" and states["finetuned/none-2"] == "to do"


def test_a_worker_that_is_killed(tmp_path):
    """Others go on, whichever of them is killed first, and another takes its place."""
    with Workers(2) as workers:
        workers.start("killed", die)
        workers.start("good", partial(make, str(tmp_path / "made")))
        ended = {one.name: one.error for one in (workers.ended(), workers.ended())}
        assert str(ended["killed"]) == f"killed: {KILLED}" and isinstance(ended["killed"], FastmaskError)
        assert ended["good"] is None and (tmp_path / "made").exists()
        workers.start("good", partial(make, str(tmp_path / "more")))
        workers.start("killed", die)
        assert {workers.ended().name, workers.ended().name} == {"good", "killed"} and not workers.running
        with pytest.raises(AttributeError):
            workers.start("not for others", lambda: None)
        assert not workers.running


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
