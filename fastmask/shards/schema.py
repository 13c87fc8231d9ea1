"""The layout of a shard directory: its manifest, and the checks that manifest and shards must pass."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import DamageError, OutputError
from ..core.plain import Json, check_regular, parse_json, read_regular
from ..core.records import ScoredSentences
from ..core.urls import Url, path_of
from .columns import list_lengths, present
from .manifest import ENTRY, MANIFEST_FIELDS, is_certificate, type_fault
from .sound import count_fault, entry_fault, tokenizer_fault, value_fault
from .table import FORMAT_VERSION, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MANIFEST = "_manifest.json"
"""Arrow's data sets, and so pandas, ignore names that begin with an underscore and take all others for shards."""
OLD_MANIFEST = "manifest.json"
PLAN = "_plan.json"
"""The file of what every shard is a function of, written before the first one."""
PLANNED = "_planned.json"
"""The file of how the plan was made, for parts of a run, until that is finished."""
STATISTICS = "_statistics.jsonl"
"""The file of what a method counted over the whole corpus, written before the plan, which has its hash."""
SHARD_NAME = re.compile(r"shard-\d{5,}\.parquet")
SKIPPED_SHOWN = 100
"""How many of the messages about skipped documents the manifest keeps."""

IDENTITY_KEYS = ("fastmask_version", "tokenizer", "model", "inputs")
"""What besides the configuration decides the result; the caller may add more keys of its own."""
HEADER_KEYS = ("format_version", "config", *IDENTITY_KEYS)
RESULT_KEYS = ("shards", "totals", "certificate", "environment", "skipped")
OF_RESULT = (*RESULT_KEYS, "classes", "repeat")
"""What is not of the header: the last two are not in manifests of earlier versions."""
COUNTS = ("rows", "scored", "tokens", "masked", "bytes")
"""What a shard's entry counts and the totals sum."""
ENTRY_KEYS = ("index", "file", "first_row", "end_row", *COUNTS, "sha256", "certificate", "skipped")
FOREIGN = "its columns are not those of the shard format"


def shard_name(index: int) -> str:
    """Return the file name of shard ``index``."""
    return f"shard-{index:05d}.parquet"


def shard_entry(index: int, scored: ScoredSentences, data: bytes) -> Json:
    """Return the journal's entry for a shard; ``data`` is its file, ``skipped`` of the entry holds the messages.

    It has ENTRY_KEYS, and ``empty`` (rows without a token, which were not skipped), ``labelled`` and ``misclassified``,
    which earlier versions did not write.
    """
    sentences = scored.sentences
    rows = int(sentences.end_row - sentences.first_row)
    return {
        "index": index,
        "file": shard_name(index),
        "first_row": int(sentences.first_row),
        "end_row": int(sentences.end_row),
        "rows": len(sentences),
        "scored": int(np.count_nonzero(scored.scored)),
        "tokens": len(sentences.input_ids),
        "masked": len(scored.mask_index),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "certificate": scored.certificate,
        "skipped": list(sentences.skipped),
        "empty": rows - len(np.unique(sentences.row)) - len(sentences.skipped),
        **_label_counts(scored),
    }


def _label_counts(scored: ScoredSentences) -> dict[str, int]:
    """Count the sentences with a label (or an aspect with one), and those of them that the classifier gets wrong."""
    s = scored.sentences
    labelled, wrong = s.label >= 0, scored.predicted != s.label
    if s.is_aspect:
        labelled, wrong = np.isin(np.arange(len(s)), s.unit_sentence[s.unit_label >= 0]), ~scored.scored
    return {"labelled": int(labelled.sum()), "misclassified": int((labelled & wrong).sum())}


def make_header(config: Json, identity: Json) -> Json:
    """Return the part of the manifest known before the first shard: format version, configuration and identity.

    Raises:
        ValueError: a key of IDENTITY_KEYS is missing, or one has a meaning of its own in the manifest.
    """
    missing = [key for key in IDENTITY_KEYS if key not in identity]
    taken = [key for key in identity if key in (*OF_RESULT, "format_version", "config")]
    if missing or taken:
        raise ValueError(f"identity: missing {missing}, reserved {taken}")
    header = {"format_version": FORMAT_VERSION, "config": config, **identity}
    # through JSON once, so that it equals what is read back (tuples become lists)
    read_back: Json = json.loads(json.dumps(header, allow_nan=False))
    return read_back


