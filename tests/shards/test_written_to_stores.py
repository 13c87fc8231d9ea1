"""Shards written to a store: the bytes of a run on a disk, after kills too."""

import json
import signal
import subprocess
import sys

import pytest
from helpers import fastmask, refusal
from stores import bucket, local, s3_server, stored  # noqa: F401

from fastmask.core.urls import Url

CORPUS = "".join(f"The {noun} was {word}.\n" for noun in ("food", "room", "film", "staff") for word in
                 ("good", "dull", "lost"))  # fmt: skip
METHOD = ("--method", "random", "--shard-rows", 4)
FINAL = {"_manifest.json", "_plan.json", "shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet"}


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(CORPUS)
    return path


@pytest.fixture
def here(corpus, tmp_path) -> dict[str, bytes]:
    """What a run on a disk writes."""
    done = fastmask("score", corpus, *METHOD, "-o", tmp_path / "here")
    assert done.exit_code == 0, done.stderr
    return local(tmp_path / "here")


def test_a_run_is_what_it_is_on_a_disk(corpus, here, bucket):  # noqa: F811
    out = f"{bucket}/runs/one"
    done = fastmask("score", corpus, *METHOD, "-o", f"{out}/")
    assert done.exit_code == 0 and f"{out}/: 12 sentences" in done.stderr, done.stderr
    assert stored(out) == here and here.keys() == FINAL
    assert "complete for this configuration" in fastmask("score", corpus, *METHOD, "-o", out).stderr
    assert fastmask("verify", out).stdout == f"{out}: ok\n"


