"""No forged or damaged shard is read: values that cannot be, in shards whose hashes and counts are made to fit."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_samples import FIELDS, IDENTITY, build, open_run

import fastmask
from fastmask.core.config import ExportConfig
from fastmask.core.errors import FastmaskError, OutputError
from fastmask.data.exporting import export_shards
from fastmask.data.remap import remap_masks
from fastmask.data.shard_blocks import Corpus
from fastmask.models.tokenizer import check_tokenizer
from fastmask.scoring.methods.random import CopiedCounts
from fastmask.shards.reader import open_shards
from fastmask.shards.schema import shard_name, totals
from fastmask.shards.table import ROW_GROUP, arrow_schema
from fastmask.shards.verify import verify

ROLES = {"cls": 8187, "sep": 8188, "mask": 8189, "pad": 8190, "unk": 8191}
TOKENIZER = {
    "name": "none", "local": True, "vocabulary_sha256": "ab",
    "special_ids": ROLES, "vocab_size": 8192, "all_special_ids": sorted(ROLES.values()),
}  # fmt: skip


@pytest.fixture
def shards(tmp_path):
    """Two shards of three documents each, of 4, 3 and 2 tokens."""
    with open_run(tmp_path / "shards", identity={**IDENTITY, "tokenizer": TOKENIZER}) as run:
        for index in range(2):
            run.write_shard(index, build([4, 3, 2], [[1, 2], [], [0]], label=[1, 0, -1], first_row=3 * index))
        run.finish(FIELDS)
    return tmp_path / "shards"


def edit_manifest(shards, change):
    path = shards / "_manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["totals"] = totals(manifest["shards"])
    path.write_text(json.dumps(manifest))


def put(shards, table):
    """Write the second shard anew, with a manifest that fits."""
    path = shards / shard_name(1)
    pq.write_table(table, path, row_group_size=ROW_GROUP)
    lists = {"tokens": table["input_ids"], "masked": table["mask_index"]}
    counts = {name: sum(len(one) for one in column.to_pylist()) for name, column in lists.items()}
    counts |= {"rows": len(table), "bytes": path.stat().st_size, "scored": len(table) - table["importance"].null_count}
    counts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_manifest(shards, lambda manifest: manifest["shards"][1].update(counts))


def forge(shards, column, change):
    table = pq.read_table(shards / shard_name(1))
    values = table[column].to_pylist()
    change(values)
    field = arrow_schema().field(column)
    put(shards, table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type)))


def setting(row, at, value):
    def change(values):
        if at is None:
            values[row] = value
        else:
            values[row][at] = value

    return change


OF_TRAINING = {
    "an id past the vocabulary": ("input_ids", setting(1, 2, 8192), "row 4: input_ids has one that is not"),
    "a negative id": ("input_ids", setting(2, 0, -1), "row 5: input_ids has one that is not"),
    "masks not ascending": ("mask_index", setting(0, None, [2, 1]), "row 3: mask_index is not ascending"),
    "a mask twice": ("mask_index", setting(0, None, [2, 2]), "row 3: mask_index is not ascending"),
    "a mask past the end": ("mask_index", setting(2, 0, 2), "row 5: mask_index is not ascending or leaves"),
    "a negative mask": ("mask_index", setting(2, 0, -1), "row 5: mask_index is not ascending or leaves"),
    "a row twice": ("row", setting(1, None, 3), "row 3: rows are out of order"),
    "rows backwards": ("row", setting(0, None, 5), "row 4: rows are out of order"),
    "a row of the shard before": ("row", setting(0, None, 2), "rows 2 to 5 are outside 3 to 6"),
    "a negative sentence": ("sentence", setting(1, None, -7), "row 4: a sentence's number is negative"),
}
OTHERS = {
    "a negative span": ("char_start", setting(1, 0, -3), "row 4: a span is negative"),
    "a span that ends before it begins": ("char_end", setting(1, 1, 7), "row 4: a span ends before it begins"),
    "spans out of order": ("char_start", setting(0, 3, 0), "row 3: spans are out of order"),
    "a negative label": ("label", setting(0, None, -1), "a label is negative"),
    "a negative class": ("predicted", setting(2, None, -2), "a predicted is negative"),
    "a prob of 7": ("prob", setting(2, None, 7.0), "a prob is not between 0 and 1"),
    "a word that is left out": ("word", setting(0, None, [0, 0, 2, 2]), "row 3: word does not count from 0"),
    "a word again": ("word", setting(0, None, [0, 1, 0, 1]), "row 3: word does not count from 0"),
    "a first word that is not 0": ("word", setting(1, None, [1, 1, 1]), "row 4: word does not count from 0"),
    "fewer words": ("word", setting(1, None, [0, 1]), "row 4: word has another length than input_ids"),
    "fewer mask_probs": ("mask_prob", setting(1, None, [0.5]), "row 4: mask_prob has another length than input_ids"),
    "a mask_prob of 2": ("mask_prob", setting(2, None, [0.5, 2.0]), "a mask_prob is not between 0 and 1"),
    "a negative mask_prob": ("mask_prob", setting(2, None, [0.5, -0.5]), "a mask_prob is not between 0 and 1"),
    "a mask_prob that is no number": ("mask_prob", setting(2, None, [0, float("nan")]), "a mask_prob is not between"),
    "a prob that is no number": ("prob", setting(2, None, float("nan")), "a prob is not between 0 and 1"),
}


def refusals(shards, tmp_path, readers):
    """What each reader says."""
    said = []
    for read in readers:
        with pytest.raises(OutputError) as refused:
            read(str(shards), tmp_path)
        said.append(str(refused.value))
    return said


def train(shards, _):
    list(fastmask.TrainingStream(shards, max_length=16, seed=1).epoch())


def export(shards, tmp_path):
    export_shards(ExportConfig(shards, str(tmp_path / "exported"), "jsonl", max_length=16))


def copy_counts(shards, _):
    counts = CopiedCounts(shards)
    for index in range(2):
        counts.of(build([4, 3, 2], [[], [], []], first_row=3 * index).sentences)


WHOLE = [lambda out, _: open_shards(out).to_table(), lambda out, _: list(open_shards(out)),
         lambda out, _: open_shards(out)[5]]  # fmt: skip


@pytest.mark.parametrize("how", OF_TRAINING)
def test_what_training_reads(shards, tmp_path, how):
    column, change, words = OF_TRAINING[how]
    forge(shards, column, change)
    assert [each.reason for each in verify(shards) if each.file == shard_name(1) and words in each.reason]
    for line in refusals(shards, tmp_path, [*WHOLE, train, export, copy_counts]):
        assert f"{shard_name(1)}: " in line and words in line
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("how", OTHERS)
def test_what_else_is_in_a_row(shards, tmp_path, how):
    column, change, words = OTHERS[how]
    forge(shards, column, change)
    assert [each.reason for each in verify(shards) if each.file == shard_name(1) and words in each.reason]
    for line in refusals(shards, tmp_path, WHOLE):
        assert f"{shard_name(1)}: " in line and words in line


def test_what_is_sound_is_read(shards, tmp_path):
    assert verify(shards) == [] and len(open_shards(shards).to_table()) == 6
    train(str(shards), tmp_path)
    export(str(shards), tmp_path)
    copy_counts(str(shards), tmp_path)
    forge(shards, "char_start", setting(0, None, [0, 0, 4, 4]))  # bytes of a character, and tokens of no width
    forge(shards, "char_end", setting(0, None, [4, 4, 4, 8]))
    assert verify(shards) == [] and len(open_shards(shards).to_table()) == 6


def several_groups(out):
    """A shard of two row groups, the second beginning within a document."""
    n = ROW_GROUP + 2
    scored = build([1] * n, [[0]] * n, first_row=1)
    scored.sentences.row[:] = np.minimum(np.arange(n), ROW_GROUP - 2) + 1
    scored.sentences.sentence[:] = np.maximum(np.arange(n) - ROW_GROUP + 2, 0)
    with open_run(out, identity={**IDENTITY, "tokenizer": TOKENIZER}) as run:
        run.write_shard(0, build([1], [[0]]))
        run.write_shard(1, scored)
        run.finish(FIELDS)
    return out


@pytest.mark.parametrize("backwards", [False, True])
def test_rows_again_in_another_row_group(tmp_path, backwards):
    shards = several_groups(tmp_path / "shards")

    def read_all():
        opened = open_shards(shards)
        bounds = [(0, ROW_GROUP), (ROW_GROUP, ROW_GROUP + 2)]
        for start, stop in reversed(bounds) if backwards else bounds:
            opened.read_rows(1, start, stop)

    read_all()
    list(open_shards(shards).batches())
    table = pq.read_table(shards / shard_name(1))
    # the last row of the first group once more at the beginning of the second
    parts = [table.slice(0, ROW_GROUP), table.slice(ROW_GROUP - 1, 1), table.slice(ROW_GROUP + 1)]
    put(shards, pa.concat_tables(parts))
    assert [each.reason for each in verify(shards)] == [f"row {ROW_GROUP - 1}: rows are out of order"]
    for read in (read_all, lambda: list(open_shards(shards).batches(rows=ROW_GROUP)), lambda: list(open_shards(shards)),
                 lambda: Corpus(str(shards)).read(0)):  # fmt: skip
        with pytest.raises(OutputError, match=r"shard-00001\.parquet: (row \d+: )?rows are out of order"):
            read()


COUNTS = {
    ("rows", 0): "scored cannot be more than rows",
    ("rows", -5): "rows cannot be -5",
    ("rows", 10**12): "has 3 rows instead of 1000000000000",
    ("rows", 10**30): "rows cannot be 1e+30",
    ("tokens", -1): "tokens cannot be -1",
    ("tokens", 10**12): "has other tokens than the manifest's 1000000000000",
    ("masked", 10**12): "masked cannot be more than tokens",
    ("end_row", 2): "first_row cannot be more than end_row",
    ("first_row", -1): "first_row cannot be -1",
    ("first_row", 2): "the rows of the shards do not follow each other",
    ("bytes", -1): "bytes cannot be -1",
}


@pytest.mark.parametrize(("key", "value"), COUNTS)
def test_counts_of_the_manifest(shards, tmp_path, key, value):
    edit_manifest(shards, lambda manifest: manifest["shards"][1].update({key: value}))
    words = COUNTS[key, value]
    # what the manifest alone shows is wrong with it, what the shard shows with that
    assert [each for each in verify(shards) if words.partition(" instead")[0] in each.reason or "tokens" in each.reason]
    for line in refusals(shards, tmp_path, [*WHOLE, train, export, copy_counts]):
        assert words in line


def test_no_rows_and_nothing_else_is_not_believed(shards, tmp_path):
    nothing = {"rows": 0, "scored": 0, "tokens": 0, "masked": 0}
    edit_manifest(shards, lambda manifest: manifest["shards"][1].update(nothing))
    for line in refusals(shards, tmp_path, [*WHOLE, train, export, copy_counts]):
        assert "has 3 rows instead of 0" in line


SPECIAL = {
    "mask past the end": ({"special_ids": {**ROLES, "mask": 8192}}, "one of the tokenizer's special_ids"),
    "mask negative": ({"special_ids": {**ROLES, "mask": -1}}, "one of the tokenizer's special_ids"),
    "mask a word": ({"special_ids": {**ROLES, "mask": "[MASK]"}}, "one of the tokenizer's special_ids"),
    "cls true": ({"special_ids": {**ROLES, "cls": True}}, "one of the tokenizer's special_ids"),
    "not by role": ({"special_ids": [1, 2]}, "special ids are damaged"),
    "all special": ({"all_special_ids": [3, 9000]}, "one of the tokenizer's all_special_ids"),
    "no ids": ({"vocab_size": 0}, "vocab_size cannot be"),
    "more than memory holds": ({"vocab_size": 10**12}, "vocab_size cannot be"),
    "half an id": ({"vocab_size": 8192.5}, "vocab_size cannot be"),
}


@pytest.mark.parametrize("how", SPECIAL)
def test_the_tokenizer_of_the_manifest(shards, tmp_path, how):
    change, words = SPECIAL[how]
    edit_manifest(shards, lambda manifest: manifest["tokenizer"].update(change))
    assert [each.file for each in verify(shards) if words in each.reason] == ["_manifest.json"]
    for line in refusals(shards, tmp_path, [*WHOLE, train, export, copy_counts]):
        assert "_manifest.json: " in line and words in line


def test_a_vocabulary_that_is_not_the_tokenizers(shards, tiny_tokenizer_record, mr_tiny):
    record, tokenizer = tiny_tokenizer_record
    check_tokenizer(str(shards), record, tokenizer, mr_tiny)
    with pytest.raises(FastmaskError, match=r"its manifest says that .* has 9999 ids"):
        check_tokenizer(str(shards), {**record, "vocab_size": 9999}, tokenizer, mr_tiny)


@pytest.fixture
def tiny_tokenizer_record(mr_tiny):
    from fastmask.models.directory import load_tokenizer, resolve_model
    from fastmask.models.tokenizer import tokenizer_record

    files = resolve_model(mr_tiny)
    tokenizer = load_tokenizer(files)
    return tokenizer_record(files, tokenizer), tokenizer


def test_a_span_far_beyond_the_text_takes_no_memory(shards, tiny_tokenizer_record):
    forge(shards, "char_end", setting(0, 0, 2**31 - 1))
    with pytest.raises(FastmaskError, match="row 3: its text has 200 characters, its tokens go up to 2147483647"):
        list(remap_masks(shards, tiny_tokenizer_record[1], ["word " * 40] * 6))
