"""Whether a finished run is asked for again: told without its model, which may take longer to load than the rest."""

from __future__ import annotations

import logging
from contextlib import suppress

from ..core.config import ScoreConfig, Unsaid
from ..core.errors import FastmaskError
from ..core.locked import differences
from ..core.plain import Json
from ..models.directory import resolve_model, settings_hash
from ..shards.schema import HEADER_KEYS, header_of, make_header, manifest_hash, read_manifest
from ..shards.writer import RunDirectory
from .machine import Facts, deciding, is_like_here
from .scorer import stop_words_identity
from .stages import planned_inputs

log = logging.getLogger(__name__)

TOLD = {*HEADER_KEYS, "engine", "like", "stop_words_sha256"}
"""What of a header is told here. Methods that count words have more, and load no model anyway."""


def repeated(out: str, paths: list[str], config: ScoreConfig, overwrite: bool = False) -> Json | None:
    """Return the manifest of a directory that a run over some inputs would leave as it is, and say so.

    None where that run has something to do or to refuse, or where it takes its model to tell.
    """
    with suppress(FastmaskError, OSError):  # the run will say what is wrong
        manifest = read_manifest(out)
        if facts := _facts_again(manifest, config):
            identity = facts.with_inputs(planned_inputs(paths, config).entries)
            if not differences(header_of(manifest), make_header(facts.settings, identity)):
                with RunDirectory.open(out, facts.settings, identity, overwrite) as run:
                    log.info(f"{out} is complete for this configuration; nothing to do")
                    return run.manifest
    return None


def _facts_again(manifest: Json, config: ScoreConfig) -> Facts | None:
    """Return the facts of a finished run as its model, loaded again, would give them; None where that cannot be told.

    With the same options, the same files and the same machine a model gives what it gave before.
    """
    before = manifest.get("repeat")
    if not before or header_of(manifest).keys() - TOLD or not is_like_here(manifest["environment"]):
        return None
    files = resolve_model(config.model)
    same_files = files.is_local == manifest["tokenizer"]["local"] and settings_hash(files.dir) == before["files_sha256"]
    if not same_files or not _same_options(before["options"], manifest, config):
        return None
    model = manifest["model"] and {"name": files.name, "weights_sha256": files.weights_sha256}
    like = config.like and manifest_hash(config.like)
    kept = {key: manifest[key] for key in ("tokenizer", "engine")}
    return Facts(manifest["config"], {**kept, "model": model, "like": like, **stop_words_identity(config)}, {})


def _same_options(before: Json, manifest: Json, config: ScoreConfig) -> bool:
    """Return whether a run had the same options; a length that gave way to the model is refused where it is given."""
    fits = isinstance(config.max_length, Unsaid) or config.max_length == manifest["config"]["max_length"]
    kinds = "auto", manifest["engine"]["device"]
    return before == deciding(config) and fits and config.device.partition(":")[0] in kinds
