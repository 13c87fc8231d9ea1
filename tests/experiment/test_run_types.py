"""``fastmask run``: all three stages, with models of other types than BERT."""

import json

import pytest
from helpers import fastmask, write_jsonl
from tiny_models import TEXTS, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = """
out = "run"
init = "start"
seeds = [1]

[task]
train = "train.jsonl"
test = "train.jsonl"

[in-domain]
corpus = "corpus.txt"

[finetune]
epochs = 1

[score]
threshold = 0.001
max-length = 40
stop-words = "none"

[train-masker]
epochs = 1
dev-share = 0.3

[mask]
max-length = 40

[pretrain]
max-steps = 2
batch-size = 8
lr = 1e-3
"""


@pytest.mark.parametrize("kind", ["xlm-roberta", "deberta-v2"])
def test_the_whole_pipeline(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "start", kind, "MaskedLM")
    write_jsonl(tmp_path / "train.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(TEXTS)])
    (tmp_path / "corpus.txt").write_text("".join(f"{text}\n" for text in TEXTS), "utf-8")
    (tmp_path / "r.toml").write_text(RECIPE, "utf-8")
    result = fastmask("run", "r.toml")
    assert result.exit_code == 0, result.stderr
    work = json.loads((tmp_path / "run/report/report.json").read_text())["pretraining"]["masker"]
    assert work["selective"] == work["control"] and work["selective"]["steps"] == 2
    for name in ("finetuned/masker-1", "pretrained/masker", "masker"):
        assert json.loads((tmp_path / "run" / name / "config.json").read_text())["model_type"] == kind
    own = [line for line in result.stderr.splitlines() if f"a model of type {kind} runs" in line]
    # three fine-tunings and a masker; two pre-trainings
    assert [sum(how in line for line in own) for how in ("of one length", "padded")] == (
        [0, 0] if kind == "xlm-roberta" else [4, 2])  # fmt: skip
