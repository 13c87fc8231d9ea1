"""``pretrain --track``: TensorBoard's own files; wandb and trackio by stand-ins; each step once, whatever the kills."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import write_jsonl
from pretrain_samples import SHAPE, log_of, save_model
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from transformers import AutoModelForMaskedLM, BertConfig

from fastmask.core.config import ScoreConfig
from fastmask.core.config_train import PretrainConfig
from fastmask.core.errors import FastmaskError, OutputError
from fastmask.experiment.run import _check_libraries
from fastmask.pipeline import score_corpus
from fastmask.train.pretrain import pretrain
from fastmask.train.tracking import FIGURES, MARK, Tracking

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def files(tmp_path_factory, mr_tiny) -> Path:
    root = tmp_path_factory.mktemp("files")
    corpus = write_jsonl(root / "a.jsonl", [{"text": f"a film of {n} good and {n + 1} dull scenes"} for n in range(40)])
    score_corpus([corpus], str(root / "masks"), ScoreConfig(model=mr_tiny, method="random", mask_rate=0.3))
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(BertConfig(**{**SHAPE, "vocab_size": 8192}))
    save_model(root / "model", model, mr_tiny)
    return root


@pytest.fixture
def config(files, tmp_path) -> PretrainConfig:
    return PretrainConfig((str(files / "masks"),), str(tmp_path / "out"), str(files / "model"), batch_size=8,
                          max_steps=6, save_every=4, precision="float32", max_length=64, eval=(str(files / "masks"),),
                          track="tensorboard")  # fmt: skip


def events_of(out) -> list[tuple[str, int, float]]:
    """(name, step, value) of all that is in the event files, in any order; nothing that is there twice is hidden."""
    events = [event for path in Path(out, "tensorboard").iterdir() for event in LegacyEventFileLoader(str(path)).Load()]
    return sorted((value.tag, event.step, value.simple_value) for event in events for value in event.summary.value)


def logged(out) -> list[tuple[str, int, float]]:
    return sorted((FIGURES[key], line["step"], pytest.approx(line[key], rel=1e-6))
                  for line in log_of(out) for key in line if key in FIGURES and key != "tokens_per_second")  # fmt: skip


def without_speed(events) -> list[tuple[str, int, float]]:
    return [event for event in events if "per_second" not in event[0]]


class Left:
    """Copies of a run's directory, as a kill before or after a step is sent would leave it."""

    def __init__(self, patch, folder: Path):
        self.folder, real = folder, Tracking.send

        def send(tracking, step, **fields):
            self._copy(tracking, f"before-{step}")
            real(tracking, step, **fields)
            self._copy(tracking, f"after-{step}")

        patch.setattr(Tracking, "send", send)

    def _copy(self, tracking, name: str) -> None:
        if not (self.folder / name).exists():  # the first line of a step, not the held-out loss
            shutil.copytree(tracking._path.parent, self.folder / name)


