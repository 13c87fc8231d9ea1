"""The answers that a run has kept, as a comparison reads them."""

import json
from dataclasses import replace

import pytest
from helpers import write_jsonl

from fastmask.core.config import EvaluateConfig
from fastmask.core.errors import ModelError
from fastmask.experiment.arms import evaluate
from fastmask.experiment.predictions import read_written, texts_of
from fastmask.train.examples import Row

WRITTEN = {"config": {"seed": 1, "max_length": 256}, "classes": ["no", "1"], "numbers_are_names": False,
           "predicted": [0, 1, 1], "texts": ""}  # fmt: skip


def test_what_is_damaged_is_not_compared(tmp_path):
    assert read_written(tmp_path) is None
    (tmp_path / "predictions.json").write_text(json.dumps(WRITTEN))
    found = read_written(tmp_path)
    assert found.class_names == ("no", "1") and found.predicted.tolist() == [0, 1, 1]
    for changed in (
        {"predicted": [0.7]},
        {"predicted": [True]},
        {"predicted": [2]},
        {"predicted": [-1]},
        {"classes": 1},
        {"config": {"seed": 1}},
    ):
        (tmp_path / "predictions.json").write_text(json.dumps(WRITTEN | changed))
        with pytest.raises(ModelError, match=r"predictions\.json: is damaged: .*(predicted|classes|max_length)"):
            read_written(tmp_path)


def test_answers_to_other_texts_are_not_compared(tmp_path):
    rows = [Row(f"film {n}", None, n % 2, "", n) for n in range(4)]
    for arm in "ab":
        (tmp_path / arm).mkdir()
        content = WRITTEN | {"classes": ["0", "1"], "numbers_are_names": True, "predicted": [0, 1, 0, 1]}
        (tmp_path / arm / "predictions.json").write_text(json.dumps(content | {"texts": texts_of(rows)}))
    arms = tuple(f"{arm}={tmp_path / arm}" for arm in "ab")
    for name, texts in (("same", [row.text for row in rows]), ("other", [row.text for row in rows[::-1]])):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(texts)])
    assert evaluate(EvaluateConfig(arms=arms, test=str(tmp_path / "same.jsonl")))["arms"]["a"]["accuracy"]["mean"] == 1
    with pytest.raises(ModelError, match=r"a: its answers are not to the texts of .*other\.jsonl"):
        evaluate(EvaluateConfig(arms=arms, test=str(tmp_path / "other.jsonl")))
    given = EvaluateConfig(arms=arms, test=str(tmp_path / "same.jsonl"), max_length=256)
    assert evaluate(given)["rows"] == 4
    with pytest.raises(ModelError, match=r"a: its answers were made with --max-length 256, not 64 "):
        evaluate(replace(given, max_length=64))
    # the option is not given, and the two were cut otherwise
    written = json.loads((tmp_path / "b" / "predictions.json").read_text())
    (tmp_path / "b" / "predictions.json").write_text(json.dumps(written | {"config": {"seed": 1, "max_length": 64}}))
    with pytest.raises(ModelError, match=r"b: its answers were made with --max-length 64, not 256 "):
        evaluate(EvaluateConfig(arms=arms, test=str(tmp_path / "same.jsonl")))
