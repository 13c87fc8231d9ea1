"""Progress of scoring and training, with a clock of the test's own: plain lines, and a bar on a terminal."""

import io

import pytest
from rich.console import Console

from fastmask.report.progress import Meter, Progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fastmask.report.progress.SECONDS_BETWEEN_LINES", 15.0)
    monkeypatch.setattr("fastmask.report.progress.time.monotonic", lambda: now[0])
    return now


def test_training_shows_loss_rate_and_time_left(clock, said):
    with Progress("steps", 100) as progress:
        for step in range(20):
            clock[0] += 1.0
            progress.update(step + 1, 1000, 2.0)
    assert said.messages == ["15 of 100 steps, loss 2.0000, 1,000 tokens/s, 1:25 left"]


def test_scoring_counts_a_shard_that_is_scored_again_once(clock, said):
    meter = Meter(out="c.masks")
    with meter.running(8000, 2000):
        meter.shard(2000, 4000)
        meter.advance(2000, 0.5, 5000)
        meter.shard(2000, 4000)  # again, from its beginning
        clock[0] = 20.0
        meter.advance(2000, 0.5, 5000)
        clock[0] = 3700.0
        meter.advance(2000, 0.1, 5000)
    assert said.messages == ["writing to c.masks", "resuming after 2,000 rows",
                    "3,000 of 8,000 rows, 50 rows/s, 500 tokens/s, 1:40 left",
                    "3,200 of 8,000 rows, 0.3 rows/s, 4 tokens/s, 4:06:40 left"]  # fmt: skip


def test_of_an_unknown_number_no_time_is_left(clock, said):
    with Progress("rows", None) as progress:
        clock[0] = 15.0
        progress.update(1234.5, 30)
    assert said.messages == ["1,234 rows, 82 rows/s, 2 tokens/s"]


def test_loading_is_said_on_a_terminal():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with Meter(console).loading("bert"):
        pass
    assert "loading model bert" in console.file.getvalue()


def test_a_bar_on_a_terminal(said):
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True, color_system=None)
    with Progress("steps", 100, 20, console) as progress:
        progress.update(40, 1000, 2.0)
    shown = stream.getvalue()
    assert "40/100 steps loss 2.0000, " in shown and "tokens/s" in shown and not said.messages
