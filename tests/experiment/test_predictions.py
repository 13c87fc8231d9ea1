"""The answers that a run has kept, as a comparison reads them."""

import json

import pytest

from fastmask.core.errors import ModelError
from fastmask.experiment.predictions import read_written

WRITTEN = {"config": {"seed": 1}, "classes": ["no", "1"], "numbers_are_names": False, "predicted": [0, 1, 1]}


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
    ):
        (tmp_path / "predictions.json").write_text(json.dumps(WRITTEN | changed))
        with pytest.raises(ModelError, match=r"predictions\.json: is damaged: .*(predicted|classes)"):
            read_written(tmp_path)
