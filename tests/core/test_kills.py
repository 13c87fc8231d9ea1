"""Every command that replaces a directory or fills one, killed at every change of the disk."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import contents
from kills import killed_everywhere
from shard_samples import IDENTITY, sample, write_run

from fastmask.core.config import ExportConfig
from fastmask.core.directories import claim
from fastmask.data.exporting import export_shards
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.tokenizer import tokenizer_record
from fastmask.shards.verify import verify
from fastmask.shards.writer import RunDirectory
from fastmask.train.checkpoint import save_model
from fastmask.train.run_directory import TrainingRun

OLD = {"old": b"old"}


class Model(torch.nn.Linear):
    """What ``save_model`` asks of a model and of its tokenizer, in no time."""

    config = None

    def save_pretrained(self, directory):
        for name in ("config.json", "model.safetensors"):
            (directory / name).write_bytes(b"{}")


MODEL = Model(1, 1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, mr_tiny) -> Path:
    files = resolve_model(mr_tiny)
    identity = {**IDENTITY, "tokenizer": tokenizer_record(files, load_tokenizer(files))}
    return write_run(tmp_path_factory.mktemp("shards") / "out", 1, identity=identity)


def assert_old_or_new(tmp_path: Path, make) -> None:
    """A directory that is replaced is the old or the new one after every kill, and nothing is left beside it."""

    def prepare(moment: int) -> Path:
        out = tmp_path / str(moment) / "out"
        out.mkdir(parents=True)
        (out / "old").write_bytes(b"old")
        return out

    make(whole := prepare(-1))
    seen = []
    for out in killed_everywhere(prepare, make):
        with claim(out, overwrite=True):
            found = contents(out)
        assert [path.name for path in out.parent.iterdir()] == ["out"], len(seen)
        seen.append(found == OLD)
        assert seen[-1] or found == contents(whole), len(seen)
    assert seen == sorted(seen, reverse=True) and len(seen) > 8 and {*seen} == {True, False}


@pytest.mark.parametrize("kind", ["jsonl", "nvidia-hdf5", "mds"])
def test_export(kind, shards, tmp_path):
    assert_old_or_new(tmp_path, lambda out: export_shards(ExportConfig(str(shards), str(out), kind, overwrite=True)))


def test_finetune_and_train_masker(tmp_path):
    def save(out):
        with claim(out, overwrite=True) as path:
            save_model(MODEL, MODEL, path, torch.float32, {"metrics.json": {}}, overwrite=True)

    assert_old_or_new(tmp_path, save)


def test_pretrain(tmp_path):
    """What is trained after each kill goes on from the last checkpoint, and in the end only the model is left."""

    def train(out):
        with TrainingRun(str(out), {"config": {}}, overwrite=False) as run:
            if run.result is None:
                done = int(run.last.name.partition("-")[2]) if run.last else 0
                for step in range(done, 2):
                    run.save(step + 1, MODEL, MODEL, {"t": torch.zeros(1)}, {})
                    run.confirm()
                run.finish(MODEL, MODEL, {"step": 2})

    train(tmp_path / "whole")
    for moment, out in enumerate(killed_everywhere(lambda moment: tmp_path / str(moment), train)):
        train(out)
        assert contents(out) == contents(tmp_path / "whole"), moment
    assert moment > 40


def test_repair(tmp_path):
    """A kill leaves a finished directory whose damage is still seen, or that is whole."""
    whole = write_run(tmp_path / "whole", 2)

    def prepare(moment: int) -> Path:
        out = Path(shutil.copytree(whole, tmp_path / str(moment)))
        (out / "shard-00001.parquet").write_bytes(b"damaged")
        return out

    def mend(out: Path) -> None:
        with RunDirectory.open_for_repair(str(out), IDENTITY) as run:
            run.replace_shard(1, sample(1))

    for kills, out in enumerate(killed_everywhere(prepare, mend), 1):
        assert contents(out)["_manifest.json"] == contents(whole)["_manifest.json"], kills
        assert [damage.index for damage in verify(out)] in ([1], [])
        mend(out)
        assert contents(out) == contents(whole)
    assert kills >= 4
