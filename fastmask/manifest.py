"""What each field of a manifest is: of which type, all the way down."""

from __future__ import annotations

NONE = type(None)
ENTRY = {
    "index": int, "file": str, "sha256": str, "certificate": dict, "skipped": (int, list),
    "labelled": int, "misclassified": int,
}  # fmt: skip
"""What ``schema.is_entry`` does not look at itself, in a journal's entry or a manifest's."""
MANIFEST_FIELDS = {
    "fastmask_version": str,
    "config": {
        "method": str, "max_length": int, "like": (str, NONE), "model": (str, NONE), "text_field": str,
        "label_field": str, "encoding": str, "on_error": str, "stop_words": str,
    },
    "tokenizer": {"name": str, "local": bool, "vocabulary_sha256": str},
    "model": (dict, NONE),
    "inputs": [{"name": str, "bytes": (int, NONE), "sha256": (str, NONE)}],
    "totals": dict,
    "certificate": dict,
    "environment": dict,
    "skipped": {"count": int, "messages": [str]},
    "remapped": {"tokenizer": dict, "shards": [str]},
}  # fmt: skip
"""Field -> its type, several, a list of one kind, or the fields of an object; "*" is any. More may be there."""


def type_fault(value: object, kind, name: str = "") -> str | None:
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


_NAMES = {int: "a whole number", str: "a text", bool: "true or false", dict: "an object", list: "a list", NONE: "null"}


def _words(value: object, wanted: str, name: str) -> str:
    return f'field "{name}": expected {wanted}, found {_NAMES.get(type(value), "a number")}'
