"""Sentences are spaCy's, to the character, whether or not spaCy was asked."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask.text.sentences import CLOSING, Segmenter

PIECES = [
    *"abA1 .?!\"'()-:;,…。！\n\t\u00a0",
    "Mr.",
    "U.S.",
    "e.g.",
    "a.m.",
    "  ",
    ":)",
    ";-)",
    "...",
    "..",
    "3.5",
    "can't",
    "http://x.com.",
    "\u2028",
    "።",
    "\x1c",
    "\x85",
    "'S",
    "10a.m.",
    "co.",
    "“",
    "”",
    "’s",
    "𝪈",
    "\u0300",
    "\u3000",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=16).map("".join) | st.text(max_size=30)
ENDINGS = st.tuples(st.text(max_size=20), st.text('!.?。！ \n።…"', max_size=6)).map("".join)


def spans_of(segmenter: Segmenter, text: str) -> list[tuple[int, int]]:
    return [tuple(span) for span in segmenter.split(text).tolist()]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("sentence")


@pytest.fixture(scope="module")
def spacy_split():
    from spacy.lang.en import English

    nlp = English()
    nlp.add_pipe("sentencizer")

    def split(text: str) -> list[tuple[int, int]]:
        pieces = [(s.start_char, text[s.start_char : s.end_char]) for s in nlp(text).sents]
        spans = [(start + len(p) - len(p.lstrip()), start + len(p.rstrip())) for start, p in pieces]
        return [span for span in spans if span[0] < span[1]]

    return split


@settings(max_examples=120, deadline=None)
@given(text=TEXTS | ENDINGS)
def test_sentences_are_spacys(segmenter, spacy_split, text):
    assert spans_of(segmenter, text) == spacy_split(text)


AFFIXES = [
    *"()[]{}<>$£=\"'`!?.,;:*&%°§+-_/\\@#^|~«»“”—…。・xX5",
    "..",
    "5km",
    "'s",
    "’S",
    "°C.",
    "US.",
    "e.",
    "a,b",
    "://",
]
RUNS = st.lists(st.sampled_from(AFFIXES), min_size=1, max_size=120).map("".join)


@settings(max_examples=120, deadline=None)
@given(run=RUNS)
def test_what_hangs_on_a_long_run_is_what_spacy_finds(segmenter, spacy_split, run):
    text = f"Good. {run} bad. {run}x {run}"
    assert spans_of(segmenter, text) == spacy_split(text)


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.sampled_from([*PIECES, *AFFIXES, " ", "Good. ", "bad.\n"]), min_size=4, max_size=40))
def test_long_texts_are_split_as_spacy_splits_them(segmenter, spacy_split, pieces):
    # over many lengths and borders between the blocks that are tokenized by themselves
    text = " ".join("".join(pieces[n % len(pieces) :]) for n in range(9000 // (len("".join(pieces)) + 1)))
    assert spans_of(segmenter, text) == spacy_split(text)


@pytest.mark.parametrize("run", ["(", "=", "$", "[", '"', "'s", "http://a.b/c?d=e&f=g", "a.", ".", "((a", "“”", "5km"])
def test_a_long_run_costs_no_more_than_its_length(run):
    # spaCy's own time grows with the square of what it is given: of 200,000 characters, hours
    text = "Good. " + run * (200_000 // len(run)) + " bad. x"
    segmenter = Segmenter("sentence")
    segmenter.split("a. b")
    segmenter._rules._tokenizer = counting = _Counting(segmenter._rules._tokenizer)
    sentences = [text[start:end] for start, end in segmenter.split(text)]
    assert sentences[-1] == "x"
    assert "".join(sentences).replace(" ", "") == text.replace(" ", "")
    assert max(counting.lengths) <= 4096
    assert sum(counting.lengths) == len(text)


class _Counting:
    """A tokenizer that notes how long the texts were that it was given."""

    def __init__(self, tokenizer):
        self._tokenizer, self.lengths = tokenizer, []

    def __call__(self, text: str):
        self.lengths.append(len(text))
        return self._tokenizer(text)


def test_a_run_of_letters_is_cut_where_no_sentence_ends(segmenter):
    text = f"Good. {'word.word/' * 900} bad. x"
    assert [text[a:b] for a, b in segmenter.split(text)] == ["Good.", text[6:-2], "x"]


@pytest.mark.parametrize("name", ["mr_tiny_0.05", "mr_minilm_0.05"])
def test_sentences_are_those_of_the_released_scripts(segmenter, golden_dir, name):
    for line in (golden_dir / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        spans = segmenter.split(row["text"])
        assert [row["text"][a:b] for a, b in spans] == [s["text"] for s in row["sentences"]]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Good. Bad!", ["Good.", "Bad!"]),
        ('He said "no." Then left.', ['He said "no."', "Then left."]),
        ("It took 3.5 hours ... and Mr. Smith left", ["It took 3.5 hours ... and Mr. Smith left"]),
        ("  padded .  \n", ["padded ."]),
        ("...", ["..."]),
        ("one.\n\ntwo", ["one.", "two"]),
        ("好。 坏。", ["好。", "坏。"]),
    ],
)
def test_known_texts(segmenter, text, sentences):
    assert [text[a:b] for a, b in segmenter.split(text)] == sentences


@pytest.mark.parametrize("mode", ["sentence", "line"])
@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u3000"])
def test_blank_text_has_no_sentence(mode, text):
    assert spans_of(Segmenter(mode), text) == []


def test_line_mode_takes_the_whole_text():
    assert spans_of(Segmenter("line"), " One. Two. ") == [(0, 11)]


def test_text_beyond_spacys_own_limit(segmenter):
    text = "word. " + "word " * 250_000
    assert spans_of(segmenter, text) == [(0, 5), (6, len(text) - 1)]


def test_memory_of_words_is_renewed(monkeypatch, spacy_split):
    monkeypatch.setattr("fastmask.text.sentences._MAX_STRINGS", 3)
    small = Segmenter("sentence")
    for text in ("a b c. d e f.", "Mr. g h. i j? k", "l. m"):
        assert spans_of(small, text) == spacy_split(text)


def test_unknown_mode():
    with pytest.raises(ValueError, match="choose sentence or line"):
        Segmenter("paragraph")


def test_the_closing_characters_are_those_of_spacys_sentencizer():
    from spacy.pipeline import Sentencizer

    assert frozenset(Sentencizer().punct_chars) == CLOSING


def test_a_text_of_one_sentence_is_split_without_importing_spacy():
    code = (
        "import sys; from fastmask.text.sentences import CLOSING, Segmenter; s = Segmenter()\n"
        "assert s.split(' Good food . ').tolist() == [[1, 12]] and 'spacy' not in sys.modules\n"
        "assert s.split('Good. Bad.').tolist() == [[0, 5], [6, 10]] and 'spacy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
