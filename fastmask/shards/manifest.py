"""The types of a manifest's fields, at every depth."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

from ..core.plain import Json

Kind = Any
"""A type, several, a list of one kind, or a dictionary of kinds."""
NONE = type(None)
NUMBER = (float, int)
CERTIFICATE = {
    "eps": {"*": NUMBER}, "decisions": int, "rechecked": {"*": int}, "pairs": {"*": int}, "max_error": {"*": NUMBER},
    "audited": int, "flips": int, "batch_tokens_halved": {"*": int}, "asked_again": int,
}  # fmt: skip
"""What the error bounds follow from; a shard that was not scored with a model has none of it."""
ENTRY = {
    "index": int, "file": str, "sha256": str, "certificate": CERTIFICATE, "skipped": (int, list),
    "empty": int, "labelled": int, "misclassified": int,
}  # fmt: skip
"""What ``schema.is_entry`` does not look at itself, in a journal's entry or a manifest's."""
STATISTICS_ENTRY = {"bytes": int, "sha256": str}
"""What a plan or a finished run's certificate says of the file of its statistics."""
MANIFEST_FIELDS = {
    "fastmask_version": str,
    "config": {
        "method": str, "max_length": int, "like": (str, NONE), "model": (str, NONE), "text_field": str,
        "label_field": str, "id_field": str, "encoding": str, "on_error": str, "language": str, "stop_words": str,
        "threshold": NUMBER,
        "mask_rate": (*NUMBER, NONE), "segment": str, "precision": str, "certify": bool,
        "device": str, "kernels": str, "batch_tokens": int, "shard_rows": int, "max_text_mb": int, "seed": int,
        "threads": int, "words": (str, NONE), "mask_function": (str, NONE), "vectors": (str, NONE),
        "background": [str], "anchors": (int, NONE), "labelled": [str], "unit": str, "keep_punctuation": bool,
    },
    "tokenizer": {"name": str, "local": bool, "vocabulary_sha256": str},
    "model": (dict, NONE),
    "inputs": [{"name": str, "bytes": (int, NONE), "sha256": (str, NONE)}],
    "totals": dict,
    "certificate": {"statistics": STATISTICS_ENTRY},
    "environment": dict,
    "skipped": {"count": int, "messages": [str]},
    "classes": [str],
    "repeat": {"options": dict, "files_sha256": str},
    "remapped": {"tokenizer": dict, "shards": [str]},
    "remasked": {"shards": [str]},
}  # fmt: skip
"""Field -> its type, several, a list of one kind, or the fields of an object; "*" is any. More may be there."""


def are_error_bounds(value: Any) -> bool:
    """Return whether ``value`` can be the error bounds of a plan: none, or a number above 0 for each precision."""
    return value is None or (not type_fault(value, {"*": NUMBER}) and all(0 < bound < inf for bound in value.values()))


def is_certificate(value: Json) -> bool:
    """Return whether a shard's certificate, whose types are right, has all fields that error bounds follow from."""
    lower = value.get("eps", {})
    needed = CERTIFICATE.keys() - {"batch_tokens_halved", "asked_again"} <= value.keys()  # which not all have
    same = all(value[key].keys() == lower.keys() for key in ("pairs", "max_error")) if needed else False
    return not value or (same and all(0 <= bound < inf for bound in lower.values()))


def type_fault(value: Any, kind: Kind, name: str = "") -> str | None:
    """Return the first field, by its path, that has another type than ``kind``, in words; None if there is none."""
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return _words(value, "an object", name)
        inner = ((kind.get(key, kind.get("*")), value[key], f"{name}.{key}".lstrip(".")) for key in value)
    elif isinstance(kind, list):
        if not isinstance(value, list):
            return _words(value, "a list", name)
        inner = ((kind[0], one, f"{name}[{index}]") for index, one in enumerate(value))
    elif type(value) in (kind if isinstance(kind, tuple) else (kind,)):
        return None
    else:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        return _words(value, " or ".join(_NAMES[each] for each in kinds), name)
    faults = (type_fault(one, wanted, path) for wanted, one, path in inner if wanted is not None)
    return next((fault for fault in faults if fault), None)


def whole_fault(value: object, kind: Kind) -> str | None:
    """Return the first field that has another type than ``kind``, or else that is missing; None if there is none."""
    return type_fault(value, kind) or next(_lacking(value, kind), None)


def _lacking(value: Any, kind: Kind, name: str = "") -> Iterator[str]:
    """Yield in words which fields are missing in a value whose types are right."""
    if isinstance(kind, dict):
        yield from (f'field "{f"{name}.{key}".lstrip(".")}": is missing' for key in kind.keys() - {"*"} - value.keys())
        for key, one in value.items():
            yield from _lacking(one, kind.get(key, kind.get("*")), f"{name}.{key}".lstrip("."))
    elif isinstance(kind, list):
        for index, one in enumerate(value):
            yield from _lacking(one, kind[0], f"{name}[{index}]")


_NAMES = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "an object", list: "a list",
    NONE: "null",
}  # fmt: skip


def _words(value: object, wanted: str, name: str) -> str:
    return f'field "{name}": expected {wanted}, found {_NAMES.get(type(value), "a number")}'
