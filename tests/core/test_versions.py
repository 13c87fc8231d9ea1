"""The version: said in one place, and what an older release has begun."""

import json
import tomllib
from pathlib import Path

import pytest
from helpers import fastmask
from shard_samples import IDENTITY, open_run, sample, write_part, write_run

import fastmask as package
from fastmask.core.config import ScoreConfig
from fastmask.core.errors import OutputError
from fastmask.core.locked import differences, listed
from fastmask.experiment.ledger import AGAIN, COMPLETE, STEPS, Ledger
from fastmask.experiment.steps import Step
from fastmask.shards.journal import JOURNAL
from fastmask.shards.writer import RunDirectory


def by(version: str) -> dict:
    return {**IDENTITY, "fastmask_version": version}


def test_the_version_is_said_once():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert "version" not in project and project["dynamic"] == ["version"]
    assert fastmask("--version").stdout == f"fastmask, version {package.__version__}\n"


@pytest.mark.parametrize(("was", "agree"), [("0.1.0", True), ("0.1.12", True), ("0.1.1.post1", True), ("0.2.0", False),
                                            ("1.1.0", False), ("0.10.0", False)])  # fmt: skip
def test_a_patch_release_writes_the_same_bytes(was, agree):
    found = differences({"config": {}, "fastmask_version": was}, {"config": {}, "fastmask_version": "0.1.7"})
    assert listed(found) == ("" if agree else f'fastmask_version was "{was}", is now "0.1.7"')


def test_what_did_not_note_a_version_goes_on():
    assert differences({"config": {"lr": 1}}, {"config": {"lr": 1}, "fastmask_version": "0.1.0"}) == []


def test_shards_begun_by_another_release(tmp_path):
    whole, part = write_run(tmp_path / "whole"), write_part(tmp_path / "part")
    with pytest.raises(OutputError, match="fastmask_version was"):
        open_run(part, identity=by("0.2.0"))
    assert json.loads((part / JOURNAL).read_text().splitlines()[0])["fastmask_version"] == "0.1.0"
    write_run(part, identity=by("0.1.9"))
    assert {p.name: p.read_bytes() for p in part.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}
    with open_run(whole, identity=by("0.1.9")) as run:
        assert run.finished
    with RunDirectory.open_for_repair(str(whole), by("0.1.9")) as run:
        assert run.replace_shard(0, sample(0))
    with pytest.raises(OutputError, match="fastmask_version was"):
        RunDirectory.open_for_repair(str(whole), by("0.2.0"))


def test_steps_made_by_another_release(tmp_path):
    corpus, out = tmp_path / "corpus.txt", tmp_path / "run"
    corpus.write_text("a film\n")
    step = Step("masks", "score", ScoreConfig(), files=(str(corpus),))
    ledger = Ledger(out)
    ledger.lock([step])
    write_run(out / "masks")
    ledger.finish(step, ledger.read_by(step))
    ledger.close()
    for version, state in (("0.1.9", COMPLETE), ("0.2.0", AGAIN)):
        document = json.loads((out / STEPS).read_text())
        document["steps"]["masks"]["made_from"]["fastmask_version"] = version
        (out / STEPS).write_text(json.dumps(document))
        assert Ledger(out).state(step).state == state
    assert Ledger(out).state(step).reason == f'fastmask_version was "0.2.0", is now "{package.__version__}"'
