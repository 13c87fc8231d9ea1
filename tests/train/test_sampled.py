"""``pretrain --sample``: masks drawn anew in each epoch, at a rate that may change, with the same steps everywhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import fastmask, golden, refusal, write_jsonl
from pretrain_samples import SHAPE, largest_difference, log_of, save_model
from transformers import AutoModelForMaskedLM, BertConfig

from fastmask.core.config import ScoreConfig
from fastmask.core.config_train import PretrainConfig
from fastmask.core.errors import FastmaskError
from fastmask.data.stream import TrainingStream
from fastmask.pipeline import score_corpus
from fastmask.train import pretrain as training
from fastmask.train.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def files(tmp_path_factory, mr_tiny, golden_dir) -> Path:
    """Shards at random with a rate of 0.15, and others without probabilities; a model."""
    root = tmp_path_factory.mktemp("sampled")
    texts = [{"text": row["text"]} for row in golden(golden_dir, "mr_tiny_0.05")][:110]
    corpus = write_jsonl(root / "corpus.jsonl", texts)
    score_corpus([corpus], str(root / "random"), ScoreConfig(model=mr_tiny, method="random"))
    score_corpus([corpus], str(root / "greedy"), ScoreConfig(model=mr_tiny))
    torch.manual_seed(0)
    save_model(root / "model", AutoModelForMaskedLM.from_config(BertConfig(**{**SHAPE, "vocab_size": 8192})), mr_tiny)
    return root


@pytest.fixture
def config(files, tmp_path) -> PretrainConfig:
    return PretrainConfig((str(files / "random"),), str(tmp_path / "out"), str(files / "model"), batch_size=22,
                          epochs=4, save_every=5, lr=1e-3, precision="float32", max_length=64, sample=True)  # fmt: skip


def steps(out) -> list[dict]:
    return [line for line in log_of(out) if "loss" in line]


def shares(config) -> np.ndarray:
    """Masked tokens of each step, as a share of its ordinary tokens."""
    return np.array([step["masked"] / (step["tokens"] - 2 * config.batch_size) for step in steps(config.out)])


def test_masks_are_drawn_anew_in_each_epoch(config, said):
    result = pretrain(config)
    assert "masks are drawn anew in each epoch, 15.0 % of the tokens in the mean" in said.messages
    assert result["step"] == 20 and result["config"]["sample"] is True
    stream = TrainingStream(config.shards, max_length=64, seed=config.seed, masked_only=True, sample=True)
    counts = [sum(len(e.at) for e in stream.epoch(number)) for number in range(4)]
    masked = [step["masked"] for step in steps(config.out)]
    assert [sum(masked[first : first + 5]) for first in range(0, 20, 5)] == counts and len(set(counts)) == 4
    ordinary = result["tokens"] - 2 * 20 * 22
    assert abs(result["masked"] / ordinary - 0.15) < 5 * np.sqrt(0.15 * 0.85 / ordinary)


def test_a_schedule_goes_from_the_first_rate_to_the_last(config):
    config = replace(config, mask_schedule="0.60:0.05")
    pretrain(config)
    expected = np.linspace(0.60, 0.05, 20)
    ordinary = np.array([step["tokens"] for step in steps(config.out)]) - 44
    assert np.all(np.abs(shares(config) - expected) < 5 * np.sqrt(expected * (1 - expected) / ordinary))


class Stopped(Exception):
    pass


def test_a_run_that_stopped_resumes_exactly(config, tmp_path, monkeypatch, said):
    """After a step between checkpoints, in the second epoch and with a rate that changes."""
    config = replace(config, mask_schedule="0.05:0.30")
    whole = replace(config, out=str(tmp_path / "whole"))
    pretrain(whole)

    def take_step(optimizer, loss, step, ranks):
        if step == 12:
            raise Stopped
        return kept(optimizer, loss, step, ranks)

    kept = training.take_step
    monkeypatch.setattr(training, "take_step", take_step)
    with pytest.raises(Stopped):
        pretrain(config)
    monkeypatch.setattr(training, "take_step", kept)
    pretrain(config)
    assert "resumes after step 10" in said.messages
    assert largest_difference(config.out, whole.out) == 0.0
    assert [step["masked"] for step in steps(config.out)] == [step["masked"] for step in steps(whole.out)]


def test_a_step_in_which_nothing_is_masked(config):
    """It moves nothing, and the next one goes on."""
    config = replace(config, batch_size=1, epochs=None, max_steps=4, mask_schedule="0.0001:0.0001")
    pretrain(config)
    assert [step["masked"] for step in steps(config.out)] == [0] * 4
    assert [step["loss"] for step in steps(config.out)] == [0] * 4


def test_the_held_out_loss_takes_the_masks_as_they_are(config, files):
    """So that it is the same question at every measurement, and for every way to mask."""
    result = pretrain(replace(config, epochs=1, eval=(str(files / "greedy"),)))
    assert [entry["step"] for entry in result["held_out"]] == [5]


def test_refusals(config, files, tmp_path):
    with pytest.raises(FastmaskError, match=r"--mask-schedule 1:0.1: only 0.8874 of the tokens have a mask_prob"):
        pretrain(replace(config, mask_schedule="1:0.1", shards=(kept_punctuation(files, tmp_path),)))
    line = refusal(
        fastmask(
            "pretrain",
            files / "greedy",
            "-o",
            tmp_path / "x",
            "--init",
            files / "model",
            "--sample",
            "--max-length",
            64,
        )
    )
    assert f"{files / 'greedy'}: has no mask_prob to draw masks by; --method greedy gives none" in line
    for schedule in ("0.3", "0.3:0", "0.3:1.1", "a:b", "0.3:0.2:0.1", "nan:0.1", ""):
        with pytest.raises(FastmaskError, match=r"two shares of the tokens, above 0, at most 1, as 0.30:0.05"):
            replace(config, mask_schedule=schedule)
    with pytest.raises(FastmaskError, match=r"--mask-schedule 0.3:0.1: only with --sample"):
        replace(config, mask_schedule="0.3:0.1", sample=False)


def kept_punctuation(files, tmp_path) -> str:
    out, config = (
        str(tmp_path / "kept"),
        ScoreConfig(model=str(files / "model"), method="random", keep_punctuation=True),
    )
    score_corpus([str(files / "corpus.jsonl")], out, config)
    return out
