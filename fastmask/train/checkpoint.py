"""Model directories in Hugging Face's format, written whole or not at all."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..durable import os_errors_named, sync_directory
from ..errors import FastmaskError, OutputError
from ..models import not_finite, quiet_transformers, weights_hash

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_free", "save_model", "weights_hash"]


def check_free(out: str | Path, overwrite: bool) -> Path:
    """Returns ``out`` as a path that a model may be written to.

    Raises:
        OutputError: it is a file, or a directory with something in it and ``overwrite`` is off.
    """
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise OutputError(f"{out}: is not a directory")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise OutputError(f"{out}: exists already; give another --out, or --overwrite")
    return path


def save_model(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    out: str | Path,
    dtype: torch.dtype,
    documents: dict[str, dict] | None = None,
    overwrite: bool = False,
    tensors: dict[str, dict[str, torch.Tensor]] | None = None,
) -> Path:
    """Writes config.json, model.safetensors and the tokenizer, plus other files, in one atomic rename.

    Args:
        model: a transformers model; it is not changed.
        tokenizer: its tokenizer.
        out: directory to make; parents are made too.
        dtype: dtype of the stored weights, which the config then names.
        documents: file name -> JSON-ready content.
        overwrite: replace what is there.
        tensors: file name -> more tensors, in safetensors' format.

    Raises:
        OutputError: ``out`` is taken or cannot be written.
        FastmaskError: a weight is not finite in ``dtype``; what was there stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = check_free(out, overwrite)
    stored = copy.deepcopy(model).to(dtype)
    if bad := not_finite(stored):
        kind = str(dtype).removeprefix("torch.")
        raise FastmaskError(f"{path}: not written, the trained weight {bad} is not finite in {kind}; try a lower --lr")
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        with os_errors_named(path), quiet_transformers():
            fresh.mkdir(parents=True)
            stored.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
            for name, document in (documents or {}).items():
                (fresh / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
            for name, named in (tensors or {}).items():
                save_file(named, fresh / name)
            _settle(fresh)
            _replace(fresh, path)
    except SafetensorError as error:  # a full disk, too
        raise OutputError(f"cannot write {path}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return path


def _settle(directory: Path) -> None:
    # safetensors leaves its file readable by its owner only: give all files the directory's rights
    mode = directory.stat().st_mode & 0o666
    for file in directory.iterdir():
        file.chmod(mode)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_directory(directory)


def _replace(fresh: Path, path: Path) -> None:
    """Renames ``fresh`` to ``path``; what was there is deleted only once the new directory is in place."""
    old = fresh.with_name(fresh.name.replace(".new-", ".old-"))
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)
