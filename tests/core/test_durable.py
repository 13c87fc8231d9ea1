"""Directories that take the place of others: wholly, or what was there stays."""

from pathlib import Path

import pytest
from helpers import contents

from fastmask.core.directories import claim, new_directory
from fastmask.core.errors import OutputError


def fill(out: Path, overwrite: bool = False) -> None:
    with claim(out, overwrite) as path, new_directory(path, overwrite) as fresh:
        (fresh / "new").write_bytes(b"new")


@pytest.fixture
def taken(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_bytes(b"old")
    return tmp_path / "out"


def test_a_new_directory_takes_the_place_of_the_old_one(taken, tmp_path):
    with pytest.raises(OutputError, match="out: exists already"):
        fill(taken)
    assert contents(taken) == {"old": b"old"}
    fill(taken, overwrite=True)
    fill(tmp_path / "a" / "b")
    assert contents(taken) == contents(tmp_path / "a" / "b") == {"new": b"new"}
    with pytest.raises(OutputError, match="new: is not a directory"):
        fill(taken / "new", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_what_fails_on_the_way_leaves_what_was_there(taken, tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError), new_directory(taken, True) as fresh:
        (fresh / "new").write_bytes(b"half")
        1 / 0  # noqa: B018
    rename = Path.rename

    def refuse(path, target):
        if ".new-" in path.name:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr("fastmask.core.directories.exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*out: No space left"):
        fill(taken, overwrite=True)
    assert contents(taken) == {"old": b"old"} and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_at_once_are_refused(taken, tmp_path):
    with claim(taken, True):
        with pytest.raises(OutputError, match="out: another fastmask run is writing it"):
            fill(taken, overwrite=True)
        with pytest.raises(OutputError, match="is writing it"):
            fill(tmp_path / "link" / ".." / "out", overwrite=True)
    assert contents(taken) == {"old": b"old"}
    fill(taken, overwrite=True)
    assert contents(taken) == {"new": b"new"}


def test_a_symbolic_link_is_followed_and_stays(taken, tmp_path):
    for name, target in (("link", "out"), ("dangling", "made")):
        (tmp_path / name).symlink_to(target)
        fill(tmp_path / name, overwrite=True)
        assert (tmp_path / name).is_symlink() and contents(tmp_path / target) == {"new": b"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "link", "made", "out"]


def test_a_mounted_directory_is_refused_before_any_work():
    with pytest.raises(OutputError, match="/proc: a mounted directory cannot be replaced; give one inside it"):
        fill(Path("/proc"), overwrite=True)


def test_an_orphan_is_put_back_also_where_a_directory_was_made_since(tmp_path):
    for name in ("new-4", "old-3"):
        (tmp_path / f".out.{name}").mkdir()
        (tmp_path / f".out.{name}" / "old").write_bytes(b"old")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="out: exists already"):
        fill(tmp_path / "out")
    assert contents(tmp_path / "out") == {"old": b"old"} and [path.name for path in tmp_path.iterdir()] == ["out"]
