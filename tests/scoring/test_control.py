"""The random control: counts of another run or a rate, a function of seed, row and sentence alone."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import golden, rows_of, write_jsonl

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError, OutputError
from fastmask.pipeline import score_corpus
from fastmask.scoring.api import shard_words
from fastmask.scoring.method import load_method
from fastmask.shards.reader import open_shards


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"]} for row in golden(golden_dir, "mr_tiny_0.05")[:40]]
    rows.insert(7, {"text": " "})
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, corpus, mr_tiny) -> Path:
    out = tmp_path_factory.mktemp("scored") / "out"
    score_corpus([corpus], str(out), ScoreConfig(model=mr_tiny, mask_rate=0.15, shard_rows=15))
    return out


def control(corpus, out, **options) -> list[dict]:
    score_corpus([corpus], str(out), ScoreConfig(method="random", **options))
    return rows_of(out)


def masks(rows) -> list[list[int]]:
    return [row["mask_index"] for row in rows]


@pytest.mark.parametrize("shard_rows", [1, 7, 1000])
def test_as_many_masks_as_the_other_run(corpus, scored, tmp_path, mr_tiny, shard_rows):
    found = control(corpus, tmp_path / "out", model=mr_tiny, like=str(scored), shard_rows=shard_rows)
    others = rows_of(scored)
    assert [len(m) for m in masks(found)] == [len(m) for m in masks(others)]
    assert masks(found) != masks(others)
    for row, other in zip(found, others, strict=True):
        assert row["input_ids"] == other["input_ids"]
        assert (row["importance"], row["prob"], row["predicted"]) == (None, None, None)


def test_no_more_of_a_sentence_than_a_masker_saw(corpus, scored, tmp_path, mr_tiny):
    """A masker with room for 20 tokens and the special ones: longer sentences' masks are within the first 20."""
    like = Path(shutil.copytree(scored, tmp_path / "like"))
    manifest = json.loads((like / "_manifest.json").read_text())
    manifest["config"] |= {"method": "masker", "max_length": 22}
    (like / "_manifest.json").write_text(json.dumps(manifest))
    found = control(corpus, tmp_path / "out", model=mr_tiny, like=str(like))
    assert [len(m) for m in masks(found)] == [min(20, len(m)) for m in masks(rows_of(scored))]
    assert max(max(m, default=0) for m in masks(found)) == 19
    everywhere = control(corpus, tmp_path / "everywhere", model=mr_tiny, like=str(scored))
    assert max(max(m, default=0) for m in masks(everywhere)) > 19


def test_a_rate(corpus, tmp_path, mr_tiny):
    found = control(corpus, tmp_path / "out", model=mr_tiny, mask_rate=0.3)
    assert [len(m) for m in masks(found)] == [max(1, int(0.3 * len(row["input_ids"]))) for row in found]
    default = control(corpus, tmp_path / "default", model=mr_tiny)
    assert [len(m) for m in masks(default)] == [max(1, len(row["input_ids"]) * 15 // 100) for row in default]


def test_seed_and_shards(corpus, tmp_path, mr_tiny):
    first = control(corpus, tmp_path / "a", model=mr_tiny)
    assert masks(control(corpus, tmp_path / "b", model=mr_tiny, shard_rows=3)) == masks(first)
    assert masks(control(corpus, tmp_path / "c", model=mr_tiny, seed=1)) != masks(first)


def test_labels_are_kept_and_no_classifier_is_loaded(tmp_path, monkeypatch):
    def load(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr("fastmask.models.weights.load_weights", load)
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "A film. A plot.", "label": 7}, {"text": "so", "label": 0}])
    assert [row["label"] for row in control(corpus, tmp_path / "out")] == [7, 7, 0]
    assert open_shards(tmp_path / "out").manifest["model"] is None


def test_the_copied_run_is_part_of_the_identity(corpus, scored, tmp_path, mr_tiny):
    like = shutil.copytree(scored, tmp_path / "like")
    control(corpus, tmp_path / "out", model=mr_tiny, like=str(like))
    manifest = json.loads((like / "_manifest.json").read_text())
    (like / "_manifest.json").write_text(json.dumps(manifest | {"environment": {}}))
    with pytest.raises(OutputError, match="like has other content"):
        control(corpus, tmp_path / "out", model=mr_tiny, like=str(like))


