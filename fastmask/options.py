"""Command-line options made from the fields of a configuration, so that each default is stated once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import click


def options_of(configuration: type, helps: dict[str, str], **special: dict[str, Any]) -> Callable:
    """A decorator with one option per entry of ``helps``, named and defaulted as the field of the configuration.

    Args:
        configuration: a dataclass.
        helps: help text by field name, in the order of ``--help``.
        special: more arguments for ``click.option`` by field name: ``type``, ``multiple``, ``flag`` (its declaration).
    """
    defaults = {f.name: None if f.default is MISSING else f.default for f in fields(configuration)}
    names = {f.name: str(f.type) for f in fields(configuration)}

    def decorate(command):
        for name, text in reversed(helps.items()):
            extra = dict(special.get(name, {}))
            flag = extra.pop("flag", f"--{name.replace('_', '-')}")
            shown = defaults[name] not in (None, (), False, True)
            option = click.option(
                *flag.split(),
                name,
                default=defaults[name],
                show_default=shown,
                help=text,
                **(_kind(names[name]) | extra),
            )
            command = option(command)
        return command

    return decorate


def _kind(annotation: str) -> dict[str, Any]:
    if annotation == "bool":
        return {"is_flag": True}
    if annotation.startswith("tuple"):
        return {"multiple": True}
    return {"type": next(kind for word, kind in _TYPES.items() if annotation.startswith(word))}


_TYPES = {"int": int, "float": float, "str": str}
