"""Fuzzing of what fastmask itself has written: shard directories, journals, training runs, the record of a recipe."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import fuzz_inputs
import hostile
from fuzz_world import World
from outcomes import command


def read_shards(rng: Random, out: Path, world: World) -> None:
    """Read shards in all the ways there are, then ``verify``: what it finds sound must be readable."""
    import fastmask
    from fastmask.core.config import ExportConfig
    from fastmask.core.errors import FastmaskError
    from fastmask.data.exporting import export_shards
    from fastmask.data.remapped import remap_shards
    from fastmask.pipeline import repair
    from fastmask.shards.reader import open_shards
    from fastmask.shards.verify import verify

    readers: tuple[Callable[[], object], ...] = (
        lambda: open_shards(out).to_table(),
        lambda: open_shards(out, check_hashes=True)[rng.choice((0, -2, 3)) :],
        lambda: list(fastmask.TrainingStream(str(out), max_length=16, seed=1).epoch()),
        lambda: list(fastmask.remap_masks(out, _tokenizer_of(world))),
        lambda: world.score(out.parent / "like", method="random", like=str(out)),
        lambda: remap_shards(str(out), str(world.model), str(out.parent / "remapped")),
        lambda: export_shards(ExportConfig(str(out), str(out.parent / "exported"), "jsonl", max_length=16)),
        lambda: repair(str(shutil.copytree(out, out.parent / "repaired"))),
    )
    refusals = []
    for reader in rng.sample(readers, 2):
        try:
            reader()
        except FastmaskError as error:
            refusals.append(error)
    damage = verify(out)
    assert not damage or all(one.reason for one in damage)
    assert damage or not refusals or _is_not_values(refusals[0]), f"verify finds nothing: {refusals[0]!a}"
    if refusals:
        raise refusals[0]
    if rng.random() < 0.5:
        command("verify", out)
        command("inspect", out, "--rows", rng.choice((0, 2)))


def _is_not_values(error: Exception) -> bool:
    """A sound directory may still be of another tokenizer, or of inputs that are gone."""
    words = ("tokenizer", "has changed", "no such file", "--like", "special", "unknown format", "is a folder",
             "cannot be read again", "--encoding", "its text has", "no input has",
             '"config": lacks')  # fmt: skip
    return any(word in str(error) for word in words)


def _tokenizer_of(world: World):
    from fastmask.models.directory import load_tokenizer, resolve_model

    return load_tokenizer(resolve_model(str(world.model)))


def _shards(world: World, folder: Path) -> Path:
    return Path(shutil.copytree(world.shards, folder / "shards"))


def fuzz_manifest(rng: Random, folder: Path, world: World) -> None:
    """Read shards whose manifest is hostile."""
    out = _shards(world, folder)
    manifest = hostile.changed(rng, json.loads((out / "_manifest.json").read_text()))
    if rng.random() < 0.5:
        _add_up(manifest)
    name = "_manifest.json" if rng.random() < 0.9 else "manifest.json"
    (out / "_manifest.json").unlink()
    (out / name).write_bytes(hostile.dump(rng, manifest))
    read_shards(rng, out, world)


def _add_up(manifest) -> None:
    """Make the totals fit, where that can be."""
    from fastmask.shards.schema import totals

    try:
        manifest["totals"] = totals(manifest["shards"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return


def _put(out: Path, name: str, data: bytes, counts: dict) -> None:
    """Write a shard, with a manifest that fits."""
    manifest = json.loads((out / "_manifest.json").read_text())
    (out / name).write_bytes(data)
    entry = next(entry for entry in manifest["shards"] if entry["file"] == name)
    entry.update({**counts, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    _add_up(manifest)
    (out / "_manifest.json").write_text(json.dumps(manifest))


def fuzz_shard_values(rng: Random, folder: Path, world: World) -> None:
    """Read shards with values that cannot be, whose hashes and counts fit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = _shards(world, folder)
    name = rng.choice(("shard-00000.parquet", "shard-00001.parquet"))
    table = pq.read_table(out / name)
    for _ in range(rng.choice((1, 1, 2, 3))):
        table = _forged(rng, table)
    sink = io.BytesIO()
    try:
        pq.write_table(table, sink, row_group_size=rng.choice((1, 2, 16384)))
    except pa.ArrowException:  # Parquet cannot hold it
        return
    counts = {"rows": len(table)}
    for key, column in (("tokens", "input_ids"), ("masked", "mask_index")):
        if column in table.schema.names and pa.types.is_list(table.schema.field(column).type):
            counts[key] = sum(len(one or ()) for one in table[column].to_pylist())
    if "importance" in table.schema.names:
        counts["scored"] = len(table) - table["importance"].null_count
    _put(out, name, sink.getvalue(), counts)
    read_shards(rng, out, world)


