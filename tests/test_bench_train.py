"""``pretrain`` and Hugging Face's ``Trainer`` have one loss curve, and the report is made. Nothing is timed here."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bench_masker
import bench_train
import harness

pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs accelerate")


@pytest.fixture(autouse=True)
def here_and_on_one_thread(one_thread, monkeypatch):
    monkeypatch.setattr(harness, "isolated", lambda function, *args: function(*args))


@pytest.fixture(scope="module")
def corpus(golden_dir, tmp_path_factory):
    lines = (golden_dir / "mr_tiny_0.05.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(json.loads(line)["text"].replace("\n", " ") + "\n" for line in lines[:90]))
    return path


def test_the_loss_curves_are_one(corpus, mr_tiny, tmp_path):
    """The same weights, sequences, masks, corruption and optimizer; more than one epoch, whose corruption differs."""
    bench_train.prepare(tmp_path, corpus, mr_tiny, 90)
    found = bench_train.curves(tmp_path, 6)
    exact, near = found["float32"], found["bfloat16"]
    assert len(exact["fastmask"]) == len(exact["hf"]) == 6 and exact["hf"][-1] < exact["hf"][0]
    assert exact["largest_relative_difference"] < 2e-6
    assert 0 < near["largest_relative_difference"] < 5e-3


def test_report(corpus, mr_tiny, tmp_path, capsys):
    out = tmp_path / "train.json"
    words = ["--corpus", str(corpus), "--model", mr_tiny, "--lines", "60", "--batch-sizes", "8", "--sequences", "16"]
    bench_train.main([*words, "--repeats", "1", "--curve-steps", "0", "--threads", "1", "--out", str(out)])
    report = json.loads(out.read_text())["speed"]["8"]
    assert report.keys() == {*bench_train.OUR_ARMS, *bench_train.HF_ARMS}
    assert max(report["hf-fp32"]["ratio"], report["hf-bf16"]["ratio"]) == 1.0
    for name, arm in report.items():
        (run,) = arm["runs"]
        assert run["steps"] == 2 and run["tokens"] <= run["places"] and run["seconds"] > 0
        assert name in bench_train.HF_ARMS or run["tokens"] == run["places"]
        assert 0.05 < arm["masked"] < 0.25
    assert "8 sequences a step" in capsys.readouterr().out


def test_masker_report(corpus, mr_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "rate_per_core", partial(harness.rate_per_core, at_least=0.01))
    monkeypatch.setattr(harness, "rate_together", partial(harness.rate_together, at_least=0.01))
    out = tmp_path / "masker.json"
    words = ["--corpus", str(corpus), "--model", mr_tiny, "--lines", "20", "--threads", "1"]
    bench_masker.main([*words, "--out", str(out)])
    run = json.loads(out.read_text())["run"]
    assert run["lines"] == 20 and run["tokens"] > 20 * 2 and run["masked"] >= 0
    # two blocks of 128, 512 wide: 4 * 128 * 128 + 2 * 128 * 512 multiplications a token
    flops = run["tokens"] * 2 * 2 * (4 * 128**2 + 2 * 128 * 512)
    assert run["gflops"] == pytest.approx(flops / 1e9 / run["seconds"])
