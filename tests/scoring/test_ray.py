"""Workers on a real Ray cluster of two nodes: actors, a node and drivers are killed, the bytes are those of one run."""

import logging
import os
import signal
import socket
import sys
from collections import Counter, deque
from pathlib import Path

import fsspec
import pytest
from helpers import contents, fastmask, golden, held, kill_held, refusal, write_jsonl
from stores import bucket, local, s3_server, stored  # noqa: F401

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read once, when ray is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
pytest.importorskip("ray", reason="the extra ray is not installed")

import psutil
from ray.cluster_utils import Cluster

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError
from fastmask.core.startup import set_ray
from fastmask.pipeline import score_corpus
from fastmask.report.progress import Meter
from fastmask.scoring.machine import Facts
from fastmask.scoring.ray_executor import RayExecutor, _Call
from fastmask.scoring.ray_workers import Actor, Worker, WorkerLost, Workers, check_answers, share_of
from fastmask.shards.writer import RunDirectory

ROOT = Path(__file__).parents[2]
ROWS = 9


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:120]]
    return write_jsonl(tmp_path_factory.mktemp("ray") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus, mr_tiny) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    score_corpus([corpus], str(out), ScoreConfig(model=mr_tiny, shard_rows=ROWS))
    return out


@pytest.fixture(scope="module")
def cluster(s3_server):  # noqa: F811  # its processes find the server, too
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'kernels'}")
        node = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 80 << 20}
        made = Cluster(initialize_head=True, head_node_args=node)
        made.add_node(**node)
        yield made
        made.shutdown()


def run(corpus, out, mr_tiny, cluster, workers) -> list:
    how = ["--engine", "ray", "--address", cluster.address, "--workers", workers]
    return ["score", corpus, "-o", out, "--model", mr_tiny, "--shard-rows", ROWS, *how]


def raylet(node) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def actors(node) -> list[psutil.Process]:
    return [one for one in raylet(node).children(recursive=True) if one.name().startswith("ray::Worker")]


def test_a_driver_that_is_stopped_or_killed_resumes(corpus, whole, mr_tiny, tmp_path, cluster):
    out = tmp_path / "out"
    command = run(corpus, out, mr_tiny, cluster, 1)
    output = kill_held(child := held("*/shard-00002.parquet", 1, *command), signal.SIGINT)
    assert child.returncode == 130 and output == ("", "fastmask: stopped; the same command resumes it\n")
    assert len(list(out.glob("shard-*"))) == 2
    kill_held(child := held("*/shard-00005.parquet", 1, *command))
    assert child.returncode == -signal.SIGKILL and len(list(out.glob("shard-*"))) == 5
    # what is local goes on where a cluster stopped, and the other way round
    score_corpus([corpus], str(out), ScoreConfig(model=mr_tiny, shard_rows=ROWS))
    assert contents(out) == contents(whole)


def test_lost_actors_and_nodes(corpus, whole, mr_tiny, bucket, cluster, monkeypatch):  # noqa: F811
    """One worker is killed, then the machine of the one in its place: the other one makes the rest, all in a store."""
    there, out = f"{bucket}/corpus.jsonl", f"{bucket}/out"
    fsspec.filesystem("s3").put(corpus, there)
    written, real = [], RunDirectory.write_shard
    (second,) = cluster.worker_nodes

    def write(self, index, scored):
        written.append(index)
        if len(written) == 2:
            actors(cluster.head_node)[0].kill()
        if len(written) == 6:
            cluster.remove_node(second, allow_graceful=False)
        return real(self, index, scored)

    monkeypatch.setattr(RunDirectory, "write_shard", write)
    result = fastmask(*run(there, out, mr_tiny, cluster, 2))
    assert result.exit_code == 0, result.stderr
    *lines, last = result.stderr.splitlines()
    assert "sentences" in last and lines and all(line.startswith("a worker was lost; ") for line in lines)
    assert sorted(written) == list(range(14))
    made, wanted = stored(out), local(whole)
    shards = [name for name in wanted if name.endswith(".parquet")]
    assert made.keys() == wanted.keys() and all(made[name] == wanted[name] for name in shards)


def test_errors_of_workers_are_one_line(mr_tiny, tmp_path, cluster):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "good"}\n' * 20 + '{"text": 5}\n')
    line = refusal(fastmask(*run(bad, tmp_path / "out", mr_tiny, cluster, 1)))
    assert line == f'fastmask: error: {bad}:21: field "text": expected a string, found a number'
    line = refusal(fastmask(*run(bad, tmp_path / "new", tmp_path / "none", cluster, 1)))
    assert line.startswith("fastmask: error: on ") and str(tmp_path / "none") in line
    line = refusal(fastmask(*run(bad, tmp_path / "new", mr_tiny, cluster, 9)))
    assert "--workers 9: the cluster has 1 processors" in line or "--workers 9: the cluster has 2 processors" in line


def test_what_does_not_go_together(corpus, tmp_path):
    assert "means nothing without --engine ray" in refusal(fastmask("score", corpus, "--workers", 2))
    assert "not together" in refusal(fastmask("score", corpus, "--engine", "ray", "--part", "1/2"))
    assert "other processes cannot read it" in refusal(fastmask("score", "-", "-o", tmp_path / "o", "--engine", "ray"))