def _forged(rng: Random, table):
    """Return a table with a value changed, rows in another order, or a column gone, renamed or of another type."""
    import pyarrow as pa

    if not table.num_columns:
        return table
    place = rng.randrange(table.num_columns)
    field, values = table.schema.field(place), table.column(place).to_pylist()
    how = rng.randrange(10)
    if how == 0:
        return table.take(pa.array([rng.randrange(len(table)) for _ in range(len(table))])) if len(table) else table
    if how == 1:
        return rng.choice((table.drop_columns([field.name]), table.slice(0, 1), table.slice(0, 0),
                           table.append_column("more", table.column(place)), table.replace_schema_metadata(None),
                           table.rename_columns([*table.column_names[1:], "x\x1b[31m"])))  # fmt: skip
    if not values:
        return table
    row = rng.randrange(len(values))
    values[row] = _other(rng, values[row])
    try:
        return table.set_column(place, field, pa.array(values, field.type, from_pandas=False))
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return table.set_column(place, field.name, pa.array([str(value) for value in values]))


def _other(rng: Random, value):
    small = (0, 1, -1, 5, 63, 64, 2**24, 2**31 - 1, -(2**31), 2**63 - 1, 0.5, float("nan"), float("inf"), None)
    if not isinstance(value, list):
        return rng.choice(small)
    if not value or rng.random() < 0.3:
        return rng.choice(
            (None, [], value[::-1], value * 2, value[1:], [*value, rng.choice(small)], [rng.choice(small)])
        )
    copy = list(value)
    copy[rng.randrange(len(copy))] = rng.choice(small)
    return copy


def fuzz_shard_bytes(rng: Random, folder: Path, world: World) -> None:
    """Read shards whose bytes are damaged, known to the manifest or not."""
    out = _shards(world, folder)
    name = rng.choice(("shard-00000.parquet", "shard-00001.parquet"))
    data = hostile.damaged(rng, (out / name).read_bytes())
    if rng.random() < 0.7:
        _put(out, name, data, {})
    else:
        (out / name).write_bytes(data)
    read_shards(rng, out, world)


def fuzz_journal(rng: Random, folder: Path, world: World) -> None:
    """Resume from a hostile journal or plan: to the bytes that an undisturbed run makes, or not at all."""
    out = _shards(world, folder)
    manifest = json.loads((out / "_manifest.json").read_text())
    wanted = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "_manifest.json").unlink()
    (out / "journal.jsonl").write_bytes(_journal(rng, manifest, times=rng.choice((None, 0))))
    if rng.random() < 0.5:
        plan = json.loads((out / "_plan.json").read_text())
        bounds = {**plan, "error_bounds": hostile.changed(rng, plan["error_bounds"])}
        hostile_plan = rng.choice((bounds, hostile.changed(rng, plan)))
        (out / "_plan.json").write_bytes(hostile.dump(rng, hostile_plan))
    if rng.random() < 0.3:
        (out / "shard-00001.parquet").unlink()
    world.score(out, overwrite=rng.random() < 0.2)
    left = {path.name: path.read_bytes() for path in out.iterdir() if path.name in wanted}
    assert left.keys() == wanted.keys() and not (out / "journal.jsonl").exists()
    assert all(left[name] == wanted[name] for name in wanted if name.endswith(".parquet")), "other bytes"


