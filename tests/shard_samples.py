"""Random but repeatable decisions, and settings, for the tests of the shard format."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from fastmask.core.config import ScoreConfig
from fastmask.core.records import EncodedSentences, ScoredSentences
from fastmask.shards.writer import RunDirectory

IDENTITY = {
    "fastmask_version": "0.1.0",
    "tokenizer": {"name": "mr-tiny", "sha256": "ab", "special_ids": {"[CLS]": 2, "[SEP]": 3}},
    "model": {"name": "mr-tiny", "sha256": "cd"},
    "inputs": [{"path": "corpus.txt", "bytes": 7, "sha256": "ef"}],
}
FIELDS = {
    "certificate": {"eps": {"bfloat16": 0.125}, "rechecked_share": 0.0625, "audited": 1200, "flips": 0},
    "environment": {"torch": "2.13", "precision": "bfloat16"},
}
ROWS = 20
"""Documents in a shard of ``sample``."""


def build(lengths, masked, *, scored=None, label=None, predicted=None, prob=None, first_row=0, seed=0):
    """ScoredSentences of the given lengths, a document each; ``masked[i]``: positions masked in it."""
    rng, n, tokens = np.random.default_rng(seed), len(lengths), int(sum(lengths))
    starts = np.arange(tokens, dtype=np.int32)
    sentences = EncodedSentences(
        row=np.arange(first_row, first_row + n),
        sentence=np.zeros(n, np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        input_ids=rng.integers(0, 8192, tokens).astype(np.int32),
        char_start=starts * 5,
        char_end=starts * 5 + 4,
        word=words_of(lengths),
        label=np.asarray([-1] * n if label is None else label, np.int32),
        unit_sentence=np.arange(n, dtype=np.int32),
        unit_label=np.full(n, -1, np.int32),
        context_offsets=np.zeros(n + 1, np.int64),
        context_ids=np.zeros(0, np.int32),
        is_aspect=False,
        first_row=first_row,
        end_row=first_row + n,
    )
    return ScoredSentences(
        sentences=sentences,
        predicted=np.asarray([1] * n if predicted is None else predicted, np.int32),
        prob=np.asarray(rng.random(n) if prob is None else prob, np.float32),
        importance=rng.normal(size=tokens).astype(np.float32),
        scored=np.asarray([True] * n if scored is None else scored, bool),
        mask_offsets=np.concatenate([[0], np.cumsum([len(m) for m in masked], dtype=np.int64)]),
        mask_index=np.asarray([p for m in masked for p in m], np.int32),
        certificate={
            "eps": {"bfloat16": 0.125},
            "decisions": tokens,
            "rechecked": {"float32": 0},
            "pairs": {"bfloat16": 0},
            "max_error": {"bfloat16": 0.0},
            "audited": 0,
            "flips": 0,
        },
    )


def words_of(lengths) -> np.ndarray:
    """Words of one and of two tokens by turns."""
    return np.concatenate([np.zeros(0, np.int32), *(np.arange(n, dtype=np.int32) * 2 // 3 for n in lengths)])


def sample(index: int, rows: int = ROWS, mean_tokens: int = 12) -> ScoredSentences:
    """Shard ``index`` of a run: the same arrays at every call; some sentences empty, some not scored."""
    rng = np.random.default_rng(index)
    lengths = rng.poisson(mean_tokens, rows) * (rng.random(rows) > 0.1)
    masked = [np.flatnonzero(rng.random(n) < 0.2).tolist() for n in lengths]
    return build(lengths, masked, scored=rng.random(rows) > 0.2, first_row=index * rows, seed=index)


def config(**options) -> dict:
    return ScoreConfig(**options).as_dict()


def open_run(out, overwrite=False, identity=IDENTITY, **options) -> RunDirectory:
    run = RunDirectory.open(str(out), config(**options), identity, overwrite)
    if not run.finished and run.plan is None:
        try:
            run.write_plan({"error_bounds": None})
        except BaseException:
            run.close()
            raise
    return run


def write_run(out, shards: int = 3, **options) -> Path:
    """A run from wherever ``out`` stands to its end."""
    with open_run(out, **options) as run:
        if not run.finished:
            for index in run.missing(shards):
                run.write_shard(index, sample(index))
            run.finish(FIELDS)
    return Path(out)


def write_part(out) -> Path:
    """A run with shards 0 and 1 written."""
    with open_run(out) as run:
        run.write_shard(0, sample(0))
        run.write_shard(1, sample(1))
    return Path(out)


def contents(out) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out).iterdir()}


def as_format_1(out, copy) -> Path:
    """A finished directory as a fastmask of format 1 would have written it."""
    shutil.copytree(out, copy)
    manifest = json.loads((copy / "_manifest.json").read_text()) | {"format_version": 1}
    for entry in manifest["shards"]:
        path = copy / entry["file"]
        table = pq.read_table(path).drop_columns(["word", "mask_prob"])
        pq.write_table(table.replace_schema_metadata({"fastmask.format_version": "1"}), path)
        entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest["totals"]["bytes"] = sum(entry["bytes"] for entry in manifest["shards"])
    (copy / "_manifest.json").write_text(json.dumps(manifest))
    return copy
