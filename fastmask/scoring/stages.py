"""The stages of a run in an open directory, which ``pipeline`` puts in order: plan, shards, shards again, manifest."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing

from ..core.config import ScoreConfig
from ..core.errors import FastmaskError, InputError, OutputError
from ..core.locked import listed
from ..core.plain import Json
from ..shards.journal import without_results
from ..shards.statistics import read_statistics, recorded
from ..shards.writer import RunDirectory
from ..text.documents import reading_of
from ..text.hashed import HashedInputs
from ..text.listing import input_files
from ..text.places import Places
from ..text.streams import STDIN
from .cascade import Bounds, is_made_with, merged_certificate, widened_by
from .executor import Executor, Made, Wanted
from .machine import Facts, unlike


def corpus_files(paths: str | os.PathLike[str] | Sequence[str], *outs: str, is_shared: bool = True) -> list[str]:
    """Return names of input files; what runs write is none, where a folder of inputs has that, too.

    Args:
        paths: the inputs; a name by itself is one.
        outs: where this run writes.
        is_shared: whether other processes read them.
    """
    paths = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if is_shared and STDIN in paths:
        raise FastmaskError("standard input: other processes cannot read it; write it to a file")
    return input_files(paths, lambda names: without_results(names, *outs))


def planned_inputs(paths: list[str], config: ScoreConfig) -> HashedInputs:
    """Return the inputs, hashed, and where each shard begins in them."""
    fields = config.text_field, config.corpus_label_field
    reading = reading_of(*fields, config.encoding, config.max_text_mb, id_field=config.id_field)
    return HashedInputs(paths, Places(reading, config.shard_rows))


def no_rows(paths: list[str]) -> InputError:
    """Return the error of a corpus without a row."""
    return InputError(listed(paths, 3), None, None, "no rows to score")


def rows_in(entries: dict[int, Json]) -> int:
    return sum(entry["end_row"] - entry["first_row"] for entry in entries.values())


def _certificates(run: RunDirectory) -> list[Json]:
    return [run.entries[index]["certificate"] for index in sorted(run.entries)]


def write_missing(run: RunDirectory, executor: Executor, inputs: HashedInputs) -> Bounds | None:
    """Plan the run if it has no plan yet, make and write the shards that are missing; return the bounds by now."""
    if run.plan is None:
        write_plan_of(run, executor, inputs)
    executor.prepare(read_statistics(run.path, run.plan or {}))
    _write(run, executor.shards(Wanted(but=set(run.entries)), in_force(run)), inputs)
    return in_force(run)


def write_plan_of(run: RunDirectory, executor: Executor, inputs: HashedInputs) -> None:
    where = {"rows": inputs.rows, "places": inputs.places}
    run.write_plan(_as_fields(executor.calibrate()) | where, executor.statistics())


def contradicted(run: RunDirectory, bounds: Bounds | None) -> set[int]:
    """Return the shards that were made with bounds that are contradicted by now."""
    made = run.entries.items() if bounds else ()
    return {index for index, entry in made if bounds and not is_made_with(entry["certificate"], bounds)}


def write_again(run: RunDirectory, executor: Executor, inputs: HashedInputs, bounds: Bounds | None) -> Bounds | None:
    """Make again what was made with bounds that are contradicted by now, until nothing is; return the final bounds.

    In whatever order shards were made, and however often a run was stopped, all end with the same bounds.
    """
    while old := contradicted(run, bounds):
        _write(run, executor.shards(Wanted(old), bounds), inputs)
        bounds = in_force(run)
    return bounds


def in_force(run: RunDirectory) -> Bounds | None:
    """Return the plan's error bounds, widened by what speaks against them in the shards that are there."""
    bounds = bounds_in(run.plan or {})
    return bounds and widened_by(bounds, _certificates(run))


def replace_shards(
    run: RunDirectory, executor: Executor, inputs: HashedInputs, manifest: Json, wanted: list[int]
) -> list[str]:
    """Make shards of a finished run again; return their files' names.

    Raises:
        OutputError: one has other bytes than before.
    """
    entries, bounds, mended = manifest["shards"], bounds_in(manifest["certificate"]), []
    with closing(executor.shards(Wanted(wanted), bounds)) as shards:
        for index, scored in shards:
            inputs.check()
            if not run.replace_shard(index, scored):
                raise OutputError(
                    f"{run.path / entries[index]['file']}: made again, but not to the same bytes as before: "
                    "another machine or library version; the manifest now has the new hash"
                )
            mended.append(entries[index]["file"])
    return mended


def _as_fields(bounds: Bounds | None) -> Json:
    return {"error_bounds": bounds and bounds.as_dict()}


def bounds_in(fields: Json) -> Bounds | None:
    eps = fields.get("error_bounds")
    return Bounds(tuple(eps), tuple(eps.values())) if eps else None


def _write(run: RunDirectory, shards: Generator[Made], inputs: HashedInputs) -> None:
    """Write shards as they come."""
    with closing(shards):
        for index, scored in shards:
            inputs.check()  # a shard that is written counts as made of what was hashed
            run.write_shard(index, scored)


def finish_run(run: RunDirectory, bounds: Bounds | None, made_with: Json) -> Json:
    """Write the manifest of a run whose shards are all there; return it."""
    certificate = merged_certificate(_certificates(run)) | _as_fields(bounds) | recorded(run.plan)
    return run.finish({"certificate": certificate, **made_with})


def check_alike(out: str, here: Facts, made_with: Json, mixed: bool) -> None:
    """Raise FastmaskError, naming the differences, where this machine is not like the one that made the plan."""
    if not mixed and made_with and (found := unlike(here.environment, made_with["environment"])):
        what = f"{out}: this machine is not like the one that made the plan: {listed(found)}"
        raise FastmaskError(f"{what}; --mixed lets machines differ (the last digits of importances may, too)")
