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
from kills import killed_everywhere
from shard_samples import FIELDS, contents, open_run, sample, write_part, write_run

from fastmask.core.directories import recover
from fastmask.core.errors import OutputError
from fastmask.shards.verify import verify


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


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_kill_at_any_moment_of_an_overwrite(exchanges, tmp_path, finished, monkeypatch):
    """The old result is there until the new one is; where directories cannot change places, after the next start."""
    if not exchanges:
        monkeypatch.setattr("fastmask.core.directories.exchange", lambda *_: False)
    old = write_run(tmp_path / "old", 2, threshold=0.01)
    (old / "notes").mkdir()
    (old / "notes" / "thesis.txt").write_text("mine")
    before, made = whole(old), {**whole(finished), "notes/thesis.txt": b"mine"}
    (tmp_path / "kills").mkdir()
    prepare = lambda moment: Path(shutil.copytree(old, tmp_path / "kills" / "out"))  # noqa: E731
    seen = []
    for out in killed_everywhere(prepare, lambda out: write_run(out, overwrite=True)):
        if not exchanges and not out.exists():
            recover(out)
        seen.append(whole(out) == before)
        assert seen[-1] or whole(out) == made
        write_run(out, overwrite=True)
        assert whole(out) == made and [path.name for path in out.parent.iterdir()] == ["out"], len(seen)
        shutil.rmtree(out)
    assert seen == sorted(seen, reverse=True) and len(seen) > 35 and {*seen} == {True, False}


def whole(out: Path) -> dict[str, bytes]:
    """The files of a directory and of those in it, without locks."""
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.endswith("lock"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_what_is_overwritten_stays_until_the_new_one_is_whole(tmp_path, finished, monkeypatch):
    out = write_run(tmp_path / "out", 2, threshold=0.01)
    before = contents(out)
    with open_run(out, overwrite=True):  # its first line is at fault
        pass
    assert contents(out) == before and [path.name for path in tmp_path.iterdir()] == ["out"]
    with open_run(out, overwrite=True) as run, monkeypatch.context() as patch:
        run.write_shard(0, sample(0))
        patch.setattr(os, "write", lambda *_: exec("raise OSError(28, 'No space left on device')"))
        with pytest.raises(OutputError, match="No space left"):
            run.write_shard(1, sample(1))
    assert contents(out) == before and verify(out) == []
    with pytest.raises(OutputError, match=rf"--overwrite replaces it; {tmp_path}/.out.begun is what was begun to"):
        open_run(out)
    with open_run(out, overwrite=True) as run:
        assert run.missing(3) == [1, 2]
    assert contents(write_run(out, overwrite=True)) == contents(finished)


def test_what_was_begun_and_is_not_wanted_goes(tmp_path):
    """With the settings of the old result again, or with a third one's."""
    out = write_run(tmp_path / "out", 2, threshold=0.01)
    for options in ({"threshold": 0.5}, {"threshold": 0.01}):
        with open_run(out, overwrite=True) as run:
            run.write_shard(0, sample(0))
        assert (tmp_path / ".out.begun").is_dir()
        write_run(out, 2, overwrite=True, **options)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        write_run(out, 2, overwrite=True, threshold=0.01)


def test_a_directory_is_replaced_where_a_link_leads(tmp_path, finished):
    write_run(tmp_path / "out", 2, threshold=0.01)
    (tmp_path / "link").symlink_to("out")
    write_run(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and contents(tmp_path / "out") == contents(finished)


def test_two_replacements_at_once_are_refused(tmp_path):
    out = write_run(tmp_path / "out", 2, threshold=0.01)
    with open_run(out, overwrite=True) as run:
        run.write_shard(0, sample(0))
        for options in ({"overwrite": True}, {}):
            with pytest.raises(OutputError, match="another fastmask run is writing"):
                open_run(out, **options)
    assert verify(out) == []


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
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[1]), str(tmp_path / "killed")]
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
from fastmask.core.directories import recover
from fastmask.core.errors import OutputError
with open_run(sys.argv[2]) as run:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        run.write_shard(0, sample(0, rows=500))
    except OutputError as error:
        print(error)
"""


def test_a_file_size_limit(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(Path(__file__).parents[1]), str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == f"cannot write {tmp_path}: {os.strerror(errno.EFBIG)}\n"
    assert sorted(contents(tmp_path)) == ["_plan.json", "journal.jsonl"]
