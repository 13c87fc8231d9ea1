"""Settings that are checked before anything runs."""

import pytest

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3", "mps"])
def test_names_of_devices(device):
    assert ScoreConfig(device=device).device == device


@pytest.mark.parametrize(
    ("device", "words"),
    [("", "auto, cpu"), ("cuda:", "auto, cpu"), ("cuda:01", "auto, cpu"), ("GPU", "auto, cpu"),
     ("cuda:0,", "one device"), ("cuda:0,cuda:1", "one device")],
)  # fmt: skip
def test_names_that_are_none(device, words):
    with pytest.raises(FastmaskError, match=f"--device {device}: .*{words}"):
        ScoreConfig(device=device)