@pytest.mark.parametrize("objects", [0, 1, 2, 3, 4, 7, 8])
def test_a_run_that_is_cut_anywhere_is_resumed(corpus, here, bucket, monkeypatch, objects):  # noqa: F811
    """Whatever is not yet in the store when a process ends is put there by the next one."""
    out, written, write = f"{bucket}/run", [], Url.write_bytes

    def cut(url, data):
        if len(written) == objects:
            raise KeyboardInterrupt
        written.append(url.name)
        write(url, data)

    with monkeypatch.context() as patch:
        patch.setattr(Url, "write_bytes", cut)
        done = fastmask("score", corpus, *METHOD, "-o", out)
    assert done.exit_code == (130 if objects < 8 else 0) and len(written) == objects
    assert ("_manifest.json" in stored(out)) == (objects == 8)
    if 3 <= objects < 8:  # a shard counts once its object of the journal is there
        made = {name for name in stored(out) if name.startswith("journal.jsonl.")}
        assert made == {f"journal.jsonl.{n:05d}" for n in range((objects - 1) // 2)}
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(Url, "write_bytes", lambda url, data: (again.append(url.name), write(url, data)))
        assert fastmask("score", corpus, *METHOD, "-o", out).exit_code == 0
    assert stored(out) == here
    assert not {f"shard-{n:05d}.parquet" for n in range((objects - 1) // 2)} & set(again)


KILLED = """
import os, signal, sys
from fastmask.core.urls import Url
left, write = int(sys.argv[1]), Url.write_bytes
def kill(url, data):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    write(url, data)
Url.write_bytes = kill
sys.argv[:2] = ["fastmask"]
from fastmask.cli import main
main()
"""


def test_a_killed_process_is_resumed(corpus, here, bucket):  # noqa: F811
    out = f"{bucket}/run"
    arguments = [sys.executable, "-c", KILLED, "5", "score", corpus, *METHOD, "-o", out]
    assert subprocess.run(list(map(str, arguments))).returncode == -signal.SIGKILL
    assert stored(out).keys() == {"_plan.json", "journal.jsonl", "journal.jsonl.00000", "shard-00000.parquet",
                                  "shard-00001.parquet"}  # fmt: skip
    assert fastmask("score", corpus, *METHOD, "-o", out).exit_code == 0
    assert stored(out) == here


def test_another_run_is_refused_or_replaced(corpus, here, bucket):  # noqa: F811
    out, other = f"{bucket}/run", (*METHOD, "--seed", 7)
    assert fastmask("score", corpus, *other, "-o", out).exit_code == 0
    was = stored(out)
    assert "made with other settings: --seed was 7, is now 0 (--overwrite" in refusal(
        fastmask("score", corpus, *METHOD, "-o", out))  # fmt: skip
    assert stored(out) == was != here
    Url(f"{out}/notes.txt").write_bytes(b"the user's")
    assert fastmask("score", corpus, *METHOD, "-o", out, "--overwrite").exit_code == 0
    assert stored(out) == {**here, "notes.txt": b"the user's"}
    Url(f"{bucket}/foreign/shard-00000.parquet").write_bytes(b"no shard")
    found = refusal(fastmask("score", corpus, *METHOD, "-o", f"{bucket}/foreign", "--overwrite"))
    assert "foreign/shard-00000.parquet: not written by fastmask" in found


def test_the_first_plan_is_that_of_all(corpus, here, bucket, monkeypatch):  # noqa: F811
    """Of two that start at once, each without knowing of the other."""
    out, create = f"{bucket}/run", Url.create

    def second(url, data):
        if not (url.parent / "_plan.json").exists():  # the other one is a moment earlier
            create(url, data)
        create(url, data)

    monkeypatch.setattr(Url, "create", second)
    assert fastmask("score", corpus, *METHOD, "-o", out).exit_code == 0
    assert stored(out) == here

    def stranger(url, data):
        create(url, json.dumps({"config": {"seed": 7}}).encode())
        create(url, data)

    monkeypatch.setattr(Url, "create", stranger)
    assert "another fastmask run is writing here" in refusal(fastmask("score", corpus, *METHOD, "-o", f"{bucket}/b"))


def test_parts_in_a_store(corpus, here, bucket):  # noqa: F811
    out = f"{bucket}/run"
    for part in ("1/2", "2/2", "1/2"):
        done = fastmask("score", corpus, *METHOD, "-o", out, "--part", part)
        assert done.exit_code == 0, done.stderr
    assert fastmask("finish", out).exit_code == 0
    assert stored(out) == here


def test_repair_remask_and_remap_in_a_store(corpus, here, bucket, mr_tiny, tmp_path):  # noqa: F811
    out = f"{bucket}/run"
    assert fastmask("score", corpus, *METHOD, "-o", out).exit_code == 0
    Url(f"{out}/shard-00001.parquet").write_bytes(b"damaged")
    assert fastmask("verify", out, "--repair").exit_code == 0
    assert stored(out) == here
    for command in (("remask", "--mask-rate", 0.1), ("remap", "--tokenizer", mr_tiny)):
        for source, place in ((out, f"{bucket}/{command[0]}"), (tmp_path / "here", tmp_path / command[0])):
            done = fastmask(command[0], source, *command[1:], "-o", place)
            assert done.exit_code == 0, done.stderr
        there, made = stored(f"{bucket}/{command[0]}"), local(tmp_path / command[0])
        assert {name for name in there if there[name] == made[name]} >= {name for name in made if "shard" in name}


def test_commands_that_write_to_disks_alone_say_so(corpus, bucket, mr_tiny, tmp_path):  # noqa: F811
    assert fastmask("score", corpus, *METHOD, "-o", tmp_path / "masks").exit_code == 0
    url, masks = f"{bucket}/out", tmp_path / "masks"
    for command in (("export", masks, "--to", "jsonl"), ("pretrain", masks, "--init", mr_tiny),
                    ("train-masker", masks, "--init", mr_tiny), ("finetune", corpus, "--init", mr_tiny)):  # fmt: skip
        found = refusal(fastmask(*command, "-o", url))
        assert found.startswith(f"fastmask: error: --out {url}: score, remap and remask write to a store"), found
    assert stored(bucket) == {}


def test_where_nothing_can_be_written(corpus, s3_server):  # noqa: F811
    found = refusal(fastmask("score", corpus, *METHOD, "-o", "s3://no-such-bucket/run"))
    assert found.startswith("fastmask: error: cannot write s3://no-such-bucket/run/journal.jsonl: ")
    assert found.endswith("The specified bucket does not exist")
