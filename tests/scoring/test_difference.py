"""Method difference: TF-ICF and anchors by hand, and similarity to the nearest one."""

from math import log

import pytest
from helpers import fastmask, refusal, rows_of
from word_samples import labelled, run, statistics

CORPUS = [("film film plot", None), ("the film is fun", None)]
BACKGROUND = "the plot is here\nthe fun\n"


@pytest.fixture
def given(tmp_path, mr_tiny) -> dict:
    (tmp_path / "b.txt").write_text(BACKGROUND)
    (tmp_path / "v.txt").write_text("film 1 0\nplot 3 4\nfun 4 3\nthe 1 0\n")
    return {"model": mr_tiny, "method": "difference", "background": (str(tmp_path / "b.txt"),), "anchors": 1,
            "vectors": str(tmp_path / "v.txt")}  # fmt: skip


def test_by_hand(tmp_path, given):
    """Seven words here, six there: film 3 / 7 log 7, plot and fun 1 / 7 log 3.5. The anchor is film."""
    run(labelled(tmp_path, CORPUS), tmp_path / "o", **given, mask_rate=0.4)
    found = statistics(tmp_path / "o")
    assert found["film"] == {"count": 3, "score": 1.0, "tf_icf": pytest.approx(3 / 7 * log(7))}
    scores = {word: row["score"] for word, row in found.items()}
    assert scores == pytest.approx({"film": 1, "plot": 0.6, "fun": 0.8, "the": 1, "is": None})
    assert [*found] == ["film", "the", "fun", "plot", "is"]  # the best first, of two that are equal by the alphabet
    lines = (tmp_path / "o" / "_statistics.jsonl").read_text().splitlines()
    assert lines[1] == '{"word": "the", "count": 1, "score": 1.0}' and lines[4].endswith('"score": null}')
    first, second = rows_of(tmp_path / "o")
    assert first["importance"] == pytest.approx([1, 1, 0.6]) and first["mask_index"] == [0]  # 0.4 of 3 tokens is 1
    assert second["importance"] == pytest.approx([1, 1, 0, 0.8]) and second["mask_index"] == [1]  # no stop word
    assert first["mask_prob"] is None


def test_more_anchors(tmp_path, given):
    """plot is as frequent here, 1 of 7, as there, 1 of 6, or less: no anchor. So are the stop words."""
    run(labelled(tmp_path, CORPUS), tmp_path / "o", **given | {"anchors": 9})
    assert [word for word, row in statistics(tmp_path / "o").items() if "tf_icf" in row] == ["film"]
    (tmp_path / "b.txt").write_text("the a is here\n")
    run(labelled(tmp_path, CORPUS), tmp_path / "p", **given | {"anchors": 2})
    found = statistics(tmp_path / "p")
    assert {word: row["tf_icf"] for word, row in found.items() if "tf_icf" in row} == pytest.approx(
        {"film": 3 / 7 * log(5), "fun": 1 / 7 * log(5)}
    )  # of two that are equal the first in the alphabet
    assert found["plot"]["score"] == pytest.approx(0.96)


def test_several_files_of_background(tmp_path, given):
    (tmp_path / "x.txt").write_text("the plot is here\n")
    (tmp_path / "y.jsonl").write_text('{"text": "the fun"}\n')
    run(labelled(tmp_path, CORPUS), tmp_path / "o", **given)
    both = (str(tmp_path / "x.txt"), str(tmp_path / "y.jsonl"))
    run(labelled(tmp_path, CORPUS), tmp_path / "p", **given | {"background": both})
    assert statistics(tmp_path / "p") == statistics(tmp_path / "o")


def said(folder, given) -> str:
    options = "--model", given["model"], "--background", given["background"][0], "--vectors", given["vectors"]
    return refusal(fastmask("score", labelled(folder, CORPUS), "-o", folder / "o", "--method", "difference", *options))


def test_nothing_differs(tmp_path, given):
    (tmp_path / "b.txt").write_text("film film plot\nthe film is fun\n")
    assert "no word is more frequent in the corpus than there" in said(tmp_path, given)


def test_another_background_is_another_run(tmp_path, given):
    run(labelled(tmp_path, CORPUS), tmp_path / "o", **{**given, "anchors": None})
    (tmp_path / "b.txt").write_text(BACKGROUND + "more\n")
    assert "background_files[0] has other content" in said(tmp_path, given)


def test_no_anchor_has_a_vector(tmp_path, given):
    (tmp_path / "v.txt").write_text("plot 3 4\n")
    assert "has a vector for none of the anchors" in said(tmp_path, given)
