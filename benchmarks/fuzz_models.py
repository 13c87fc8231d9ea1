"""Fuzzing of models: config.json, tokenizer.json, weights, and texts that a good one is given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import hostile
from fuzz_world import OPTIONS, SENTENCES, World, byte_level, unigram, word_piece
from outcomes import command


def score(model: Path, rng: Random) -> None:
    """Score some texts, as ``explain`` does."""
    from fastmask.scoring.api import score as score_texts

    texts = [SENTENCES[0], hostile.text(rng).replace("\0", "").encode("utf-8", "replace").decode()]
    for record in score_texts(texts, model=str(model), precision=rng.choice(("auto", "float32")), **OPTIONS):
        assert all(0 <= start <= end <= len(record.text) for start, end in record.spans), "a span outside of its text"


def _copy(world: World, folder: Path) -> Path:
    return Path(shutil.copytree(world.model, folder / "model"))


def fuzz_config(rng: Random, folder: Path, world: World) -> None:
    """Score with a model whose config.json is hostile."""
    copy = _copy(world, folder)
    config = json.loads((copy / "config.json").read_text())
    if rng.random() < 0.1:
        families = (
            "roberta",
            "distilbert",
            "electra",
            "modernbert",
            "gpt2",
            "t5",
            "deberta-v2",
            "xlnet",
            "albert",
            "xxx",
        )
        config["model_type"] = rng.choice(families)
    (copy / "config.json").write_bytes(hostile.dump(rng, hostile.changed(rng, config)))
    score(copy, rng)


def fuzz_tokenizer(rng: Random, folder: Path, world: World) -> None:
    """Score with a model whose tokenizer.json, or tokenizer_config.json, is hostile."""
    copy = _copy(world, folder)
    content = rng.choice((word_piece, byte_level, unigram))()
    if rng.random() < 0.8:
        content = hostile.changed(rng, content)
    else:
        own = json.loads((copy / "tokenizer_config.json").read_text())
        (copy / "tokenizer_config.json").write_bytes(hostile.dump(rng, hostile.changed(rng, own)))
    (copy / "tokenizer.json").write_bytes(hostile.dump(rng, content))
    score(copy, rng)


def fuzz_weights(rng: Random, folder: Path, world: World) -> None:
    """Score with a model whose weights, their header or their index is hostile."""
    copy = _copy(world, folder)
    file = copy / "model.safetensors"
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    how = rng.randrange(3)
    if how == 0:
        file.write_bytes(hostile.damaged(rng, data))
    elif how == 1:
        header = hostile.dump(rng, hostile.changed(rng, json.loads(data[8:end])))
        size = len(header) if rng.random() < 0.8 else abs(int(rng.choice((0, 1, 2**31, 2**63, 2**64 - 1))))
        file.write_bytes(size.to_bytes(8, "little") + header + data[end:])
    else:
        part = copy / "model-00001-of-00001.safetensors"
        file.rename(part)
        names = json.loads(data[8:end])
        index = {"metadata": {"total_size": len(data)}, "weight_map": dict.fromkeys(list(names)[1:5], part.name)}
        (copy / "model.safetensors.index.json").write_bytes(hostile.dump(rng, hostile.changed(rng, index)))
    score(copy, rng)


def fuzz_text(rng: Random, folder: Path, world: World) -> None:
    """Score a hostile text."""
    (folder / "c.txt").write_bytes((hostile.text(rng) + hostile.text(rng)).encode("utf-8", "replace") + b"\n")
    language = rng.choice(("en", "de", "el", "zh", "ja", "ar"))
    options = ("--language", language, "--max-length", 32, "--threads", 1, "--device", "cpu", "-q")
    command("score", folder / "c.txt", "-o", folder / "o", "--model", world.model, "--method", "random", *options)
    command("inspect", folder / "o", "--rows", 3)
