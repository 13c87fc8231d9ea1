"""The shard writer: resume, other settings, foreign files, verify and repair."""

import json
import shutil
from pathlib import Path

import pytest
from shard_samples import FIELDS, IDENTITY, ROWS, config, contents, open_run, sample, write_part, write_run

from fastmask.core.errors import OutputError
from fastmask.shards.reader import open_shards
from fastmask.shards.schema import MANIFEST, OLD_MANIFEST, shard_name
from fastmask.shards.verify import Damage, verify
from fastmask.shards.writer import RunDirectory

SHARDS = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run that no test changes."""
    return write_run(tmp_path_factory.mktemp("finished") / "out")


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def partial(tmp_path) -> Path:
    """A run with two of three shards written."""
    return write_part(tmp_path / "partial")


def flip(path: Path, place: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_finished_directory_holds_plan_shards_and_manifest_only(finished):
    assert sorted(contents(finished)) == ["_manifest.json", "_plan.json", *map(shard_name, range(SHARDS))]
    assert verify(finished) == []


def test_two_runs_give_the_same_bytes(finished, tmp_path):
    assert contents(write_run(tmp_path / "again")) == contents(finished)


def test_a_finished_directory_is_left_alone(copy):
    stamps = {path: path.stat().st_mtime_ns for path in [copy, *copy.iterdir()]}
    for overwrite in (False, True):
        with open_run(copy, overwrite, threads=3) as run:
            assert run.finished and run.manifest["totals"]["shards"] == SHARDS
    assert {path: path.stat().st_mtime_ns for path in [copy, *copy.iterdir()]} == stamps


def test_a_journal_left_by_a_kill_after_the_manifest_goes(copy):
    (copy / "journal.jsonl").write_text("{}\n")
    with open_run(copy) as run:
        assert run.finished
    assert "journal.jsonl" not in contents(copy)


@pytest.mark.parametrize("state", ["copy", "partial"])
def test_other_settings_are_refused_by_name(state, request):
    out = request.getfixturevalue(state)
    before = contents(out)
    identity = {**IDENTITY, "model": {"name": "mr-tiny", "sha256": "xy"}, "inputs": []}
    with pytest.raises(OutputError) as error:
        open_run(out, identity=identity, threshold=0.01, stop_words="none")
    message = str(error.value)
    assert "--threshold was 0.05, is now 0.01" in message
    assert '--stop-words was "language", is now "none"' in message
    assert "model has other content" in message
    assert 'input 1.sha256 was "ef", is now absent' in message
    assert "--method" not in message and "model.name" not in message and "\n" not in message
    assert contents(out) == before


@pytest.mark.parametrize("state", ["copy", "partial"])
def test_overwrite_starts_over_and_keeps_foreign_files(state, request, tmp_path):
    out = request.getfixturevalue(state)
    foreign = ("notes.txt", "shard-1.parquet", "my-shard-00000.parquet")
    for name in foreign:
        (out / name).write_text("mine")
    with open_run(out, overwrite=True, threshold=0.01) as run:
        assert not run.finished and not run.entries
    write_run(out, 2, threshold=0.01, overwrite=True)
    mine = dict.fromkeys(foreign, b"mine")
    assert contents(out) == contents(write_run(tmp_path / "fresh", 2, threshold=0.01)) | mine


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_file_named_like_a_shard_stops_the_run(tmp_path, overwrite):
    (tmp_path / shard_name(0)).write_bytes(b"not ours")
    with pytest.raises(OutputError, match="shard-00000"):
        open_run(tmp_path, overwrite)
    assert contents(tmp_path) == {shard_name(0): b"not ours"}


def test_shards_without_a_journal_need_overwrite(copy, finished):
    (copy / "_manifest.json").unlink()
    with pytest.raises(OutputError, match="no journal or manifest"):
        open_run(copy)
    with open_run(copy, overwrite=True) as run:
        assert run.missing(SHARDS) == [0, 1, 2]
    assert contents(write_run(copy, overwrite=True)) == contents(finished)


def test_a_directory_with_other_files_is_used(tmp_path, finished):
    (tmp_path / "notes.txt").write_text("mine")
    assert contents(write_run(tmp_path)) == contents(finished) | {"notes.txt": b"mine"}


def torn_line(out):
    with (out / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"index": 2, "file": "shard-00002.parq')


def torn_to_zeros(out):
    with (out / "journal.jsonl").open("ab") as journal:
        journal.write(bytes(512))


def last_line_without_its_end(out):
    path = out / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-1])


def edit_plan(out, **fields):
    path = out / "_plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields, indent=2) + "\n")


DAMAGE = {
    "nothing": (lambda out: None, [2]),
    "torn line": (torn_line, [2]),
    "zeros": (torn_to_zeros, [2]),
    "line without its end": (last_line_without_its_end, [1, 2]),
    "missing": (lambda out: (out / shard_name(0)).unlink(), [0, 2]),
    "flipped byte": (lambda out: flip(out / shard_name(1)), [1, 2]),
    "wrong size": (lambda out: (out / shard_name(1)).write_bytes(b"PAR1"), [1, 2]),
    "temporary files": (lambda out: (out / ".shard-00002.parquet.fastmask-tmp").write_bytes(b"half"), [2]),
    "shard not journalled": (lambda out: shutil.copy(out / shard_name(1), out / shard_name(2)), [2]),
    "shard beyond the end": (lambda out: shutil.copy(out / shard_name(1), out / shard_name(9)), [2]),
}


@pytest.mark.parametrize("damage", [
    lambda out: (out / "_plan.json").unlink(), lambda out: (out / "_plan.json").write_bytes(b'{"config": {'),
    lambda out: edit_plan(out, error_bounds={"float32": 0.0}), lambda out: edit_plan(out, error_bounds=[0.1]),
    lambda out: edit_plan(out, model={"name": "b"}),
], ids=["missing", "torn", "zero", "list", "another run's"])  # fmt: skip
def test_without_its_plan_a_run_begins_again(damage, partial, finished):
    damage(partial)
    with open_run(partial) as run:
        assert run.missing(SHARDS) == [0, 1, 2]
    assert contents(write_run(partial)) == contents(finished)


@pytest.mark.parametrize("how", DAMAGE)
def test_resume(how, partial, finished):
    damage, missing = DAMAGE[how]
    damage(partial)
    with open_run(partial, threads=5) as run:
        assert run.missing(SHARDS) == missing
        assert sorted(run.entries) == sorted({0, 1} - set(missing))
    assert contents(write_run(partial, threads=5)) == contents(finished)


def test_a_journal_without_a_header_needs_overwrite(partial, finished):
    (partial / "journal.jsonl").write_bytes(b"\n")
    with pytest.raises(OutputError, match="journal"):
        open_run(partial)
    open_run(partial, overwrite=True).close()
    assert contents(write_run(partial, overwrite=True)) == contents(finished)


def test_one_run_at_a_time(tmp_path, finished):
    with open_run(tmp_path / "out"), pytest.raises(OutputError, match="another fastmask run"):
        open_run(tmp_path / "out")
    assert contents(write_run(tmp_path / "out")) == contents(finished)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(OutputError, match="file"):
            open_run(out)


def test_what_breaks_the_format_is_not_written(tmp_path):
    bad = sample(0)
    bad.mask_index[:2] = 99
    with open_run(tmp_path) as run:
        with pytest.raises(ValueError, match="mask_index"):
            run.write_shard(0, bad)
        bad = sample(0)
        bad.certificate["eps"] = float("inf")
        with pytest.raises(ValueError):
            run.write_shard(0, bad)
        assert list(tmp_path.glob("*.parquet")) == [] and not run.entries


def test_finish_needs_every_shard(tmp_path):
    with open_run(tmp_path) as run:
        run.write_shard(1, sample(1))
        with pytest.raises(ValueError):
            run.finish(FIELDS)
        assert not run.finished


def test_an_empty_corpus(tmp_path):
    assert verify(write_run(tmp_path, 0)) == []


def test_verify_names_each_damaged_file(copy):
    flip(copy / shard_name(0))
    (copy / shard_name(1)).unlink()
    (copy / shard_name(2)).write_bytes(b"")
    (copy / shard_name(7)).write_bytes(b"")
    found = verify(copy)
    assert [(damage.file, damage.index) for damage in found] == [
        *((shard_name(index), index) for index in range(SHARDS)),
        (shard_name(7), None),
    ]
    words = ("SHA-256", "missing", "0 bytes", "not in the manifest")
    assert all(word in damage.reason for damage, word in zip(found, words, strict=True))


def test_verify_looks_inside(copy):
    path = copy / "_manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("masked", "rows"):
        changed = json.loads(json.dumps(manifest))
        changed["shards"][1][key] += 1
        changed["totals"][key] += 1
        path.write_text(json.dumps(changed))
        [damage] = verify(copy)
        assert damage.index == 1 and key in damage.reason


def test_verify_of_a_damaged_manifest_and_of_an_unfinished_run(copy, partial):
    (copy / "_manifest.json").write_text("{")
    [damage] = verify(copy)
    assert damage.file == "_manifest.json" and "JSON" in damage.reason and isinstance(damage, Damage)
    with pytest.raises(OutputError, match="not finished"):
        verify(partial)


def test_a_finished_run_with_a_damaged_shard_is_not_taken_for_whole(copy, finished):
    flip(copy / shard_name(0))
    (copy / shard_name(1)).unlink()
    with pytest.raises(OutputError, match=r"shard-00001.*is missing"):
        open_run(copy)
    with open_run(copy, overwrite=True) as run:
        assert not run.finished
    assert contents(write_run(copy, overwrite=True)) == contents(finished)


def test_repair(copy, finished):
    (copy / shard_name(1)).unlink()
    flip(copy / shard_name(2))
    with RunDirectory.open_for_repair(str(copy), IDENTITY) as run:
        for damage in verify(copy):
            assert run.replace_shard(damage.index, sample(damage.index))
    assert contents(copy) == contents(finished)


def test_repair_that_comes_out_otherwise_is_recorded(copy):
    other = sample(1)
    other.importance[:] += 1
    with RunDirectory.open_for_repair(str(copy), IDENTITY) as run:
        assert not run.replace_shard(1, other)
    assert verify(copy) == []
    with open_run(copy) as run:
        assert run.finished


def test_repair_needs_the_same_inputs(copy, partial):
    with pytest.raises(OutputError, match=r"model\.sha256 was"):
        RunDirectory.open_for_repair(str(copy), {**IDENTITY, "model": None})
    with pytest.raises(OutputError, match="not finished"):
        RunDirectory.open_for_repair(str(partial), IDENTITY)


def test_many_differences_are_cut_short(partial):
    inputs = [{"path": str(number)} for number in range(50)]
    with pytest.raises(OutputError, match="and 31 more"):
        open_run(partial, identity={**IDENTITY, "inputs": inputs})


def test_config_is_recorded_whole(finished):
    assert json.loads((finished / "_manifest.json").read_text())["config"] == config()


def test_a_manifest_by_its_older_name_is_read_and_kept(tmp_path):
    """Such a directory is finished, sound, left alone by the command that made it, and replaced whole."""
    out = write_run(tmp_path / "out")
    (out / MANIFEST).rename(out / OLD_MANIFEST)
    assert verify(out) == [] and len(open_shards(out)) == 3 * ROWS
    before = contents(out)
    write_run(out)
    assert contents(out) == before
    write_run(out, overwrite=True, threshold=0.5)
    assert (out / MANIFEST).exists() and not (out / OLD_MANIFEST).exists()
