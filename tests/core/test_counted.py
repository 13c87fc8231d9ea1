"""Numbers in messages."""

import pytest
from helpers import fastmask

from fastmask.core.words import counted


@pytest.mark.parametrize(("number", "thing", "text"), [
    (0, "row", "0 rows"), (1, "row", "1 row"), (1811, "sentence", "1,811 sentences"), (1, "class", "1 class"),
    (2, "class", "2 classes"), (1, "labelled sentence", "1 labelled sentence"),
])  # fmt: skip
def test_one_and_many(number, thing, text):
    assert counted(number, thing) == text


def test_commands_say_one(mr_tiny, tmp_path):
    (tmp_path / "c.txt").write_text("good\n")
    done = fastmask("score", tmp_path / "c.txt", "-o", tmp_path / "m", "--model", mr_tiny, "--method", "random")
    assert "m: 1 sentence, 1 token, 1 masked" in done.stderr
    done = fastmask("export", tmp_path / "m", "-o", tmp_path / "e", "--to", "jsonl")
    assert "e: 1 sequence, 1 masked, in 1 file, tokens of" in done.stderr
    done = fastmask("inspect", tmp_path / "m", "--compare", tmp_path / "m")
    shown = " ".join(done.stdout.split())
    assert "1 mask, 1 of them where A has one" in shown and "1 sentence with a mask" in shown
