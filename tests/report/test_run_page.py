"""The page about a recipe's run: its numbers by hand, its links, its size, nothing from data but text."""

import pytest
from page_samples import HOSTILE, KNOWN, Page
from run_samples import some_run

from fastmask.experiment.choices import Choice
from fastmask.experiment.pages import _mean_loss
from fastmask.experiment.questions import Asked
from fastmask.report.charts import Scale, lines_chart
from fastmask.report.run_page import Curve, RunTold, run_page


def parsed(told: RunTold) -> Page:
    """The page, after looks that every page must stand."""
    source = run_page(told)
    found = Page(source)
    assert found.tags <= KNOWN and len(source.encode()) < 2_000_000 and len(found.ids) == len(set(found.ids))
    names = {name for name, _ in found.attributes}
    assert not names & {"style", "src", "srcset", "action"} and not any(name.startswith("on") for name in names)
    links = {value for name, value in found.attributes if name == "href" and value[:1] != "#" and value != "data:,"}
    assert links == {*told.pages.values(), "report.json", "report.svg"}
    assert {value[1:] for name, value in found.attributes if name == "href" and value[:1] == "#"} <= {*found.ids}
    assert all(char.isprintable() or char == "\n" for char in source)
    return found


def test_what_it_says():
    found = parsed(some_run())
    text, cells = found.text, " ".join(" ".join(found.texts).split())
    assert "masker did better than as many random masks: +14.75 points of accuracy" in text
    assert "Whether greedy is better than as many random masks, this run cannot tell" in text
    assert "random, as many as masker" in text and "masker-control" not in text.replace("masker-control.html", "")
    assert "masker 75.62 0.48" in cells and "12,345" in cells and "random, 15% 65.50 0.71" in cells
    assert "masker − random, as many as masker +14.75" in cells and "equal work" in text
    assert "Between methods" in text and "greedy − masker" in text and "share of steps" in text
    assert "50% 37.81 (37.43 to 38.19) 30.44 (" in cells  # half of the accuracies, t of three degrees of freedom
    assert ("aria-label", "Curves: random, 15%") in found.attributes  # an arm without control
    assert ("aria-label", "Curves: masker and control") in found.attributes and "2.25" in text


def test_where_things_are_drawn():
    """Accuracies from 50 to 76 are on a scale from 50 to 80."""
    source = run_page(some_run())
    assert '<circle class="seed" cx="83.33%"' in source  # 75: 25 of 30
    assert source.count('class="seed"') == 24 and source.count('class="span told"') > 1
    assert Scale.of([50.0, 76.0]) == (50.0, 80.0, 10.0) and Scale.of([50.0, 76.0]).at(65.0) == 50.0
    assert [text for _, _, text in Scale.of([-0.3, 0.5]).ticks] == ["−0.4", "−0.2", "0", "0.2", "0.4", "0.6"]
    for same in ([7.0], [0.0, 0.0], [-3.0]):
        assert Scale.of(same).low <= same[0] <= Scale.of(same).high
    chart = lines_chart("x", 100, [[(0.0, 1.0), (4.0, 3.0)], [(0.0, 2.0)]])
    assert chart.series == [("control", "0,50"), ("arm", "0,100 100,0")] and chart.lines[0] == (100.0, "1")


def test_losses_are_means_over_runs_and_neighbouring_steps(tmp_path):
    for name, first in (("a", 0), ("b", 10)):
        (tmp_path / name).mkdir()
        lines = (f'{{"step": {k + 1}, "loss": {first + k}, "tokens": 2}}\n{{"held_out_loss": 1}}\n' for k in range(120))
        (tmp_path / name / "log.jsonl").write_text("".join(lines))
    points = _mean_loss([tmp_path / "a", tmp_path / "b"])
    assert len(points) == 60 and points[0] == (2.0, 5.5) and points[-1] == (120.0, 123.5)


def test_names_stay_text():
    evil = "\u202e".join(HOSTILE)
    found = parsed(some_run(name=evil, lines=HOSTILE, facts=[(one, one) for one in HOSTILE]))
    for word in HOSTILE[:5]:
        assert found.text.count(word) >= 3
    assert "\u202e" not in found.text and "W" * 400 not in found.text


@pytest.mark.parametrize("seeds", [10, 1000])
def test_the_largest_page_is_small(seeds):
    """A hundred rates, each compared with each other one, long curves."""
    choices = [f"random-{n}" for n in range(1, 100)]
    asked = Asked.by([Choice(name) for name in choices])
    metric = {"values": [0.123456789] * seeds, "mean": 0.123456789, "sd": None}
    figures = {"mean": -0.123456, "interval": [-0.123456, 0.123456], "p": 0.123456, "p_holm": 0.99, "detectable": 0.01}
    report = {"rows": 9, "seeds": seeds, "method": {}, "work": {}, "arms": {},
              "differences": [{"arm": one.arm, "baseline": one.baseline, "accuracy": figures, "macro_f1": figures}
                              for one in asked.questions]}  # fmt: skip
    report["arms"] = {arm: {"accuracy": metric, "macro_f1": metric} for arm in asked.names}
    asked.note(report)
    points = [(float(k), 9.87654 + k / 7) for k in range(60)]
    losses = [Curve(name, [(name, points), (name, points)]) for name in choices]
    found = parsed(RunTold("run", report, {}, range(seeds), losses, ["x" * 9999], [("seeds", "1, " * 9999)]))
    assert "Of 4851 differences the first 100 are shown" in found.text
    assert ("Accuracy of each seed" in found.text) == (seeds == 10)
