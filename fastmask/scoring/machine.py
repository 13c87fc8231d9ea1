"""What a result was made with: the machine and the libraries."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from .. import __version__
from ..core.config import ScoreConfig
from ..core.locked import RESULT_NEUTRAL
from ..core.plain import Json
from ..models.directory import settings_hash
from .scorer import Scorer

_LIBRARIES = ("torch", "triton", "transformers", "tokenizers", "numba", "numpy", "pyarrow", "spacy")
_NEVER_MATTER = ("cpu", "python")
"""What does not change a bit of a result: the processor's name, and Python's version."""


class Facts(NamedTuple):
    """What decides a result on a machine, and what is told of it.

    Attributes:
        settings: the configuration as the manifest has it.
        identity: what else decides, but for the inputs.
        made_with: what the manifest has besides, of a result: ``environment``, ``repeat`` (by which ``repeated`` tells
            whether the run is asked for again), and ``classes`` where there are some.
    """

    settings: Json
    identity: Json
    made_with: Json

    @property
    def environment(self) -> Json:
        """Return back end, processor, and versions of the libraries that matter."""
        environment: Json = self.made_with["environment"]
        return environment

    def with_inputs(self, entries: list[Json]) -> Json:
        """Return the identity of a run over inputs."""
        return {"fastmask_version": __version__, "inputs": entries, **self.identity}


def facts_of(scorer: Scorer, config: ScoreConfig) -> Facts:
    """Return what decides a result with a model that is loaded.

    Args:
        scorer: the model.
        config: the run's, from which the scorer's may differ in what leaves a result as it is.
    """
    # with the rate cap in force, which may be the method's own
    own = {"mask_rate": scorer.method.rate(scorer.config)} if scorer.method.asks_model else {}
    identity = {**scorer.identity(), "engine": scorer.describe()}
    settings = replace(scorer.config, threads=config.threads, device=config.device).as_dict()
    repeat = {"options": deciding(config), "files_sha256": settings_hash(scorer.files.dir)}
    made_with = {"environment": _environment(scorer), "repeat": repeat, **scorer.class_names()}
    return Facts({**settings, **own}, identity, made_with)


def deciding(config: ScoreConfig) -> Json:
    """Return the options that decide a result, as they were given: a method or a model may have changed them since."""
    return {name: value for name, value in config.as_dict().items() if name not in RESULT_NEUTRAL}


def _environment(scorer: Scorer) -> Json:
    """Return back end, processor, and versions of the libraries that matter."""
    cpu = {"cpu": _processor()} | ({"cpu_capability": _capability()} if scorer.method.asks_model else {})
    return {**scorer.describe(), **cpu, "python": platform.python_version(), **_versions()}


def is_like_here(environment: Json) -> bool:
    """Return whether an environment has this machine's processor and libraries, as far as torch need not be asked."""
    here = {"cpu": _processor(), **_versions()}
    return here == {name: environment.get(name) for name in here}


def unlike(here: Json, there: Json) -> list[str]:
    """Return in words how two environments differ in what may change the last bits of a result."""
    names = [name for name in {**there, **here} if name not in _NEVER_MATTER]
    return [f"{name} {here.get(name)}, not {there.get(name)}" for name in names if here.get(name) != there.get(name)]


def _capability() -> str:
    from fastmask_kernels import processor

    return processor.capability()


def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in _LIBRARIES}


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
