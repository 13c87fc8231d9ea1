"""Parts of a run, by several processes in one directory: the bytes are those of one process that makes all of it."""

import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from helpers import contents, edit, fastmask, golden, held, kill_held, process, refusal, write_jsonl

from fastmask.core.config import ScoreConfig
from fastmask.core.config_engine import Part
from fastmask.core.durable import FileLock
from fastmask.core.errors import InputError
from fastmask.core.urls import Url
from fastmask.pipeline import finish_parts, plan_corpus, score_corpus, score_part
from fastmask.scoring.cascade import TIE, Bounds
from fastmask.shards.plan import read_plan, write_plan

ROWS = 13


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:100]]
    return write_jsonl(tmp_path_factory.mktemp("parts") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def config(mr_tiny) -> ScoreConfig:
    return ScoreConfig(model=mr_tiny, shard_rows=ROWS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus, config) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    score_corpus([corpus], str(out), config)
    return out


@pytest.fixture(scope="module")
def planned(tmp_path_factory, corpus, config) -> Path:
    out = tmp_path_factory.mktemp("planned") / "out"
    plan_corpus([corpus], str(out), config)
    return out


def options(config, part=None) -> list:
    made = ["--model", config.model, "--shard-rows", config.shard_rows]
    return made if part is None else [*made, "--part", part]


@pytest.mark.parametrize(("shards", "of"), [(8, 3), (2, 3), (0, 2), (10, 1), (7, 7)])
def test_every_shard_is_in_one_part(shards, of):
    parts = [Part(number, of).shards(shards) for number in range(1, of + 1)]
    assert [shard for part in parts for shard in part] == list(range(shards))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_what_is_no_part(corpus, part):
    assert "--part" in refusal(fastmask("score", corpus, "--part", part))


def test_parts_in_any_order_make_the_bytes_of_one_run(corpus, config, whole, tmp_path):
    out = tmp_path / "out"
    for part in ("2/3", "3/3", "2/3", "1/3"):  # the first makes the plan; one is made twice
        result = fastmask("score", corpus, "-o", out, *options(config, part))
        assert result.exit_code == 0 and f"part {part} is made, " in result.stderr
    assert len(list(out.glob("journal-*"))) == 3  # the second time it had nothing to do
    assert fastmask("finish", out).exit_code == 0
    assert contents(out) == contents(whole)
    assert "nothing to do" in fastmask("finish", out).stderr
    said = fastmask("score", corpus, "-o", out, *options(config, "3/5")).stderr
    assert said == f"{out} is complete for this configuration; nothing to do\n"
    assert "nothing to do" in fastmask("score", corpus, "-o", out, *options(config)).stderr
    assert contents(out) == contents(whole)


def test_a_plan_alone(planned, whole, corpus, config, tmp_path):
    out = shutil.copytree(planned, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["_plan.json", "_planned.json", "journal.jsonl"]
    assert (out / "_plan.json").read_bytes() == (whole / "_plan.json").read_bytes()
    plan = json.loads((out / "_plan.json").read_text())
    lines = Path(corpus).read_bytes().splitlines(keepends=True)
    begins = [[0, len(b"".join(lines[:first])), first + 1, 0] for first in range(0, 100, ROWS)]
    assert plan["rows"] == 100 and plan["places"] == begins
    result = fastmask("plan", corpus, "-o", out, *options(config))
    assert result.exit_code == 0 and "planned, 8 shards of 100 documents" in result.stderr
    assert "corpus.jsonl is a file, not a directory" in refusal(fastmask("plan", corpus, "-o", corpus))
    assert score_corpus([corpus], str(out), config) and contents(out) == contents(whole)


def test_a_part_neither_plans_nor_hashes_again(planned, corpus, config, tmp_path, monkeypatch):
    out = shutil.copytree(planned, tmp_path / "out")
    monkeypatch.setattr("fastmask.text.hashed._hashed", None)
    monkeypatch.setattr("fastmask.scoring.engine.Engine.calibrate", None)
    score_part([corpus], str(out), config, part=Part(1, 2))
    assert len(list(out.glob("shard-*"))) == 4


def test_missing_parts_are_named(planned, corpus, config, tmp_path):
    out = shutil.copytree(planned, tmp_path / "out")
    assert "8 of 8 shards are missing: the first is 0; run the parts" in refusal(fastmask("finish", out))
    score_part([corpus], str(out), config, part=Part(2, 3))
    assert refusal(fastmask("finish", out)).endswith("5 of 8 shards are missing: run --part 1/3; --part 3/3 again")
    (out / "shard-00003.parquet").unlink()
    assert "6 of 8 shards are missing: run --part 1/3; --part 2/3; --part 3/3" in refusal(fastmask("finish", out))
    assert "no such directory" in refusal(fastmask("finish", tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "empty: there is no plan, or a damaged one; fastmask plan" in refusal(fastmask("finish", tmp_path / "empty"))


def test_a_corpus_without_rows(tmp_path):
    paths = [tmp_path / f"{name}.txt" for name in "abcde"]
    for path in paths:
        path.touch()
    for command in (["plan"], ["score", "--part", "1/2"], ["score"]):
        line = refusal(fastmask(*command, *paths, "-o", tmp_path / "out", "--method", "random"))
        assert line.endswith(f"{paths[0]}; {paths[1]}; {paths[2]}; and 2 more: no rows to score")


def test_a_part_looks_at_its_own_inputs_alone(tmp_path, monkeypatch):
    """Of ten thousand objects in a store each look is a request."""
    urls = [f"memory://parts/{number}.txt" for number in range(8)]
    for number, url in enumerate(urls):
        Url(url).write_bytes(f"a good film {number}\n".encode())
    config, out, asked = ScoreConfig(method="random", shard_rows=2), str(tmp_path / "out"), Counter()
    plan_corpus(urls, out, config)
    real = Url.stat
    monkeypatch.setattr(Url, "stat", lambda url: (asked.update([str(url)]), real(url))[1])
    for number, others in ((2, urls[1:4]), (1, urls[5:])):
        asked.clear()
        score_part(urls, out, config, part=Part(number, 2))
        assert {asked[url] for url in others} == {1}
    Url(urls[1]).write_bytes(b"another\n")
    with pytest.raises(InputError, match=r"1\.txt: has changed since it was hashed"):
        score_part(urls, out, config, part=Part(1, 2))
    assert score_part(urls, out, config, part=Part(2, 2))["rows"] == 4
    assert finish_parts(out)["totals"]["documents"] == 8


def test_a_run_without_places_is_not_taken_for_complete(planned, corpus, config, tmp_path):
    """As a version before places left it: finish cannot know what is missing."""
    out = shutil.copytree(planned, tmp_path / "out")
    score_part([corpus], str(out), config, part=Part(1, 2))
    plan = read_plan(out)
    write_plan(out, {key: value for key, value in plan.items() if key not in ("rows", "places")})
    assert "does not tell how many shards there are; run fastmask score again" in refusal(fastmask("finish", out))
    assert "there is no plan of where its shards begin" in refusal(
        fastmask("score", corpus, "-o", out, *options(config, "2/2"))
    )
    result = fastmask("score", corpus, "-o", out, *options(config))
    assert "resuming after 52 rows" in result.stderr and result.exit_code == 0


def test_a_killed_part_is_given_again_and_a_part_twice_at_once(planned, corpus, config, whole, tmp_path):
    out = shutil.copytree(planned, tmp_path / "out")
    run = ("score", corpus, "-o", out, *options(config, "1/2"))
    kill_held(child := held("*/shard-00001.parquet", 1, *run))
    assert child.returncode == -signal.SIGKILL and len(list(out.glob("shard-*"))) == 1
    # one stops in the middle of a shard, another one makes the same part to its end, then the first one goes on
    child = held("*/shard-00002.parquet", 1, *run)
    assert process(*run).returncode == 0
    child.send_signal(signal.SIGCONT)
    assert child.communicate()[1].count("part 1/2 is made, 4 of 8 shards, 52 documents") == 1 and child.returncode == 0
    score_part([corpus], str(out), config, part=Part(2, 2))
    finish_parts(str(out))
    assert contents(out) == contents(whole)


def test_the_run_as_a_whole_takes_what_parts_have_made(planned, corpus, config, whole, tmp_path):
    out = shutil.copytree(planned, tmp_path / "out")
    score_part([corpus], str(out), config, part=Part(2, 4))
    result = fastmask("score", corpus, "-o", out, *options(config))
    assert "resuming after 26 rows" in result.stderr and contents(out) == contents(whole)


def test_what_is_contradicted_is_made_again_by_finish(corpus, mr_tiny, tmp_path, monkeypatch):
    narrow = Bounds(("bfloat16", "float32", "float64"), (1e-5, 1e-8, TIE))
    monkeypatch.setattr("fastmask.scoring.engine.Engine.calibrate", lambda *_: narrow)
    config = ScoreConfig(model=mr_tiny, shard_rows=ROWS, precision="bfloat16")
    score_corpus([corpus], str(tmp_path / "whole"), config)
    out = tmp_path / "out"
    for number in (3, 1, 2):
        score_part([corpus], str(out), config, part=Part(number, 3))
    made = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    finish_parts(str(out))
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")} != made
    assert contents(out) == contents(tmp_path / "whole")


def test_what_is_counted_over_the_corpus_is_in_the_plan(corpus, mr_tiny, tmp_path, monkeypatch):
    config = ScoreConfig(model=mr_tiny, shard_rows=ROWS, method="log-odds")
    score_corpus([corpus], str(tmp_path / "whole"), config)
    out = tmp_path / "out"
    score_part([corpus], str(out), config, part=Part(1, 2))
    monkeypatch.setattr("fastmask.scoring.executor.LocalExecutor.statistics", None)
    score_part([corpus], str(out), config, part=Part(2, 2))
    finish_parts(str(out))
    assert contents(out) == contents(tmp_path / "whole")


def test_other_settings_inputs_and_machines_are_refused(planned, corpus, config, whole, tmp_path):
    out = shutil.copytree(planned, tmp_path / "out")
    part = ("score", corpus, "-o", out, *options(config, "1/2"))
    assert "--threshold was 0.05, is now 0.01" in refusal(fastmask(*part, "--threshold", 0.01))
    assert "planned for other inputs" in refusal(fastmask("score", corpus, corpus, *part[2:]))
    line = refusal(fastmask("plan", corpus, "-o", whole, *options(config), "--threshold", 0.01))
    assert line.endswith("is now 0.01 (plan and parts replace nothing: choose another directory)")
    edit(out / "_planned.json", lambda planned: planned["made_with"]["environment"].update(torch="2.0", cpu="another"))
    line = refusal(fastmask(*part))
    assert "torch 2.13.0" in line and ", not 2.0; --mixed lets machines differ" in line and "another" not in line
    assert fastmask(*part, "--mixed").exit_code == 0
    assert "--mixed: means nothing without" in refusal(fastmask("score", corpus, "--mixed"))
    assert "other processes cannot read it" in refusal(fastmask("score", "-", "-o", out, "--part", "1/2"))
    assert "--control: not together with --part" in refusal(fastmask(*part, "--control", tmp_path / "c"))


def test_a_changed_input_is_refused(config, tmp_path):
    path, out = tmp_path / "c.jsonl", tmp_path / "out"
    write_jsonl(path, [{"text": f"a good film {n}"} for n in range(30)])
    plan_corpus([str(path)], str(out), config)
    copy = path.read_bytes()
    path.write_bytes(copy)  # another time, the same content
    score_part([str(path)], str(out), config, part=Part(1, 2))
    path.write_bytes(copy.replace(b"good", b"poor"))
    assert "has changed since it was hashed" in refusal(fastmask("score", path, "-o", out, *options(config, "2/2")))


def test_parts_and_whole_runs_keep_out_of_each_others_way(planned, corpus, config, tmp_path, monkeypatch):
    out = shutil.copytree(planned, tmp_path / "out")
    shared, second = (FileLock(out / ".fastmask.lock", shared=True) for _ in range(2))
    for command in (("score", corpus, "-o", out, *options(config)), ("finish", out)):
        assert "another fastmask run is writing here" in refusal(fastmask(*command))
    shared.release()
    assert (out / ".fastmask.lock").exists()
    second.release()
    assert not (out / ".fastmask.lock").exists()
    alone, part = FileLock(out / ".fastmask.lock"), ("score", corpus, "-o", out, *options(config, "1/2"))
    monkeypatch.setattr("fastmask.shards.parts.time.sleep", lambda seconds: None)
    assert "another fastmask run" in refusal(fastmask(*part))
    # as a part that ends has it, to remove its file
    monkeypatch.setattr("fastmask.shards.parts.time.sleep", lambda seconds: alone.release())
    assert fastmask(*part).exit_code == 0


def test_only_one_process_plans(corpus, config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    lock, waits = FileLock(out / ".fastmask-planning.lock"), []
    monkeypatch.setattr("fastmask.shards.parts._SECONDS_BETWEEN_LOOKS", 0)

    def look(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            lock.release()

    monkeypatch.setattr("fastmask.shards.parts.time.sleep", look)
    result = fastmask("plan", corpus, "-o", out, *options(config))
    assert result.exit_code == 0 and len(waits) == 3
    assert result.stderr.count("waiting for another process to make the plan") == 1
