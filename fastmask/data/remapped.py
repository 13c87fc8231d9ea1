"""``fastmask remap``: a finished directory's masks as another directory, in another tokenizer's tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import __version__
from ..core.arrays import offsets_of
from ..core.errors import OutputError
from ..core.plain import Json
from ..core.records import EncodedSentences, ScoredSentences
from ..models.directory import load_tokenizer, resolve_model
from ..models.tokenizer import tokenizer_record
from ..shards.reader import ShardSet, open_shards
from ..shards.schema import header_of, inherited
from ..shards.writer import RunDirectory
from ..text.hashed import inputs_again
from .remap import FROM_PYTHON, Target, remapped, texts_again


def remap_shards(shards: str, model: str, out: str, overwrite: bool = False) -> dict[str, Any]:
    """Write a finished directory's masks in another model's tokens, as ``remap_masks`` finds them; return the manifest.

    A shard is made of a shard. What was killed is resumed; a finished directory of the same shards is left alone.

    Args:
        shards: the finished directory, whose inputs are read again.
        model: directory or hub id of the model whose tokenizer it is.
        out: the new directory.
        overwrite: replace a directory of something else.

    Raises:
        InputError: an input is gone or has changed, or was standard input.
        ModelError: there is no such model, or its tokenizer gives no character positions.
        OutputError: the shards are unfinished or damaged, or ``out`` is taken or cannot be written.
    """
    if os.path.realpath(out) == os.path.realpath(shards):
        raise OutputError(f"--out {out}: is the directory of the shards")
    opened, files = open_shards(shards), resolve_model(model)
    tokenizer, manifest = load_tokenizer(files), opened.manifest
    identity = {key: value for key, value in header_of(manifest).items() if key not in ("format_version", "config")}
    identity |= {"fastmask_version": __version__, "tokenizer": tokenizer_record(files, tokenizer)}
    identity["remapped"] = {
        "tokenizer": manifest["tokenizer"],
        "shards": [each["sha256"] for each in manifest["shards"]],
    }
    with RunDirectory.open(out, manifest["config"], identity, overwrite) as run:
        if run.manifest is not None:
            return run.manifest
        if run.plan is None:
            run.write_plan({})
        inputs = inputs_again(manifest, FROM_PYTHON)
        target = Target(tokenizer, manifest)
        texts, missing = texts_again(manifest, inputs), run.missing(len(manifest["shards"]))
        for entry, skipped in opened.entries():
            if entry["index"] in missing:
                rows = list(remapped(_rows(opened, entry), texts, target))
                inputs.check()
                run.write_shard(entry["index"], _scored(rows, entry, skipped, opened.has_ids))
        inputs.check()
        certificate = {key: value for key, value in manifest["certificate"].items() if key != "statistics"}
        return run.finish({"certificate": certificate, **inherited(manifest)})


def _rows(shards: ShardSet, entry: Json) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = shards.read_rows(entry["index"], 0, entry["rows"]).to_pylist()
    return rows


def _scored(rows: Sequence[dict[str, Any]], entry: Json, skipped: tuple[str, ...], with_ids: bool) -> ScoredSentences:
    """Return a shard's rows as the writer takes them."""
    lengths = np.array([len(row["input_ids"]) for row in rows], np.int64)
    scored = np.array([row["importance"] is not None for row in rows], bool)
    sentences = EncodedSentences(
        row=np.array([row["row"] for row in rows], np.int64),
        sentence=np.array([row["sentence"] for row in rows], np.int32),
        offsets=offsets_of(lengths),
        input_ids=_joined([row["input_ids"] for row in rows], np.int32),
        char_start=_joined([row["char_start"] for row in rows], np.int32),
        char_end=_joined([row["char_end"] for row in rows], np.int32),
        word=_joined([row["word"] for row in rows], np.int32),
        label=_known(rows, "label", -1, np.int32),
        unit_sentence=np.zeros(0, np.int32),
        unit_label=np.zeros(0, np.int32),
        context_offsets=np.zeros(1, np.int64),
        context_ids=np.zeros(0, np.int32),
        is_aspect=False,
        first_row=entry["first_row"],
        end_row=entry["end_row"],
        skipped=skipped,
        id=np.array([row["id"] for row in rows], object) if with_ids else None,
    )
    return ScoredSentences(
        sentences=sentences,
        predicted=_known(rows, "predicted", -1, np.int32),
        prob=_known(rows, "prob", np.nan, np.float32),
        importance=_joined(
            [
                np.zeros(length, np.float32) if row["importance"] is None else row["importance"]
                for row, length in zip(rows, lengths, strict=True)
            ],
            np.float32,
        ),
        scored=scored,
        mask_offsets=offsets_of(np.array([len(row["mask_index"]) for row in rows], np.int64)),
        mask_index=_joined([row["mask_index"] for row in rows], np.int32),
        certificate=entry["certificate"],
        mask_prob=None
        if any(row["mask_prob"] is None for row in rows)
        else _joined([row["mask_prob"] for row in rows], np.float32),
    )


def _joined(lists: Sequence[Any], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *lists]).astype(kind)


def _known(rows: Sequence[dict[str, Any]], name: str, unknown: float, kind: type) -> np.ndarray:
    return np.array([unknown if row[name] is None else row[name] for row in rows], kind)
