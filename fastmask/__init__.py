"""fastmask: exact, fast selective masking for task-adaptive pre-training.

The names in ``_HOMES`` are imported when first used.
"""

__version__ = "0.1.0"

_HOMES = {
    "score": "scoring.api",
    "SentenceRecord": "scoring.api",
    "score_corpus": "pipeline",
    "repair": "pipeline",
    "open_shards": "shards.reader",
    "TrainingStream": "stream",
    "TorchStream": "torch_stream",
    "corrupt": "corruption",
    "SelectiveMaskCollator": "collator",
    "remap_masks": "remap",
    "remap_shards": "remapped",
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
