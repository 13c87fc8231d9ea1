"""The order of stages: read -> segment -> encode -> score -> decide -> shards. The one file that knows it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from . import __version__
from .core.config import ScoreConfig
from .core.config_engine import EngineConfig, Part
from .core.errors import FastmaskError, OutputError
from .core.startup import set_ray
from .core.urls import Url, path_of
from .report.progress import Meter
from .report.terminal import totals_line
from .scoring.cascade import Bounds, widened_by
from .scoring.executor import Executor, LocalExecutor, Wanted
from .scoring.machine import Facts, facts_of
from .scoring.method import load_method
from .scoring.repeated import repeated
from .scoring.scorer import Scorer
from .scoring.stages import (
    bounds_in,
    check_alike,
    contradicted,
    corpus_files,
    finish_run,
    in_force,
    no_rows,
    planned_inputs,
    replace_shards,
    rows_in,
    write_again,
    write_missing,
    write_plan_of,
)
from .shards.encoded import EncodedShard
from .shards.parts import PartDirectory, check_complete, check_plan, planning
from .shards.plan import header_in, read_plan, read_planned, write_planned
from .shards.schema import STATISTICS, make_header, manifest_path, read_manifest
from .shards.statistics import read_statistics, replace_statistics
from .shards.verify import verify
from .shards.writer import RunDirectory
from .text.hashed import HashedInputs, PlannedInputs
from .text.inputs import is_aspect_corpus, seekable_standard_input
from .text.streams import STDIN

log = logging.getLogger(__name__)


def score_corpus(
    paths: Sequence[str],
    out: str,
    config: ScoreConfig | None = None,
    *,
    overwrite: bool = False,
    meter: Meter | None = None,
    control: str | None = None,
    engine: EngineConfig | None = None,
) -> dict:
    """Score a corpus into a shard directory; ``fastmask score`` as a function.

    Args:
        paths: inputs, ``-`` for standard input.
        out: output directory; a partial one of the same configuration is resumed, a finished one left alone.
        config: what to do; defaults to ScoreConfig().
        overwrite: replace a directory of another configuration.
        meter: told of progress; by default notebooks and terminals show it, and totals are logged.
        control: another directory, for the same sentences with as many masks each at random positions.
        engine: where shards are made; defaults to this process.

    Returns:
        the manifest.

    Raises:
        FastmaskError: with one line for the user.
    """
    config, shown_by, engine = config or ScoreConfig(), meter or Meter.here(), engine or EngineConfig()
    runs = [(out := os.fspath(out), config)]
    if control is not None:
        runs.append((os.fspath(control), _checked_control(config, out, os.fspath(control))))
    paths = corpus_files(paths, *(place for place, _ in runs), is_shared=engine.engine != "local")
    with seekable_standard_input(paths):
        manifest, *_ = [_score_into(place, paths, settings, overwrite, shown_by, engine) for place, settings in runs]
    if meter is None:  # who gives one says it in words of its own
        log.info(totals_line(out, manifest))
    return manifest


def plan_corpus(paths: Sequence[str], out: str, config: ScoreConfig | None = None) -> dict | None:
    """Plan a run and make no shard: hash inputs, find where shards begin, measure error bounds, count what is counted.

    Args:
        paths, out, config: as ``score_corpus`` has them. A plan that is there already is checked.

    Returns:
        the plan; None where the run is finished.

    Raises:
        FastmaskError: with one line for the user.
    """
    config, paths, out = config or ScoreConfig(), corpus_files(paths, out), os.fspath(out)
    if repeated(out, paths, config):
        return None
    with Scorer(config, is_aspect_corpus(paths, config)) as scorer:
        return _plan(out, paths, scorer, replan=True)


def score_part(
    paths: Sequence[str],
    out: str,
    config: ScoreConfig | None = None,
    *,
    part: Part,
    mixed: bool = False,
    meter: Meter | None = None,
) -> dict:
    """Make one part of a run's shards, beside those who make the others; ``finish_parts`` completes the directory.

    Args:
        paths, out, config, meter: as ``score_corpus`` has them, the same for all parts. The first part makes the plan.
        part: which of how many.
        mixed: whether the machines may differ.

    Returns:
        ``{"shards", "rows", "of", "is_finished"}``: of this part; the shards of the run, and whether it was complete.

    Raises:
        FastmaskError: with one line for the user.
    """
    config, meter = config or ScoreConfig(), meter or Meter()
    paths, out = corpus_files(paths, out), os.fspath(out)
    with Scorer(config, is_aspect_corpus(paths, config), meter) as scorer:
        plan = read_plan(path_of(out)) or _plan(out, paths, scorer)
        if plan is None or plan.get("places") is None:
            raise OutputError(f"{out}: there is no plan of where its shards begin; run it without --part")
        planned, facts = read_planned(path_of(out)), facts_of(scorer, config)
        check_alike(out, facts, planned["made_with"], mixed)
        if not plan["places"]:
            raise no_rows(paths)
        if paths != [entry["name"] for entry in plan["inputs"]]:
            raise OutputError(f"{out}: planned for other inputs; all parts take the same ones, by the same names")
        header = make_header(facts.settings, facts.with_inputs(plan["inputs"]))
        with PartDirectory(path_of(out), part, header, mixed) as run:
            if run.is_finished:
                log.info(f"{out} is complete for this configuration; nothing to do")
            else:
                _make_part(run, scorer, planned["stamps"])
            made = {"shards": len(run.wanted), "rows": run.rows, "of": len(plan["places"])}
            return {**made, "is_finished": run.is_finished}


def _make_part(run: PartDirectory, scorer: Scorer, stamps: Mapping[str, list[int]]) -> None:
    plan, missing = run.plan, [index for index in run.wanted if index not in run.entries]
    inputs = PlannedInputs(plan["inputs"], plan["places"], plan["rows"], stamps, run.wanted)
    bounds = bounds_in(run.plan)
    bounds = bounds and widened_by(bounds, [entry["certificate"] for entry in run.entries.values()])
    with scorer.meter.running(run.rows, rows_in(run.entries)), closing(LocalExecutor(scorer, inputs)) as executor:
        executor.prepare(read_statistics(run.path, run.plan))
        with closing(executor.shards(Wanted(missing), bounds)) as shards:
            for index, scored in shards:
                inputs.check()
                run.write_shard(index, EncodedShard.of(index, scored))
    inputs.check(stores=True)


def finish_parts(out: str, *, mixed: bool = False, meter: Meter | None = None) -> dict:
    """Complete a directory whose parts are all made: make again what later evidence contradicts, write the manifest.

    Args:
        out: the directory.
        mixed: whether this machine may differ from the one that planned the run, where shards are made again.
        meter: told of progress.

    Returns:
        the manifest.

    Raises:
        OutputError: shards are missing; the parts to run again are named.
        FastmaskError: with one line for the user.
    """
    out, meter = os.fspath(out), meter or Meter()
    plan = read_plan(path_of(out))
    if plan is None:
        if path_of(out).is_dir() and not manifest_path(path_of(out)).exists():
            raise OutputError(f"{out}: there is no plan, or a damaged one; fastmask plan makes it, then run its parts")
        return read_manifest(out)
    header = {**header_in(plan), "fastmask_version": __version__}
    check_plan(path_of(out), plan, header, mixed)
    rest = {key: value for key, value in header.items() if key not in ("config", "format_version")}
    with RunDirectory.open(out, plan["config"], rest) as run:
        if run.manifest is not None:
            log.info(f"{out} is complete; nothing to do")
            return run.manifest
        if (places := plan.get("places")) is None:
            raise OutputError(f"{out}: its plan does not tell how many shards there are; run fastmask score again")
        check_complete(run.path, run.missing(len(places)), len(places))
        if not run.entries:
            raise OutputError(f"{out}: there are no rows in its inputs")
        made_with, bounds = read_planned(run.path)["made_with"], in_force(run)
        if not made_with or contradicted(run, bounds):
            bounds, made_with = _make_again(run, mixed, meter)
        return finish_run(run, bounds, made_with)


def _make_again(run: RunDirectory, mixed: bool, meter: Meter) -> tuple[Bounds | None, dict]:
    """Load the model to make again what is contradicted; return the final bounds and what shards were made with."""
    plan, planned = run.plan or {}, read_planned(run.path)
    config, paths = ScoreConfig(**plan["config"]), [entry["name"] for entry in plan["inputs"]]
    config = replace(config, max_text_mb=config.limit_again)
    with Scorer(config, is_aspect_corpus(paths, config), meter) as scorer:
        facts = facts_of(scorer, config)
        check_plan(run.path, plan, make_header(facts.settings, facts.with_inputs(plan["inputs"])), mixed)
        check_alike(str(run.path), facts, planned["made_with"], mixed)
        inputs = PlannedInputs(plan["inputs"], plan["places"], plan["rows"], planned["stamps"])
        rows = rows_in(run.entries)
        with meter.running(rows, rows), closing(LocalExecutor(scorer, inputs)) as executor:
            executor.prepare(read_statistics(run.path, plan))
            bounds = write_again(run, executor, inputs, in_force(run))
        inputs.check(stores=True)
        return bounds, planned["made_with"] or facts.made_with


def _plan(out: str, paths: list[str], scorer: Scorer, replan: bool = False) -> dict | None:
    """Make the plan of a run, one process at a time; return it, None where the run is finished.

    Args:
        replan: whether one that is there is made again if it does not fit and there is no shard yet.
    """
    with planning(path_of(out)):
        if not replan and (plan := read_plan(path_of(out))):  # another process has made it meanwhile
            return plan
        inputs, facts = planned_inputs(paths, scorer.config), facts_of(scorer, scorer.config)
        identity, advice = facts.with_inputs(inputs.entries), "plan and parts replace nothing: choose another directory"
        with RunDirectory.open(out, facts.settings, identity, advice=advice) as run:
            if run.manifest is not None:
                log.info(f"{out} is complete for this configuration; nothing to do")
                return None
            stamps = {path: stamp.of_any_machine for path, stamp in inputs.stamps.items()}
            write_planned(run.path, stamps, facts.made_with)
            if run.plan is None:
                with closing(LocalExecutor(scorer, inputs)) as executor:
                    write_plan_of(run, executor, inputs)
            if not inputs.places:
                raise no_rows(paths)
            return run.plan


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


def _score_into(
    out: str, paths: list[str], config: ScoreConfig, overwrite: bool, meter: Meter, engine: EngineConfig
) -> dict:
    """Score a corpus into one directory; return its manifest."""
    if finished := repeated(out, paths, config, overwrite):
        return finished
    # the model first: a mistake in its name should not wait for the hash of a large corpus
    with _started(config, paths, meter, engine) as (facts, executor_of):
        inputs = planned_inputs(paths, config)
        with RunDirectory.open(out, facts.settings, facts.with_inputs(inputs.entries), overwrite) as run:
            if run.manifest is not None:
                log.info(f"{out} is complete for this configuration; nothing to do")
                return run.manifest
            counting = meter.running(inputs.rows, rows_in(run.entries))
            with counting, closing(executor_of(inputs, run.path)) as executor:
                bounds = write_missing(run, executor, inputs)
                bounds = write_again(run, executor, inputs, bounds)
            if not run.entries:
                raise no_rows(paths)
            inputs.check(stores=True)
            return finish_run(run, bounds, facts.made_with)


@contextmanager
def _started(
    config: ScoreConfig, paths: list[str], meter: Meter, engine: EngineConfig
) -> Iterator[tuple[Facts, Callable[[HashedInputs, Path | Url], Executor]]]:
    """Start what makes shards: this process, or workers; yield what decides a result there, and what makes executors.

    Raises:
        FastmaskError: the model cannot be loaded, workers cannot be started or differ.
    """
    is_aspect = is_aspect_corpus(paths, config)
    if engine.engine == "local":
        with Scorer(config, is_aspect, meter) as scorer:
            yield facts_of(scorer, config), partial(LocalExecutor, scorer)
        return
    set_ray(engine.address)
    try:
        from .scoring.ray_executor import RayExecutor
        from .scoring.ray_workers import ray_workers
    except ImportError as error:
        raise FastmaskError("--engine ray: Ray is not installed; pip install 'fastmask[ray]'") from error
    with ray_workers(config, is_aspect, engine, meter) as (facts, workers):
        yield facts, lambda inputs, _: RayExecutor(workers, inputs)


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
        inputs = planned_inputs(paths, config)
        repaired = RunDirectory.open_for_repair(out, facts_of(scorer, config).with_inputs(inputs.entries))
        with repaired as run, closing(LocalExecutor(scorer, inputs)) as executor:
            if mended := [one.file for one in damaged if one.index is None]:
                replace_statistics(run.path, executor.statistics(), manifest["certificate"])
            executor.prepare(read_statistics(run.path, manifest["certificate"]))
            return mended + replace_shards(run, executor, inputs, manifest, wanted)
