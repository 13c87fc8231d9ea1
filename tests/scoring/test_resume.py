"""Killed, interrupted, damaged, repaired: the bytes in the end are those of a run that nothing happened to."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from helpers import contents, fastmask, golden, held, kill_held, refusal, write_jsonl

from fastmask.core.config import ScoreConfig
from fastmask.pipeline import score_corpus

SHARD_ROWS = 17


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")]
    rows[:0] = rows[:80]  # a first shard that is large enough would calibrate the cheap precision
    return write_jsonl(tmp_path_factory.mktemp("resume") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def config(mr_tiny) -> ScoreConfig:
    return ScoreConfig(model=mr_tiny, shard_rows=SHARD_ROWS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus, config) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    score_corpus([corpus], str(out), config)
    return out


def start(corpus, out, config, shards) -> subprocess.Popen:
    """A run that is held where so many shards are written and the next one takes its name."""
    options = ("-o", out, "--model", config.model, "--shard-rows", config.shard_rows, "-q")
    return held(f"*/shard-{shards:05d}.parquet", 1, "score", corpus, *options)


def shards_in(out) -> int:
    return len(list(Path(out).glob("shard-*.parquet")))


def test_killed_again_and_again(corpus, config, whole, tmp_path):
    out = tmp_path / "out"
    for shards in (0, 7, 14):
        child = start(corpus, out, config, shards)
        kill_held(child)
        assert child.returncode == -signal.SIGKILL
        assert shards_in(out) == shards and not (out / "_manifest.json").exists()
    score_corpus([corpus], str(out), config)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"])
def test_stopped(corpus, config, whole, tmp_path, number, code):
    out = tmp_path / "out"
    child = start(corpus, out, config, 3)
    output = kill_held(child, number)
    assert child.returncode == code and "Traceback" not in output[1] and output[0] == ""
    if code == 130:
        assert output[1] == "fastmask: stopped; the same command resumes it\n"
    assert not (out / "_manifest.json").exists() and shards_in(out) == 3
    score_corpus([corpus], str(out), config)
    assert contents(out) == contents(whole)


def test_resuming_says_so_and_scores_only_what_is_missing(corpus, config, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("fastmask.shards.writer.RunDirectory.finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_corpus([corpus], str(out), config)
    (out / "shard-00004.parquet").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    result = fastmask("score", corpus, "-o", out, "--model", config.model, "--shard-rows", SHARD_ROWS)
    assert result.exit_code == 0 and result.stderr.startswith("resuming after ")
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert contents(out) == contents(whole)


def test_other_threads_go_on_with_the_same_bytes(corpus, config, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    assert contents(whole)["_manifest.json"].count(b'"sha256"') > 15
    result = fastmask("score", corpus, "-o", out, "--model", config.model, "--shard-rows", SHARD_ROWS, "--threads", 1)
    assert result.exit_code == 0 and "nothing to do" in result.stderr
    assert contents(out) == contents(whole)


def flip(path: Path, place: int = 500) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def test_verify_names_the_shard_and_repair_restores_its_bytes(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    flip(out / "shard-00003.parquet")
    (out / "shard-00000.parquet").unlink()
    (out / "shard-00012.parquet").write_bytes(b"")
    result = fastmask("verify", out)
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [f"shard-{n:05d}.parquet" for n in (0, 3, 12)]
    result = fastmask("verify", out, "--repair")
    assert result.exit_code == 0 and result.stdout.count("made again, identical") == 3, result.stderr
    assert contents(out) == contents(whole)


def test_repair_needs_the_inputs_as_they_were(corpus, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    flip(out / "shard-00001.parquet")
    before, text = contents(out), Path(corpus).read_text()
    try:
        Path(corpus).write_text(text.replace("film", "movie"))
        assert "input 1 has other content" in refusal(fastmask("verify", out, "--repair"))
    finally:
        Path(corpus).write_text(text)
    assert contents(out) == before


def test_repair_of_a_sound_run_does_nothing(whole):
    before = contents(whole)
    result = fastmask("verify", whole, "--repair")
    assert result.exit_code == 0 and result.stdout == f"{whole}: ok\n" and contents(whole) == before


def test_a_changed_corpus_is_not_resumed(corpus, config, whole, tmp_path):
    out, other = shutil.copytree(whole, tmp_path / "out"), tmp_path / "corpus.jsonl"
    other.write_text(Path(corpus).read_text() + '{"text": "one more"}\n')
    line = refusal(fastmask("score", other, "-o", out, "--model", config.model, "--shard-rows", SHARD_ROWS))
    said = f'input 1 was "{corpus}", is now "{other}"; input 1 has other content (--overwrite'
    assert said in line and "bytes" not in line


def test_two_runs_at_once(corpus, config, tmp_path):
    from fastmask.core.durable import FileLock

    (tmp_path / "out").mkdir()
    lock = FileLock(tmp_path / "out" / ".fastmask.lock")
    try:
        line = refusal(fastmask("score", corpus, "-o", tmp_path / "out", "--model", config.model))
    finally:
        lock.release()
    assert "another fastmask run is writing here" in line
