"""``remask`` where scores do not tell: the model is asked again, and the masks are those of ``score``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import contents, edit, golden, refusal, rows_of, write_jsonl
from pretrain_samples import SHAPE, save_model
from test_remask import remask
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification, BertConfig

from fastmask.core.config import RemaskConfig, ScoreConfig
from fastmask.pipeline import score_corpus
from fastmask.scoring.again import Again
from fastmask.scoring.cascade import TIE, Bounds
from fastmask.scoring.engine import Engine
from fastmask.scoring.remask import remask_shards
from fastmask.shards.verify import verify
from fastmask.shards.writer import RunDirectory

MANIFEST = "_manifest.json"
SENTENCES = 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:SENTENCES]]
    rows += [{"text": "very very very bad bad film , it is !"}] * 2 + [{"text": " "}]
    return write_jsonl(tmp_path_factory.mktemp("again") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def models(tmp_path_factory, mr_tiny) -> dict[str, str]:
    """The model of each method; those that the package has none of have random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    shape = BertConfig(**{**SHAPE, "max_position_embeddings": 128, "vocab_size": 8192}, initializer_range=0.5)
    filling = AutoModelForMaskedLM.from_config(shape)
    made = {"entropy": save_model(folder / "filling", filling, mr_tiny)}
    masker = AutoModelForTokenClassification.from_config(shape)
    masker.config.id2label = {0: "keep", 1: "mask"}
    return made | {"masker": save_model(folder / "masker", masker, mr_tiny)}


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus, models, mr_tiny):
    """A function from options to the directory of a run, each made once."""
    made = {}

    def scored(method, **options) -> Path:
        key = json.dumps([method, options], sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("run") / "out"
            settings = {"model": models.get(method, mr_tiny), "threads": 1, "shard_rows": 10, **options}
            score_corpus([corpus], str(made[key]), ScoreConfig(method=method, **settings))
        return made[key]

    return scored


def manifest(out) -> dict:
    return json.loads((Path(out) / MANIFEST).read_text())


def masks(out) -> list[list[int]]:
    return [row["mask_index"] for row in rows_of(out)]


def coarse(shards, copy, eps=0.5) -> Path:
    """The same shards as if their scores were of a coarse precision."""
    shutil.copytree(shards, copy)
    bounds = {"bfloat16": eps, "float32": 2e-5, "float64": TIE}
    edit(copy / MANIFEST, lambda content: content["certificate"].update(error_bounds=bounds))
    return copy


ASKED = [("prefix", {"mask_rate": 0.15}), ("prefix", {"threshold": 0.2}), ("leave-one-out", {"threshold": 0.02}),
         ("leave-one-out", {"mask_rate": 0.1, "unit": "word"}), ("greedy", {"mask_rate": 0.1, "stop_words": "none"}),
         ("masker", {"mask_rate": 0.1}), ("gradient", {"mask_rate": 0.1}),
         ("entropy", {"mask_rate": 0.3, "unit": "word"})]  # fmt: skip


@pytest.mark.parametrize(("precision", "method", "options"), [
    *(("float32", *one) for one in ASKED), *(("bfloat16", *one) for one in (ASKED[0], ASKED[3], ASKED[5])),
])  # fmt: skip
def test_masks_are_those_of_score(precision, method, options, run, tmp_path):
    # what float32 tells apart is taken for what bfloat16 does, so that some sentences are in doubt on any processor
    source = run(method, precision=precision)
    source = coarse(source, tmp_path / "coarse") if precision == "float32" else source
    done = remask(source, tmp_path / "out", **options)
    assert done.exit_code == 0, done.output
    fresh = run(method, precision=precision, **options)
    # not their bytes: what is asked here has the digits of float32, and a new run has those of its precision
    exact = {"float32": 1e-5, "bfloat16": 0.1}[precision]
    for row, expected in zip(rows_of(tmp_path / "out"), rows_of(fresh), strict=True):
        np.testing.assert_allclose(
            row.pop("importance") or [], expected.pop("importance") or [], atol=exact, rtol=exact
        )
        assert (row.pop("prob") or 0) == pytest.approx(expected.pop("prob") or 0, abs=1e-6)
        assert row == expected
    assert verify(tmp_path / "out") == []
    found = manifest(tmp_path / "out")
    if precision == "float32":
        asked = found["certificate"]["asked_again"]
        assert asked > 0 and f"asking the model again about {asked} of " in done.stderr
        assert found["environment"]["asked_with"]["precision"] == "float32"
        assert sum(one["certificate"].get("asked_again", 0) for one in found["shards"]) == asked
    assert {key: one for key, one in found["config"].items() if key in options} == options


@pytest.fixture
def asked(monkeypatch) -> list[np.ndarray]:
    """What is asked, bool [S] for each time."""
    found, ask = [], Again.ask

    def remember(self, scored, in_doubt, *more, **options):
        found.append(in_doubt)
        return ask(self, scored, in_doubt, *more, **options)

    monkeypatch.setattr(Again, "ask", remember)
    return found


def test_what_is_certain_is_not_asked(run, tmp_path, asked):
    source = coarse(run("prefix", precision="float32", shard_rows=100), tmp_path / "coarse", eps=0.02)
    remask_shards(RemaskConfig(shards=str(source), out=str(tmp_path / "out"), mask_rate=0.15))
    (in_doubt,) = asked
    assert 0 < in_doubt.sum() < len(in_doubt) / 2
    told = zip(rows_of(source), rows_of(tmp_path / "out"), in_doubt, strict=True)
    assert all(doubt or before["importance"] == after["importance"] for before, after, doubt in told)
    # nothing is in doubt where masks are those of the run's own decisions
    remask_shards(RemaskConfig(shards=str(source), out=str(tmp_path / "words"), unit="word"))
    assert len(asked) == 1 and "asked_with" not in manifest(tmp_path / "words")["environment"]


def test_the_scores_as_they_are(run, tmp_path, asked):
    source = coarse(run("prefix", precision="float32"), tmp_path / "coarse")
    taken = remask(source, tmp_path / "out", threshold=0.2, no_certify=True)
    assert taken.exit_code == 0 and "score might choose other masks in " in taken.stderr and not asked
    assert manifest(tmp_path / "out")["config"]["certify"] is False


@pytest.fixture
def moved(tmp_path, mr_tiny, corpus) -> tuple[Path, Path]:
    """Shards with some sentences in doubt, and where their model is now; its old directory is gone."""
    shutil.copytree(mr_tiny, tmp_path / "model")
    config = ScoreConfig(model=str(tmp_path / "model"), method="prefix", threads=1, precision="float32")
    score_corpus([corpus], str(tmp_path / "source"), config)
    return coarse(tmp_path / "source", tmp_path / "coarse"), (tmp_path / "model").rename(tmp_path / "elsewhere")


def test_a_model_that_has_moved(moved, run, tmp_path):
    source, model = moved
    refused = refusal(remask(source, tmp_path / "x", mask_rate=0.15))
    assert "/model: the directory of these shards' tokenizer is not here; --model names" in refused
    assert remask(source, tmp_path / "out", mask_rate=0.15, model=model).exit_code == 0
    assert masks(tmp_path / "out") == masks(run("prefix", precision="float32", mask_rate=0.15))
    found = manifest(tmp_path / "out")
    assert {found["config"]["model"], found["model"]["name"], found["tokenizer"]["name"]} == {str(model)}
    assert remask(tmp_path / "out", tmp_path / "again", mask_rate=0.3).exit_code == 0


def test_a_model_that_has_changed(moved, restaurant_tiny, tmp_path):
    source, model = moved
    shutil.copy(Path(restaurant_tiny) / "model.safetensors", model)
    shutil.copy(Path(restaurant_tiny) / "config.json", model)
    refused = refusal(remask(source, tmp_path / "x", mask_rate=0.15, model=model))
    assert f"{model}: its weights are not those that scored {source}" in refused
    model.rename(tmp_path / "model")
    refused = refusal(remask(source, tmp_path / "x", mask_rate=0.15))
    assert "do not tell the masks of " in refused and " sentences, and the model cannot be asked" in refused
    assert "--model names the directory where it is now, --no-certify takes the scores as they are" in refused
    assert not (tmp_path / "x").exists()
    assert remask(source, tmp_path / "x", mask_rate=0.15, no_certify=True).exit_code == 0
    assert remask(source, tmp_path / "y", unit="word").exit_code == 0  # nothing to ask


def stopped_at_the_second(monkeypatch, config) -> None:
    """Write one shard and stop."""
    real = RunDirectory.write_shard

    def stop(self, index, *more):
        if index == 1:
            raise KeyboardInterrupt
        return real(self, index, *more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunDirectory, "write_shard", stop)
        remask_shards(config)


def test_stopped_and_resumed(run, tmp_path, monkeypatch, asked):
    source = coarse(run("prefix", precision="float32"), tmp_path / "coarse")
    settings = {"shards": str(source), "mask_rate": 0.15}
    remask_shards(RemaskConfig(out=str(tmp_path / "whole"), **settings))
    assert len(asked) == 3
    stopped_at_the_second(monkeypatch, RemaskConfig(out=str(tmp_path / "out"), **settings))
    asked.clear()
    plan = json.loads((tmp_path / "out" / "_plan.json").read_text())
    assert plan["asked_with"]["precision"] == "float32" and plan["error_bounds"]["bfloat16"] == 0.5
    remask_shards(RemaskConfig(out=str(tmp_path / "out"), **settings))
    assert len(asked) == 2  # of the shards that were missing
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    remask_shards(RemaskConfig(out=str(tmp_path / "out"), **settings))
    assert len(asked) == 2  # it is finished


def test_resumed_elsewhere(run, tmp_path, monkeypatch):
    """Numbers of two kinds of device may not be mixed in a directory, as in ``score``."""
    source = coarse(run("prefix", precision="float32"), tmp_path / "coarse")
    stopped_at_the_second(monkeypatch, RemaskConfig(shards=str(source), out=str(tmp_path / "out"), mask_rate=0.15))
    monkeypatch.setattr(Engine, "describe", lambda self: {"device": "cuda"})
    refused = refusal(remask(source, tmp_path / "out", mask_rate=0.15))
    assert f"{tmp_path / 'out'}: begun with the model on" in refused and '"device": "cuda"' in refused


def test_an_answer_beyond_its_bound(run, tmp_path, monkeypatch, asked):
    """The bound grows, and every shard is made again with it, as in ``score``."""
    source = coarse(run("prefix", precision="float32"), tmp_path / "coarse")
    edit(source / MANIFEST, lambda content: content["certificate"]["error_bounds"].update(float32=1e-12))
    monkeypatch.setattr(Engine, "calibrate", lambda self, shards: Bounds(self.levels, (1e-12, TIE)))
    monkeypatch.setattr("fastmask.scoring.method.AUDIT_SHARE", 0.9)
    remask_shards(RemaskConfig(shards=str(source), out=str(tmp_path / "out"), mask_rate=0.15))
    found = manifest(tmp_path / "out")
    eps = found["certificate"]["error_bounds"]["float32"]
    assert eps >= found["certificate"]["max_error"]["float32"] > TIE and np.log2(eps / TIE) % 1 == 0
    assert [one["certificate"]["eps"]["float32"] for one in found["shards"]] == [eps] * 3 and len(asked) > 3
    assert masks(tmp_path / "out") == masks(run("prefix", precision="float32", mask_rate=0.15))
    assert verify(tmp_path / "out") == []


@pytest.fixture(scope="module")
def aspects(tmp_path_factory, restaurant_tiny, golden_dir):
    """A function from options to a run over texts with aspects; and their file."""
    folder, keys = tmp_path_factory.mktemp("aspects"), ("term", "polarity")
    found = golden(golden_dir, "restaurant_tiny_0.05")[:20]
    rows = [{"text": row["text"], "aspects": [{k: one[k] for k in keys} for one in row["aspects"]]} for row in found]
    rows.append({"text": "good food . " * 30, "aspects": [{"term": "food", "polarity": "positive"}]})
    corpus = write_jsonl(folder / "corpus.jsonl", rows)

    def scored(name, **options) -> Path:
        config = ScoreConfig(model=restaurant_tiny, precision="float32", threads=1, shard_rows=8, **options)
        score_corpus([corpus], str(folder / name), config)
        return folder / name

    return scored, Path(corpus)


@pytest.mark.parametrize(("method", "options"), [("greedy", {"mask_rate": 0.1}), ("prefix", {"threshold": 0.2}),
                                                 ("gradient", {"mask_rate": 0.3})])  # fmt: skip
def test_aspects_are_read_again(method, options, aspects, tmp_path, asked):
    scored, _ = aspects
    source = coarse(scored(method, method=method), tmp_path / "coarse")
    done = remask(source, tmp_path / "out", **options)
    assert done.exit_code == 0, done.output
    # of a text that is longer than half the model's room shards do not tell how much the model saw
    assert asked[-1].tolist() == [*asked[-1][:-1], True]
    assert masks(tmp_path / "out") == masks(scored(f"{method}-fresh", method=method, **options))
    entries = [manifest(out)["shards"] for out in (tmp_path / "out", source)]
    assert [one["labelled"] for one in entries[0]] == [one["labelled"] for one in entries[1]]


def test_aspects_that_are_not_there(aspects, tmp_path):
    scored, corpus = aspects
    source = coarse(scored("source"), tmp_path / "coarse")
    corpus.rename(tmp_path / "away")
    try:
        assert str(corpus) in refusal(remask(source, tmp_path / "out", mask_rate=0.1))
        corpus.write_text((tmp_path / "away").read_text() + "\n")
        refused = refusal(remask(source, tmp_path / "out", mask_rate=0.1))
        assert f"{corpus}: has changed since the shards were made" in refused
        assert not (tmp_path / "out").exists()
    finally:
        (tmp_path / "away").rename(corpus)
