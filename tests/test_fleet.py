"""Several devices: the bytes are those of one, whatever happens to the workers; none is left behind."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
from helpers import contents, encoded, fastmask, golden, held, kill_held, refusal, write_jsonl

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError, InputError, ModelError
from fastmask.core.records import ScoredSentences
from fastmask.pipeline import score_corpus
from fastmask.report.meter import Meter, NoMeter
from fastmask.scoring.cascade import TIE, Bands
from fastmask.scoring.fleet import Fleet, _portable, _Worker
from fastmask.scoring.scorer import Scorer
from fastmask.shards.writer import RunDirectory
from fastmask.text.frontend import encoded_shards

SHARD_ROWS = 8
TWO = "cpu,cpu"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:160]]
    return write_jsonl(tmp_path_factory.mktemp("fleet") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus, mr_tiny) -> Path:
    """By one device."""
    out = tmp_path_factory.mktemp("whole") / "out"
    score_corpus([corpus], str(out), ScoreConfig(model=mr_tiny, shard_rows=SHARD_ROWS))
    return out


@pytest.fixture(scope="module")
def fleets() -> Iterator[list[Scorer]]:
    started = []
    yield started
    for scorer in started:
        scorer.stop()


@pytest.fixture
def two(mr_tiny, fleets, monkeypatch) -> Scorer:
    """What ``score_corpus`` runs on: two workers that outlive it, for they take seconds to import what they need."""
    if not fleets or any(worker.process.poll() is not None for worker in fleets[-1].engine._workers):
        fleets.append(Scorer(ScoreConfig(model=mr_tiny, shard_rows=SHARD_ROWS, device=TWO)))
    monkeypatch.setattr("fastmask.pipeline.Scorer", lambda *_: fleets[-1])
    monkeypatch.setattr(fleets[-1], "stop", lambda: None)
    return fleets[-1]


def options(out, model, device=TWO) -> list:
    return ["-o", out, "--model", model, "--shard-rows", SHARD_ROWS, "--device", device]


def without_devices(out) -> dict:
    """The files of a run, but for the names of the devices in its manifest."""
    files = contents(out)
    manifest = json.loads(files.pop("_manifest.json"))
    del manifest["config"]["device"], manifest["environment"]["device"]
    return files | {"manifest": manifest}


def test_the_same_bytes_as_one_device(corpus, whole, two, mr_tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    manifest = score_corpus([corpus], str(out), two.config)
    monkeypatch.undo()
    assert without_devices(out) == without_devices(whole)
    assert manifest["environment"]["device"] == manifest["config"]["device"] == TWO
    assert manifest["engine"]["device"] == "cpu"
    # to one device it is a run of its own
    before = contents(out)
    result = fastmask("score", corpus, *options(out, mr_tiny, "cpu"))
    assert result.exit_code == 0 and "nothing to do" in result.stderr
    (out / "shard-00002.parquet").unlink()
    assert "shard-00002.parquet: made again, identical" in fastmask("verify", out, "--repair").stdout
    assert contents(out) == before


def test_bands_that_widen_on_the_way(corpus, two, mr_tiny):
    """The run goes on after a shard whose bands are far too narrow, so the next ones widen them."""
    narrow = {"settled": True, "eps": {"bfloat16": 1e-3, "float32": 1e-9}}
    found = []
    with Scorer(replace(two.config, device="cpu")) as one:
        for scorer in (one, two):
            shards = encoded_shards([corpus], one.config, one.encoder, one.classes)
            found.append(list(scorer.score_shards(islice(shards, 6), {-1: {"certificate": narrow}})))
    assert [index for index, _ in found[0]] == [index for index, _ in found[1]] == list(range(6))
    for (_, a), (_, b) in zip(*found, strict=True):
        assert a.certificate == b.certificate
        np.testing.assert_array_equal(a.mask_index, b.mask_index)
        np.testing.assert_array_equal(a.importance, b.importance)
    assert sum(scored.certificate["rescored"] for _, scored in found[0]) >= 1


# --- what goes wrong ---


def start(corpus, out, model, **how) -> subprocess.Popen:
    """A run that is held where it has written two shards and its workers are at others."""
    return held("*/shard-00002.parquet", 1, "score", corpus, *options(out, model), "-q", **how)


def workers_of(parent: int) -> list[int]:
    """Process ids of a run's workers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(after_name[1]) == parent and b"fastmask.scoring.fleet" in command and after_name[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def assert_gone(pids) -> None:
    """A worker that was left behind would keep this waiting."""
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.01)


