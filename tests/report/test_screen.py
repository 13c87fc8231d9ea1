"""What texts, labels, names and options hold reaches a terminal clean and short, whichever command says it."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import fastmask, paths_in, rows_of, write_jsonl

from fastmask.core.errors import InputError, OutputError, shortened
from fastmask.report.screen import MOST_OF_A_LINE, one_line
from fastmask.shards.schema import MANIFEST, check_manifest

EVIL = "a\x1b[31m\x9b1m\x07\r\n\u202e\u2028\x7f[red]b[/red]"
NAME = EVIL.partition("b[/red]")[0]  # a file's has no slash
BIG = "x" * 10**6
TEXT = "A fine film, and not a bad one."


def check(result, code: int | None = None) -> str:
    """No character of either stream steers a terminal, and no line is long; returns both."""
    assert not isinstance(result.exception, AssertionError) and (code is None or result.exit_code == code), result
    both = result.stdout + result.stderr
    assert both and "unexpected" not in both, both[:3000]
    for line in both.split("\n"):
        assert line.isprintable() and len(line) <= MOST_OF_A_LINE, line[:3000]
    return both


@pytest.fixture
def place(tmp_path, monkeypatch, mr_tiny) -> Path:
    """A directory of hostile names: a model, its classes too, a corpus, a table, and shards."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(mr_tiny, f"model{NAME}")
    model = Path(f"model{NAME}")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"id2label": {"0": EVIL + BIG, "1": "good" + EVIL}}))
    rows = [{"text": TEXT, EVIL: "good" + EVIL}, {"text": f"A dull {EVIL}.", EVIL: EVIL + BIG}] * 4
    write_jsonl(Path(f"rows{NAME}.jsonl"), rows)
    write_jsonl(Path("bad.jsonl"), [{"text": TEXT, EVIL: 2 * (EVIL + BIG)}])
    return model


def test_every_command_in_hostile_names(place):
    rows, out = f"rows{NAME}.jsonl", f"out{NAME}"
    field = ("--label-field", EVIL)
    score = ("score", rows, "--model", place, *field)
    said = check(fastmask(*score, "bad.jsonl", "-o", out, "--on-error", "skip"), 0)
    assert "[red]: 8 sentences" in said and "1 row skipped" in said
    assert rows_of(out)[-1]["label"] == 0
    assert f'bad.jsonl:1: field "{one_line(" ".join(EVIL.split()))}": label' in (
        check(fastmask(*score, "bad.jsonl", "-o", "x"), 1))  # fmt: skip
    assert "bad.jsonl:1: " in check(fastmask("inspect", out, "--rows", 3), 0)
    check(fastmask("verify", out), 0)
    check(fastmask("explain", f"Fine {EVIL}. {BIG[:5000]}", "--model", place), 0)
    check(fastmask("export", out, "-o", f"e{NAME}", "--to", "jsonl"), 0)
    check(fastmask("remap", out, "--tokenizer", place, "-o", f"r{NAME}"), 0)
    small = ("--epochs", 1, "--batch-size", 4, "--device", "cpu")
    check(fastmask("pretrain", out, "--init", place, "-o", f"p{NAME}", "--max-steps", 1, *small[2:]), 0)
    check(fastmask("train-masker", out, "--init", place, "-o", f"m{NAME}", *small), 0)
    check(fastmask("finetune", rows, "--init", place, "-o", f"f{NAME}", *field, *small), 0)
    check(fastmask("finetune", rows, "bad.jsonl", "--init", place, "-o", "g", "--on-error", "skip", *field, *small))
    Path("predictions").write_text(f"{place.name}\n")
    arms = ("--arm", f"{EVIL}{BIG}=f{NAME}", "--arm", f"$\\frac${BIG}=f{NAME}")
    evaluate = ("evaluate", *arms, "--test", rows, "--resamples", 100, *field)
    check(fastmask(*evaluate, "--json", "r.json", "--picture", "p.svg"), 0)
    assert f"{EVIL}{BIG}" in json.loads(Path("r.json").read_text())["arms"]  # data stays what it is
    assert "frac" in Path("p.svg").read_text()
    check(fastmask("evaluate", "--arm", f"{EVIL}=predictions", "--test", rows, *field), 1)
    shard = next(Path(out).glob("shard-*"))
    shard.write_bytes(b"x")
    check(fastmask("verify", out), 1)


HOSTILE, SHORT = EVIL + BIG, EVIL + BIG[:5000]