def header_of(manifest: Json) -> Json:
    """Return the header that a manifest was built from."""
    return {key: value for key, value in manifest.items() if key not in OF_RESULT}


def inherited(manifest: Json) -> Json:
    """Return what a directory made of another one's rows has in common with its manifest, for ``build_manifest``."""
    return {key: manifest[key] for key in ("environment", "classes") if key in manifest}


def has_ids(manifest: Json) -> bool:
    """Return whether shards have the user's own ids, by their manifest or header."""
    return manifest["config"].get("id_field") is not None


def totals(entries: list[Json]) -> Json:
    """Return sums over the shards' entries: shards, documents, and each of COUNTS."""
    sums = {key: sum(entry[key] for entry in entries) for key in COUNTS}
    documents = sum(entry["end_row"] - entry["first_row"] for entry in entries)
    return {"shards": len(entries), "documents": documents, **sums}


def build_manifest(
    header: Json,
    entries: list[Json],
    certificate: Json,
    environment: Json,
    classes: list[str] | None = None,
    repeat: Json | None = None,
) -> Json:
    """Return the manifest of a finished run.

    Args:
        header: of ``make_header``.
        entries: of ``shard_entry``, in shard order, without a gap.
        certificate: the shards' certificates merged.
        environment: what it ran on (processor, device, precision, library versions); no times, no durations.
        classes: names of the classes that ``label`` and ``predicted`` are indices of, where it is known.
        repeat: what tells a repeat of the run without its model, see ``scoring.machine.Facts``.

    Raises:
        ValueError: shards are missing, or their document ranges do not follow each other.
    """
    gap = [entry["index"] for entry in entries] != list(range(len(entries)))
    if gap or any(left["end_row"] != right["first_row"] for left, right in pairwise(entries)):
        raise ValueError(f"the shards do not follow each other: {[entry['file'] for entry in entries]}")
    messages = [message for entry in entries for message in entry["skipped"]]
    return {
        **header,
        "shards": [{**entry, "skipped": len(entry["skipped"])} for entry in entries],
        "totals": totals(entries),
        "certificate": certificate,
        "environment": environment,
        "skipped": {"count": len(messages), "messages": messages[:SKIPPED_SHOWN]},
        **{key: value for key, value in (("classes", classes), ("repeat", repeat)) if value is not None},
    }


def check_manifest(manifest: object, where: str) -> None:
    """Raise OutputError, naming ``where``, unless the manifest is whole, of this format, and adds up."""
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise DamageError(where, "not a manifest of fastmask")
    if type(found := manifest["format_version"]) is not int or not 1 <= found <= FORMAT_VERSION:
        raise DamageError(where, f"format version {found}; this fastmask reads versions 1 to {FORMAT_VERSION}")
    if missing := [key for key in (*HEADER_KEYS, *RESULT_KEYS) if key not in manifest]:
        raise DamageError(where, f"lacks {', '.join(missing)}")
    if fault := type_fault(manifest, MANIFEST_FIELDS):
        raise DamageError(where, f"{fault}")
    if lacking := {"count", "messages"} - manifest["skipped"].keys():
        raise DamageError(where, f'field "skipped": lacks {", ".join(sorted(lacking))}')
    if not isinstance(manifest["shards"], list):
        raise DamageError(where, "the list of shards is damaged")
    for index, entry in enumerate(manifest["shards"]):
        if not is_entry(entry) or entry["index"] != index or type(entry["skipped"]) is not int:
            raise DamageError(where, f"the entry of {shard_name(index)} is damaged")
        if fault := entry_fault(entry):
            raise DamageError(where, f"{shard_name(index)}: {fault}")
    if any(left["end_row"] != right["first_row"] for left, right in pairwise(manifest["shards"])):
        raise DamageError(where, "the rows of the shards do not follow each other")
    if fault := tokenizer_fault(manifest["tokenizer"]):
        raise DamageError(where, f"{fault}")
    if totals(manifest["shards"]) != manifest["totals"]:
        raise DamageError(where, "the totals are not the sums over the shards")


def is_entry(entry: object) -> bool:
    """Return whether ``entry`` has the keys of ENTRY_KEYS, integers where numbers belong, its shard's file name."""
    if not isinstance(entry, dict) or not all(key in entry for key in ENTRY_KEYS):
        return False
    if type_fault(entry, ENTRY) or not is_certificate(entry["certificate"]):
        return False
    numbers = all(type(entry[key]) is int for key in ("index", "first_row", "end_row", *COUNTS))
    return numbers and entry["file"] == shard_name(entry["index"])


