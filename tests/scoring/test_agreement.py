"""``inspect --compare``: overlap, rank correlation and words by hand; in one pass, whatever the shards; refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import fastmask, refusal, write_jsonl
from scipy.stats import spearmanr
from shard_samples import FIELDS, IDENTITY, as_format_1, build, open_run

from fastmask import ScoreConfig, open_shards, score_corpus
from fastmask.core.errors import FastmaskError
from fastmask.scoring.agreement import compare_shards, mean_ranks

TOKENIZER = {"name": "toy", "vocabulary_sha256": "ab", "special_ids": {"cls": 2}}


def write(
    out, masked, importance, *, shards=1, lengths=(3, 2, 4), ids=None, scored=None, tokenizer=TOKENIZER, **config
):
    """Sentences of words 0, 0, 1, 2, ... with these masks and importances, in so many shards of whole sentences."""
    per = len(lengths) // shards
    with open_run(out, identity=IDENTITY | {"tokenizer": tokenizer}, **config) as run:
        for index in range(shards):
            part = slice(index * per, (index + 1) * per if index + 1 < shards else len(lengths))
            before, tokens = sum(lengths[: part.start]), sum(lengths[part])
            one = build(
                lengths[part], masked[part], first_row=part.start, scored=None if scored is None else scored[part]
            )
            own = (
                np.arange(tokens, dtype=np.int32) + 10
                if ids is None
                else np.array(ids[before : before + tokens], np.int32)
            )
            values = np.array(importance[before : before + tokens], np.float32)
            one = replace(one, importance=values, sentences=replace(one.sentences, input_ids=own))
            run.write_shard(index, one)
        run.finish(FIELDS)
    return str(out)


IDS = [10, 11, 12, 10, 11, 20, 21, 12, 12]
"""Words [10 11] 12 | [10 11] | [20 21] 12 12, by ``words_of``: two tokens, then one, by turns."""
A = [[0], [0, 1], [2]]
B = [[0, 1], [], [3]]
SCORES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_by_hand(tmp_path):
    """Masks: of A 4, of B 3, of both 1, of either 6; sentences 1/2, 0/2 and 0/2."""
    first = write(tmp_path / "a", A, SCORES, ids=IDS)
    second = write(tmp_path / "b", B, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0, 8.0], ids=IDS, shards=3)
    found = compare_shards(first, second)
    assert (found.sentences, found.masked_sentences, found.masks) == (3, 3, (4, 3, 1))
    assert found.jaccard == pytest.approx(1 / 6) and found.sentence_jaccard == pytest.approx((1 / 2 + 0 + 0) / 3)
    # ranks differ at two neighbours: 1 - 6 * 2 / (9 * 80)
    assert found.rank_correlation == pytest.approx(1 - 12 / 720) and found.ranked == found.scored == 9
    # of the third sentence, A masks the first 12 and B the second one, which is another word
    assert found.only == ([((10, 11), 1), ((12,), 1)], [((12,), 1)])
    turned = compare_shards(second, first)
    assert turned.masks == (3, 4, 1) and turned.only == found.only[::-1]
    assert turned.rank_correlation == pytest.approx(found.rank_correlation)


def test_a_run_agrees_with_itself(tmp_path):
    found = compare_shards(first := write(tmp_path / "a", A, SCORES, ids=IDS), first)
    assert found.jaccard == found.sentence_jaccard == 1 and found.only == ([], [])
    assert found.rank_correlation == pytest.approx(1)


def test_important_is_large_in_some_methods_and_small_in_others(tmp_path):
    first = write(tmp_path / "a", A, SCORES, ids=IDS)
    second = write(tmp_path / "b", A, [-s for s in SCORES], ids=IDS, method="leave-one-out")
    assert compare_shards(first, second).rank_correlation == pytest.approx(1)


def test_only_tokens_that_both_have_scored_are_ranked(tmp_path):
    first = write(tmp_path / "a", A, SCORES, ids=IDS, scored=[True, False, True])
    second = write(tmp_path / "b", B, [9.0, 8.0, 7.0, *[0.0] * 6], ids=IDS, scored=[True, True, False])
    found = compare_shards(first, second)
    assert found.rank_correlation == pytest.approx(-1) and found.ranked == found.scored == 3
    none = write(tmp_path / "c", [[], [], []], SCORES, ids=IDS, scored=[False] * 3)
    found = compare_shards(none, none)
    assert (found.jaccard, found.sentence_jaccard, found.rank_correlation, found.ranked) == (None, None, None, 0)


def test_ranks_of_ties():
    values = np.array([3, 1, 3, 3, 0, 1], np.float32)
    assert mean_ranks(values).tolist() == [5, 2.5, 5, 5, 1, 2.5]


def many(tmp_path, name, seed, **options) -> str:
    """Three hundred sentences of three tokens with some ties among their importances."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(9).normal(size=900)
    importance = np.round(common + rng.normal(size=900), 1)
    masked = [np.flatnonzero(rng.random(3) < 0.3).tolist() for _ in range(300)]
    ids = np.random.default_rng(8).integers(5, 40, 900)
    return write(tmp_path / name, masked, importance, lengths=(3,) * 300, ids=ids, **options)


