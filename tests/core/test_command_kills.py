"""Whole commands, killed at every change of the disk: the old result or the new one is there, and nothing is left."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import golden, write_jsonl
from kills import left_by_kills
from played_run import RECIPE, play
from shard_samples import write_run

from fastmask import ScoreConfig, remap_shards, score_corpus
from fastmask.core.config import EvaluateConfig
from fastmask.core.config_train import FinetuneConfig, MaskerConfig
from fastmask.experiment.arms import evaluate
from fastmask.experiment.run import Run
from fastmask.train.finetune import finetune
from fastmask.train.masker import train_masker

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def files(tmp_path_factory, golden_dir, mr_tiny) -> Path:
    """A labelled text, shards, and predictions."""
    folder = tmp_path_factory.mktemp("files")
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:12]]
    corpus = write_jsonl(folder / "train.jsonl", rows)
    score_corpus([corpus], str(folder / "masks"), ScoreConfig(model=mr_tiny, shard_rows=6))
    for name, wrong in (("a", 2), ("b", 5)):
        labels = [row["label"] ^ (number < wrong) for number, row in enumerate(rows)]
        (folder / f"{name}.txt").write_text("".join(f"{label}\n" for label in labels))
    return folder


def contents(place: Path) -> dict[str, bytes]:
    """Every file that is not a lock; a directory is an entry, too."""
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else b""
            for path in sorted(place.rglob("*")) if not path.name.endswith("lock")}  # fmt: skip


def assert_old_or_new(tmp_path, monkeypatch, old: Callable, new: Callable, moments: int, every: int = 1) -> None:
    """Kill ``new`` over what ``old`` made: each file or directory is the one or the other, and ``new`` mends all.

    Args:
        moments: kills that leave something else than the one before.
        every: the next start is made after every so many of them.
    """
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    old()
    before = contents(place)
    states = left_by_kills(place, tmp_path / "copies", new)
    after = contents(place)
    assert before != after and len(states) >= moments
    for number, state in enumerate(states):
        for name in {Path(name).parts[0] for name in before}:
            assert part(contents(state), name) in (part(before, name), part(after, name)), (number, name)
        if number % every == 0:
            monkeypatch.chdir(state)
            new()
            assert contents(state) == after and not [*state.rglob("*lock")], number


def part(found: dict[str, bytes], top: str) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if Path(name).parts[0] == top}


def test_finetune(files, mr_tiny, tmp_path, monkeypatch):
    def train(seed: int) -> None:
        finetune(FinetuneConfig(train=(str(files / "train.jsonl"),), init=mr_tiny, out="out", epochs=1, seed=seed,
                                overwrite=True))  # fmt: skip

    assert_old_or_new(tmp_path, monkeypatch, lambda: train(1), lambda: train(2), 10, every=20)


def test_train_masker(files, mr_tiny, tmp_path, monkeypatch):
    def train(seed: int) -> None:
        train_masker(MaskerConfig(shards=(str(files / "masks"),), init=mr_tiny, out="out", epochs=1, seed=seed,
                                  overwrite=True))  # fmt: skip

    assert_old_or_new(tmp_path, monkeypatch, lambda: train(1), lambda: train(2), 10, every=20)


def test_remap(files, restaurant_tiny, tmp_path, monkeypatch):
    def remap() -> None:
        remap_shards(str(files / "masks"), restaurant_tiny, "out", overwrite=True)

    assert_old_or_new(tmp_path, monkeypatch, lambda: write_run("out", 3), remap, 20, every=2)


def test_evaluate(files, tmp_path, monkeypatch):
    def compare(seed: int) -> None:
        arms = tuple(f"{name}={files / name}.txt" for name in "ab")
        evaluate(EvaluateConfig(test=str(files / "train.jsonl"), arms=arms, resamples=100, seed=seed,
                                json="report.json", picture="report.svg"))  # fmt: skip

    assert_old_or_new(tmp_path, monkeypatch, lambda: compare(1), lambda: compare(2), 4)


# --- a recipe, its steps played ---


def test_run_overwrite(files, mr_tiny, tmp_path, monkeypatch):
    """Every step's old output is there until its new one is, whatever the kill; the next start ends with the same."""
    play(monkeypatch)
    for name, lr in (("first", 1e-4), ("second", 2e-4)):
        text = RECIPE.format(model=mr_tiny, train=files / "train.jsonl", lr=lr)
        (tmp_path / f"{name}.toml").write_text(text)

    def run(name: str) -> dict[str, bytes]:
        with Run(str(tmp_path / f"{name}.toml"), overwrite=True) as steps:
            steps.run()
        return made(Path.cwd())

    def made(place: Path) -> dict[str, bytes]:
        return {name: data for name, data in contents(place).items() if not name.endswith("steps.json")}

    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    old = run("first")
    states = left_by_kills(place, tmp_path / "copies", lambda: run("second"))
    new = made(place)
    changed = {str(Path(name).parent) for name in old if old[name] != new[name]}
    assert len(states) > 60 and len(changed) > 5
    for number, state in enumerate(states):
        found = made(state)
        for step in changed - {"run/report"}:
            inside = [name for name in old if name.startswith(f"{step}/")]
            is_old, is_new = (all(found.get(name) == each[name] for name in inside) for each in (old, new))
            assert is_old or is_new, (number, step)
        if number % 8 == 0:
            monkeypatch.chdir(state)
            assert run("second") == new and not [*state.rglob("*lock")], number
            assert '"again"' not in Path("run/steps.json").read_text(), number
