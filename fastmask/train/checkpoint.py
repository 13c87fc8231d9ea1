"""Model directories in Hugging Face's format, written whole or not at all."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.directories import new_directory
from ..core.durable import json_bytes
from ..core.errors import FastmaskError, OutputError
from ..models.directory import CONFIG, quiet_transformers
from ..models.weights import not_finite
from ..report.markdown import CARD

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

METRICS = "metrics.json"


def save_model(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    out: str | Path,
    dtype: torch.dtype,
    documents: dict[str, dict] | None = None,
    overwrite: bool = False,
    tensors: dict[str, dict[str, torch.Tensor]] | None = None,
    card: str = "",
) -> Path:
    """Write config.json, model.safetensors and the tokenizer, plus other files, in one atomic rename.

    Args:
        model: a transformers model; it is not changed.
        tokenizer: its tokenizer.
        out: directory to make, this process's own as ``new_directory`` says; parents are made too.
        dtype: dtype of the stored weights, which the config then names.
        documents: file name -> JSON-ready content.
        overwrite: replace what is there.
        tensors: file name -> more tensors, in safetensors' format.
        card: content of README.md; none is written where it is empty.

    Raises:
        OutputError: ``out`` is taken or cannot be written.
        FastmaskError: a weight is not finite in ``dtype``; what was there stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(out)
    stored = copy.deepcopy(model).to(dtype)
    if bad := not_finite(stored):
        kind = str(dtype).removeprefix("torch.")
        raise FastmaskError(f"{path}: not written, the trained weight {bad} is not finite in {kind}; try a lower --lr")
    try:
        with new_directory(path, overwrite) as fresh, quiet_transformers():
            _write_model(stored, tokenizer, fresh)
            for name, document in (documents or {}).items():
                (fresh / name).write_bytes(json_bytes(document))
            for name, named in (tensors or {}).items():
                save_file(named, fresh / name)
            if card:
                (fresh / CARD).write_bytes(card.encode())
            _settle(fresh)
    except SafetensorError as error:  # a full disk, too
        raise OutputError(f"cannot write {path}: {error}") from error
    return path


def _write_model(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if (getattr(model.config, "type_vocab_size", None) or 0) > 1:
        _name_token_types(directory)
    if type(model).__name__.endswith("Classification"):
        # transformers leaves default names out, and some types have three classes by default
        names = {"id2label": model.config.id2label, "label2id": model.config.label2id}
        _change(directory / CONFIG, names)


def _name_token_types(directory: Path) -> None:
    """Let a saved tokenizer give its model token types: transformers names them for some classes of tokenizers."""
    file = directory / "tokenizer_config.json"
    names = json.loads(file.read_text("utf-8")).get("model_input_names") or ["input_ids", "attention_mask"]
    if "token_type_ids" not in names:
        names.insert(1, "token_type_ids")
    _change(file, {"model_input_names": names})


def _change(file: Path, values: dict) -> None:
    """Set values in a JSON document."""
    content = json.loads(file.read_text("utf-8")) | values
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _settle(directory: Path) -> None:
    # safetensors leaves its file readable by its owner only: give all files the directory's rights
    mode = directory.stat().st_mode & 0o666
    for file in directory.iterdir():
        file.chmod(mode)
