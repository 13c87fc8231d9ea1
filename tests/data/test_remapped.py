"""``fastmask remap``: shards in another model's tokens, as ``remap_masks`` finds them, and what takes them."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers import contents, fastmask, golden, refusal, rows_of, write_jsonl
from remap_samples import byte_bpe
from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from fastmask import ScoreConfig, open_shards, remap_masks, remap_shards, score_corpus
from fastmask.core.errors import OutputError
from fastmask.shards.schema import MANIFEST
from fastmask.shards.verify import verify
from fastmask.shards.writer import RunDirectory

SHAPE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> str:
    """A model whose tokenizer is a byte-level one."""
    path, tokenizer = tmp_path_factory.mktemp("models") / "my roberta", byte_bpe(True)
    tokenizer.pad_token = "<pad>"
    tokenizer.save_pretrained(path)
    RobertaForMaskedLM(RobertaConfig(vocab_size=400, **SHAPE)).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def masks(tmp_path_factory, golden_dir) -> str:
    """Greedy masks of the embedded classifier in three shards, some labels not what it says, one row skipped."""
    folder = tmp_path_factory.mktemp("masks")
    rows = [{"text": row["text"], "label": k % 3 % 2} for k, row in enumerate(golden(golden_dir, "mr_tiny_0.05")[:20])]
    rows[7] = {"text": None}
    options = ScoreConfig(shard_rows=8, on_error="skip", stop_words="none")
    score_corpus([write_jsonl(folder / "corpus.jsonl", rows)], str(folder / "masks"), options)
    return str(folder / "masks")


def plain(row: dict) -> dict:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}


def test_rows_are_those_of_remap_masks(masks, roberta, tmp_path):
    manifest = remap_shards(masks, roberta, str(tmp_path / "out"))
    assert verify(tmp_path / "out") == []
    found, was = rows_of(tmp_path / "out"), open_shards(masks).manifest
    expected = list(map(plain, remap_masks(masks, AutoTokenizer.from_pretrained(roberta))))
    assert str(found) == str([{name: row[name] for name in found[0]} for row in expected])  # NaN is not NaN
    for key in ("scored", "rows", "documents", "shards"):
        assert manifest["totals"][key] == was["totals"][key]
    assert 0 < manifest["totals"]["scored"] < manifest["totals"]["rows"] and manifest["totals"]["masked"] > 10
    assert manifest["skipped"] == was["skipped"] and manifest["skipped"]["count"] == 1
    assert manifest["tokenizer"]["name"] == roberta and manifest["remapped"]["tokenizer"] == was["tokenizer"]
    assert fastmask("inspect", tmp_path / "out", "--rows", 2).exit_code == 0


def test_importance_is_that_of_a_token_that_shares_a_character(masks, roberta, tmp_path):
    """By brute force: the first masked one's, or else the first one's."""
    remap_shards(masks, roberta, str(tmp_path / "out"))
    checked = 0
    for old, new in zip(rows_of(masks), rows_of(tmp_path / "out"), strict=True):
        assert (old["importance"] is None) == (new["importance"] is None)
        assert all(old[name] == new[name] for name in ("row", "sentence", "label", "predicted", "prob"))
        for start, end, found in zip(new["char_start"], new["char_end"], new["importance"] or [], strict=False):
            spans = list(zip(old["char_start"], old["char_end"], strict=True))
            sharing = [i for i, (a, b) in enumerate(spans) if max(a, start) < min(b, end)]
            first = next((i for i in sharing if i in old["mask_index"]), sharing[0] if sharing else None)
            assert found == old["importance"][first] if sharing else np.isnan(found)
            checked += 1
    assert checked > 100


def test_the_error_gives_the_command_and_the_command_helps(masks, roberta, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pretrain = ("--init", roberta, "--batch-size", 4, "--max-steps", 1, "--max-length", 64, "--device", "cpu", "-q")
    said = refusal(fastmask("pretrain", masks, "-o", "adapted", *pretrain))
    assert "masks: was made with the tokenizer of embedded, which is not that of " in said
    command = shlex.split(said.partition("; ")[2].removesuffix(" makes masks for it"))
    assert command == ["fastmask", "remap", masks, "--tokenizer", roberta, "-o", "masks-my roberta"]
    done = fastmask(*command[1:])
    assert done.exit_code == 0 and done.stderr.startswith("masks-my roberta: 2"), done.stderr
    assert fastmask("pretrain", "masks-my roberta", "-o", "adapted", *pretrain).exit_code == 0
    assert fastmask("export", "masks-my roberta", "-o", "files", "--to", "jsonl", "-q").exit_code == 0
    said = refusal(fastmask("train-masker", masks, "--init", roberta, "-o", "masker", "-q"))
    assert f"; {shlex.join(command)} makes masks for it" in said


def test_killed_and_resumed_to_the_same_bytes(masks, roberta, tmp_path, monkeypatch):
    remap_shards(masks, roberta, str(tmp_path / "whole"))
    write = RunDirectory.write_shard

    def killed_at_the_second(self, index, scored):
        if index == 1:
            raise KeyboardInterrupt
        return write(self, index, scored)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_shard", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            remap_shards(masks, roberta, str(tmp_path / "out"))
    assert not (tmp_path / "out" / MANIFEST).exists()
    remap_shards(masks, roberta, str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_there_is_kept_or_refused(masks, roberta, mr_tiny, tmp_path):
    out = tmp_path / "out"
    remap_shards(masks, roberta, str(out))
    before = contents(out)
    remap_shards(masks, roberta, str(out))
    assert contents(out) == before
    assert "made with other settings: tokenizer was" in refusal(
        fastmask("remap", masks, "--tokenizer", mr_tiny, "-o", out)
    )
    assert fastmask("remap", masks, "--tokenizer", mr_tiny, "-o", out, "--overwrite", "-q").exit_code == 0
    assert open_shards(out).manifest["tokenizer"]["name"] == mr_tiny
    with pytest.raises(OutputError, match="is the directory of the shards"):
        remap_shards(masks, roberta, masks)
    shard = out / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "fastmask remap; the same command makes it again with --overwrite" in refusal(
        fastmask("verify", out, "--repair")
    )
    assert fastmask("remap", masks, "--tokenizer", mr_tiny, "-o", out, "--overwrite", "-q").exit_code == 0
    assert verify(out) == []


def test_texts_that_are_elsewhere_say_from_where(roberta, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    Path("c.txt").write_text("A film.\n")
    assert fastmask("score", "c.txt", "-o", "masks", "--method", "random").exit_code == 0
    monkeypatch.chdir(tmp_path)
    said = refusal(fastmask("remap", "there/masks", "--tokenizer", roberta, "-o", "out"))
    assert f"c.txt: no such file in {tmp_path}; run this where the shards were made" in said
