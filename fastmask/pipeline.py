"""The order of stages: read -> segment -> encode -> score -> decide -> shards. The one file that knows it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

from . import __version__
from .core.background import run_ahead
from .core.config import ScoreConfig
from .core.errors import FastmaskError, InputError, OutputError
from .core.records import EncodedSentences, ScoredSentences
from .report.meter import NoMeter
from .scoring.cascade import merged_certificate
from .scoring.scorer import Scorer
from .shards.schema import read_manifest
from .shards.verify import verify
from .shards.writer import RunDirectory
from .text.documents import HashedInputs
from .text.frontend import STOP_SECONDS, encoded_shards
from .text.inputs import count_rows, is_aspect_corpus, seekable_standard_input
from .text.streams import STDIN

# Shards scored ahead of the writer, for each device.
_SCORED_AHEAD = 1
_LIBRARIES = ("torch", "triton", "transformers", "tokenizers", "numba", "numpy", "pyarrow", "spacy")


def score_corpus(
    paths: Sequence[str],
    out: str,
    config: ScoreConfig | None = None,
    *,
    overwrite: bool = False,
    meter=None,
    control: str | None = None,
) -> dict:
    """Score a corpus into a shard directory; ``fastmask score`` as a function.

    Args:
        paths: inputs, ``-`` for standard input.
        out: output directory; a partial one of the same configuration is resumed, a finished one left alone.
        config: what to do; defaults to ScoreConfig().
        overwrite: replace a directory of another configuration.
        meter: told of progress (see ``meter.Meter``).
        control: another directory, for the same sentences with as many masks each at random positions.

    Returns:
        the manifest.

    Raises:
        FastmaskError: with one line for the user.
    """
    config, meter = config or ScoreConfig(), meter or NoMeter()
    paths, out = [os.fspath(path) for path in paths], os.fspath(out)
    twin = None if control is None else _checked_control(config, out, os.fspath(control))
    with seekable_standard_input(paths):
        manifest = _score_into(out, paths, config, overwrite, meter)
        if twin is not None:
            _score_into(os.fspath(control), paths, twin, overwrite, meter)
    return manifest


def _checked_control(config: ScoreConfig, out: str, control: str) -> ScoreConfig:
    """The random twin of a run.

    Raises:
        FastmaskError: the run is itself at random, or both would be the same directory.
    """
    if config.method == "random":
        raise FastmaskError(f"--control {control}: the control of --method random would be another random run")
    if os.path.realpath(control) == os.path.realpath(out):
        raise FastmaskError(f"--control {control}: is the directory of --out")
    return config.control_of(out)


def _score_into(out: str, paths: list[str], config: ScoreConfig, overwrite: bool, meter) -> dict:
    """Score a corpus into one directory; returns its manifest."""
    # the model first: a mistake in its name should not wait for the hash of a large corpus
    with Scorer(config, is_aspect_corpus(paths, config), meter) as scorer:
        inputs = HashedInputs(paths)
        with RunDirectory.open(out, config.as_dict(), _identity(scorer, inputs.entries), overwrite) as run:
            if run.finished:
                meter.nothing_to_do(out)
                return run.manifest
            with meter.running(lambda: count_rows(paths), _rows(run.entries)):
                _write_shards(run, scorer, inputs)
            certificates = [run.entries[index]["certificate"] for index in sorted(run.entries)]
            if not certificates:
                raise InputError(", ".join(paths), None, None, "no rows to score")
            inputs.check()
            return run.finish({"certificate": merged_certificate(certificates), "environment": _environment(scorer)})


def _rows(entries: dict[int, dict]) -> int:
    return sum(entry["end_row"] - entry["first_row"] for entry in entries.values())


def _write_shards(run: RunDirectory, scorer: Scorer, inputs: HashedInputs) -> None:
    """Score and write what is missing; scoring runs in a thread ahead of the writer."""
    ahead = _SCORED_AHEAD * len(scorer.config.devices)
    with closing(run_ahead(_scored_shards(run, scorer, inputs), ahead, scorer.stop, STOP_SECONDS)) as scored:
        for index, shard in scored:
            inputs.check()  # a shard that is written counts as made of what was hashed
            run.write_shard(index, shard)


def _scored_shards(run: RunDirectory, scorer: Scorer, inputs: HashedInputs) -> Iterator[tuple[int, ScoredSentences]]:
    done = dict(run.entries)
    with closing(_encoded_shards(scorer, inputs, run.next_index, _Absent(done))) as shards:
        yield from scorer.score_shards(shards, done)


def _encoded_shards(
    scorer: Scorer, inputs: HashedInputs, first: int, wanted: Container[int]
) -> Generator[tuple[int, EncodedSentences]]:
    return encoded_shards(
        [entry["name"] for entry in inputs.entries],
        scorer.config,
        scorer.encoder,
        scorer.classes,
        first_shard=first,
        wanted=wanted,
        stamps=inputs.stamps,
    )


class _Absent:
    """The shards that have no entry yet."""

    def __init__(self, entries: dict[int, dict]):
        self.entries = entries

    def __contains__(self, index: int) -> bool:
        return index not in self.entries


def repair(out: str, meter=None) -> list[str]:
    """Make the damaged shards of a finished directory again, from the inputs named in its manifest.

    Returns:
        the names of the shards that were damaged and are whole again.

    Raises:
        OutputError: something is damaged that scoring again cannot mend, or a shard came out differently.
        FastmaskError: inputs or model are not what they were.
    """
    damaged = verify(out)
    beyond = [d for d in damaged if d.index is None]
    if beyond:
        raise OutputError(f"{out}: {beyond[0].file}: {beyond[0].reason}; scoring again cannot mend that")
    if not damaged:
        return []
    manifest = read_manifest(out)
    if "remapped" in manifest:
        raise OutputError(f"{out}: was made by fastmask remap; the same command makes it again with --overwrite")
    if unknown := manifest["config"].keys() - {field.name for field in fields(ScoreConfig)}:
        raise OutputError(f"{out}: made with --{min(unknown)}, which this fastmask does not know")
    config, paths = ScoreConfig(**manifest["config"]), [one.get("name", "") for one in manifest["inputs"]]
    if STDIN in paths:
        raise OutputError(f"{out}: was made from standard input, which is gone; score it again with --overwrite")
    # one device is enough for some shards, and there may be fewer than there were
    config = replace(config, device=config.devices[0], max_text_mb=config.limit_again)
    with Scorer(config, is_aspect_corpus(paths, config), meter) as scorer:
        inputs = HashedInputs(paths)
        with RunDirectory.open_for_repair(out, _identity(scorer, inputs.entries)) as run:
            return _replace_shards(run, scorer, inputs, manifest["shards"], sorted({d.index for d in damaged}))


def _replace_shards(run, scorer: Scorer, inputs: HashedInputs, entries: list[dict], wanted: list[int]) -> list[str]:
    mended = []
    with closing(_encoded_shards(scorer, inputs, wanted[0], wanted)) as shards:
        scored = scorer.score_shards(islice(shards, len(wanted)), dict(enumerate(entries)))
        for index, shard in scored:
            inputs.check()
            if not run.replace_shard(index, shard):
                raise OutputError(
                    f"{run.path / entries[index]['file']}: made again, but not to the same bytes as before: "
                    "another machine or library version; the manifest now has the new hash"
                )
            mended.append(entries[index]["file"])
    return mended


def _identity(scorer: Scorer, inputs: list[dict]) -> dict:
    return {"fastmask_version": __version__, "inputs": inputs, **scorer.identity(), "engine": scorer.describe()}


def _environment(scorer: Scorer) -> dict:
    """What the result was made with: back end, processor, versions of the libraries that matter."""
    versions = {name: _version(name) for name in _LIBRARIES}
    cpu = {"cpu": _processor()} | ({} if scorer.control else {"cpu_capability": _capability()})
    return {**scorer.environment(), **cpu, "python": platform.python_version(), **versions}


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