def test_where_nobody_listens():
    """Said at once, by us: Ray tries for two minutes and prints lines of its own."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        free = one.getsockname()[1]  # bound, and nobody listens
        with pytest.raises(FastmaskError, match=f"^--address 127.0.0.1:{free}: no Ray cluster: Connection refused$"):
            check_answers(f"127.0.0.1:{free}")
    check_answers("auto")
    check_answers(None)


NODES = [{"CPU": 8.0}, {"CPU": 8.0}, {"memory": 1.0}]
WITH_GPUS = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 1.0}]


@pytest.mark.parametrize(("nodes", "workers", "device", "threads", "number", "cpus", "gpus", "used"), [
    (NODES, None, "auto", 0, 2, 8, 0, ("cpu", 8)),
    (NODES, 4, "auto", 0, 4, 4, 0, ("cpu", 4)),
    (NODES, 3, "auto", 0, 3, 4, 0, ("cpu", 4)),
    (NODES, 2, "cpu", 6, 2, 8, 0, ("cpu", 6)),
    (WITH_GPUS, None, "auto", 0, 3, 1, 1, ("cuda", 0)),
    (WITH_GPUS, 2, "cuda", 0, 2, 1, 1, ("cuda", 0)),
    (WITH_GPUS, None, "cpu", 0, 2, 16, 0, ("cpu", 16)),
])  # fmt: skip
def test_what_a_worker_gets(nodes, workers, device, threads, number, cpus, gpus, used):
    share = share_of(ScoreConfig(device=device, threads=threads), workers, nodes)
    assert share[:3] == (number, cpus, gpus) and (share.config.device, share.config.threads) == used


@pytest.mark.parametrize(("workers", "device", "said"), [
    (17, "auto", "--workers 17: the cluster has 16 processors"), (1, "cuda", "the cluster has 0 GPUs"),
    (None, "cuda:1", "--device cuda:1: Ray chooses"),
])  # fmt: skip
def test_what_a_cluster_has_not(workers, device, said):
    with pytest.raises(FastmaskError, match=said):
        share_of(ScoreConfig(device=device), workers, NODES)


def facts(**changed) -> tuple[str, Facts]:
    machine = {"cpu_capability": "amx", "device": "cpu", "torch": "2.13.0", "cpu": changed.pop("cpu", "a")} | changed
    identity = {"tokenizer": {}, "model": {"sha": changed.get("sha", 1)}, "engine": {"torch": machine["torch"]}}
    return changed.get("torch", "first"), Facts({}, identity, {"environment": machine})


def test_machines_that_differ_are_named():
    workers = Workers.__new__(Workers)
    workers._first, workers._mixed = facts(), False
    workers.check(facts(cpu="b"))
    with pytest.raises(FastmaskError, match=r"2\.12 is not like first: torch 2\.12, not 2\.13\.0; --mixed lets"):
        workers.check(facts(torch="2.12"))
    workers._mixed = True
    workers.check(facts(torch="2.12"))
    with pytest.raises(FastmaskError, match=r"is not like first: model\.sha was 1, is now 2"):
        workers.check(facts(sha=2))


@pytest.mark.parametrize(("address", "own"), [(None, True), ("auto", False)])
def test_a_cluster_for_one_run_has_a_token_of_its_own(monkeypatch, address, own):
    """No file in the user's home; what the user has set stays."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.delitem(sys.modules, "ray")
    set_ray(address)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0" and ("RAY_AUTH_TOKEN" in os.environ) == own
    os.environ.update(RAY_AUTH_MODE="disabled")
    set_ray(None)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


class Replacing:
    """Workers of which each is lost; what takes its place is never ready."""

    def __init__(self):
        self.meter = Meter()

    def replaced(self, lost):
        return Actor(None, object())


def test_losses_are_counted_by_shard_and_by_start(said):
    """A worker whose machine goes while it is starting is started again, too, but not for ever."""
    executor = RayExecutor.__new__(RayExecutor)
    executor._workers, executor._calls = Replacing(), {}
    queue, losses, error = deque([range(20, 22)]), Counter(), WorkerLost("a worker was lost: why")
    for lost in range(1, 4):
        executor._replace(Actor(None, None), queue, losses, error)
        at_work = Actor(None, None)
        at_work.is_ready, at_work.asked, at_work.piece = True, [7, 8], range(9, 12)
        executor._replace(at_work, queue, losses, error)
        assert list(queue)[:3] == [range(7, 8), range(8, 9), range(9, 12)] and losses[7] == lost
    assert said.messages == ["a worker was lost; 2 shards of it will be made again"] * 3
    with pytest.raises(WorkerLost, match="why"):
        executor._replace(Actor(None, None), queue, losses, error)
    with pytest.raises(FastmaskError, match="shard 7: 4 workers were lost while they made it"):
        executor._replace(at_work, queue, losses, error)


def test_what_a_worker_tells_is_shown_here(said, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastmask"), "handlers", [])  # the worker's is not for this process
    worker, executor = Worker(), RayExecutor.__new__(RayExecutor)
    executor._workers = Replacing()
    worker._relay.shard(0, 10)
    worker._relay.advance(0, 0.5, 300)
    logging.getLogger("fastmask.there").warning("a remark")
    told = worker.progress()
    said.clear()
    with executor._workers.meter.running(10, 0):
        executor._hear(_Call(Actor(None, None), "progress"), told)
    assert executor._workers.meter._rows == 5 and len(told) == 3 and worker.progress()[0][0] == "line"
    assert said.record_tuples == [("fastmask.scoring.ray_executor", logging.WARNING, "a remark")]
