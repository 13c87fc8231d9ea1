"""The order of stages: read -> segment -> encode -> score -> decide -> shards. The one file that knows it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

from . import __version__
from .core.config import ScoreConfig
from .core.errors import FastmaskError, InputError, OutputError
from .report.progress import Meter
from .scoring.cascade import Bounds, is_made_with, merged_certificate, widened_by
from .scoring.executor import Executor, LocalExecutor, Wanted
from .scoring.method import load_method
from .scoring.scorer import Scorer
from .shards.schema import STATISTICS, read_manifest
from .shards.statistics import read_statistics, recorded, replace_statistics
from .shards.verify import verify
from .shards.writer import RunDirectory
from .text.documents import HashedInputs
from .text.inputs import count_rows, is_aspect_corpus, seekable_standard_input
from .text.streams import STDIN

_LIBRARIES = ("torch", "triton", "transformers", "tokenizers", "numba", "numpy", "pyarrow", "spacy")


def score_corpus(
    paths: Sequence[str],
    out: str,
    config: ScoreConfig | None = None,
    *,
    overwrite: bool = False,
    meter: Meter | None = None,
    control: str | None = None,
) -> dict:
    """Score a corpus into a shard directory; ``fastmask score`` as a function.

    Args:
        paths: inputs, ``-`` for standard input.
        out: output directory; a partial one of the same configuration is resumed, a finished one left alone.
        config: what to do; defaults to ScoreConfig().
        overwrite: replace a directory of another configuration.
        meter: told of progress (see ``progress.Meter``).
        control: another directory, for the same sentences with as many masks each at random positions.

    Returns:
        the manifest.

    Raises:
        FastmaskError: with one line for the user.
    """
    config, meter = config or ScoreConfig(), meter or Meter()
    paths, out = [os.fspath(path) for path in paths], os.fspath(out)
    runs = [(out, config)]
    if control is not None:
        runs.append((os.fspath(control), _checked_control(config, out, os.fspath(control))))
    with seekable_standard_input(paths):
        manifest, *_ = [_score_into(place, paths, settings, overwrite, meter) for place, settings in runs]
    return manifest


def _checked_control(config: ScoreConfig, out: str, control: str) -> ScoreConfig:
    """Return the configuration of a run's random control.

    Raises:
        FastmaskError: the run is itself at random, or both would be the same directory.
    """
    if load_method(config).is_control:
        raise FastmaskError(f"--control {control}: the control of --method {config.method} would be another random run")
    if os.path.realpath(control) == os.path.realpath(out):
        raise FastmaskError(f"--control {control}: is the directory of --out")
    return config.control_of(out)


def _score_into(out: str, paths: list[str], config: ScoreConfig, overwrite: bool, meter: Meter) -> dict:
    """Score a corpus into one directory; return its manifest."""
    # the model first: a mistake in its name should not wait for the hash of a large corpus
    with Scorer(config, is_aspect_corpus(paths, config), meter) as scorer:
        inputs = HashedInputs(paths)
        with RunDirectory.open(out, _settings(scorer), _identity(scorer, inputs.entries), overwrite) as run:
            if run.manifest is not None:
                meter.note(f"{out} is complete for this configuration; nothing to do")
                return run.manifest
            counting = meter.running(lambda: count_rows(paths), _rows(run.entries))
            with counting, closing(LocalExecutor(scorer, inputs)) as executor:
                bounds = _write_missing(run, executor, inputs)
                bounds = _write_again(run, executor, inputs, bounds)
            if not run.entries:
                raise InputError(", ".join(paths), None, None, "no rows to score")
            inputs.check()
            certificate = merged_certificate(_certificates(run)) | _as_fields(bounds) | recorded(run.plan)
            return run.finish({"certificate": certificate, "environment": _environment(scorer), **scorer.class_names()})


def _settings(scorer: Scorer) -> dict:
    """Return the configuration as the manifest has it: with the rate cap in force, which may be the method's own."""
    own = {"mask_rate": scorer.method.rate(scorer.config)} if scorer.method.asks_model else {}
    return {**scorer.config.as_dict(), **own}


def _rows(entries: dict[int, dict]) -> int:
    return sum(entry["end_row"] - entry["first_row"] for entry in entries.values())


def _certificates(run: RunDirectory) -> list[dict]:
    return [run.entries[index]["certificate"] for index in sorted(run.entries)]


