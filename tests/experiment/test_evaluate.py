"""``fastmask evaluate``: figures against hand computation, other implementations and simulation; then the command."""

import json
import sys
from itertools import combinations, product

import numpy as np
import pytest
from helpers import fastmask, golden, refusal, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fastmask.core.config import EvaluateConfig
from fastmask.core.errors import FastmaskError
from fastmask.core.labels import Classes
from fastmask.experiment.arms import evaluate, find_runs, read_predictions
from fastmask.report.comparison import _drawn, chief_differences, draw, tables
from fastmask.report.screen import make_console
from fastmask.train.evaluate import METRICS, compare, detectable_difference, holm, statements
from fastmask.train.predict import accuracy, macro_f1

LABELS = np.array([0, 0, 1, 1])
OLD = [[0, 1, 1, 0], [0, 0, 1, 0], [1, 1, 1, 1]]  # right: 2, 3, 2 of 4
NEW = [[0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 0]]  # right: 3, 4, 3 of 4


def runs(lists):
    return [np.array(values) for values in lists]


def one(report, metric="accuracy"):
    (entry,) = report["differences"]
    return entry[metric]


def test_means_and_deviations_by_hand():
    report = compare({"old": runs(OLD), "new": runs(NEW)}, LABELS, resamples=100)
    assert (report["rows"], report["seeds"], report["resamples"]) == (4, 3, 100)
    old = report["arms"]["old"]["accuracy"]
    assert old["values"] == [0.5, 0.75, 0.5]
    assert old["mean"] == pytest.approx(7 / 12) and old["sd"] == pytest.approx(0.25 / np.sqrt(3))
    # run 3 of old says 1 everywhere: F1 of class 1 is 2 * 2 / (4 + 2), of class 0 it is 0
    assert report["arms"]["old"]["macro_f1"]["values"][2] == pytest.approx(1 / 3)


def test_a_difference_without_spread_is_not_tested():
    report = compare({"old": runs(OLD), "new": runs(NEW)}, LABELS, resamples=100)
    figures = one(report)
    assert figures["mean"] == pytest.approx(0.25) and figures["sd"] == 0
    assert figures["p"] is None and figures["detectable"] is None
    assert "cannot be tested" in next(statements(report))
    json.dumps(report, allow_nan=False)


def test_paired_t_test_by_hand():
    new = runs([*NEW[:2], [1, 0, 1, 0]])  # right: 3, 4, 2; differences 0.25, 0.25, 0
    figures = one(compare({"old": runs(OLD), "new": new}, LABELS, resamples=100))
    mean, sd = 1 / 6, 0.25 / np.sqrt(3)
    t = mean / (sd / np.sqrt(3))
    assert t == pytest.approx(2.0) and figures["sd"] == pytest.approx(sd)
    # Student's t with 2 degrees of freedom has the distribution function 1/2 + t / (2 sqrt(2 + t^2))
    assert figures["p"] == pytest.approx(2 * (0.5 - 2 / (2 * np.sqrt(6))))
    assert figures["p"] == pytest.approx(stats.ttest_rel([0.75, 1, 0.5], [0.5, 0.75, 0.5]).pvalue)


def test_interval_is_that_of_all_resamples_written_out():
    """Two seeds and three rows have 4 * 27 resamples, all equally probable."""
    labels, old, new = np.array([0, 1, 1]), np.array([[1, 1, 0], [0, 0, 1]]), np.array([[0, 1, 1], [0, 1, 0]])
    gain = (new == labels).astype(float) - (old == labels)
    every = [gain[np.ix_(seeds, rows)].mean() for seeds in product(range(2), repeat=2)
             for rows in product(range(3), repeat=3)]  # fmt: skip
    report = compare({"old": list(old), "new": list(new)}, labels, resamples=40_000)
    assert one(report)["interval"] == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=1e-9)


def test_interval_covers_rows_and_seeds():
    """On a binomial difference with equal seeds, the width is the textbook's for test rows."""
    rng, n = np.random.default_rng(0), 2000
    labels, old = np.zeros(n, int), (rng.random(n) < 0.3).astype(int)
    new = (rng.random(n) < 0.25).astype(int)
    low, high = one(compare({"old": [old] * 4, "new": [new] * 4}, labels, resamples=4000))["interval"]
    gain = old - new
    assert high - low == pytest.approx(2 * 1.96 * gain.std() / np.sqrt(n), rel=0.05)


