"""The soak finds what it looks for: a command that is played, and does everything wrong when it is killed."""

import random
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import soak


@pytest.mark.parametrize("careful", [True, False])
def test_what_a_careless_command_does_is_found(careful, tmp_path, monkeypatch):
    """A careful one leaves the old file until it has the new one; a careless one cuts it short, and adds a file."""

    def start(arguments, place, after=None, at=None):
        killed = after is not None or at is not None
        if not killed:
            (place / "out.txt").write_text(f"{arguments[0]}{'x' * (not careful and (place / '.half').exists())}")
        elif not careful:
            (place / "out.txt").write_text("")
            (place / ".half").touch()
        return soak.Ended(-signal.SIGKILL if killed else 0, 1.0, "", 5)

    monkeypatch.setattr(soak, "start", start)
    soaked = soak.Soak(soak.Case("played", ("new",), ("old",)), tmp_path, random.Random(1))
    soaked.soak(20)
    assert soaked.counts["kills"] == 20 and soaked.counts["runs"] > 20
    found = [soaked.counts[kind] for kind in ("lost results", "byte differences", "leftovers", "failures")]
    assert (found == [0] * 4) == careful and bool(soaked.findings) != careful
    assert careful or (found[0] == 20 and found[1] == found[2] > 2 and found[3] == 0)


def test_every_command_that_writes_is_soaked():
    names = {case.arguments[0] for case in soak.cases()}
    assert names == {"score", "finetune", "train-masker", "pretrain", "export", "remap", "evaluate", "run"}


def test_times_are_left_out_and_results_told_apart(tmp_path):
    (tmp_path / "run" / "step").mkdir(parents=True)
    for name, text in {"run/step/metrics.json": '{"a": 1, "tokens_per_second": 5}', "run/x.lock": "", "run/.half": "",
                       "b.txt": "b"}.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    found = soak.contents(tmp_path)
    assert found["run/step/metrics.json"] == b'{"a": 1}' and "run/x.lock" not in found and "run/.half" in found
    assert {name: [*files] for name, files in soak.results_of(found).items()} == {
        "b.txt": ["b.txt"], "run": ["run", "step"], "run/step": ["metrics.json"]}  # fmt: skip
