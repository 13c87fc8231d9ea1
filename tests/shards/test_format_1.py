"""Directories of format 1, without ``word`` and ``mask_prob``, are read wherever shards are."""

import json
from itertools import islice

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import fastmask, golden, refusal, write_jsonl
from pretrain_samples import SHAPE, save_model
from remap_samples import byte_bpe
from shard_samples import as_format_1, contents
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig

import fastmask as package
from fastmask import ScoreConfig, SelectiveMaskCollator, TrainingStream, open_shards, remap_masks, score_corpus
from fastmask.scoring.methods.random import CopiedCounts
from fastmask.shards.verify import verify

NEW = ["word", "mask_prob"]


@pytest.fixture(scope="module")
def both(tmp_path_factory, golden_dir, mr_tiny):
    """The same shards in the format of today and in format 1."""
    folder = tmp_path_factory.mktemp("formats")
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:24]]
    corpus = write_jsonl(folder / "corpus.jsonl", rows)
    score_corpus([corpus], str(folder / "new"), ScoreConfig(model=mr_tiny, shard_rows=10))
    return folder / "new", as_format_1(folder / "new", folder / "old")


def test_rows_and_tables(both):
    new, old = map(open_shards, both)
    assert (new.version, old.version) == (2, 1)
    assert old.to_table().equals(new.to_table().drop_columns(NEW))
    assert [*old] == [{name: row[name] for name in row if name not in NEW} for row in new]
    assert old[-1] == {name: value for name, value in new[-1].items() if name not in NEW}
    assert new.to_table()["mask_prob"].null_count == len(new)
    assert verify(both[0]) == verify(both[1]) == []


def test_training_sequences_are_the_same(both, mr_tiny):
    collate = SelectiveMaskCollator(AutoTokenizer.from_pretrained(mr_tiny))
    new, old = (collate([*islice(TrainingStream(str(out), max_length=64, seed=3), 8)]) for out in both)
    of_rows, of_old_rows = (collate(open_shards(out)[:12]) for out in both)
    for name in new:
        assert (new[name] == old[name]).all() and (of_rows[name] == of_old_rows[name]).all()


def test_exported_remapped_and_copied_masks_are_the_same(both, tmp_path):
    for out, name in zip(both, ("new", "old"), strict=True):
        assert fastmask("export", out, "-o", tmp_path / name, "--to", "jsonl").exit_code == 0
    assert contents(tmp_path / "new") == contents(tmp_path / "old")
    for a, b in zip(*(remap_masks(out, byte_bpe(True)) for out in both), strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in ("input_ids", "word", "mask_index"))
    counts = [open_shards(out).mask_counts(1) for out in both]
    assert all(np.array_equal(a, b) for a, b in zip(*counts, strict=True))
    assert CopiedCounts(str(both[1])).room == 126


def test_the_commands_take_them(both, restaurant_tiny, tmp_path):
    old = both[1]
    assert "24" in fastmask("inspect", old, "--rows", "2").output
    assert fastmask("verify", old).exit_code == 0
    assert fastmask("remap", old, "--tokenizer", restaurant_tiny, "-o", tmp_path / "remapped").exit_code == 0
    assert open_shards(tmp_path / "remapped").version == 2 and verify(tmp_path / "remapped") == []


def test_the_trainers_take_them(both, mr_tiny, tmp_path):
    model = AutoModelForMaskedLM.from_config(BertConfig(**{**SHAPE, "vocab_size": 8192}))
    save_model(tmp_path / "model", model, mr_tiny)
    done = fastmask("pretrain", both[1], "--init", tmp_path / "model", "-o", tmp_path / "trained", "--max-steps", "1",
                    "--batch-size", "4", "--precision", "float32", "-q")  # fmt: skip
    assert done.exit_code == 0, done.output
    done = fastmask("train-masker", both[1], "--init", mr_tiny, "-o", tmp_path / "masker", "--epochs", "1", "-q")
    assert done.exit_code == 0, done.output


def test_a_shard_of_the_other_format_is_damage(both, tmp_path):
    mixed = as_format_1(both[0], tmp_path / "mixed")
    (mixed / "shard-00001.parquet").write_bytes((both[0] / "shard-00001.parquet").read_bytes())
    manifest = json.loads((mixed / "_manifest.json").read_text())
    entry = json.loads((both[0] / "_manifest.json").read_text())["shards"][1]
    manifest["shards"][1] = entry
    manifest["totals"]["bytes"] = sum(one["bytes"] for one in manifest["shards"])
    (mixed / "_manifest.json").write_text(json.dumps(manifest))
    assert [damage.reason for damage in verify(mixed)] == ["its columns are not those of the shard format"]
    with pytest.raises(package.FastmaskError, match=r"shard-00001\.parquet: its columns are not those"):
        list(open_shards(mixed))


def test_a_run_does_not_go_on_in_another_format(both, mr_tiny):
    corpus, old = both[0].parent / "corpus.jsonl", both[1]
    before = contents(old)
    done = fastmask("score", corpus, "-o", old, "--model", mr_tiny, "--shard-rows", "10")
    assert "format_version was 1, is now 2 (--overwrite replaces it" in refusal(done)
    assert contents(old) == before


def test_format_1_has_the_columns_that_it_had(both):
    names = ["row", "sentence", "input_ids", "char_start", "char_end", "label", "predicted", "prob", "importance",
             "mask_index"]  # fmt: skip
    schema = pq.read_schema(both[1] / "shard-00000.parquet")
    assert schema.names == names and schema.metadata[b"fastmask.format_version"] == b"1"