def test_the_same_arm_twice_differs_by_nothing():
    report = compare({"a": runs(OLD), "b": runs(OLD)}, LABELS, resamples=500)
    for metric in METRICS:
        assert one(report, metric)["mean"] == 0 and one(report, metric)["interval"] == [0, 0]


def test_every_pair_later_minus_earlier_and_one_arm_alone():
    report = compare({"none": runs(OLD), "random": runs(NEW), "selective": runs(NEW)}, LABELS, resamples=100)
    pairs = [(entry["arm"], entry["baseline"]) for entry in report["differences"]]
    assert pairs == [("random", "none"), ("selective", "none"), ("selective", "random")]
    assert compare({"none": runs(OLD)}, LABELS, resamples=100)["differences"] == []


def test_one_seed_has_an_interval_and_no_test():
    figures = one(compare({"a": runs(OLD[:1]), "b": runs(NEW[:1])}, LABELS, resamples=200))
    assert figures["sd"] is figures["p"] is figures["detectable"] is None
    assert figures["interval"][0] <= figures["mean"] <= figures["interval"][1]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_scores_are_those_of_the_plain_functions(seeds, rows, classes, seed):
    rng = np.random.default_rng(seed)
    labels, found = rng.integers(0, classes, rows), rng.integers(0, classes, (seeds, rows))
    labels[:1], found[0, -1] = classes - 1, 0
    arms = compare({"a": list(found)}, labels, resamples=100)["arms"]["a"]
    assert arms["accuracy"]["values"] == pytest.approx([accuracy(run, labels) for run in found])
    # classes that no arm names are unknown to ``compare``
    used = np.unique(np.concatenate([labels, found.ravel()]))
    dense = [macro_f1(np.searchsorted(used, run), np.searchsorted(used, labels), len(used)) for run in found]
    assert arms["macro_f1"]["values"] == pytest.approx(dense)


def test_macro_f1_of_a_resample():
    """Resampling rows is the same as scoring the repeated rows."""
    rng = np.random.default_rng(3)
    labels, found = rng.integers(0, 3, 12), rng.integers(0, 3, 12)
    drawn = rng.integers(0, 12, 12)
    from fastmask.train.evaluate import _scores, _Table

    weights = np.bincount(drawn, minlength=12)[None].astype(np.float32)
    score = _scores(_Table(found[None], labels, np.arange(3)), weights)
    assert score["macro_f1"][0, 0] == pytest.approx(macro_f1(found[drawn], labels[drawn], 3))
    assert score["accuracy"][0, 0] == pytest.approx(accuracy(found[drawn], labels[drawn]))


