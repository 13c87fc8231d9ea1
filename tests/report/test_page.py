"""``fastmask report``: what the page says, for every kind of directory; its size; nothing from data but text."""

import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import edit, fastmask, golden, refusal, write_jsonl
from page_samples import HOSTILE, KNOWN, Page, toy_model, write_sentences
from shard_samples import as_format_1, write_part

from fastmask.report.charts import importance_chart, places_chart, shares_chart
from fastmask.report.overview import Bin, Place
from fastmask.report.page import page
from fastmask.scoring.overview import overview


def parsed(out, compare=None) -> tuple[str, Page]:
    """The page about a directory, after looks that every page must stand."""
    source = page(overview(str(out), compare and str(compare)))
    found = Page(source)
    assert found.tags <= KNOWN and len(source.encode()) < 2_000_000
    names = {name for name, _ in found.attributes}
    assert not names & {"style", "src", "srcset", "action"} and not any(name.startswith("on") for name in names)
    assert {value[:1] for name, value in found.attributes if name == "href" and value != "data:,"} == {"#"}
    assert len(found.ids) == len(set(found.ids))
    assert all(char.isprintable() or char == "\n" for char in source)
    return source, found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:30]]
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "reviews.jsonl", [*rows, {"text": None}])


def score(corpus, out, *options) -> str:
    done = fastmask("score", corpus, "-o", out, "--on-error", "skip", "-q", *options)
    assert done.exit_code == 0, done.stderr
    return str(out)


@pytest.fixture(scope="module")
def masks(tmp_path_factory, corpus, mr_tiny) -> str:
    return score(corpus, tmp_path_factory.mktemp("masks") / "greedy", "--model", mr_tiny)


def test_a_page_says_what_the_manifest_says(masks, tmp_path):
    done = fastmask("report", masks, "-o", tmp_path / "mine.html")
    assert done.exit_code == 0 and done.stderr.count("\n") == 1 and "mine.html" in done.stderr
    source = (tmp_path / "mine.html").read_text("utf-8")
    assert source == page(overview(masks))  # without times: the same again
    o, text = overview(masks), Page(source).text
    total = o.manifest["totals"]
    assert f"{total['masked']:,} of {total['tokens']:,}, in {o.masked_sentences} of {total['rows']} sentences" in text
    assert "threshold 0.05" in text and "below 0.05 a token is masked" in text and "classified right" in text
    assert "1 row was left out" in text and "reviews.jsonl" in text
    decisions = o.manifest["certificate"]["decisions"]
    assert f"{decisions:,} decisions" in text and "float32" in text and "--no-certify" not in text
    assert "--model" in text and "--on-error" in text and "Settings left at their defaults" in text


OPTIONS = {
    "leave-one-out": ["--threshold", "0.01"], "prefix": ["--unit", "word"], "random": [], "gradient": [],
    "log-odds": ["--mask-rate", "0.3"], "word-list": ["--words", "sentiment"],
}  # fmt: skip


@pytest.mark.parametrize("method", OPTIONS)
def test_every_kind_of_method_has_a_page(method, corpus, mr_tiny, masks, tmp_path):
    out = score(corpus, tmp_path / "out", "--method", method, "--model", mr_tiny, *OPTIONS[method])
    _, found = parsed(out, compare=masks)
    assert f"Method {method}" in found.text and "Beside greedy" in found.text
    assert ("This method gives tokens no importance" in found.text) == (method == "random")
    assert ("threshold" in found.text.split("How these masks were made")[0]) == (method in ("leave-one-out", "prefix"))
    assert ("nothing to certify" in found.text) == (method in ("random", "log-odds", "word-list"))


def test_aspects_unlabelled_text_and_what_was_made_of_a_run(tmp_path, corpus, mr_tiny, restaurant_tiny, masks):
    polarities = {"food": "positive", "service": "negative"}
    row = {"text": "The food was great but the service slow.",
           "aspects": [{"term": term, "polarity": polarity} for term, polarity in polarities.items()]}  # fmt: skip
    aspects = score(write_jsonl(tmp_path / "aspects.jsonl", [row]), tmp_path / "aspects", "--model", restaurant_tiny)
    (tmp_path / "plain.txt").write_text("Great coffee.\n\nTerrible parking, <b>no</b> view.\n", "utf-8")
    plain = score(tmp_path / "plain.txt", tmp_path / "plain", "--model", mr_tiny)
    old = as_format_1(masks, tmp_path / "old")
    assert fastmask("remask", masks, "-o", tmp_path / "again", "--unit", "word", "-q").exit_code == 0
    assert fastmask("remap", masks, "--tokenizer", restaurant_tiny, "-o", tmp_path / "mapped", "-q").exit_code == 0
    texts = {name: parsed(tmp_path / name)[1].text for name in ("aspects", "plain", "old", "again", "mapped")}
    assert (
        "Classes" not in texts["aspects"] and "Classes" in texts["plain"] and "classified right" not in texts["plain"]
    )
    assert "Masked tokens" in texts["old"] and "Masked words" in texts["again"]
    assert "fastmask remask" in texts["again"] and "tokens of another model" in texts["mapped"]
    assert aspects and plain and old