def _write_missing(run: RunDirectory, executor: Executor, inputs: HashedInputs) -> Bounds | None:
    """Plan the run if it has no plan yet, make and write the shards that are missing; return the bounds by now."""
    if run.plan is None:
        run.write_plan(_as_fields(executor.calibrate()), executor.statistics())
    executor.prepare(read_statistics(run.path, run.plan or {}))
    _write(run, executor.shards(Wanted(but=set(run.entries)), _in_force(run)), inputs)
    return _in_force(run)


def _write_again(run: RunDirectory, executor: Executor, inputs: HashedInputs, bounds: Bounds | None) -> Bounds | None:
    """Make again what was made with bounds that are contradicted by now, until nothing is; return the final bounds.

    In whatever order shards were made, and however often a run was stopped, all end with the same bounds.
    """
    while bounds and (old := [k for k, one in run.entries.items() if not is_made_with(one["certificate"], bounds)]):
        _write(run, executor.shards(Wanted(set(old)), bounds), inputs)
        bounds = _in_force(run)
    return bounds


def _in_force(run: RunDirectory) -> Bounds | None:
    """Return the plan's error bounds, widened by what speaks against them in the shards that are there."""
    bounds = _bounds_in(run.plan or {})
    return bounds and widened_by(bounds, _certificates(run))


def _as_fields(bounds: Bounds | None) -> dict:
    return {"error_bounds": bounds and bounds.as_dict()}


def _bounds_in(fields: dict) -> Bounds | None:
    eps = fields.get("error_bounds")
    return Bounds(tuple(eps), tuple(eps.values())) if eps else None


def _write(run: RunDirectory, shards: Generator, inputs: HashedInputs) -> None:
    """Write shards as they come."""
    with closing(shards):
        for index, scored in shards:
            inputs.check()  # a shard that is written counts as made of what was hashed
            run.write_shard(index, scored)


def repair(out: str, meter: Meter | None = None) -> list[str]:
    """Make the damaged shards of a finished directory again, from the inputs named in its manifest.

    Returns:
        the names of the shards that were damaged and are whole again.

    Raises:
        OutputError: something is damaged that scoring again cannot mend, or a shard came out differently.
        FastmaskError: inputs or model are not what they were.
    """
    damaged = verify(out)
    for one in damaged:
        if one.index is None and one.file != STATISTICS:
            raise OutputError(f"{out}: {one.file}: {one.reason}; scoring again cannot mend that")
    wanted = sorted({one.index for one in damaged if one.index is not None})
    if not damaged:
        return []
    manifest = read_manifest(out)
    for key, command in (("remapped", "remap"), ("remasked", "remask")):
        if key in manifest:
            again = "the same command makes it again with --overwrite"
            raise OutputError(f"{out}: was made by fastmask {command}; {again}")
    if unknown := manifest["config"].keys() - {field.name for field in fields(ScoreConfig)}:
        raise OutputError(f"{out}: made with --{min(unknown)}, which this fastmask does not know")
    config, paths = ScoreConfig(**manifest["config"]), [one.get("name", "") for one in manifest["inputs"]]
    if STDIN in paths:
        raise OutputError(f"{out}: was made from standard input, which is gone; score it again with --overwrite")
    config = replace(config, max_text_mb=config.limit_again)
    with Scorer(config, is_aspect_corpus(paths, config), meter) as scorer:
        inputs = HashedInputs(paths)
        repaired = RunDirectory.open_for_repair(out, _identity(scorer, inputs.entries))
        with repaired as run, closing(LocalExecutor(scorer, inputs)) as executor:
            if mended := [one.file for one in damaged if one.index is None]:
                replace_statistics(run.path, executor.statistics(), manifest["certificate"])
            executor.prepare(read_statistics(run.path, manifest["certificate"]))
            return mended + _replace_shards(run, executor, inputs, manifest, wanted)


def _replace_shards(
    run: RunDirectory, executor: Executor, inputs: HashedInputs, manifest: dict, wanted: list[int]
) -> list[str]:
    entries, bounds, mended = manifest["shards"], _bounds_in(manifest["certificate"]), []
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


def _identity(scorer: Scorer, inputs: list[dict]) -> dict:
    return {"fastmask_version": __version__, "inputs": inputs, **scorer.identity(), "engine": scorer.describe()}


def _environment(scorer: Scorer) -> dict:
    """Return what the result was made with: back end, processor, versions of the libraries that matter."""
    versions = {name: _version(name) for name in _LIBRARIES}
    cpu = {"cpu": _processor()} | ({"cpu_capability": _capability()} if scorer.method.asks_model else {})
    return {**scorer.describe(), **cpu, "python": platform.python_version(), **versions}


def _capability() -> str:
    from fastmask_kernels import processor

    return processor.capability()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