def parse_manifest(data: bytes, where: str) -> Json:
    """Return the manifest in ``data``, checked; an OutputError names ``where``."""
    try:
        manifest: Json = parse_json(data, finite=True)
    except ValueError as error:
        raise DamageError(where, f"cannot be read as JSON ({error})") from error
    check_manifest(manifest, where)
    return manifest


def manifest_path(out: str | Path | Url) -> Path | Url:
    """Return the path of the directory's manifest, which may have the name that older ones have."""
    new, old = (path_of(out) / name for name in (MANIFEST, OLD_MANIFEST))
    return new if new.is_file() or not old.is_file() else old


def manifest_hash(out: str | Path | Url) -> str:
    """Return the sha256 of a directory's manifest, which holds the hashes of its shards; OSError if there is none."""
    return hashlib.sha256(read_regular(manifest_path(out))).hexdigest()


def read_manifest(out: str | Path | Url) -> Json:
    """Return the manifest of the finished directory ``out``.

    Raises:
        OutputError: there is none (the run is not finished), or it is damaged or of another format version.
    """
    path = manifest_path(out)
    try:
        return parse_manifest(read_regular(path), str(path))
    except (FileNotFoundError, NotADirectoryError):
        unfinished = f"not finished (no {MANIFEST}); run the same command again to finish it"
        raise OutputError(f"{out}: {unfinished if path_of(out).is_dir() else 'no such directory'}") from None
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from error


def file_fault(path: Path | Url, entry: Json, hashes: bool) -> str | None:
    """Return what is wrong with a shard's file: missing, wrong size, or (``hashes``) wrong SHA-256; else None."""
    try:
        check_regular(path)
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"has {size} bytes instead of {entry['bytes']}"
        if hashes:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    return "its SHA-256 is not the recorded one"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def content_fault(
    table: pa.Table,
    entry: Json,
    vocab_size: int | None = None,
    version: int = FORMAT_VERSION,
    with_ids: bool = False,
) -> str | None:
    """Return the first rule of the shard format of a version that a table breaks, None when it is sound.

    Rules: schema; counts as in ``entry``; those of ``sound.value_fault``.
    """
    if not table.schema.equals(arrow_schema(version, with_ids), check_metadata=True):
        return FOREIGN
    tokens, masked = (int(list_lengths(table[name]).sum()) for name in ("input_ids", "mask_index"))
    scored = int(present(table["importance"]).sum())
    counts = {"rows": len(table), "scored": scored, "tokens": tokens, "masked": masked}
    return count_fault(counts, entry) or value_fault(table, entry, vocab_size)


def file_content_fault(
    file: pq.ParquetFile, entry: Json, version: int = FORMAT_VERSION, with_ids: bool = False
) -> str | None:
    """Return what a shard's footer shows to be wrong: the schema, or counts other than in ``entry``; else None."""
    if not file.schema_arrow.equals(arrow_schema(version, with_ids), check_metadata=True):
        return FOREIGN
    footer, columns = file.metadata, arrow_schema(version).names
    rows = footer.num_rows
    for name, key in (("input_ids", "tokens"), ("mask_index", "masked")):
        at = columns.index(name)
        values = sum(footer.row_group(group).column(at).num_values for group in range(footer.num_row_groups))
        # Parquet counts a list without a value as one
        if rows == entry["rows"] and not entry[key] <= values <= entry[key] + rows:
            return f"has other {key} than the manifest's {entry[key]}"
    return count_fault({"rows": rows}, entry)


@contextmanager
def open_parquet(path: Path | Url) -> Iterator[pq.ParquetFile]:
    """Open a shard with page checksums on; what pyarrow finds wrong becomes an OutputError with its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_regular(path)
        source = path.open() if isinstance(path, Url) else path
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamageError(str(path), f"damaged ({' '.join(str(error).split())})") from error


def is_shard(path: Path | Url) -> bool:
    """Return whether a file is a shard of fastmask, of any format version."""
    try:
        with open_parquet(path) as file:
            return b"fastmask.format_version" in (file.schema_arrow.metadata or {})
    except OutputError:
        return False
