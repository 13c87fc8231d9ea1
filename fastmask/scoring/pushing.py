"""``fastmask push``: finished shards, or a trained model, become a repository on the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..core.config import demand
from ..core.durable import TEMPORARY
from ..core.errors import FastmaskError, first_line
from ..core.plain import Json
from ..models.directory import resolve_model
from ..report.certificate import settings, statements
from ..report.markdown import CARD, LICENSE, card, escaped, figures, table
from ..shards.reader import open_shards
from ..shards.schema import MANIFEST, OLD_MANIFEST, PLAN, STATISTICS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ..shards.reader import ShardSet

log = logging.getLogger(__name__)
DATA_FILES = "shard-*.parquet"
_NOT_OF_A_MODEL = re.compile(rf"\..*|checkpoint-.*|.*{re.escape(TEMPORARY)}|.*\.lock", re.S)
"""Names of locks, checkpoints and temporary files, which stay here."""


def push(out: str, repo_id: str, *, private: bool, api: HfApi) -> str:
    """Upload a finished directory and return the address of its repository.

    A data set's card that the repository has already is kept: somebody may have added to it.

    Args:
        out: shards, which become a data set, or a model.
        repo_id: as owner/name.
        private: whether a new repository is.
        api: the hub's client.

    Raises:
        FastmaskError: ``out`` is not finished or is damaged, or the hub refuses or cannot be reached.
    """
    path = Path(out)
    demand(path.is_dir(), out, "no such directory here")
    is_data = any((path / name).exists() for name in (MANIFEST, OLD_MANIFEST, PLAN))
    names, text = _shards(open_shards(out, check_hashes=True), path) if is_data else (_model(path), None)
    repo = {"repo_id": repo_id, "repo_type": "dataset" if is_data else "model"}
    stale = [DATA_FILES] if is_data else None  # of an earlier push, unless they are uploaded again
    try:
        address = str(api.create_repo(**repo, private=private, exist_ok=True))
        log.info(f"{out}: {len(names)} files to {address}")
        told = f"fastmask {__version__}"
        api.upload_folder(**repo, folder_path=path, allow_patterns=[_literal(name) for name in names],
                          delete_patterns=stale, commit_message=told)  # fmt: skip
        if text is not None and api.file_exists(repo_id, CARD, repo_type=repo["repo_type"]):
            log.info(f"{address} has a {CARD}, which is kept; remove it there to get a new one")
        elif text is not None:
            api.upload_file(**repo, path_or_fileobj=text.encode(), path_in_repo=CARD, commit_message=told)
    except Exception as error:  # OSError, ValueError, and its HTTP library's own
        raise FastmaskError(f"{repo_id}: {_reason(error)}") from error
    return address


def _literal(name: str) -> str:
    """Return a pattern that only this name fits."""
    return re.sub(r"[*?\[]", r"[\g<0>]", name)


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
        return "the hub wants a token that may write there: hf auth login, or HF_TOKEN"
    if isinstance(error, ValueError) or status is not None:
        return f"the hub refuses it: {first_line(error)}"
    return f"the Hugging Face hub could not be reached ({type(error).__name__})"


def _shards(shards: ShardSet, path: Path) -> tuple[list[str], str]:
    """Return the names of a directory's files, and its card."""
    names = [entry["file"] for entry in shards.manifest["shards"]]
    others = [name for name in (MANIFEST, OLD_MANIFEST, PLAN, STATISTICS) if (path / name).is_file()]
    return [*names, *others], dataset_card(shards.manifest)


def _model(path: Path) -> list[str]:
    """Return the names of a model's files; FastmaskError where it is not finished."""
    resolve_model(str(path))
    names = sorted(file.name for file in path.iterdir() if file.is_file() and not _NOT_OF_A_MODEL.fullmatch(file.name))
    finished = "run.json" not in names or "pretrain.json" in names
    demand(finished, str(path), "the run is not finished; the same pretrain command resumes it")
    return names


def dataset_card(manifest: Json) -> str:
    """Return the card of a shard directory: how ``load_dataset`` reads it, what its masks are and how sure."""
    config, total = manifest["config"], manifest["totals"]
    header = {"tags": ["fastmask", "selective-masking"], "configs": [
        {"config_name": "default", "data_files": [{"split": "train", "path": DATA_FILES}]}]}  # fmt: skip
    model, method = (manifest["model"] or {}).get("name"), config.get("method")
    facts = {"method": method, "model": model, "tokenizer": manifest["tokenizer"].get("name"),
             "threshold": config.get("threshold"), "mask rate": config.get("mask_rate"),
             "classes": manifest.get("classes"), **total, "skipped documents": manifest["skipped"]["count"],
             "fastmask": manifest["fastmask_version"]}  # fmt: skip
    changed = [(one.flag, one.value) for one in settings(config) if one.changed]
    sure = [escaped(line) for line in statements(manifest["certificate"], config)]
    return card(header, "Masks by fastmask", {
        "": "Which tokens of each sentence to mask in masked-language-model training: `mask_index` holds positions in "
            "`input_ids`. The texts themselves are not in here, but their tokens are.",
        "What is in it": table(("", ""), figures(facts)),
        "How sure the masks are": "\n\n".join(sure),
        "Options": table(("option", "value"), changed),
        "Use": "`datasets.load_dataset` gives the rows. `fastmask pretrain` trains on a copy: "
               "`hf download REPO_ID --repo-type dataset --local-dir masks`, then `fastmask pretrain masks ...`.",
        "License": LICENSE,
    })  # fmt: skip
