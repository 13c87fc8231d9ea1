"""The numbers of ``fastmask report``: by hand, and by counting one by one; in one pass, whatever the shards."""

from collections import Counter

import numpy as np
import pytest
from helpers import fastmask
from page_samples import SHAPE, toy_model, write_sentences
from remap_samples import byte_bpe
from tokenizers import decoders
from transformers import RobertaConfig, RobertaForMaskedLM

from fastmask.report.overview import Bin, Group, Place, Word
from fastmask.scoring.histogram import Histogram
from fastmask.scoring.overview import overview

WORDS = ["good", "film", "dull", "re", "make", "."]
GOOD, FILM, DULL, RE, MAKE, STOP = range(6)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return toy_model(tmp_path_factory.mktemp("model") / "toy", WORDS)


def test_by_hand(tmp_path, model):
    """Three sentences of 4, 5 and 1 tokens with 2, 1 and 0 masks; "re" + "make" is one word of two tokens."""
    out = write_sentences(
        tmp_path / "out", model,
        [[GOOD, FILM, GOOD, STOP], [DULL, RE, MAKE, FILM, STOP], [FILM]], [[0, 2], [2], []],
        [[-0.5, 0.25, 0.0, 1.0], [0.5, 0.5, -0.25, 0.75, 1.0], None],
        word=[[0, 1, 2, 3], [0, 1, 1, 2, 3], [0]], shards=2,
        label=[1, 1, 0], predicted=[1, 1, 1], prob=[0.9, 0.6, 0.3],
    )  # fmt: skip
    o = overview(out)
    assert (o.masked_sentences, o.words, o.threshold, o.large_is_important, o.by_word) == (2, 5, 0.05, False, True)
    # shares 2/4, 1/5 and none: the ends of the tenth and of the fourth step of a twentieth
    assert [k for k, count in enumerate(o.shares) if count] == [0, 4, 10] and sum(o.shares) == 3
    assert o.most == [Word("good", 2, 2, 2, 2), Word("re make", 1, 1, 2, 1)]
    assert o.above == []  # none has eight uses
    assert o.classes == [Group("good", 2, 9, 3, 2, 2), Group("bad", 1, 1, 0, 1, 0)]
    assert o.places == [Place(1, 3, 1), Place(2, 2, 0), Place(3, 2, 2), Place(4, 2, 0), Place(5, 1, 0)]
    assert sum(one.tokens for one in o.importance) == 9 and sum(one.masked for one in o.importance) == 3
    held = {one.low: (one.tokens, one.masked) for one in o.importance if one.tokens}
    assert held == {-0.53125: (1, 1), -0.28125: (1, 1), 0.0: (1, 1), 0.25: (1, 0), 0.5: (2, 0), 0.75: (1, 0),
                    1.0: (2, 0)}  # fmt: skip
    assert [one.row for one in o.samples["none"]] == [2] and [one.row for one in o.samples["uncertain"]] == [1, 0]
    first = o.samples["most"][0]
    assert [t.text for t in first.tokens] == ["good", "film", "good", "."] and (first.length, first.masks) == (4, 2)
    assert [t.masked for t in first.tokens] == [True, False, True, False]
    # least to most important of the sentence: 1.0 to -0.5, in six shades
    assert [t.shade for t in first.tokens] == [6, 3, 4, 0]