def test_detectable_difference_against_the_tables():
    """The textbook's case: a standardised difference of 0.5 needs 34 pairs, 33 are too few."""
    assert detectable_difference(1.0, 34) < 0.5 < detectable_difference(1.0, 33)
    assert detectable_difference(0.02, 10) == pytest.approx(2 * detectable_difference(0.01, 10))


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_detectable_difference_against_simulation(seeds):
    rng, trials = np.random.default_rng(seeds), 20_000
    differences = rng.normal(detectable_difference(1.0, seeds), 1.0, (trials, seeds))
    power = (stats.ttest_1samp(differences, 0.0, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.012)


@pytest.mark.parametrize(
    ("arms", "labels", "said"),
    [
        ({"a": OLD, "b": NEW[:2]}, LABELS, "a has 3, b has 2"),
        ({"a": [[0, 1]]}, LABELS, "arm a: run 1 has 2 predictions for 4 test rows"),
        ({"a": []}, LABELS, "arm a: has no seed"),
        ({"a": [[]]}, LABELS[:0], "no test rows"),
        ({}, LABELS, "no arm"),
    ],
)
def test_arms_that_cannot_be_compared(arms, labels, said):
    with pytest.raises(FastmaskError, match=said):
        compare({name: runs(found) for name, found in arms.items()}, labels)


@pytest.fixture
def labelled(tmp_path) -> str:
    return write_jsonl(tmp_path / "test.jsonl", [{"text": f"t{n}", "label": int(n)} for n in LABELS])


@pytest.fixture
def arm_files(tmp_path) -> list[str]:
    for name, lists in (("old", OLD), ("new", NEW)):
        for number, values in enumerate(lists):
            (tmp_path / f"{name}-{number}.txt").write_text("".join(f"{value}\n" for value in values))
    return ["--arm", f"old={tmp_path}/old-*.txt", "--arm", f"new={tmp_path}/new-*.txt"]


def test_command_on_prediction_files(labelled, arm_files, tmp_path):
    out, picture = tmp_path / "report.json", tmp_path / "picture.png"
    result = fastmask("evaluate", *arm_files, "--test", labelled, "--json", out, "--picture", picture,
                      "--resamples", "200")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    report = json.loads(out.read_text())
    expected = compare({"old": runs(OLD), "new": runs(NEW)}, LABELS, resamples=200)
    assert {key: report[key] for key in expected} == expected
    assert report["runs"]["old"] == [str(tmp_path / f"old-{n}.txt") for n in range(3)]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "new - old" in result.stdout and "+25.00" in result.stdout and "percentiles" in result.stdout
    assert "old-0.txt: accuracy 0.5000" in result.stderr


def test_command_on_models(mr_tiny, restaurant_tiny, golden_dir, tmp_path, said):
    """A real model's answers are those of the authors' scripts; as both arms it differs from itself by nothing."""
    rows = [row for row in golden(golden_dir, "mr_tiny_0.05") if len(row["sentences"]) == 1][:40]
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": row["text"], "label": row["label"]} for row in rows])
    config = EvaluateConfig((f"a={mr_tiny}", f"b={mr_tiny}"), path, resamples=100)
    report = evaluate(config)
    assert report["arms"]["a"]["accuracy"]["values"] == [np.mean([row["sentences"][0]["correct"] for row in rows])]
    assert one(report)["interval"] == [0, 0] and ["accuracy" in line for line in said.messages] == [False, True] * 2
    other = fastmask("evaluate", "--arm", f"a={mr_tiny}", "--arm", f"b={restaurant_tiny}", "--test", path)
    assert "its classes are" in refusal(other)


def test_runs_are_paired_by_their_seeds(tmp_path):
    for arm, seeds in (("a", (83, 13)), ("b", (13, 83)), ("c", (13, 43))):
        for number, seed in enumerate(seeds):
            folder = tmp_path / arm / str(number)
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps({"config": {"seed": seed}}))
    found = find_runs([f"{arm}={tmp_path}/{arm}/*" for arm in "ab"])
    assert [[(run.path.name, run.seed) for run in found[arm]] for arm in "ab"] == [
        [("1", 13), ("0", 83)], [("0", 13), ("1", 83)],
    ]  # fmt: skip
    with pytest.raises(FastmaskError, match=r"a has seeds \[13, 83\], c has \[13, 43\]"):
        find_runs([f"a={tmp_path}/a/*", f"c={tmp_path}/c/*"])


