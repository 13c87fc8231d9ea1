"""The shard writer under any kill and on disks that refuse: what is left is gone on from to the same bytes."""

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kills import Killed, kill_at, killed_everywhere
from shard_samples import FIELDS, contents, open_run, sample, write_part, write_run

from fastmask.errors import OutputError
from fastmask.shards import verify


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run that no test changes."""
    return write_run(tmp_path_factory.mktemp("finished") / "out")


@pytest.fixture
def partial(tmp_path) -> Path:
    """A run with two of three shards written."""
    return write_part(tmp_path / "partial")


def test_a_kill_at_any_moment_leaves_a_directory_to_resume(tmp_path, finished):
    for out in killed_everywhere(lambda moment: tmp_path / str(moment), write_run):
        if (out / "_manifest.json").exists():
            assert verify(out) == []
        assert contents(write_run(out)) == contents(finished), out.name
        shutil.rmtree(out)
    assert int(out.name) > 25


def test_a_kill_at_any_moment_of_an_overwrite(tmp_path, finished):
    old = write_run(tmp_path / "old", 2, threshold=0.01)
    before, kept = contents(old), 0
    for moment in itertools.count():
        out = Path(shutil.copytree(old, tmp_path / str(moment)))
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, moment)
            try:
                write_run(out, overwrite=True)
                break
            except Killed:
                pass
        kept += contents(out).items() >= before.items()
        with open_run(out, overwrite=True):
            pass
        assert contents(write_run(out, overwrite=True)) == contents(finished), moment
        shutil.rmtree(out)
    assert int(out.name) > 25 and kept > 1


def test_what_is_overwritten_stays_until_there_is_a_shard(tmp_path, finished):
    out = write_run(tmp_path / "out", 2, threshold=0.01)
    before = contents(out)
    with open_run(out, overwrite=True):  # its first line is at fault
        pass
    assert contents(out) == before and verify(out) == []
    with pytest.raises(OutputError, match="--overwrite replaces it"):
        open_run(out)
    assert contents(write_run(out, overwrite=True)) == contents(finished)


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from kills import Killed, kill_at
from shard_samples import FIELDS, open_run, sample
left = int(sys.argv[3])
def watch(event, args):
    global left
    if event in ("open", "os.rename") and "fastmask-tmp" in str(args[0]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
with open_run(sys.argv[2]) as run:
    for index in run.missing(60):
        run.write_shard(index, sample(index))
    run.finish(FIELDS)
"""


def test_sigkill_then_resume_gives_the_same_bytes(tmp_path):
    """A real kill: before a file is opened, and before one takes its name."""
    write_run(tmp_path / "whole", 60)
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path / "killed")]
    for moment in (1, 8, 41, 30):
        assert subprocess.run([*command, str(moment)]).returncode == -signal.SIGKILL
    assert contents(write_run(tmp_path / "killed", 60)) == contents(tmp_path / "whole")


REFUSALS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES]


@pytest.mark.parametrize(("name", "code"), [*itertools.product(["write", "fsync", "replace"], REFUSALS)])
def test_a_disk_that_refuses_leaves_nothing_finished(name, code, partial, finished, monkeypatch):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    with open_run(partial) as run:
        before = contents(partial)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(OutputError) as error:
                run.write_shard(2, sample(2))
        assert str(partial) in str(error.value) and os.strerror(code) in str(error.value)
        assert contents(partial) == before
        # the same run may go on once there is room again
        run.write_shard(2, sample(2))
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(OutputError):
                run.finish(FIELDS)
        assert not run.finished and "_manifest.json" not in contents(partial)
    assert contents(write_run(partial)) == contents(finished)


def test_a_journal_line_that_does_not_fit_is_cut_off(partial, finished, monkeypatch):
    calls, real = itertools.count(), os.write

    def full(descriptor, data):
        if next(calls) == 0:
            return real(descriptor, data)
        real(descriptor, bytes(data)[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_run(partial) as run:
        journal = (partial / "journal.jsonl").read_bytes()
        with monkeypatch.context() as patch, pytest.raises(OutputError):
            patch.setattr(os, "write", full)
            run.write_shard(2, sample(2))
        assert (partial / "journal.jsonl").read_bytes() == journal and 2 not in run.entries
    assert contents(write_run(partial)) == contents(finished)


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from kills import Killed, kill_at
from shard_samples import open_run, sample
from fastmask.errors import OutputError
with open_run(sys.argv[2]) as run:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        run.write_shard(0, sample(0, rows=500))
    except OutputError as error:
        print(error)
"""


def test_a_file_size_limit(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == f"cannot write {tmp_path}: {os.strerror(errno.EFBIG)}\n"
    assert list(contents(tmp_path)) == ["journal.jsonl"]
