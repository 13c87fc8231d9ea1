"""What the renderables look like at 80 columns, piped and on a terminal."""

import io
import json
import re

import pytest
from helpers import fastmask, write_jsonl
from rich.console import Console
from shard_samples import FIELDS, IDENTITY, config, sample

from fastmask.core.config import METHODS
from fastmask.report.certificate import in_short
from fastmask.report.highlight import surfaces
from fastmask.report.screen import clean, make_console
from fastmask.report.terminal import sentence_table, sentence_text, summary
from fastmask.scoring.method import method_named
from fastmask.shards.schema import build_manifest, make_header, shard_entry
from fastmask.shards.table import shard_bytes, to_table

TOKENS = ["A", " great", " mov", "ie", " [UNK]"]
IMPORTANCE = [0.3, -0.4, 0.1, 0.2, 0.3]


def rendered(renderable, **options) -> str:
    stream = io.StringIO()
    Console(file=stream, width=80, **options).print(renderable)
    return stream.getvalue()


def manifest(skipped=(), **options) -> dict:
    entry = shard_entry(0, sample(0), shard_bytes(to_table(sample(0)))) | {"skipped": list(skipped)}
    return build_manifest(make_header(config(**options), IDENTITY), [entry], **FIELDS)


def test_masked_tokens_are_marked_without_colour():
    assert rendered(sentence_text(TOKENS, IMPORTANCE, [1, 3], large_is_important=False)) == "A [great] mov[ie] [UNK]\n"


def colours(text) -> dict[str, str]:
    return {text.plain[span.start : span.end]: str(span.style) for span in text.spans}


@pytest.mark.parametrize("method", METHODS)
def test_the_most_important_token_has_the_strongest_colour(method):
    large = method_named(method).large_is_important
    found = colours(sentence_text(["low", " middle", " high"], [-0.4, 0.0, 0.3], [], large_is_important=large))
    most, least = ("low", "high") if method in ("greedy", "prefix", "random") else ("high", "low")
    assert found[most] == "black on #ff1e1e"
    assert found["middle"].startswith("black on #ff") and found["middle"] != found[most]
    assert least not in found


def test_colour_reaches_a_terminal_and_nothing_else():
    text = sentence_text(TOKENS, IMPORTANCE, [1], large_is_important=False)
    assert "\x1b[" in rendered(text, force_terminal=True, color_system="truecolor")
    assert "\x1b[" not in rendered(text)


@pytest.mark.parametrize("importance", [None, [0.5] * 5, [float("nan")] * 5])
def test_no_colour_where_nothing_stands_out(importance):
    text = sentence_text(TOKENS, importance, [4], large_is_important=False)
    assert "on #" not in str(text.spans) and text.plain.endswith("[[UNK]]")


def test_empty_sentence():
    assert sentence_text([], [], [], large_is_important=False).plain == ""
    assert "token" in rendered(sentence_table([], [], []))


def test_long_sentences_wrap_at_80_columns():
    text = sentence_text([" wonderful"] * 60, [0.1] * 60, range(0, 60, 2), large_is_important=False)
    lines = rendered(text).splitlines()
    assert len(lines) > 5 and max(map(len, lines)) <= 80


def test_tokens_are_never_markup_or_control_codes():
    tokens = ["[red]", " \x1b[31m", " \x07"]
    assert rendered(sentence_text(tokens, None, [], large_is_important=False)) == "[red] �[31m �\n"
    table = rendered(sentence_table(tokens, None, []))
    assert "\x1b" not in table and "[red]" in table


def test_table_of_a_sentence():
    lines = [line.split() for line in rendered(sentence_table(TOKENS, IMPORTANCE, [1])).splitlines()]
    assert lines[0] == ["token", "importance"]
    assert lines[2] == ["1", "great", "-0.4000", "masked"]
    assert lines[4] == ["3", "ie", "+0.2000"]
    assert rendered(sentence_table(TOKENS, None, [])).splitlines()[1].split() == ["0", "A", "-"]


def test_summary_tells_what_is_there():
    text = rendered(summary(manifest(), "masks are exact"))
    found = dict(re.split("  +", line.rstrip()) for line in text.splitlines())
    assert found["documents"] == "20" and found["method"] == "greedy" and found["threshold"] == "0.05"
    assert found["model"] == "mr-tiny" and found["precision"] == "bfloat16" and found["device"] == "auto"
    assert found["certified"] == "masks are exact" and "eps" not in text
    assert found["sentences"].startswith("20 (") and "of the tokens" in found["masked"]
    assert found["skipped"] == "0 documents"