def assert_resumable(out, whole) -> None:
    """It is not finished, and what is there are the bytes of the whole run."""
    there = {name: data for name, data in contents(out).items() if name.startswith("shard-")}
    assert not (out / "_manifest.json").exists() and len(there) >= 2
    assert there.items() <= contents(whole).items()


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers in /proc")


def test_a_killed_worker(corpus, whole, two, mr_tiny, tmp_path, monkeypatch):
    out, victim, write = tmp_path / "out", two.engine._workers[0].process, RunDirectory.write_shard

    def write_and_kill(run, index, shard):
        write(run, index, shard)
        if index == 1:
            victim.kill()

    monkeypatch.setattr(RunDirectory, "write_shard", write_and_kill)
    line = refusal(fastmask("score", corpus, *options(out, mr_tiny), "-q"))
    assert "--device cpu: its worker process was killed by SIGKILL (out of memory?) at shard " in line
    assert_resumable(out, whole)
    monkeypatch.undo()
    result = fastmask("score", corpus, *options(out, mr_tiny, "cpu"))
    assert result.exit_code == 0 and result.stderr.startswith("resuming after ")
    assert without_devices(out) == without_devices(whole)


@linux
def test_a_killed_parent_leaves_no_orphans(corpus, whole, mr_tiny, tmp_path):
    child = start(corpus, tmp_path / "out", mr_tiny)
    pids = workers_of(child.pid)
    assert len(pids) == 2
    kill_held(child)
    assert_gone(pids)
    assert_resumable(tmp_path / "out", whole)


@linux
def test_ctrl_c(corpus, whole, mr_tiny, tmp_path):
    child = start(corpus, tmp_path / "out", mr_tiny, start_new_session=True)
    pids = workers_of(child.pid)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    assert kill_held(child, signal.SIGCONT) == ("", "fastmask: stopped; the same command goes on from here\n")
    assert child.returncode == 130
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert_resumable(tmp_path / "out", whole)


def test_an_error_in_a_worker_is_the_same_line(corpus, mr_tiny, tmp_path):
    lines = {
        refusal(fastmask("score", corpus, *options(tmp_path / "out", mr_tiny, device), "--stop-words", "none.txt"))
        for device in ("cpu", TWO)
    }
    assert len(lines) == 1 and "none.txt" in lines.pop()


# --- without processes ---


def outcome(shard, bands):
    """A toy engine: the fourth shard widens the bands."""
    n = len(shard)
    eps = 0.1 if bands is None else bands.eps[0]
    scored = ScoredSentences(shard, *[np.full(n, eps)] * 4, np.zeros(n + 1, np.int64), np.empty(0, np.int32))
    return scored, Bands(("float32", "float64"), (max(eps, 0.5) if shard.first_row == 3 else eps, TIE))


class ThreadWorker(_Worker):
    """A worker whose other side is a thread here."""

    numbers = count()

    def __init__(self, device):
        self.device, self.attempt, self.number, self.process = device, None, next(self.numbers), self
        self.connection, self.theirs = Pipe()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        self.theirs.recv()
        self.theirs.send(("ready", self.description(), ("float32", "float64"), "mind this"))
        while True:
            shard, bands = self.theirs.recv()
            time.sleep((self.number + 3 * shard.first_row) % 5 / 200)
            self.theirs.send(self.answer(shard, bands))

    def description(self) -> dict:
        return {"device": "cuda", "gpu": "H200"}

    def answer(self, shard, bands) -> tuple:
        return ("scored", *outcome(shard, bands))

    def kill(self) -> None:
        """Nothing is to be ended."""

    def wait(self, timeout=None) -> int:
        return 3