def test_a_pattern_that_catches_another_arm_is_named(tmp_path):
    for name in ("masker-13", "masker-control-13"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text('{"config": {"seed": 13}}')
    wide, control = f"masker={tmp_path}/masker-*", f"control={tmp_path}/masker-control-*"
    with pytest.raises(FastmaskError, match=r"masker-13 and .*masker-control-13 have one seed, 13"):
        find_runs([wide])
    with pytest.raises(FastmaskError, match=r"--arm masker=.*: .*masker-control-13 is a run of control, too"):
        find_runs([control, wide])
    assert len(find_runs([f"masker={tmp_path}/masker-[0-9]*", control])) == 2


def test_bad_input_is_one_line(labelled, arm_files, tmp_path):
    assert "give NAME=PATH" in refusal(fastmask("evaluate", "--arm", "old", "--test", labelled))
    missing = refusal(fastmask("evaluate", "--arm", f"a={tmp_path}/nothing*", "--test", labelled))
    assert "no such file or directory" in missing
    (tmp_path / "bad.txt").write_text("0\n1\n7\n0\n")
    bad = refusal(fastmask("evaluate", "--arm", f"a={tmp_path}/bad.txt", "--test", labelled))
    assert f"{tmp_path}/bad.txt:3" in bad and '"7" is not one of the classes' in bad
    (tmp_path / "short.txt").write_text("0\n1\n")
    short = fastmask("evaluate", "--arm", f"a={tmp_path}/short.txt", "--test", labelled)
    assert "run 1 has 2 predictions for 4 test rows" in short.stderr and short.exit_code == 1
    lost = fastmask("evaluate", *arm_files, "--test", labelled, "--json", tmp_path / "no" / "r.json")
    assert "cannot write" in lost.stderr and lost.exit_code == 1
    with pytest.raises(FastmaskError, match="cannot be read"):
        read_predictions(tmp_path, Classes(("a", "b")))


def test_packages_that_are_missing_are_named(monkeypatch, tmp_path):
    report = compare({"a": runs(OLD)}, LABELS, resamples=100)
    for name in ("scipy", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FastmaskError, match=r"needs scipy; pip install 'fastmask\[evaluate\]'"):
        compare({"a": runs(OLD)}, LABELS)
    with pytest.raises(FastmaskError, match="needs matplotlib"):
        draw(report, str(tmp_path / "p.png"))


def test_pictures_of_any_report(tmp_path):
    report = compare({"a": runs(OLD)}, LABELS, resamples=100)
    draw(report, str(tmp_path / "one.svg"))
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()
    with pytest.raises(FastmaskError, match="nothing"):
        draw(report, str(tmp_path / "one.nothing"))


def test_holm_by_hand():
    """0.01 times 4, 0.02 times 3, 0.03 times 2 (no less than the one before it), 0.04 times 1 (likewise)."""
    assert holm([0.03, 0.01, None, 0.04, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06], nan_ok=True)
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([None]) == [None]


def arms_of(number: int, seeds: int = 3) -> dict:
    rng = np.random.default_rng(number)
    return {f"arm-{n}": [rng.integers(0, 2, 30) for _ in range(seeds)] for n in range(number)}


def test_every_pair_counts_as_a_comparison():
    report = compare(arms_of(4), np.zeros(30, int), resamples=100)
    for metric in METRICS:
        figures = [entry[metric] for entry in report["differences"]]
        assert len(figures) == 6 and [one["p_holm"] for one in figures] == holm([one["p"] for one in figures])
        least = min(figures, key=lambda one: one["p"])
        assert least["p_holm"] == pytest.approx(min(1, 6 * least["p"]))


def test_two_seeds_have_no_p():
    report = compare(arms_of(2, seeds=2), np.zeros(30, int), resamples=100)
    figures = one(report)
    assert figures["p"] is figures["p_holm"] is None and figures["detectable"] > 0
    (line,) = statements(report)
    assert "p = " not in line and "2 seeds could have shown" in line
    (line,) = statements(compare(arms_of(2), np.zeros(30, int), resamples=100))
    assert "p = " in line and "by Holm" in line


def with_equal_work(report: dict, *pairs) -> dict:
    for entry in report["differences"]:
        is_equal = (entry["arm"], entry["baseline"]) in pairs
        entry["work"] = {"equal": "every step" if is_equal else None, "tokens": 1.0, "masked": 0.5}
    return report


def test_of_many_arms_those_with_equal_work_come_first():
    report = with_equal_work(compare(arms_of(7), np.zeros(30, int), resamples=100), ("arm-6", "arm-2"))
    assert [entry["arm"] for entry in chief_differences(report)] == ["arm-6"]
    assert not list(statements(report))
    console = make_console()
    console.width = 80
    with console.capture() as shown:
        console.print(tables(report))
    lines = [line.split() for line in shown.get().splitlines() if line.startswith("arm-") and " - " in line]
    assert len(lines) == 1 and lines[0][:3] == ["arm-6", "-", "arm-2"] and lines[0][-2:] == ["equal", "work"]
    assert "20 more pairs, which had not equal work, are in the JSON report" in shown.get()
    few = with_equal_work(compare(arms_of(3), np.zeros(30, int), resamples=100), ("arm-1", "arm-0"))
    assert len(chief_differences(few)) == 3
    with console.capture() as shown:
        console.print(tables(few))
    lines = [line for line in shown.get().splitlines() if "accuracy" in line or "macro-F1" in line][1:]
    assert len(lines) == 6 and lines[1].startswith("equal work") and lines[3].startswith("1x tokens, 0.5x masks")
    none = compare(arms_of(7), np.zeros(30, int), resamples=100)
    assert {entry["baseline"] for entry in chief_differences(none)} == {"arm-0"} and len(chief_differences(none)) == 6


@pytest.mark.parametrize(("number", "length"), [(2, 60), (6, 5), (16, 60)])
def test_no_name_in_a_picture_lies_over_another(number, length):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [f"{n:-<{length}}" for n in range(number)]
    report = compare(dict(zip(names, arms_of(number).values(), strict=True)), np.zeros(30, int), resamples=100)
    figure = _drawn(report, Figure(layout="constrained"))
    FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for axes in figure.axes for label in axes.get_yticklabels()]
    frames = [axes.get_window_extent() for axes in figure.axes]
    assert len(boxes) == number + {2: 1, 6: 15, 16: 15}[number]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert not any(box.overlaps(frame) for box in boxes for frame in frames)
    assert all(frame.width > 150 and box.x0 >= 0 for frame in frames for box in boxes)
