"""What the fuzzer has found, each kind by itself: the line that says it, and what is taken."""

import base64
import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import edit, fastmask, refusal
from shard_samples import contents, write_part, write_run

from fastmask.core.errors import FastmaskError, InputError, ModelError, OutputError
from fastmask.core.plain import short_number
from fastmask.data.stream import TrainingStream
from fastmask.experiment.ledger import Ledger
from fastmask.experiment.recipe import read_recipe
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.tokenizer import check_tokenizer
from fastmask.pipeline import repair
from fastmask.scoring.methods.random import CopiedCounts
from fastmask.shards.journal import JOURNAL, journal_line
from fastmask.shards.reader import open_shards
from fastmask.shards.schema import MANIFEST, check_manifest, header_of, read_manifest
from fastmask.shards.verify import verify
from fastmask.text.documents import read_documents
from fastmask.text.hashed import inputs_again

# --- numbers beyond floats and beyond what Python reads ---


@pytest.mark.parametrize(
    ("number", "shown"), [(-5, "-5"), (10**30, "1e+30"), (0.25, "0.25"), (-(10**400), "-1.000e+400")]
)
def test_short_numbers(number, shown):
    assert short_number(number) == shown


def test_numbers_beyond_floats(shards, model, tmp_path):
    manifest = read_manifest(shards)
    manifest["shards"][0]["rows"] = 10**400
    with pytest.raises(OutputError, match=r"rows cannot be 1\.000e\+400"):
        check_manifest(manifest, "m.json")
    edit(model / "config.json", lambda config: config.update(num_hidden_layers=10**400))
    with pytest.raises(ModelError, match=r"num_hidden_layers cannot be 1\.000e\+400"):
        resolve_model(str(model))
    recipe = 'out = "o"\ninit = "i"\n[task]\ntrain = "t"\ntest = "t"\n[in-domain]\ncorpus = "c"\n[finetune]\nlr = '
    for value, words in ((f"1{'0' * 400}", "lr: 1.* is not a number"), ("9" * 5000, "is not TOML: Exceeds the limit")):
        (tmp_path / "r.toml").write_text(recipe + value)
        with pytest.raises(FastmaskError, match=rf"r\.toml: .*{words}"):
            read_recipe(str(tmp_path / "r.toml"))


@pytest.mark.parametrize("skipped", [-1, 21, 10**30])
def test_more_rows_skipped_than_there_are(shards, skipped):
    edit(shards / MANIFEST, lambda manifest: manifest["shards"][1].update(skipped=skipped))
    with pytest.raises(OutputError, match=r"shard-00001\.parquet: skipped cannot be "):
        read_manifest(shards)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite(shards, tmp_path, number):
    text = (shards / MANIFEST).read_text().replace('"audited": 1200', f'"audited": {number}')
    (shards / MANIFEST).write_text(text)
    assert number in text
    with pytest.raises(OutputError, match=rf"cannot be read as JSON \({number} is not a finite number\)"):
        read_manifest(shards)
    wanted, part = contents(write_run(tmp_path / "whole", 3)), write_part(tmp_path / "part")
    lines = (part / JOURNAL).read_bytes().splitlines(keepends=True)
    (part / JOURNAL).write_bytes(b"".join([*lines[:2], lines[2].replace(b"0.125", number.encode())]))
    assert contents(write_run(part, 3)) == wanted


def test_a_footer_that_says_something_else_than_the_table(world, tmp_path):
    """Arrow's own copy of the schema, in base64, is not what Parquet's keys and values say."""
    out = Path(shutil.copytree(world.shards, tmp_path / "shards"))
    file = out / "shard-00001.parquet"
    data = file.read_bytes()
    copy = pq.ParquetFile(file).metadata.metadata[b"ARROW:schema"]
    other = base64.b64encode(base64.b64decode(copy).replace(b"format_version", b"fornat_version"))
    assert copy in data and other != copy
    file.write_bytes(data.replace(copy, other))

    def adopt(manifest):
        manifest["shards"][1]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()

    edit(out / MANIFEST, adopt)
    with pytest.raises(OutputError, match="its columns are not those of the shard format"):
        list(open_shards(out))
    assert [one.reason for one in verify(out)] == ["its columns are not those of the shard format"]