def test_against_other_implementations_and_whatever_the_shards(tmp_path):
    first, second = many(tmp_path, "a", 1, shards=7), many(tmp_path, "b", 2, shards=4)
    found = compare_shards(first, second)
    columns = [[v for row in open_shards(path) for v in row["importance"]] for path in (first, second)]
    assert found.rank_correlation == pytest.approx(spearmanr(*columns).statistic, abs=1e-12)
    sets = [[{(row["row"], p) for p in row["mask_index"]} for row in open_shards(path)] for path in (first, second)]
    pairs = [(a & b, a | b) for a, b in zip(*sets, strict=True)]
    assert found.sentence_jaccard == pytest.approx(np.mean([len(i) / len(u) for i, u in pairs if u]))
    assert found.jaccard == pytest.approx(sum(len(i) for i, _ in pairs) / sum(len(u) for _, u in pairs))
    assert found == compare_shards(many(tmp_path, "c", 1), second)


def test_memory_is_bounded(tmp_path):
    """A sample of sentences stands for all ranks; of words, the frequent ones stay."""
    first, second = many(tmp_path, "a", 1), many(tmp_path, "b", 2)
    whole, part = compare_shards(first, second), compare_shards(first, second, most_ranked=500, most_words=10)
    assert 150 < part.ranked <= 500 and part.ranked % 3 == 0 and part.scored == whole.scored == 900
    assert abs(part.rank_correlation - whole.rank_correlation) < 0.15
    assert all(len(words) <= 10 for words in part.only) and part.masks == whole.masks
    other = compare_shards(many(tmp_path, "c", 1, shards=5), second, most_ranked=500)
    assert (other.ranked, other.rank_correlation) == (part.ranked, part.rank_correlation)


def test_words_are_told_by_one_of_the_two(tmp_path):
    first, second = (write(tmp_path / name, masks, SCORES, ids=IDS) for name, masks in (("a", A), ("b", B)))
    old = str(as_format_1(second, tmp_path / "old"))
    assert compare_shards(first, old) == compare_shards(first, second)


def test_refusals(tmp_path):
    first = write(tmp_path / "a", A, SCORES, ids=IDS)
    other = write(tmp_path / "b", A, SCORES, ids=IDS, tokenizer=TOKENIZER | {"vocabulary_sha256": "cd"})
    for second, said in [
        (other, r"b: made with another tokenizer than .*a \(vocabulary_sha256\); fastmask remap"),
        (write(tmp_path / "c", A[:2], SCORES, ids=IDS, lengths=(3, 2)), r"c: has 2 sentences, .*a has 3"),
        (
            write(tmp_path / "d", A, SCORES, ids=[*IDS[:5], 7, *IDS[6:]]),
            r"d: its sentences are not those of .*a: row 2",
        ),
        (
            write(tmp_path / "e", A, SCORES, ids=IDS, lengths=(3, 3, 3)),
            r"e: its sentences are not .*: row 1, sentence 0",
        ),
    ]:
        with pytest.raises(FastmaskError, match=said) as caught:
            compare_shards(first, second)
        assert "\n" not in str(caught.value)


def test_the_command(tmp_path, mr_tiny):
    texts = ["A great film.", "A truly great cast \x1b[31m in a dull film.", "Not bad at all."]
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": text} for text in texts])
    score_corpus([corpus], str(tmp_path / "a"), ScoreConfig(model=mr_tiny), control=str(tmp_path / "b"))
    result = fastmask("inspect", tmp_path / "a", "--compare", tmp_path / "b")
    assert result.exit_code == 0 and "\x1b" not in result.stdout
    assert "overlap (Jaccard): 0." in result.stdout and "only A masks" in result.stdout
    assert "rank correlation of importances (Spearman): none of 0 tokens" in result.stdout
    same = fastmask("inspect", tmp_path / "a", "--compare", tmp_path / "a").stdout
    assert "(Spearman): 1.000 of" in same and "only A" not in same
    told = json.loads(fastmask("inspect", tmp_path / "a", "--compare", tmp_path / "b", "--json").stdout)
    found = compare_shards(str(tmp_path / "a"), str(tmp_path / "b"))
    assert told["masks"] == dict(zip(("first", "second", "both"), found.masks, strict=True))
    assert (told["jaccard"], told["rank_correlation"], told["ranked"]) == (found.jaccard, None, 0)
    assert [[one["masked"] for one in words] for words in told["only"]] == [[n for _, n in w] for w in found.only]
    assert "not together with --rows or --top" in refusal(fastmask("inspect", "a", "--compare", "b", "--rows", 1))
    assert "no such directory" in refusal(fastmask("inspect", tmp_path / "a", "--compare", tmp_path / "nowhere"))
