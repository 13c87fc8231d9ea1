"""A report that another recipe's would replace: kept where it tells something that the new one does not."""

import pytest
from helpers import write_jsonl
from played_run import RECIPE, play

from fastmask.experiment.run import Run


@pytest.fixture
def run(tmp_path, monkeypatch, mr_tiny, caplog):
    """Run the recipe, of some seeds, methods and test rows; return what it said and the reports that there are."""
    monkeypatch.chdir(tmp_path)
    play(monkeypatch)
    rows = [{"text": f"film {n}", "label": n % 2} for n in range(4)]
    write_jsonl(tmp_path / "train.jsonl", rows)

    def now(seeds="1, 2", methods="'masker'", rows=rows, overwrite=False) -> tuple[list[str], list[str]]:
        write_jsonl(tmp_path / "test.jsonl", rows)
        text = RECIPE.format(model=mr_tiny, train="train.jsonl", lr=1e-4).replace("seeds = [1]", f"seeds = [{seeds}]")
        text = text.replace('test = "train.jsonl"', 'test = "test.jsonl"')
        (tmp_path / "r.toml").write_text(f"methods = [{methods}]\n{text}")
        caplog.clear()
        with Run("r.toml", overwrite) as steps:
            steps.run()
        kept = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
        return kept, sorted(path.name for path in (tmp_path / "run").glob("report*"))

    return now


def test_more_seeds_and_arms_replace_it(run, tmp_path):
    run()
    assert run() == run(seeds="1, 3, 2") == run("1, 2, 3", "'greedy', 'masker'") == ([], ["report"])
    assert '"greedy-control"' in (tmp_path / "run/report/report.json").read_text()


@pytest.mark.parametrize("change", [{"seeds": "1"}, {"methods": "'greedy'"}, {"rows": [{"text": "a", "label": 1}] * 2}])
def test_what_leaves_something_out_does_not(run, tmp_path, change):
    run()
    before = (tmp_path / "run/report/report.json").read_bytes()
    assert run(**change) == (
        ["run/report: was of other seeds, arms or settings, and is kept as run/report-earlier-1"],
        ["report", "report-earlier-1"],
    )
    assert (tmp_path / "run/report-earlier-1/report.json").read_bytes() == before
    assert run(**change) == ([], ["report", "report-earlier-1"])


def test_a_page_that_is_gone_is_made_again(run, tmp_path):
    run()
    (tmp_path / "run/report/index.html").unlink()
    assert run() == ([], ["report"]) and (tmp_path / "run/report/index.html").is_file()


def test_notes_in_it_are_kept_and_overwrite_replaces_it(run, tmp_path):
    run()
    report = tmp_path / "run/report/report.json"
    for _ in range(2):
        report.write_bytes(report.read_bytes() + b"\n")
        run()
    assert run(seeds="1", overwrite=True) == ([], ["report", "report-earlier-1", "report-earlier-2"])