def test_a_journal_whose_rows_do_not_follow_each_other(tmp_path):
    wanted, part = contents(write_run(tmp_path / "whole", 3)), write_part(tmp_path / "part")
    header, first, second = (part / JOURNAL).read_bytes().splitlines()
    for change, is_read in (({"end_row": 19}, True), ({"rows": -1}, False), ({"rows": 3}, False)):
        entry = json.dumps(json.loads(first) | change).encode()
        copy = Path(shutil.copytree(part, tmp_path / f"part-{change}"))
        (copy / JOURNAL).write_bytes(b"\n".join([header, entry, second, b""]))
        if is_read:
            with pytest.raises(OutputError, match=r"journal\.jsonl: damaged, the rows of its shards do not follow"):
                write_run(copy, 3)
        else:
            assert contents(write_run(copy, 3)) == wanted


# --- class names in a Parquet file that are none ---


@pytest.mark.parametrize("names", [3, None, {"0": "a"}, [["a"], "b"], [0, 1], "ab", [None], {}, []])
def test_class_names_that_are_none(tmp_path, names):
    features = {"label": {"_type": "ClassLabel", "names": names}}
    table = pa.table({"text": ["good", "bad"], "label": [0, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "c.parquet")
    assert [one.label for one in read_documents([str(tmp_path / "c.parquet")])] == [0, 1]


# --- certificates, from which a run goes on ---

CHANGES = {
    "no number": lambda one: one.update(decisions="many"),
    "no object": lambda one: one.update(max_error=True),
    "a key is gone": lambda one: one.pop("decisions"),
    "a precision is gone": lambda one: one["eps"].clear(),
    "a bound that bounds nothing": lambda one: one["eps"].update(bfloat16=float("nan")),
    "a negative bound": lambda one: one["eps"].update(bfloat16=-1.0),
    "a list": lambda one: one.update(pairs=[1]),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_shard_whose_certificate_is_damaged_is_made_again(tmp_path, how):
    wanted = contents(write_run(tmp_path / "whole", 3))
    header, first, second = (write_part(tmp_path / "part") / JOURNAL).read_bytes().splitlines()
    entry = json.loads(second)
    CHANGES[how](entry["certificate"])
    (tmp_path / "part" / JOURNAL).write_bytes(b"\n".join([header, first, json.dumps(entry).encode(), b""]))
    assert contents(write_run(tmp_path / "part", 3)) == wanted


def test_a_manifest_whose_certificate_is_damaged(shards):
    edit(shards / MANIFEST, lambda manifest: manifest["shards"][1]["certificate"].update(eps=3))
    with pytest.raises(OutputError, match=r"the entry of shard-00001\.parquet is damaged"):
        read_manifest(shards)


# --- keys that are missing ---


def test_a_tokenizer_without_its_special_ids(shards):
    edit(shards / MANIFEST, lambda manifest: manifest["tokenizer"].update(vocab_size=9000))
    edit(shards / MANIFEST, lambda manifest: manifest["tokenizer"].pop("all_special_ids", None))
    with pytest.raises(OutputError, match="has a vocab_size, but no all_special_ids"):
        read_manifest(shards)


def test_a_configuration_without_a_key(shards):
    edit(shards / MANIFEST, lambda manifest: manifest["config"].pop("max_length"))
    with pytest.raises(OutputError, match='field "config": lacks max_length'):
        CopiedCounts(str(shards))


@pytest.mark.parametrize("key", ["method", "encoding", "on_error"])
def test_inspect_and_remap_without_a_key(world, tmp_path, key):
    out = Path(shutil.copytree(world.shards, tmp_path / "shards"))
    edit(out / MANIFEST, lambda manifest: manifest["config"].pop(key))
    inspect, remap = ("inspect", out, "--rows", 1), ("remap", out, "--tokenizer", world.model, "-o", tmp_path / "o")
    assert f'field "config": lacks {key}' in refusal(fastmask(*(inspect if key == "method" else remap)))


def test_a_configuration_that_repair_does_not_know(shards):
    edit(shards / MANIFEST, lambda manifest: manifest["config"].update(colour="red"))
    (shards / "shard-00001.parquet").write_bytes(b"")
    with pytest.raises(OutputError, match=r"made with --colour, which this fastmask does not know"):
        repair(str(shards))


@pytest.mark.parametrize("key", ["name", "local", "vocabulary_sha256"])
def test_a_tokenizer_without_a_key(shards, model, key):
    record = {"name": "n", "local": True, "vocabulary_sha256": "ab"}
    del record[key]
    with pytest.raises(ModelError, match=r"was made with the tokenizer of (n|another model), which is not that of m"):
        check_tokenizer(str(shards), record, load_tokenizer(resolve_model(str(model))), "m")
    edit(shards / MANIFEST, lambda manifest: manifest.update(tokenizer=record))
    assert f"its record lacks {key}" in refusal(fastmask("inspect", shards, "--rows", 1))


def test_inputs_without_a_name_or_a_hash(shards, tmp_path):
    (tmp_path / "c.txt").write_text("text\n")
    for entry in ({"sha256": "ab"}, {"name": str(tmp_path / "c.txt")}):
        with pytest.raises(InputError, match=r"no such file|has changed since the shards were made"):
            inputs_again({"inputs": [entry]})


# --- the record of a recipe's run ---

STEP = {"made_from": {"config": {}}, "weights": {}, "fingerprint": "ab"}


@pytest.mark.parametrize(("record", "words"), [
    ([], 'expected an object, found a list'), ({}, 'field "(steps|files)": is missing'),
    ({"steps": [], "files": {}}, 'field "steps": expected an object'),
    ({"steps": {"a": None}, "files": {}}, 'field "steps.a": expected an object, found null'),
    ({"steps": {"a": {}}, "files": {}}, r'field "steps\.a\.(made_from|weights|fingerprint)": is missing'),
    ({"steps": {"a": STEP | {"made_from": {}}}, "files": {}}, r'field "steps\.a\.made_from\.config": is missing'),
    ({"steps": {"a": STEP | {"made_from": {"config": 1}}}, "files": {}}, r'field "steps\.a\.made_from\.config"'),
    ({"steps": {"a": STEP | {"fingerprint": 1}}, "files": {}}, r'field "steps\.a\.fingerprint": expected a text'),
    ({"steps": {}, "files": {"f": [1, 2]}}, 'file "f": expected a size, a time and a hash'),
    ({"steps": {}, "files": {"f": 1}}, r'field "files\.f": expected a list'),
])  # fmt: skip
def test_a_damaged_record(tmp_path, record, words):
    (tmp_path / "steps.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match=rf"steps\.json: is damaged: .*{words}"):
        Ledger(tmp_path)


def test_a_sound_record(tmp_path):
    record = {"steps": {"a": STEP, "b": STEP | {"again": True}}, "files": {"f": [1, 2, "ab"]}}
    (tmp_path / "steps.json").write_text(json.dumps(record))
    Ledger(tmp_path)


@pytest.mark.parametrize("bounds", [None, 1e9, 1e-9, "text", {}])
def test_a_damaged_plan_is_made_again(world, tmp_path, bounds):
    out = Path(shutil.copytree(world.shards, tmp_path / "shards"))
    wanted, manifest = contents(out), read_manifest(out)
    entries = [{**entry, "skipped": []} for entry in manifest["shards"]]
    (out / JOURNAL).write_bytes(b"".join(map(journal_line, [header_of(manifest), *entries])))
    (out / MANIFEST).unlink()

    def change(plan):
        own = plan["error_bounds"]
        plan["error_bounds"] = {**own, min(own): bounds} if isinstance(bounds, float | str) else bounds

    edit(out / "_plan.json", change)
    world.score(out)
    assert contents(out) == wanted


def test_a_list_of_skipped_rows_is_a_journals(shards):
    edit(shards / MANIFEST, lambda manifest: manifest["shards"][1].update(skipped=["a", "b"]))
    with pytest.raises(OutputError, match=r"the entry of shard-00001\.parquet is damaged"):
        read_manifest(shards)


def test_ordinary_ids_of_shards_that_do_not_say_all(world, tmp_path):
    out = Path(shutil.copytree(world.shards, tmp_path / "shards"))
    wanted = TrainingStream(str(out), max_length=16, seed=1).ordinary
    edit(out / MANIFEST, lambda manifest: manifest["tokenizer"].pop("vocab_size"))
    assert TrainingStream(str(out), max_length=16, seed=1).ordinary.tolist() == wanted.tolist()


def test_training_on_shards_whose_tokenizer_has_no_name(world, tmp_path):
    out = Path(shutil.copytree(world.shards, tmp_path / "shards"))
    edit(out / MANIFEST, lambda manifest: manifest["tokenizer"].pop("name"))
    with pytest.raises(OutputError, match="the tokenizer's name is not in it"):
        TrainingStream(str(out), max_length=16, seed=1)
