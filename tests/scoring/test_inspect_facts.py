"""``inspect --top`` and ``--json``: counts by hand, the same in words and as JSON."""

import json

import pytest
from helpers import fastmask, refusal
from page_samples import toy_model, write_sentences

from fastmask.shards.schema import read_manifest

WORDS = ["good", "film", "dull", "re", "make", "."]
GOOD, FILM, DULL, RE, MAKE, STOP = range(6)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    """Four sentences in two shards: of classes 1, 1 (the classifier's, without a label), 0, and none."""
    folder = tmp_path_factory.mktemp("facts")
    return write_sentences(
        folder / "out", toy_model(folder / "toy", WORDS),
        [[GOOD, FILM, GOOD, STOP], [GOOD, RE, MAKE, FILM, STOP], [FILM, DULL], [FILM]], [[0, 2], [0, 2], [1], []],
        [[-0.5, 0.25, 0.0, 1.0], [0.5, 0.5, -0.25, 0.75, float("nan")], [0.0, 1.0], None],
        word=[[0, 1, 2, 3], [0, 1, 1, 2, 3], [0, 1], [0]], shards=2,
        label=[1, -1, 0, -1], predicted=[1, 1, 0, -1], prob=[0.9, 0.6, 0.3, float("nan")],
    )  # fmt: skip


def as_json(*arguments) -> dict:
    done = fastmask("inspect", *arguments, "--json")
    assert done.exit_code == 0 and done.stderr == "" and done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_the_most_masked_words(out):
    (found,) = as_json(out, "--top", 2)["top"]
    assert found == {"class": None, "all_counted": True, "words": [
        {"word": "good", "masked": 3, "uses": 3, "share": 1.0},
        {"word": "dull", "masked": 1, "uses": 1, "share": 1.0}]}  # fmt: skip
    lines = [line.split() for line in fastmask("inspect", out, "--top", 9).stdout.splitlines()]
    at = lines.index(["most", "masked", "masked", "of", "uses", "share"])
    assert lines[at + 1 :] == [["good", "3", "3", "100.0%"], ["dull", "1", "1", "100.0%"],
                               ["re", "make", "1", "1", "100.0%"]]  # fmt: skip


def test_the_most_masked_words_of_each_class(out):
    found = as_json(out, "--top", 1, "--by-class")["top"]
    words = {one["class"]: [(w["word"], w["masked"], w["uses"]) for w in one["words"]] for one in found}
    assert words == {"good": [("good", 3, 3)], "bad": [("dull", 1, 1)], "no class": []}
    assert next(iter(words)) == "good"  # which has the most sentences
    shown = fastmask("inspect", out, "--top", 1, "--by-class").stdout
    assert shown.index("most masked in good") < shown.index("most masked in bad")


def test_json_has_what_the_listing_has(out):
    found, manifest = as_json(out, "--rows", 2), read_manifest(out)
    assert found.keys() == {"directory", "format_version", "fastmask_version", "config", "model", "totals", "empty",
                            "masked_share", "device", "precision", "classes", "certified", "certificate", "skipped",
                            "rows"}  # fmt: skip
    assert found["directory"] == out and found["masked_share"] == 5 / 12 and found["empty"] == 0
    for key in ("totals", "config", "model", "certificate", "skipped", "classes"):
        assert found[key] == manifest[key]
    first, second = found["rows"]
    assert [token.strip() for token in first["tokens"]] == ["good", "film", "good", "."]
    assert first["mask_index"] == [0, 2] and first["importance"] == [-0.5, 0.25, 0.0, 1.0] and first["label"] == 1
    assert second["importance"][-1] is None and second["label"] is None  # JSON has no NaN


def test_a_certificate_of_another_kind_is_no_claim(out):
    assert as_json(out)["certified"] == "the certificate cannot be read"
    assert "masks are exact" not in fastmask("inspect", out).stdout


def test_a_real_run_says_that_its_masks_are_exact(mr_tiny, tmp_path):
    (tmp_path / "corpus.txt").write_text("A warm and funny film.\n")
    assert fastmask("score", tmp_path / "corpus.txt", "--model", mr_tiny, "-o", tmp_path / "out").exit_code == 0
    found = as_json(tmp_path / "out")
    decisions, again = found["certificate"]["decisions"], found["certificate"]["rechecked"]["float64"]
    assert found["certified"].startswith(f"masks are exact: {decisions} decisions, {again / decisions:.2%} checked ")
    shown = fastmask("inspect", tmp_path / "out").stdout
    assert "masks are exact: " in shown and "flips" not in shown and "eps" not in shown


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--by-class"], "--by-class: give --top N, too"),
        (["--top", -1], "--top -1: 0 or more"),
        (["--rows", -1], "--rows -1: 0 or more"),
        (["--compare", "x", "--top", 1], "--compare: not together with --rows or --top"),
    ],
)
def test_options_that_do_not_fit(options, reason, out):
    assert reason in refusal(fastmask("inspect", out, *options))