def test_a_certificate_in_a_line():
    two = {"eps": {"bfloat16": 0.00031, "float32": 2e-5}, "decisions": 12000, "audited": 40, "flips": 0,
           "rechecked": {"float32": 864, "float64": 6}}  # fmt: skip
    line = "12,000 decisions, 7.20% checked again in float32, 0.05% checked again in float64; error bound 0.00031 in "
    line += "bfloat16"
    assert in_short(two, {}) == f"masks are exact: {line}"
    assert in_short(two | {"flips": 2}, {}).endswith("; 2 of 40 checked at random came out otherwise")
    assert in_short(two, {}, "float32") == f"masks are as exact as float32 is: {line}"
    assert "as bfloat16 gives them" in in_short(two, {"certify": False})
    assert in_short({"eps": {}, "decisions": 0}, {}) == in_short({}, {}) != in_short(two, {})


def test_summary_shows_the_first_skipped_messages_in_80_columns():
    messages = [f"corpus-with-a-long-name.jsonl:{i}: [bold]no text[/bold] " + "x" * 80 for i in range(9)]
    text = rendered(summary(manifest(messages, stop_words="/very/long" * 20), "no model"))
    assert max(map(len, text.splitlines())) <= 80
    assert "9 documents" in text and "jsonl:4: [bold]" in text and "jsonl:5" not in text and "  ..." in text


def test_masked_scores_name_each_masked_token_and_its_score():
    from fastmask.report.terminal import masked_scores

    assert rendered(masked_scores(["a", " b", "c"], [0.5, -0.25, 0.01], [1, 2])).strip() == "b -0.250, c +0.010"
    assert rendered(masked_scores(["a"], None, [])).strip() == "not scored"
    assert rendered(masked_scores(["a"], [0.5], [])).strip() == "nothing masked"


def test_surfaces_are_the_text():
    text = "A  great café\n ☕!"
    # spaces count to no token; the cup's three bytes are three tokens
    spans = [(0, 1), (3, 3), (3, 8), (9, 11), (11, 13), (15, 16), (15, 16), (15, 16), (16, 17)]
    assert surfaces(text, spans) == ["A", "  ", "great", " ca", "fé", "\n ☕", "", "", "!"]
    assert "".join(surfaces(text, spans)) == text
    shown = rendered(sentence_text(surfaces(text, spans), None, [2, 4], large_is_important=False))
    assert shown == "A [great] ca[fé] ☕!\n"
    assert surfaces("", []) == []


EVIL = "a\x1b[31mb\x9b1mc\x07\r\n\u202e"


def test_clean_leaves_words_and_nothing_that_steers():
    assert clean(EVIL) == "a\ufffd[31mb\ufffd1mc\ufffd\ufffd\ufffd\ufffd"
    assert clean("été 中文 ☕ [red]") == "été 中文 ☕ [red]"


def test_the_console_cleans_whatever_it_is_given(monkeypatch):
    from rich.table import Table

    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    table = Table("[red]" + EVIL)
    table.add_row(EVIL)
    console = make_console()
    for renderable in (EVIL, table, "[bold]x[/bold] :smile:"):
        console.print(renderable)
    assert not set(stream.getvalue()) & set("\x1b\x9b\x07\r\u202e")
    assert "[bold]x[/bold] :smile:" in stream.getvalue() and "[red]" in stream.getvalue()


def test_a_sentence_that_is_not_scored_says_why(tmp_path, mr_tiny):
    rows = [{"text": "A dull, lifeless film.", "label": label} for label in ("positive", "negative")]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    assert fastmask("score", corpus, "-o", tmp_path / "out", "--model", mr_tiny).exit_code == 0
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["classes"] == ["negative", "positive"]
    shown = fastmask("inspect", tmp_path / "out", "--rows", "2").stdout
    assert shown.count("not scored: the classifier takes it for negative, its label is positive") == 1


def test_rows_without_text_are_counted(tmp_path):
    (tmp_path / "c.txt").write_text("A film.\n\n \nAnother.\n")
    result = fastmask("score", tmp_path / "c.txt", "-o", tmp_path / "out", "--method", "random")
    assert re.search(r"%\) in \d+ s; 2 rows without text left out\n", result.stderr)
    assert fastmask("report", tmp_path / "out", "-o", tmp_path / "r.html", "-q").exit_code == 0
    assert "No row was left out, but for 2 rows without text." in (tmp_path / "r.html").read_text()
    assert "4 (2 of them without text)" in fastmask("inspect", tmp_path / "out").stdout
    (tmp_path / "d.jsonl").write_text('{"text": "A film."}\n{"text": 3}\n{"text": ""}\n')
    options = "-o", tmp_path / "other", "--method", "random", "--on-error", "skip"
    result = fastmask("score", tmp_path / "d.jsonl", *options)
    assert "; 1 row without text left out; 1 row skipped" in result.stderr


@pytest.mark.parametrize(("method", "said"), [
    ("greedy", "below 0.05 a token is masked"), ("leave-one-out", "from 0.05 on a token is masked"),
    ("gradient", "the best 15% of a sentence are masked"),
])  # fmt: skip
def test_explain_says_how_to_read_it(method, said):
    result = fastmask("explain", "I love this place", "--method", method)
    assert said in " ".join(result.stdout.split()) and "class positive, P = 0." in result.stdout