CHANGES = {
    "one row more": lambda lines: [*lines, lines[0]],
    "a blank line elsewhere": lambda lines: lines[1:],
    "shorter rows": lambda lines: ['{"text": "no"}\n'] * len(lines),
    "rows of other lengths": lambda lines: lines[:20] + lines[21:],
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_corpus_is_refused(change, corpus, scored, tmp_path, mr_tiny):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(CHANGES[change](Path(corpus).read_text().splitlines(keepends=True))))
    with pytest.raises(OutputError, match=r"--like .*: its sentences are not those of this corpus"):
        control(str(other), tmp_path / "out", model=mr_tiny, like=str(scored), shard_rows=10)
    assert not (tmp_path / "out" / "_manifest.json").exists()


def test_a_run_that_is_not_there(corpus, tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        control(corpus, tmp_path / "out", like=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("options", [{"method": "greedy", "like": "x"}, {"like": "x", "mask_rate": 0.1}], ids=str)
def test_options_that_do_not_go_together(options):
    with pytest.raises(FastmaskError, match="--like x"):
        load_method(ScoreConfig(**{"method": "random", **options}))


def test_a_rate_as_probabilities(corpus, tmp_path, mr_tiny):
    """Plain training: each token that may be masked, with the same probability in every epoch."""
    for row in control(corpus, tmp_path / "out", model=mr_tiny, mask_rate=0.3):
        assert row["mask_prob"] == [np.float32(0.3)] * len(row["input_ids"])
    kept = control(corpus, tmp_path / "kept", model=mr_tiny, keep_punctuation=True)
    words, found = shard_words(open_shards(tmp_path / "kept").manifest), set()
    for row in kept:
        for word, prob in zip(words(row["input_ids"]), row["mask_prob"], strict=True):
            found.add((prob, word.strip()) if word.strip() in (".", ",") else prob)
            assert prob == np.float32(0.15) or not any(letter.isalnum() for letter in word)
    assert found == {0, np.float32(0.15), (0, "."), (0, ",")}


def with_probabilities(shards: Path, copy: Path, change) -> Path:
    """A finished directory in which ``change`` makes each sentence's probabilities of its tokens."""
    shutil.copytree(shards, copy)
    manifest = json.loads((copy / "_manifest.json").read_text())
    for entry in manifest["shards"]:
        path = copy / entry["file"]
        table = pq.read_table(path)
        column = table.schema.get_field_index("mask_prob")
        values = pa.array([change(ids) for ids in table["input_ids"].to_pylist()], table.schema.field(column).type)
        pq.write_table(table.set_column(column, table.schema.field(column), values), path)
        entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest["totals"]["bytes"] = sum(entry["bytes"] for entry in manifest["shards"])
    (copy / "_manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize("unit", ["token", "word"])
def test_as_many_masks_are_expected_as_in_a_run_with_probabilities(corpus, scored, tmp_path, mr_tiny, unit):
    rng = np.random.default_rng(1)
    like = with_probabilities(scored, tmp_path / "like", lambda ids: (rng.random(len(ids)) ** 4).tolist())
    options = {"model": mr_tiny, "like": str(like), "unit": unit}
    found, others = control(corpus, tmp_path / "out", **options, shard_rows=4), rows_of(like)
    for row, other in zip(found, others, strict=True):
        assert sum(row["mask_prob"]) == pytest.approx(sum(other["mask_prob"]), rel=1e-5)
        assert len(set(row["mask_prob"])) <= 1
    again = control(corpus, tmp_path / "again", **options)
    assert [row["mask_prob"] for row in again] == [row["mask_prob"] for row in found]


def test_what_is_never_masked_has_no_share_in_the_probabilities(corpus, scored, tmp_path, mr_tiny):
    like = with_probabilities(scored, tmp_path / "like", lambda ids: [0.25] * len(ids))
    found = control(corpus, tmp_path / "out", model=mr_tiny, like=str(like), keep_punctuation=True)
    zeros = [row["mask_prob"].count(0) for row in found]
    assert any(zeros)
    for row, never in zip(found, zeros, strict=True):
        n = len(row["input_ids"])
        most = [np.float32(min(1, 0.25 * n / (n - never)))] * (n - never) if n > never else []
        assert [prob for prob in row["mask_prob"] if prob] == pytest.approx(most)


def test_the_control_of_a_run_without_probabilities_has_none(corpus, scored, tmp_path, mr_tiny):
    found = control(corpus, tmp_path / "out", model=mr_tiny, like=str(scored))
    assert {row["mask_prob"] for row in found} == {None}