@pytest.mark.parametrize("arguments", [
    (HOSTILE,), ("score", f"--{HOSTILE}"), ("score", "c.txt", "--method", HOSTILE), ("score", "c.txt", "-q", HOSTILE),
    ("score", "c.txt", "--threshold", HOSTILE), ("score", "c.txt", "--encoding", HOSTILE),
    ("score", "c.txt", "--device", HOSTILE), ("score", "c.txt", "--model", HOSTILE), ("score", HOSTILE),
    ("score", "c.txt", "--stop-words", HOSTILE), ("score", "c.txt", "-o", HOSTILE), ("inspect", HOSTILE),
    ("score", "c.jsonl", "--label-field", HOSTILE, "-q"), ("score", "c.jsonl", "--text-field", HOSTILE, "-q"),
    ("score", "c.txt", "--method", "random", "--like", HOSTILE), ("verify", HOSTILE), ("score", "c.jsonl", "-q"),
    ("explain", "a", "--model", HOSTILE),
    ("finetune", HOSTILE, "--init", "m", "-o", "o"), ("finetune", "c.jsonl", "--init", HOSTILE, "-o", "o"),
    ("pretrain", HOSTILE, "--init", "m", "-o", "o"), ("remap", HOSTILE, "--tokenizer", "m", "-o", "o"),
    ("export", HOSTILE, "--to", "jsonl", "-o", "o"), ("export", "o", "--to", HOSTILE, "-o", "o"),
    ("evaluate", "--arm", HOSTILE, "--test", "c.jsonl"),
    ("evaluate", "--arm", f"{HOSTILE}={HOSTILE}", "--test", "c.jsonl"),
    ("train-masker", HOSTILE, "--init", "m", "-o", "o"), ("run", HOSTILE), ("run", "r.toml"), ("run", "s.toml"),
    ("run", "t.toml"), ("evaluate", "--arm", "a=c.jsonl", "--test", HOSTILE),
])  # fmt: skip
@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["plain", "debug"])
def test_every_option_with_a_hostile_value(arguments, debug, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.txt").write_text(TEXT)
    write_jsonl(Path("c.jsonl"), [{"text": TEXT, "label": HOSTILE}])
    quoted = json.dumps(HOSTILE)
    Path("r.toml").write_text(f'out = "o"\ninit = {quoted}\n[task]\ntrain = "c.jsonl"\ntest = {quoted}\n')
    Path("s.toml").write_text(f"{quoted} = 1\n[{quoted}]\nx = 1\n".replace("\\u007f", "\x7f"))
    Path("t.toml").write_text(f'out = "o"\ninit = "m"\nseeds = {quoted}\n')
    result = fastmask(*arguments, *debug)
    assert result.exit_code in (1, 2)
    said = check(result)
    if not debug and result.exit_code == 1:
        assert said.count("\n") == 1


def test_every_text_of_a_manifest(place):
    """Each value, and each key of an object, at once and alone."""
    fastmask("score", f"rows{NAME}.jsonl", "--model", place, "-o", "o", "--method", "random", "-q")
    good = json.loads(Path("o", MANIFEST).read_text())
    for path in paths_in(good):
        manifest = owner = {"": copy.deepcopy(good)}
        for key in ("", *path)[:-1]:
            owner = owner[key]
        value = owner[("", *path)[-1]]
        owner[("", *path)[-1]] = (
            value | {SHORT: SHORT} if isinstance(value, dict) else [SHORT] if value == [] else SHORT
        )
        Path("o", MANIFEST).write_text(json.dumps(manifest[""]))
        for arguments in (("inspect", "o"), ("verify", "o")):
            check(fastmask(*arguments))


STREAMS = """
import logging, sys, threading, warnings
from fastmask.report.screen import make_console, open_doors, say
open_doors()
evil = sys.argv[1]
print(evil), print(evil, file=sys.stderr), say(evil), say(""), make_console().print(evil)
warnings.warn(evil)
logging.error(evil)
def fail():
    raise ValueError(evil)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
sys.stdout.write("\\rfetching")
fail()
"""


def test_whatever_a_library_prints_goes_through_the_door():
    done = subprocess.run([sys.executable, "-c", STREAMS, EVIL + "x" * 9999], capture_output=True,
                          env=os.environ | {"PYTHONIOENCODING": "utf-8"})  # fmt: skip
    out, err = done.stdout.decode(), done.stderr.decode()
    assert out.endswith("\rfetching")
    for text in (out.replace("\rfetching", ""), err):
        assert text.count("[red]b[/red]") >= 2
        assert all(line.isprintable() and len(line) <= MOST_OF_A_LINE for line in text.split("\n"))


def test_a_stream_that_cannot_show_a_character_shows_its_number():
    code = (
        "from fastmask.report.screen import open_doors, say\nopen_doors(), say('\\u4e2d', err=False), print('\\u4e2d')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONIOENCODING": "ascii"})  # fmt: skip
    assert (done.stdout, done.stderr) == ("\\u4e2d\n" * 2, "")


def test_messages_keep_both_ends():
    assert shortened("0123456789", 10) == "0123456789" and shortened("0123456789a", 10) == "012345…89a"
    assert len(shortened(BIG, 77)) == 77
    message = str(InputError("f" * 5000, 7, "c" * 5000, f'"{BIG}" is no class'))
    assert message.startswith("fff") and "…" in message and ':7: field "ccc' in message
    assert message.endswith("is no class") and len(message) < 2000
    line = one_line(f"fastmask: error: {BIG}:3: {' '.join('ab' * 10**5)} end")
    assert line.startswith("fastmask: error: xxx") and line.endswith("b end") and "x:3: a b" in line
    with pytest.raises(OutputError, match=r"^m\.json: "):
        check_manifest({HOSTILE: 1}, "m.json")