def test_words_classes_names_and_messages_stay_text(tmp_path):
    """Words, class names, file names and messages that would be markup, or would steer what shows them."""
    model = toy_model(tmp_path / "model", HOSTILE, classes=("<script>", "\u202e</h3>"))
    sentences = [list(range(len(HOSTILE)))] * 12
    out = write_sentences(
        tmp_path / "<script>alert(9)</script>".replace("/", "~"), model, sentences, [list(range(len(HOSTILE)))] * 12,
        label=[0, 1] * 6, identity={"inputs": [{"name": "<img src=x>\x1b]0;", "bytes": 3}]},
    )  # fmt: skip
    edit(tmp_path / out / "_manifest.json", lambda manifest: manifest.update(
        skipped={"count": 3, "messages": ["<script>x\u2066</script>" + "m" * 9999] * 3}))  # fmt: skip
    source, found = parsed(out)
    assert "<script" not in source and "<img" not in source and "</style>" not in source.split("<body>")[1]
    for word in (*HOSTILE[:5], "label <script>", "\ufffd</h3>"):
        assert word in found.text
    assert "\ufffdgnp.exe\ufffd" in found.text and "مرحبا" in found.text and "7*7" in found.text
    assert "W" * 100 not in found.text and "m" * 400 not in found.text


@pytest.mark.parametrize("kind", ["no tokens", "one sentence", "nothing masked", "all masked", "no numbers"])
def test_extreme_corpora(tmp_path, kind):
    model = toy_model(tmp_path / "model", ["a", "b"])
    sentences = {"no tokens": [[], []], "one sentence": [[0]]}.get(kind, [[0, 1]] * 3)
    masked = [list(range(len(s))) if kind == "all masked" else [] for s in sentences]
    values = [[np.nan] * len(s) for s in sentences] if kind == "no numbers" else None
    out = write_sentences(tmp_path / "out", model, sentences, masked, values)
    parsed(out, compare=out)


def test_the_largest_page_is_small(tmp_path):
    """Long sentences of long words that all have to be escaped, all masked, in many classes."""
    words = [f"\"'&<>{k}" + "'" * 400 for k in range(200)]
    model = toy_model(tmp_path / "model", words)
    sentences = [[(k * 7 + n) % 200 for n in range(400)] for k in range(80)]
    out = write_sentences(tmp_path / "out", model, sentences, [list(range(400)) if k % 2 else [] for k in range(80)],
                          label=[k // 2 for k in range(80)], prob=[0.5] * 80,
                          identity={"inputs": [{"name": "<" * 5000, "bytes": 3}] * 1000})  # fmt: skip
    source, found = parsed(out, compare=out)
    assert len(source) > 300_000 and "more tokens" in found.text and "990 more files" in found.text


def test_what_cannot_be_shown_is_said_in_a_line(tmp_path, masks):
    write_part(tmp_path / "part")
    assert "not finished" in refusal(fastmask("report", tmp_path / "part", "-o", tmp_path / "x.html"))
    assert "no such directory" in refusal(fastmask("report", tmp_path / "none", "-o", tmp_path / "x.html"))
    (tmp_path / "mine.html").write_text("<p>my own</p>")
    assert "no page of fastmask" in refusal(fastmask("report", masks, "-o", tmp_path / "mine.html"))
    assert "is a directory" in refusal(fastmask("report", masks, "-o", tmp_path))
    assert "cannot write" in refusal(fastmask("report", masks, "-o", tmp_path / "no" / "where.html"))
    other = score(write_jsonl(tmp_path / "few.jsonl", [{"text": "Few."}]), tmp_path / "other", "--method", "random")
    assert "another tokenizer" in refusal(fastmask("report", masks, "--compare", other, "-o", tmp_path / "x.html"))
    assert (tmp_path / "mine.html").read_text() == "<p>my own</p>" and not (tmp_path / "x.html").exists()
    for _ in range(2):  # a page is replaced
        assert fastmask("report", masks, "-o", tmp_path / "page.html", "-q").stderr == ""


def test_a_certificate_of_another_kind_is_left_out(masks, tmp_path):
    o = overview(masks)
    strange = replace(o, manifest=o.manifest | {"certificate": {"decisions": "<b>"}}, sound_certificate=False)
    assert " decisions" in Page(page(o)).text and "taken again" not in Page(page(strange)).text


def test_charts_by_hand():
    bars = shares_chart([8, 0, 4, 2]).bars
    assert [bar.height for bar in bars] == [150, 0, 75, 37.5] and bars[1].left == pytest.approx(27)
    assert shares_chart([0, 0]).bars[0].height == 0
    bins = [Bin(None, -0.5, 1, 0), Bin(-0.5, 0.0, 2, 2), Bin(0.0, 0.5, 0, 0), Bin(0.5, 1.0, 4, 1)]
    chart = importance_chart(bins, 0.25, masked=False)
    assert [bar.height for bar in chart.bars] == [25, 50, 0, 100] and chart.limit == (62.5, "threshold 0.25")
    assert [(left, text) for left, _, text in chart.ticks] == [(25, "−0.5"), (50, "0"), (75, "0.5"), (100, "1")]
    assert importance_chart(bins, -7.0, masked=True).limit[0] == 0
    assert places_chart([Place(1, 4, 1), Place(2, 4, 2)]).bars[0].height == 75


def test_the_style_is_the_one_that_the_policy_allows(masks):
    import base64
    import hashlib

    source, _ = parsed(masks)
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in source and "default-src 'none'" in source
