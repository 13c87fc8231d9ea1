"""Command-line options made from the fields of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

import click
from click.core import ParameterSource

from .config import Unsaid, flag_of

MAIN = "Options"
"""The heading of options that are in no group."""


class GroupedOption(click.Option):
    """An option that ``--help`` lists under the heading of its group."""

    def __init__(self, *args: Any, group: str = MAIN, **more: Any):
        super().__init__(*args, **more)
        self.group = group

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return its name for an error, and the variable that it comes from."""
        hint, name = super().get_error_hint(ctx), self.name or ""
        if ctx and ctx.get_parameter_source(name) == ParameterSource.ENVIRONMENT:
            return f"{hint} from {ctx.auto_envvar_prefix}_{name.upper()}"
        return hint


def options_of(configuration: type, *names: str) -> Callable[..., Any]:
    """Return a decorator that gives a command the options of a configuration, all or those named, in their order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(fields(configuration)):
            if not names or field.name in names:
                command = _parameter(field)(command)
        return command

    return decorate


def _parameter(field: Field[Any]) -> Callable[..., Any]:
    multiple, required = str(field.type).startswith("tuple"), field.default is MISSING
    if flag_of(field).isupper():
        return click.argument(field.name, nargs=-1 if multiple else 1, required=required)
    default: dict[str, Any] = {} if required else {"default": field.default}
    shown = not (required or field.default is None or field.default == () or field.default is False)
    return click.option(*_declared(field), field.name, cls=GroupedOption, group=field.metadata["group"] or MAIN,
                        help=field.metadata["help"], required=required, show_default=shown, multiple=multiple,
                        **default, **_kind(field))  # fmt: skip


def _declared(field: Field[Any]) -> list[str]:
    """Return an option's spellings; what is on unless told otherwise has one that turns it off."""
    flag = flag_of(field)
    can_be_off = field.default is True or field.type == "bool | None"
    return [f"{flag}/--no-{flag[2:]}"] if can_be_off else field.metadata["flag"].split() or [flag]


def _kind(field: Field[Any]) -> dict[str, Any]:
    if field.type in ("bool", "bool | None"):
        return {"is_flag": True}
    if field.metadata["choices"]:
        return {"type": click.Choice(field.metadata["choices"])}
    return {"type": next(kind for word, kind in _TYPES.items() if word in str(field.type))}


class _WholeNumber(click.types.IntParamType):
    """Keeps a default that tells that it is one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, Unsaid) else super().convert(value, param, ctx)


_TYPES = {"int": _WholeNumber(), "float": float, "str": str}
