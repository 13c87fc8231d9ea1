"""fastmask: exact, fast selective masking for task-adaptive pre-training.

The names in ``_HOMES`` are imported when first used.
"""

import logging

__version__ = "0.1.0"

logging.getLogger("fastmask").addHandler(logging.NullHandler())  # silent unless the user wants to see lines

_HOMES = {
    "score": "scoring.api",
    "SentenceRecord": "scoring.api",
    "score_corpus": "pipeline",
    "repair": "pipeline",
    "open_shards": "scoring.notebook",
    "to_pandas": "scoring.notebook",
    "TrainingStream": "data.stream",
    "TorchStream": "data.torch_stream",
    "corrupt": "data.corruption",
    "SelectiveMaskCollator": "data.collator",
    "remap_masks": "data.remap",
    "remap_shards": "data.remapped",
    "ScoreConfig": "core.config",
    "FastmaskError": "core.errors",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return sorted(__all__)
