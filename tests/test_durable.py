"""Directories that take the place of others: wholly, or what was there stays."""

from pathlib import Path

import pytest
from helpers import contents

from fastmask.durable import new_directory
from fastmask.errors import OutputError


def fill(out: Path, overwrite: bool = False) -> None:
    with new_directory(out, overwrite) as fresh:
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

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*out: No space left"):
        fill(taken, overwrite=True)
    assert contents(taken) == {"old": b"old"} and [path.name for path in tmp_path.iterdir()] == ["out"]