def fleet(monkeypatch, worker, devices="cuda:0,cuda:1,cuda:2") -> Fleet:
    monkeypatch.setattr("fastmask.scoring.fleet._Worker", worker)
    return Fleet(ScoreConfig(device=devices), None, False, NoMeter())


def toy_shards(number: int):
    for index in range(number):
        yield index, encoded([[5]], first_row=index)


def test_results_come_in_order_with_the_bands_of_one_device(monkeypatch):
    found = list(fleet(monkeypatch, ThreadWorker).score_shards(toy_shards(20), {}))
    assert [index for index, _ in found] == list(range(20))
    assert [scored.prob[0] for _, scored in found] == [0.1] * 4 + [0.5] * 16


def test_devices_that_are_not_alike(monkeypatch):
    class Mixed(ThreadWorker):
        def description(self):
            return {"device": "cuda", "gpu": self.device}

    with pytest.raises(FastmaskError, match=r"--device cuda:0,cuda:1: these are not alike.*gpu is cuda:0 and cuda:1"):
        fleet(monkeypatch, Mixed)


def test_what_an_engine_remarks_is_said(mr_tiny, monkeypatch):
    monkeypatch.setattr("fastmask.scoring.fleet._Worker", ThreadWorker)
    meter, said = NoMeter(), []
    meter.note = said.append
    Scorer(ScoreConfig(model=mr_tiny, device=TWO), meter=meter)
    assert said == ["mind this"]


def test_shards_before_a_bad_row_come_out(monkeypatch):
    def shards():
        yield from toy_shards(11)
        raise InputError("c.txt", 12, None, "bad")

    found = []
    with pytest.raises(InputError, match=r"c\.txt:12: bad"):
        found.extend(fleet(monkeypatch, ThreadWorker).score_shards(shards(), {}))
    assert [index for index, _ in found] == list(range(11))


def test_failures_on_the_way(monkeypatch):
    class Failing(ThreadWorker):
        def answer(self, shard, bands):
            if shard.first_row == 7:
                return ("failed", InputError("c.txt", 3, None, "bad"))
            return super().answer(shard, bands)

    with pytest.raises(InputError, match=r"c\.txt:3: bad"):
        list(fleet(monkeypatch, Failing).score_shards(toy_shards(20), {}))

    class Ending(ThreadWorker):
        def answer(self, shard, bands):
            if shard.first_row == 7:
                self.theirs.close()
            return super().answer(shard, bands)

    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    with pytest.raises(FastmaskError, match=r"--device cuda:\d: .* exit code 3 at shard 7 \(rows 7 to 7\); finished"):
        list(fleet(monkeypatch, Ending).score_shards(toy_shards(20), {}))


def test_an_error_crosses_processes():
    class Local(Exception):
        pass

    assert str(_portable(ModelError("no model"))) == "no model"
    assert isinstance(_portable(Local("odd")), RuntimeError) and str(_portable(Local("odd"))) == "Local: odd"


# --- around it ---


def test_where_one_device_is_enough(corpus, mr_tiny, tmp_path, monkeypatch):
    from fastmask import score

    with pytest.raises(FastmaskError, match="score_corpus takes several"):
        score(["a film"], mr_tiny, device=TWO)
    monkeypatch.setattr("fastmask.scoring.fleet._Worker", None)
    manifest = score_corpus([corpus], str(tmp_path / "out"), ScoreConfig(model=mr_tiny, method="random", device=TWO))
    assert manifest["environment"]["device"] == "cpu"


def test_progress_of_several_shards(monkeypatch):
    monkeypatch.setattr("fastmask.report.meter._INTERVAL", 0.0)
    lines = []
    meter = Meter(type("Plain", (), {"is_terminal": False}), lines.append)
    with meter.running(lambda: 40, 10):
        meter.shard(10, 20)
        meter.shard(20, 30)
        meter.advance(20, 0.5, 100)
        meter.advance(10, 0.5, 100)
        meter.advance(20, 0.8, 100)
        meter.shard(10, 20)
        meter.advance(10, 0.1, 100)
    rows = [line.split(" rows")[0] for line in lines]
    assert rows == ["resuming after 10", "15 of 40", "20 of 40", "25 of 40", "21 of 40"]
