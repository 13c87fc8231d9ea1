"""Records and shards in a notebook: what they show, the table of tokens, the bar, the example from top to bottom."""

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers import edit, rows_of
from nbclient import NotebookClient
from page_samples import HOSTILE, toy_model, write_sentences
from shard_samples import as_format_1

import fastmask
from fastmask.core.errors import FastmaskError
from fastmask.report.notebook import Notebook, NotebookBar, notebook
from fastmask.report.progress import Meter

ROOT = Path(__file__).parents[2]
WORDS = ["good", "film", "dull"]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("out")
    model = toy_model(folder / "model", WORDS)
    sentences, masked = [[0, 1], [2, 1, 1], [1]], [[0], [0, 2], []]
    return write_sentences(folder / "masks", model, sentences, masked, [[-0.5, 0.25], [0.5, 1.0, -1.0], None],
                           shards=2, label=[1, -1, 0], predicted=[1, 0, 1], prob=[0.75, 0.5, 0.25])  # fmt: skip


def test_a_table_by_hand(out):
    frame = fastmask.to_pandas(out)
    expected = pd.DataFrame({
        "row": [0, 0, 1, 1, 1, 2], "sentence": [0] * 6, "position": [0, 1, 0, 1, 2, 0],
        "token": ["good", "film", "dull", "film", "film", "film"], "masked": [True, False, True, False, True, False],
        "word": [0, 1, 0, 1, 2, 0], "importance": [-0.5, 0.25, 0.5, 1.0, -1.0, np.nan],
        "label": ["good", "good", None, None, None, "bad"], "predicted": ["good"] * 2 + ["bad"] * 3 + ["good"],
        "prob": [0.75] * 2 + [0.5] * 3 + [0.25],
    })  # fmt: skip
    for name in expected:
        pd.testing.assert_series_equal(frame[name].astype(object), expected[name].astype(object), check_names=False)
    assert list(frame)[:6] == ["row", "sentence", "position", "token", "char_start", "char_end"]
    assert frame["mask_prob"].isna().all() and frame["importance"].dtype == np.float32
    assert [start for row in rows_of(out) for start in row["char_start"]] == frame["char_start"].tolist()
    assert fastmask.to_pandas(out, rows=2).equals(frame[:5].assign(**{
        name: frame[:5][name].cat.remove_unused_categories() for name in ("token", "label", "predicted")}))  # fmt: skip
    assert len(fastmask.to_pandas(out, rows=0)) == 0
    assert frame.groupby("token", observed=True)["masked"].sum().to_dict() == {"good": 1, "film": 1, "dull": 1}


def test_a_table_of_format_1_and_one_without_pandas(out, tmp_path, monkeypatch):
    old = fastmask.to_pandas(as_format_1(out, tmp_path / "old"))
    assert "word" not in old and "mask_prob" not in old and old["masked"].sum() == 3
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FastmaskError, match=r"needs pandas; pip install 'fastmask\[pandas\]'"):
        fastmask.to_pandas(out)


def test_records_show_themselves(mr_tiny):
    (record,) = fastmask.score(["A <b>good</b> film."], model=mr_tiny, stop_words="none", threshold=0.9)
    html = record._repr_html_()
    assert "<b>" not in html and "&lt;" in html and "<script" not in html
    shown = [record.text[slice(*record.spans[at])] for at in record.mask_index]
    assert shown and all(f">{word}</mark>" in html for word in shown if word.isalpha())
    assert f"importance {record.importance[0]:+.3f}".replace("-", "−") in html and f"P = {record.prob:.3f}" in html


def test_shards_show_themselves_also_without_their_tokenizer(out, tmp_path):
    shards = fastmask.open_shards(out)
    html = shards._repr_html_()
    assert "3 sentences, 6 tokens, 3 masked" in html and html.count("<mark") == 3 and "label bad" in html
    assert len(pickle.loads(pickle.dumps(shards))) == 3
    edit(Path(out) / "_manifest.json", lambda manifest: manifest["tokenizer"].update(name=str(tmp_path / "gone")))
    html = fastmask.open_shards(out)._repr_html_()
    assert "3 masked" in html and "is not here" in html and "<mark" not in html


def test_hostile_words_stay_text(tmp_path):
    model = toy_model(tmp_path / "model", HOSTILE)
    words = list(range(len(HOSTILE)))
    html = fastmask.open_shards(write_sentences(tmp_path / "<b>", model, [words], [words]))._repr_html_()
    assert "<script" not in html and "<img" not in html and "<b>" not in html and html.count("</style>") == 1
    assert not set(html) & set("\u202e\x1b")


def test_elsewhere_there_is_no_notebook(monkeypatch, capsys):
    assert notebook() is None and not isinstance(Meter.here()._console, Notebook)
    with Meter.here().running(2, 0):
        pass
    assert capsys.readouterr() == ("", "")  # standard error is no terminal
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    assert notebook() is not None and isinstance(Meter.here()._console, Notebook)


def test_a_bar_without_a_total():
    bar = NotebookBar()
    bar.add_task("", total=None, completed=3, unit="rows", figures="5 tokens/s")
    assert bar._html() == "<progress></progress> 3 rows 5 tokens/s"
    bar.update(0, completed=4)
    bar._fields["total"] = 0
    assert 'max="1" value="4"' in bar._html()


def test_the_example_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'kernels'}")
    book = nbformat.reads((ROOT / "examples" / "explore.ipynb").read_text("utf-8"), as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells)  # kept without what a run has left
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    nbformat.validate(book)
    shown = [[output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])] for cell in book.cells]
    assert sum(html.count("<mark") > 0 for html in shown[1]) == 2
    bar = next(html for html in shown[3] if "<progress" in html)
    assert "60 of 60 rows" in bar and "tokens/s" in bar and any("sentences" in html for html in shown[3])
    assert "<table" in shown[5][0] and "<table" in shown[6][0]
    assert not [output for cell in book.cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