@pytest.mark.parametrize("shards", [1, 7])
def test_like_counting_one_by_one(tmp_path, model, shards):
    rng = np.random.default_rng(3)
    sentences = [rng.choice(len(WORDS), n, p=[0.1, 0.3, 0.1, 0.1, 0.1, 0.3]).tolist() for n in rng.integers(1, 60, 150)]
    masked = [np.flatnonzero([rng.random() < (0.9 if w == DULL else 0.1) for w in s]).tolist() for s in sentences]
    importance = [rng.normal(size=len(s)).tolist() if rng.random() < 0.8 else None for s in sentences]
    o = overview(write_sentences(tmp_path / "out", model, sentences, masked, importance, shards=shards))
    uses, hits = Counter(), Counter()
    for sentence, places in zip(sentences, masked, strict=True):
        uses.update(sentence)
        hits.update(sentence[p] for p in places)
    assert {w.text: (w.uses, w.masked) for w in o.most} == {WORDS[k]: (uses[k], hits[k]) for k in uses}
    assert [w.masked for w in o.most] == sorted((w.masked for w in o.most), reverse=True)
    assert [w.text for w in o.above] == ["dull"]
    assert o.shares == [sum(-(-20 * len(p) // len(s)) == k for s, p in zip(sentences, masked, strict=True))
                        for k in range(21)]  # fmt: skip
    late = sum(max(0, len(s) - 40) for s in sentences)
    assert o.places[-1] == Place(41, late, sum(p >= 40 for places in masked for p in places))
    values = np.array([v for one in importance if one for v in one], np.float32)
    for low, high, tokens, _ in o.importance:
        inside = (values >= (-np.inf if low is None else low)) & (values < (np.inf if high is None else high))
        assert tokens == inside.sum()
    shares = [one.masks / one.length for one in o.samples["most"]]
    assert shares == sorted(shares, reverse=True) and len(o.samples["any"]) == 40 and len(shares) == 10


def test_the_same_sentences_whatever_the_shards(tmp_path, model):
    sentences, masked = [[k % 6] * (1 + k % 9) for k in range(100)], [[0] if k % 3 else [] for k in range(100)]
    samples = [overview(write_sentences(tmp_path / str(n), model, sentences, masked, shards=n,
                                        prob=[k / 100 for k in range(100)])).samples for n in (1, 9)]  # fmt: skip
    assert samples[0] == samples[1]


def test_few_words_are_held(tmp_path, model):
    sentences = [[GOOD] * 9 + [FILM] * 8 + [DULL] * 7, [RE], [MAKE], [STOP]]
    out = write_sentences(tmp_path / "out", model, sentences, [[0, 9], [0], [0], [0]], shards=4)
    o = overview(out, most_words=4)
    assert o.forgotten and o.words <= 4
    assert o.most == [Word(".", 1, 1, 1, 1), Word("film", 8, 1, 8, 1), Word("good", 9, 1, 9, 1)]
    assert not overview(out, most_words=6).forgotten


def test_words_of_other_tokens_and_the_same_text_are_one(tmp_path):
    """A byte-level word at the beginning of a text has other ids than after a space."""
    tokenizer = byte_bpe(True)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pad_token = "<pad>"
    tokenizer.save_pretrained(tmp_path / "model")
    RobertaForMaskedLM(RobertaConfig(vocab_size=400, **SHAPE)).save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("coffee coffee coffee\nGreat coffee\n", "utf-8")
    options = ["--method", "random", "--mask-rate", "1", "--stop-words", "none", "--model", tmp_path / "model"]
    done = fastmask("score", tmp_path / "texts.txt", "-o", tmp_path / "out", *options, "-q")
    assert done.exit_code == 0, done.stderr
    words = {word.text: (word.uses, word.masked) for word in overview(str(tmp_path / "out")).most}
    assert words == {"coffee": (4, 4), "Great": (1, 1)}


def histogram(*values) -> Histogram:
    found = Histogram()
    found.add(np.array(values, np.float32), np.zeros(len(values), bool))
    return found


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-44, -3e38, 3.4e38, 0.05])
def test_a_histogram_of_one_value(value):
    ((low, high, tokens, masked),) = histogram(*[value] * 5).bins()
    assert (tokens, masked) == (5, 0) and low < high and (low <= value <= high)


def test_a_histogram_leaves_outliers_to_its_ends():
    values = [*np.linspace(-1, 1, 4001), 1e30, -1e30]
    bins = [Bin(*one) for one in histogram(*values, np.nan, np.inf).bins()]
    assert bins[0].low is None and bins[-1].high is None and sum(one.tokens for one in bins) == 4003
    assert 32 <= len(bins) <= 70 and len({one.high - one.low for one in bins[1:-1]}) == 1
    assert histogram(np.nan, np.inf).bins() == [] and histogram(np.nan).not_finite == 1