def _journal(rng: Random, manifest: dict, times: int | None) -> bytes:
    """Return the journal that a run of this manifest wrote, damaged."""
    from fastmask.shards.schema import header_of

    entries = [{**entry, "skipped": []} for entry in manifest["shards"]]
    records = [header_of(manifest), *entries[: rng.choice((0, 1, 2, 2))]]
    place = rng.randrange(len(records))
    records[place] = hostile.changed(rng, records[place], times)
    if times == 0:
        return b"".join(json.dumps(record).encode() + b"\n" for record in records)
    if rng.random() < 0.2:
        records = rng.choices(records, k=rng.choice((1, 3, 5)))
    data = b"".join(hostile.dump(rng, record) + b"\n" for record in records)
    return hostile.damaged(rng, data) if rng.random() < 0.3 else data


def fuzz_ledger(rng: Random, folder: Path, world: World) -> None:
    """Plan a recipe's run whose record of finished steps is hostile."""
    from fastmask.experiment.run import Run

    corpus = folder / "corpus.csv"
    corpus.write_text("text,label\ngood,positive\nbad,negative\n")
    recipe = fuzz_inputs.toml(Random(0), fuzz_inputs.RECIPE)
    for name, path in (("OUT", folder / "run"), ("MODEL", world.model), ("CORPUS", corpus)):
        recipe = recipe.replace(f'"{name}"'.encode(), json.dumps(str(path)).encode())
    (folder / "r.toml").write_bytes(recipe)
    steps = {}
    for step in Run(str(folder / "r.toml")).steps:
        shutil.copytree(world.model, folder / "run" / step.name)
        for name in ("metrics.json", "_manifest.json", "pretrain.json", "report.json"):
            (folder / "run" / step.name / name).write_bytes(b"{}")
        steps[step.name] = {
            "made_from": {"config": {"a": 1}, "needs": {}},
            "weights": {"a": [1, 2]},
            "fingerprint": "ab",
        }
    record = {"steps": steps, "files": {str(corpus): [1, 2, "ab"]}}
    (folder / "run" / "steps.json").write_bytes(hostile.dump(rng, hostile.changed(rng, record)))
    command("run", folder / "r.toml", "--dry-run")


def fuzz_training(rng: Random, folder: Path, world: World) -> None:
    """Resume a training run of which a file is hostile."""
    out = Path(shutil.copytree(world.training, folder / "training"))
    files = [path for path in sorted(out.rglob("*")) if path.suffix in (".json", ".jsonl", ".safetensors")]
    file = rng.choice([path for path in files if path.name not in ("tokenizer.json", "model.safetensors")])
    data = file.read_bytes()
    if file.suffix == ".safetensors":
        file.write_bytes(hostile.damaged(rng, data))
    elif file.suffix == ".json":
        file.write_bytes(hostile.dump(rng, hostile.changed(rng, json.loads(data))))
    else:
        lines = [hostile.dump(rng, hostile.changed(rng, json.loads(line))) for line in data.splitlines()]
        file.write_bytes(b"\n".join(lines) + rng.choice((b"", b"\n")))
    world.train(out)


def fuzz_evaluate(rng: Random, folder: Path, world: World) -> None:
    """Compare hostile predictions on a hostile test file."""
    test, arms = folder / "test.csv", []
    rows = ["good,positive", "bad,negative", "fine,positive"]
    test.write_text("\n".join(["text,label", *rows]) + "\n")
    if rng.random() < 0.3:
        test.write_bytes(fuzz_inputs.delimited(rng, ","))
    for name in ("a", hostile.text(rng).replace("\0", "").encode("utf-8", "replace").decode()):
        lines = [rng.choice(fuzz_inputs.LABELS if rng.random() < 0.1 else ("positive", "negative")) for _ in rows]
        data = ("\n".join(lines) + "\n").encode()
        path = folder / f"{len(arms)}.txt"
        path.write_bytes(hostile.damaged(rng, data) if rng.random() < 0.3 else data)
        arms += ["--arm", f"{name}={path}"]
    command("evaluate", *arms, "--test", test, "--resamples", 100, "-q")


def fuzz_stop_words(rng: Random, folder: Path, world: World) -> None:
    """Read a hostile list of words."""
    from fastmask.text.stop_words import stop_words

    (folder / "words").write_bytes(fuzz_inputs.txt(rng))
    stop_words(str(folder / "words"))