def test_a_step_is_in_the_event_files_once_whatever_the_kills(config, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        Left(patch, tmp_path / "left")
        pretrain(config)
    assert without_speed(events_of(config.out)) == logged(config.out)
    steps = [(name, step) for name, step, _ in events_of(config.out)]
    assert steps == [
        ("held_out/loss", 4),
        ("held_out/loss", 6),
        *((f"train/{name}", step) for name in ("learning_rate", "loss", "tokens_per_second") for step in range(1, 7)),
    ]
    assert "track" not in (Path(config.out) / "pretrain.json").read_text()
    assert "--track" not in (Path(config.out) / "README.md").read_text()
    # killed after step 6, it resumes after step 4 and is killed again in step 5, then ends
    one = replace(config, out=str(tmp_path / "left/after-6"))
    with pytest.MonkeyPatch.context() as patch:
        Left(patch, tmp_path / "again")
        pretrain(one)
    assert len(list(Path(one.out, "tensorboard").iterdir())) == 2
    for out in (one.out, str(tmp_path / "again/before-5")):
        pretrain(replace(config, out=out))
        assert without_speed(events_of(out)) == without_speed(events_of(config.out))
    # between mark and tracker: that step is lost there, none is twice
    lost = replace(config, out=str(tmp_path / "left/before-5"))
    mark = json.loads((tmp_path / "left/before-5" / MARK).read_text())
    mark["tensorboard"]["step"] = 5
    (tmp_path / "left/before-5" / MARK).write_text(json.dumps(mark))
    pretrain(lost)
    assert {event[:2] for event in set(steps_of(config.out)) - set(steps_of(lost.out))} == {
        (f"train/{name}", 5) for name in ("learning_rate", "loss", "tokens_per_second")}  # fmt: skip


def steps_of(out) -> list[tuple[str, int]]:
    return [event[:2] for event in events_of(out)]


class StandIn(SimpleNamespace):
    """What fastmask calls of wandb or trackio, recorded."""

    def __init__(self, stop_at: int = 0):
        super().__init__(runs=[], sent=[], ends=[], stop_at=stop_at)

    def init(self, project=None, name=None, config=None, resume=None, **identity):
        self.runs.append((project, name, resume, identity))
        self.config = config

    def log(self, data, step=None):
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.sent.append((step, sorted(data)))

    def finish(self, **how):
        self.ends.append(how)


TRAIN = ["train/learning_rate", "train/loss", "train/tokens_per_second"]
EACH = [(1, TRAIN), (2, TRAIN), (3, TRAIN), (4, TRAIN), (4, ["held_out/loss"]), (5, TRAIN), (6, TRAIN),
        (6, ["held_out/loss"])]  # fmt: skip


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_is_the_same_run_there(name, config, monkeypatch):
    there = StandIn(stop_at=6)
    monkeypatch.setitem(sys.modules, name, there)
    config = replace(config, track=name)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    there.stop_at = 0
    Path(config.out, "log.jsonl").write_text("")  # what was sent is known without it
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "mine")
    pretrain(config)
    assert there.sent == [one for one in EACH if one != (6, TRAIN)]  # stopped while it was sent
    (first, run, resume, identity), (second, again, *_) = there.runs
    assert (first, second, resume, again) == ("fastmask", "mine", "allow", run) and run.startswith("out-")
    assert identity == ({"id": run} if name == "wandb" else {}) and there.ends == [
        {"exit_code": 1} if name == "wandb" else {}, {}]  # fmt: skip
    assert there.config["batch_size"] == 8 and "track" not in there.config
    pretrain(replace(config, track=None))
    assert len(there.runs) == 2


def test_a_tracker_that_is_not_installed(config, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path / "files"))
    (tmp_path / "files/trackio").mkdir(parents=True)  # a library's files, not the library
    for name in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    for name in ("wandb", "trackio", "tensorboard"):
        line = rf"^--track {name}: {name} is not installed; pip install 'fastmask\[{name}\]'$"
        with pytest.raises(FastmaskError, match=line):
            pretrain(replace(config, track=name, init="not/looked-at"))
        with pytest.raises(FastmaskError, match=line):
            _check_libraries([SimpleNamespace(command="pretrain", config=replace(config, track=name))])
    monkeypatch.delitem(sys.modules, "trackio")
    assert not Path(config.out).exists()


def test_a_tracker_that_fails_stops_no_training(config, monkeypatch, said):
    there = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", there)
    config = replace(config, track="wandb")

    def fail(*_, **__):
        raise RuntimeError("no api key\nsee the manual")

    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "init", fail)
        with pytest.raises(FastmaskError, match=r"^--track wandb: no api key$"):
            pretrain(config)
    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "log", fail)
        assert pretrain(config)["step"] == 6
    assert [record.message for record in said.records if record.levelname == "WARNING"] == [
        "--track wandb: no api key; nothing more is sent"]  # fmt: skip
    mark = Path(config.out, MARK)
    shutil.copytree(config.out, f"{config.out}2")
    Path(f"{config.out}2", "pretrain.json").unlink()
    Path(f"{config.out}2", mark.name).write_text('{"wandb": {"run": 3}}')
    with pytest.raises(OutputError, match=r"\.tracking\.json: is damaged: field \"wandb"):
        pretrain(replace(config, out=f"{config.out}2"))
