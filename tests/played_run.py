"""A recipe whose steps are played: they write what the next ones read, and nothing is trained or scored."""

import hashlib
import json
from pathlib import Path

from shard_samples import IDENTITY, write_run

from fastmask.core.directories import claim, new_directory

RECIPE = """
out = "run"
init = "{model}"
seeds = [1]
[task]
train = "{train}"
test = "{train}"
[in-domain]
corpus = "{train}"
[finetune]
lr = {lr}
"""


def read_by(config) -> str:
    """A hash of the models and shards that a step is made from."""
    named = [getattr(config, name, None) for name in ("init", "model", "like")]
    files = (path for name in (*named, *getattr(config, "shards", ())) if name for path in sorted(Path(name).iterdir()))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def played_score(paths, out, config, *, overwrite, meter):
    write_run(out, 1, identity={**IDENTITY, "made_from": read_by(config)}, overwrite=overwrite)


def played_training(config, *_):
    told = {"lr": str(config.lr), "made_from": read_by(config)}
    documents = {"config.json": {"model_type": "bert"}, "metrics.json": told, "told.json": told,
                 "pretrain.json": {"processes": 1, "device": "cpu", "products": "float32"}}  # fmt: skip
    with claim(config.out, True) as path, new_directory(path, True) as fresh:
        for name, document in documents.items():
            (fresh / name).write_text(json.dumps(document))
        (fresh / "log.jsonl").write_text('{"tokens": 9, "masked": 2, "loss": 1.0}\n')
        (fresh / "model.safetensors").write_bytes(
            len(header := json.dumps({"__metadata__": told}).encode()).to_bytes(8, "little") + header
        )


def played_predictions(config, place):
    place.mkdir(parents=True, exist_ok=True)
    (place / "predictions.json").write_text(read_by(config) + config.test)


def play(monkeypatch) -> None:
    """Let steps take no time, and replace their directories as the real ones do."""
    plays = {
        "pipeline.score_corpus": played_score,
        "train.pretrain.pretrain": played_training,
        "train.finetune.finetune": played_training,
        "train.masker.train_masker": played_training,
        "experiment.compared.evaluate": lambda config, asked: {
            "arms": {arm.partition("=")[0]: {} for arm in config.arms},
            "differences": [],
            "method": {},
        },
        "experiment.doing.write_predictions": played_predictions,
        "experiment.compared.draw": lambda *_: None,
        "experiment.compared.write_pages": lambda recipe, report, place, runs: (place / "index.html").touch(),
        "experiment.doing.totals_line": lambda *_: "",
        "experiment.doing.label_warnings": lambda *_: [],
    }
    for name, play in plays.items():
        monkeypatch.setattr(f"fastmask.{name}", play)
