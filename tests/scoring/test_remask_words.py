"""``remask`` of runs that go by words: the bytes of ``score``, from what was counted."""

import json
from pathlib import Path

import pytest
from helpers import contents, edit, refusal
from test_remask import remask
from test_remask_again import MANIFEST, masks
from word_samples import TEXTS, labelled

from fastmask.core.config import ScoreConfig
from fastmask.pipeline import score_corpus


@pytest.fixture(scope="module")
def words(tmp_path_factory, mr_tiny):
    """A function from options to a run by words, and the folder of its files."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "background.txt").write_text("here is a plot\nwhat is said of the acting is nothing\n" * 3)
    (folder / "list.txt").write_text("good\nbad\nfun\n")
    corpus = labelled(folder, TEXTS)
    own = {"word-list": {"words": str(folder / "list.txt")},
           "difference": {"background": (str(folder / "background.txt"),), "anchors": 2}}  # fmt: skip

    def scored(out, method, **options) -> Path:
        config = ScoreConfig(model=mr_tiny, method=method, shard_rows=3, **own.get(method, {}), **options)
        score_corpus([corpus], str(out), config)
        return out

    return scored, folder


BY_WORD = [{"mask_rate": 0.5}, {"unit": "word", "mask_rate": 0.3}, {"stop_words": "none"}, {"keep_punctuation": True}]


@pytest.mark.parametrize("options", BY_WORD, ids=str)
@pytest.mark.parametrize("method", ["log-odds", "word-list", "difference"])
def test_words_need_no_model(method, options, words, tmp_path):
    scored, _ = words
    source, fresh = scored(tmp_path / "source", method), scored(tmp_path / "fresh", method, **options)
    done = remask(source, tmp_path / "out", **options)
    assert done.exit_code == 0, done.output
    found, expected = contents(tmp_path / "out"), contents(fresh)
    for files in (found, expected):
        files.pop("_plan.json")
    both = [json.loads(files.pop(MANIFEST)) for files in (found, expected)]
    assert both[0].pop("remasked") and both[1].pop("repeat") and both[0] == both[1]
    assert found == expected and "_statistics.jsonl" in found
    assert "means nothing to this method, which has a rate" in refusal(remask(source, tmp_path / "x", threshold=0.1))


def test_what_words_were_counted_by(words, tmp_path):
    scored, folder = words
    source, fresh = scored(tmp_path / "source", "difference"), scored(tmp_path / "fresh", "difference", mask_rate=0.5)
    background = folder / "background.txt"
    before = background.read_bytes()
    background.write_text("other words\n")
    try:
        refused = refusal(remask(source, tmp_path / "x", stop_words="none"))  # which anchors follow from
        assert "what its masks follow from has changed (background_files); score again" in refused
        assert remask(source, tmp_path / "out", mask_rate=0.5).exit_code == 0
    finally:
        background.write_bytes(before)
    assert masks(tmp_path / "out") == masks(fresh) != masks(source)
    edit(source / MANIFEST, lambda content: content["certificate"].pop("statistics"))
    assert "says nothing of the statistics of its words" in refusal(remask(source, tmp_path / "y", mask_rate=0.3))
