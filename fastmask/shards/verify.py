"""Finding damage in a finished shard directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import DamageError
from ..core.plain import Json
from ..core.urls import Url, path_of
from .schema import (
    SHARD_NAME,
    STATISTICS,
    content_fault,
    file_content_fault,
    file_fault,
    has_ids,
    open_parquet,
    read_manifest,
)
from .statistics import statistics_fault


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file of a finished directory; ``index`` is the shard's number, None for any other file."""

    file: str
    reason: str
    index: int | None = None


def verify(out: str | Path | Url) -> list[Damage]:
    """Return what is damaged in the finished directory ``out``: manifest, hashes, counts, schema, content; else [].

    Raises:
        OutputError: the directory is not there, or not finished.
    """
    path = path_of(out)
    try:
        manifest = read_manifest(path)
    except DamageError as error:
        return [Damage(Path(error.file).name, error.reason)]
    return [*_damaged_shards(path, manifest), *_damaged_statistics(path, manifest), *_extra_shards(path, manifest)]


def _damaged_shards(path: Path | Url, manifest: Json) -> Iterator[Damage]:
    version, vocab_size = manifest["format_version"], manifest["tokenizer"].get("vocab_size")
    with_ids = has_ids(manifest)
    for entry in manifest["shards"]:
        file = path / entry["file"]
        fault = file_fault(file, entry, hashes=True)
        if fault is None:
            try:
                with open_parquet(file) as opened:  # the footer says things of its own, which readers go by
                    fault = file_content_fault(opened, entry, version, with_ids)
                    fault = fault or content_fault(opened.read(), entry, vocab_size, version, with_ids)
            except DamageError as error:
                fault = error.reason
        if fault is not None:
            yield Damage(entry["file"], fault, entry["index"])


def _damaged_statistics(path: Path | Url, manifest: Json) -> Iterator[Damage]:
    if fault := statistics_fault(path, manifest["certificate"]):
        yield Damage(STATISTICS, fault)


def _extra_shards(path: Path | Url, manifest: Json) -> Iterator[Damage]:
    known = {entry["file"] for entry in manifest["shards"]}
    for name in sorted(file.name for file in path.iterdir()):
        if SHARD_NAME.fullmatch(name) and name not in known:
            yield Damage(name, "is not in the manifest, but a reader of *.parquet would take it in")
