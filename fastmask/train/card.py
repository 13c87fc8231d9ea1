"""The model card beside every trained model: README.md, the same bytes for the same run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from .. import __version__
from ..core.config import flag_of
from ..core.config_train import UNSETTLING, FinetuneConfig, MaskerConfig, PretrainConfig
from ..models.directory import EMBEDDED, ModelFiles
from ..report.markdown import LICENSE, card, code, escaped, figures, table

Config = FinetuneConfig | MaskerConfig | PretrainConfig
MASKER = "A masker: a token classifier that says which tokens masked-language-model training is to mask (class 1)"
KINDS: dict[type, tuple[str, str, str]] = {
    FinetuneConfig: ("finetune", "text-classification", "A text classifier"),
    MaskerConfig: ("train-masker", "token-classification", MASKER),
    PretrainConfig: ("pretrain", "fill-mask", "A masked-language model, trained on masks of fastmask score"),
}
"""Kind of settings -> command, pipeline tag of the hub, what is trained."""
DATA = {"train": "training", "shards": "training, shards", "dev": "chooses the epoch", "test": "test",
        "eval": "held out, shards"}  # fmt: skip
"""Options that name data -> what it is for."""
NOT_TOLD = ("config", "epochs", "tokens_per_second", "fastmask_version", "weights_sha256")
"""What of a result is elsewhere on the card, too long for it, or differs between two runs that give the same model."""


def model_card(config: Config, base: ModelFiles | None, result: Mapping[str, Any], file: str) -> str:
    """Return the card of a trained model.

    Args:
        config: what it was trained with.
        base: what training started from; None for a new model.
        result: what ``file`` beside the model holds.
    """
    command, task, what = KINDS[type(config)]
    from_hub = base is not None and not base.is_local and base.name != EMBEDDED
    header = {"library_name": "transformers", "pipeline_tag": task, "tags": ["fastmask", "selective-masking"]}
    start = f"{escaped(base.name)} (sha256 of its weights: `{base.weights_sha256}`)" if base else "a new model"
    data = [(use, name) for option, use in DATA.items() for name in getattr(config, option, ())]
    numbers = figures({name: value for name, value in result.items() if name not in NOT_TOLD})
    return card(header | ({"base_model": base.name} if base and from_hub else {}), f"Trained by fastmask {command}", {
        "": f"{what}. It was trained from {start} by fastmask {__version__}.",
        "Command": f"{code(command_of(command, config))}\n\nOptions that are not named have the defaults of fastmask "
                   f"{__version__}; `{file}` holds them all.",
        "Data": table(("use", "name"), data),
        "Figures": f"{table(('', ''), numbers)}\n\nMore of them are in `{file}`.",
        "License": LICENSE,
    })  # fmt: skip


def command_of(name: str, config: Config) -> str:
    """Return the command that trains with these settings, into OUT."""
    places, options = list[str](), list[str]()
    for one in fields(config):
        value, flag = getattr(config, one.name), flag_of(one)
        if one.name in UNSETTLING or (one.default is not MISSING and value == one.default):
            continue
        for part in value if isinstance(value, tuple) else (value,):
            if flag.isupper():
                places.append(str(part))
            else:
                options += [flag] if part is True else [flag, str(part)]
    return shlex.join(["fastmask", name, *places, *options, "-o", "OUT"])
