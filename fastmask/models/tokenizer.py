"""What a manifest says of a tokenizer, and whether another one is the same."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ModelError
from .directory import EMBEDDED, ModelFiles, load_tokenizer, resolve_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DECIDING = ("normalizer", "pre_tokenizer", "model")
"""Parts of a tokenizer that turn text between special tokens into ids."""


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 of everything that decides a loaded tokenizer's ids and the special tokens around them.

    Files do not count: several of them may say the same, or one of them something that another overrules.
    """
    content = _content(tokenizer)
    kept = {key: content[key] for key in (*DECIDING, "added_tokens", "post_processor")}
    kept["split_special_tokens"] = tokenizer.split_special_tokens
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _content(tokenizer: PreTrainedTokenizerBase) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def special_ids(tokenizer) -> dict[str, int | None]:
    """Return the ids of a transformers tokenizer's special tokens by role; None where it has none."""
    roles = ("cls", "sep", "mask", "pad", "unk", "bos", "eos")
    return {role: getattr(tokenizer, f"{role}_token_id", None) for role in roles}


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> tuple[int, list[int]]:
    """Return one more than the tokenizer's largest id, and the ids of all its special tokens, ascending."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return max(tokenizer.get_vocab().values()) + 1, sorted(special.union(tokenizer.all_special_ids))


def tokenizer_record(files: ModelFiles, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Return a manifest's ``tokenizer`` entry."""
    vocab_size, all_special_ids = vocabulary(tokenizer)
    return {
        "name": files.name,
        "local": files.is_local,
        "vocabulary_sha256": tokenizer_hash(tokenizer),
        "special_ids": special_ids(tokenizer),
        "vocab_size": vocab_size,
        "all_special_ids": all_special_ids,
    }


def recorded_tokenizer(recorded: Mapping) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a manifest's ``tokenizer`` entry names.

    Raises:
        ModelError: it is gone, or is not the same any more.
    """
    if lacking := [key for key in ("name", "local", "vocabulary_sha256") if key not in recorded]:
        raise ModelError(f"the tokenizer of these shards is not known, its record lacks {lacking[0]}")
    if recorded["local"] and recorded["name"] != EMBEDDED and not Path(recorded["name"]).is_dir():
        raise ModelError(f"{recorded['name']}: the directory of these shards' tokenizer is not here")
    tokenizer = load_tokenizer(resolve_model(None if recorded["name"] == EMBEDDED else recorded["name"]))
    if tokenizer_hash(tokenizer) != recorded["vocabulary_sha256"]:
        raise ModelError(f"{recorded['name']}: its tokenizer is not the one that these shards were made with")
    return tokenizer


def same_tokens(recorded: Mapping, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a manifest's tokenizer and a loaded one make the same ids of every text.

    By the hash, or rule by rule if the manifest's tokenizer is still there: what transformers saves with a model is not
    always written as it was in the model that it was trained from.
    """
    if recorded.get("vocabulary_sha256") == tokenizer_hash(tokenizer):
        return True
    try:
        theirs = recorded_tokenizer(recorded)
    except ModelError:
        return False
    a, b = _content(theirs), _content(tokenizer)
    return theirs.get_vocab() == tokenizer.get_vocab() and all(a[key] == b[key] for key in DECIDING)


def check_tokenizer(shards: str, recorded: Mapping, tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Raise ModelError, with the command that helps, unless shards were made with a model's tokenizer.

    Args:
        shards: their directory.
        recorded: the tokenizer's entry in their manifest.
        tokenizer, model: the model's tokenizer and name.
    """
    if not same_tokens(recorded, tokenizer):
        out = f"{Path(shards).resolve().name}-{Path(model).resolve().name}"
        command = shlex.join(["fastmask", "remap", shards, "--tokenizer", model, "-o", out])
        theirs = recorded.get("name", "another model")
        raise ModelError(f"{shards}: was made with the tokenizer of {theirs}, which is not that of {model}; "
                         f"{command} makes masks for it")  # fmt: skip
    if recorded.get("vocab_size", size := vocabulary(tokenizer)[0]) != size:
        raise ModelError(f"{shards}: its manifest says that {recorded.get('name')} has {recorded['vocab_size']} ids, "
                         f"it has {size}")  # fmt: skip
    own = {"all_special_ids": vocabulary(tokenizer)[1], **special_ids(tokenizer)}
    said = {"all_special_ids": recorded.get("all_special_ids"), **recorded.get("special_ids", {})}
    for name, value in said.items():
        if value is not None and value != own.get(name, value):
            raise ModelError(f"{shards}: its manifest says that {name} of {recorded.get('name')} is {value}, "
                             f"it is {own[name]}")  # fmt: skip
