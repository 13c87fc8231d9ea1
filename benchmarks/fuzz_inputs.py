"""Fuzzing of what a user gives to read: files of five formats, their encodings, recipes."""

from __future__ import annotations

import gzip
import io
import json
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import hostile
from outcomes import command

if TYPE_CHECKING:
    from fuzz_world import World

LABELS = ("positive", "negative", "0", "1", "1.0", "-1", "", "nan", "conflict", "POSITIVE", "2.5")
ENCODINGS = (
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "latin-1", "cp1252", "cp037",
    "ascii", "shift_jis", "euc_jp", "gb18030", "big5", "iso2022_jp", "iso2022_kr", "hz", "utf-7", "koi8_r", "cp65001",
    "mac_roman", "punycode", "idna", "undefined", "rot13", "hex", "base64", "zlib", "bz2", "uu", "quopri",
    "raw_unicode_escape", "unicode_escape", "charmap", "mbcs", "oem", "tis_620", "ptcp154", "palmos", "johab",
    "utf_8_sig", "U8", "none",
)  # fmt: skip


def read(path: Path, rng: Random, encoding: str = "utf-8") -> None:
    """Read a file as ``score`` does, then from rows and places in the middle: what follows must be the same."""
    from fastmask.core.labels import Classes
    from fastmask.text.documents import read_rows, reading_of
    from fastmask.text.hashed import HashedInputs
    from fastmask.text.places import Places

    options = {
        "on_error": rng.choice(("fail", "skip", "skip")),
        "label_field": rng.choice(("label", "label", "stars")),
        "max_text_mb": rng.choice((64, 64, 0)),
        "encoding": encoding,
    }
    said: list[str] = []
    documents = list(read_rows([str(path)], skipped=said, **options))
    begin = rng.randrange(len(documents) + 1)
    again: list[str] = []
    rest = list(read_rows([str(path)], start_row=begin, skipped=again, **options))
    assert rest == documents[begin:], "other documents from a row in the middle"
    size = rng.choice((1, 2, 5))
    reading = reading_of("text", options["label_field"], encoding, options["max_text_mb"])
    inputs = HashedInputs([str(path)], Places(reading, size))
    assert inputs.rows == len(documents) and len(inputs.places) == -(-len(documents) // size), "other rows in the plan"
    for shard, place in enumerate(inputs.places):
        rest = list(read_rows([str(path)], start_row=shard * size, place=place, skipped=again, **options))
        assert rest == documents[shard * size :], "other documents from a place in the middle"
    assert len(said) == len(set(said)) and not any("\n" in line for line in said), "a fault is not one line of its own"
    classes = Classes(("negative", "positive"))
    for document in documents:
        if document is not None:
            document.text.encode()
            assert "\0" not in document.text
            classes.index(document.label, document.source, document.line, "label")


# --- texts and tables ---


def rows(rng: Random) -> list[dict]:
    """Return some rows, most of them good."""
    made = []
    for _ in range(rng.choice((0, 1, 2, 3, 5, 12))):
        row = {"text": hostile.text(rng) if rng.random() < 0.4 else "a good film", "label": rng.choice(LABELS)}
        if rng.random() < 0.2:
            row["stars"] = rng.choice(hostile.NUMBERS)
        if rng.random() < 0.2:
            row["aspects"] = [{"term": "film", "polarity": rng.choice(LABELS)} for _ in range(rng.randrange(3))]
        made.append(row)
    return made


def txt(rng: Random) -> bytes:
    """Return lines of text."""
    return _encoded(rng, "".join(row["text"] + rng.choice(("\n", "\n", "\r\n", "\r")) for row in rows(rng)))


def jsonl(rng: Random) -> bytes:
    """Return a JSON object a line."""
    values = rows(rng)
    lines = [hostile.dump(rng, hostile.changed(rng, row) if rng.random() < 0.4 else row) for row in values]
    return b"".join(line + rng.choice((b"\n", b"\n", b"\r\n", b"\n\n", b"")) for line in lines)


def delimited(rng: Random, delimiter: str) -> bytes:
    """Return a table of text, quoted as it should be, or not."""
    names = ["text", "label", "stars"][: rng.randrange(1, 4)]
    if rng.random() < 0.2:
        names[rng.randrange(len(names))] = hostile.text(rng)
    lines = [names, *([str(row.get(name, "")) for name in names] for row in rows(rng))]
    quote = rng.choice((_quoted, _quoted, str))
    end = rng.choice(("\n", "\r\n", "\n", "\r"))
    return _encoded(rng, "".join(delimiter.join(map(quote, line)) + end for line in lines))


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if any(char in field for char in '",\t\r\n') else field


def _encoded(rng: Random, content: str) -> bytes:
    data = content.encode("utf-8", rng.choice(("surrogatepass", "replace")))
    return hostile.damaged(rng, data) if rng.random() < 0.5 else data


def parquet(rng: Random) -> bytes:
    """Return a table whose columns are of many types, perhaps with the class names that ``datasets`` writes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"text": _texts(rng)}
    if rng.random() < 0.7:
        columns["label"] = _column(rng)
    if rng.random() < 0.3:
        odd = hostile.text(rng).encode("utf-8", "replace").decode()
        columns[rng.choice(("aspects", "stars", "label ", odd))] = _column(rng)
    table = pa.Table.from_arrays(list(columns.values()), list(columns))
    if rng.random() < 0.3:
        classes = {"info": {"features": {"label": {"names": ["negative", "positive"], "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": hostile.dump(rng, hostile.changed(rng, classes))})
    sink = io.BytesIO()
    options = {"compression": rng.choice(("zstd", "snappy", "none")), "use_dictionary": rng.random() < 0.5}
    try:
        pq.write_table(table, sink, row_group_size=rng.choice((1, 2, 1024)), **options)
    except pa.ArrowException:  # Parquet cannot hold it
        return parquet(rng)
    data = sink.getvalue()
    return hostile.damaged(rng, data) if rng.random() < 0.4 else data


SIZE = 4


def _texts(rng: Random):
    import pyarrow as pa

    texts = [hostile.text(rng).encode("utf-8", "replace").decode() for _ in range(SIZE)]
    if rng.random() < 0.15:  # bytes that are not UTF-8, said to be
        raw = pa.array([b"good", b"\xff\xfe", b"\xed\xa0\x80", None], pa.binary())
        return pa.Array.from_buffers(pa.string(), SIZE, raw.buffers())
    kinds = (pa.string(), pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
    values = [None if rng.random() < 0.1 else one for one in texts]
    return pa.array(values, pa.string()).cast(rng.choice(kinds))


def _column(rng: Random):
    import pyarrow as pa

    numbers = [rng.choice((0, 1, -1, 2**31 - 1, -(2**31), None, 7)) for _ in range(SIZE)]
    large = [rng.choice((0, 1, 2**62, -(2**62), None)) for _ in range(SIZE)]
    zone = rng.choice(("UTC", "Nowhere/Atlantis", "+25:00", "\x1b[31m", ""))
    aspects = [[{"term": "film", "polarity": "positive"}], [], None, [None, {"term": None, "polarity": "x"}]]
    makers = (
        lambda: pa.array(numbers, pa.int32()), lambda: pa.array(numbers, pa.int32()).cast(pa.date32()),
        lambda: pa.array(large, pa.int64()), lambda: pa.array(large, pa.int64()).cast(pa.date64(), safe=False),
        lambda: pa.array(large, pa.timestamp(rng.choice(("s", "ms", "us", "ns")), rng.choice((None, zone)))),
        lambda: pa.array(large, pa.duration(rng.choice(("s", "ns")))), lambda: pa.array(numbers, pa.time32("s")),
        lambda: pa.array(large, pa.time64("ns")), lambda: pa.array([1.0, float("nan"), float("inf"), None]),
        lambda: pa.array([True, False, None, True]), lambda: pa.array([b"\xff", b"a", None, b""]),
        lambda: pa.array(list(LABELS[:SIZE])), lambda: pa.nulls(SIZE), lambda: pa.array([[1], [], None, [2, 3]]),
        lambda: pa.array([{"a": 1}, None, {"a": None}, {"a": 2}]), lambda: pa.array(aspects),
        lambda: pa.array([[("k", 1)], [], None, [("k", 2)]], pa.map_(pa.string(), pa.int64())),
        lambda: pa.array(["a", "b", "a", None]).dictionary_encode(),
        lambda: pa.array([1, 2, 3, 4], pa.decimal128(38, 30)),
        lambda: pa.array([0.5, 1, 0, None], pa.float16()),
    )  # fmt: skip
    try:
        return rng.choice(makers)()
    except pa.ArrowException:  # Arrow cannot hold it
        return pa.nulls(SIZE)


FORMATS = {
    "txt": txt, "jsonl": jsonl, "csv": partial(delimited, delimiter=","), "tsv": partial(delimited, delimiter="\t"),
    "parquet": parquet,
}  # fmt: skip


def fuzz_format(rng: Random, folder: Path, world: World, suffix: str, zipped: bool) -> None:
    """Read a file of a format."""
    data = FORMATS[suffix](rng)
    path = folder / f"c.{suffix}{'.gz' * zipped}"
    if zipped:
        data = gzip.compress(data, 1)
        data = hostile.damaged(rng, data) if rng.random() < 0.4 else data
    path.write_bytes(data)
    read(path, rng)


def fuzz_encoding(rng: Random, folder: Path, world: World) -> None:
    """Read a file in some encoding as another, or as itself."""
    suffix, name = rng.choice(("txt", "jsonl", "csv", "tsv")), rng.choice(ENCODINGS)
    name = hostile.text(rng) if rng.random() < 0.1 else name
    data = FORMATS[suffix](rng)
    try:
        data = data.decode("utf-8", "replace").encode(name, "replace")
    except (LookupError, ValueError, TypeError):
        data = data[::-1]
    path = folder / f"c.{suffix}"
    path.write_bytes(hostile.damaged(rng, data) if rng.random() < 0.3 else data)
    read(path, rng, name if rng.random() < 0.8 else rng.choice(ENCODINGS))


# --- recipes ---

RECIPE = {
    "out": "OUT", "init": "MODEL", "methods": ["masker", "greedy"], "seeds": [13, 43], "pretrain-each-seed": False,
    "task": {"train": "CORPUS", "test": "CORPUS", "dev": ["CORPUS"], "text-field": "text", "label-field": "label",
             "encoding": "utf-8"},
    "in-domain": {"corpus": ["CORPUS"]},
    "finetune": {"epochs": 1, "lr": 1e-3, "batch-size": 4, "classes": ["negative", "positive"]},
    "score": {"threshold": 0.05, "device": "cpu", "stop-words": "none"},
    "train-masker": {"epochs": 1}, "mask": {"mask-rate": 0.15},
    "pretrain": {"max-steps": 2, "precision": "float32"}, "evaluate": {"resamples": 100},
}  # fmt: skip


def toml(rng: Random, value: dict) -> bytes:
    """Return a table as TOML, sometimes what is none."""
    plain = {key: one for key, one in value.items() if not isinstance(one, dict)}
    tables = {key: one for key, one in value.items() if isinstance(one, dict)}
    lines = [f"{_key(rng, key)} = {_toml_value(one)}" for key, one in plain.items()]
    for name, table in tables.items():
        lines += [f"[{_key(rng, name)}]", *(f"{_key(rng, key)} = {_toml_value(one)}" for key, one in table.items())]
    written = "\n".join(lines).replace(f'"{hostile.DEEP}"', "[" * 3000 + "]" * 3000)
    return written.encode("utf-8", "surrogatepass")


def _key(rng: Random, key: str) -> str:
    return key if key.replace("-", "").isalnum() and key.isascii() and rng.random() < 0.9 else json.dumps(key)


def _toml_value(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return "1979-05-27" if value is None else json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def fuzz_recipe(rng: Random, folder: Path, world: World) -> None:
    """Plan the run of a recipe."""
    recipe = hostile.changed(rng, RECIPE)
    written = toml(rng, recipe if isinstance(recipe, dict) else {"out": recipe})
    for name, path in (("OUT", folder / "run"), ("MODEL", world.model), ("CORPUS", world.corpus)):
        written = written.replace(f'"{name}"'.encode(), json.dumps(str(path)).encode())
    (folder / "r.toml").write_bytes(hostile.damaged(rng, written) if rng.random() < 0.3 else written)
    command("run", folder / "r.toml", "--dry-run")
