"""The group of commands, and what all have in common: errors in one line, help in groups, where options come from."""

from __future__ import annotations

import functools
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from .. import __version__
from ..core.errors import FastmaskError, line_of
from ..core.options import MAIN
from ..report.screen import log_shown, one_line, say, say_traceback

# FASTMASK_SCORE_MODEL stands for --model of fastmask score
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "auto_envvar_prefix": "FASTMASK"}
OTHER = "Other"
LAST = ("overwrite", "quiet", "debug", "help")
MAY_BE_EMPTY = ("text", "text_field", "label_field")


class Command(click.Command):
    """A command whose help lists its options by group, those without one first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click."""
        groups: dict[str, list[tuple[str, str]]] = {MAIN: []}
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        for option in sorted(options, key=lambda option: option.name in LAST):
            group = OTHER if option.name in LAST else getattr(option, "group", MAIN)
            if record := option.get_help_record(ctx):
                groups.setdefault(group, []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


class Commands(click.Group):
    """The group of commands, in the order they are defined in; what click says of an argument is cleaned, too."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click."""
        return list(self.commands)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """See click."""
        with _clean_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """See click."""
        with _clean_errors():
            return super().invoke(ctx)


@contextmanager
def _clean_errors() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:  # the help, of many lines and all of it ours
        raise
    except click.ClickException as error:
        error.message = one_line(error.message)  # type: ignore[misc]  # click calls it final
        raise


@click.group(cls=Commands, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="fastmask")
def cli():
    """Choose the tokens to mask in task-adaptive pre-training, and train on them."""


def command(short: str, *, resumes: bool = False) -> Callable[..., click.Command]:
    """Return a decorator that makes a function a command with ``--debug``, whose error is one line, not a traceback.

    Args:
        short: what the list of commands says of it.
        resumes: whether the same command resumes one that was stopped.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
        @functools.wraps(function)
        def run(*args: Any, debug: bool, **kwargs: Any) -> Any:
            try:
                _check_given(kwargs)
                with log_shown(quiet=kwargs.get("quiet", False)):
                    return function(*args, **kwargs)
            except (click.ClickException, click.exceptions.Exit):
                raise
            except KeyboardInterrupt:
                say("fastmask: stopped" + ("; the same command resumes it" if resumes else ""))
                leave(130)
            except BrokenPipeError:
                sys.stdout = None
                leave(1)
            except Exception as error:
                if debug:
                    say_traceback(error)
                else:
                    say(f"fastmask: error: {line_of(error)}")
                leave(1)

        return cli.command(name=function.__name__.rstrip("_").replace("_", "-"), short_help=short)(run)

    return decorate


def leave(code: int) -> NoReturn:
    """End the command with an exit code."""
    raise click.exceptions.Exit(code)


def _check_given(values: dict[str, Any]) -> None:
    """Raise FastmaskError for an empty name; a column's may be empty, and a text to explain is looked at there."""
    ctx = click.get_current_context()
    for param in ctx.command.params:
        value = values.get(param.name or "")
        if "" in (value if isinstance(value, tuple) else (value,)) and param.name not in MAY_BE_EMPTY:
            raise FastmaskError(f"{param.get_error_hint(ctx)}: is empty")


def settings_file(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--config FILE.toml``, which has its options by name; what is given otherwise wins."""
    help_text = "TOML file with any of these options, as mask-rate = 0.15; the command line and FASTMASK_* win."
    return click.option("--config", callback=_read_settings, is_eager=True, expose_value=False, help=help_text)(
        function
    )


def _read_settings(ctx: click.Context, _: click.Parameter, file: str | None) -> None:
    if file is None:
        return
    try:
        values = tomllib.loads(Path(file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--config {file}: {line_of(error)}", ctx) from error
    params = {param.name: param for param in ctx.command.params if param.name not in ("config", "help", "debug")}
    found = {}
    for key, value in values.items():
        param = params.get(key.replace("-", "_"))
        if param is None or param.name is None:
            raise click.UsageError(f"--config {file}: {key}: is no option of {ctx.info_name}", ctx)
        found[param.name] = _checked(ctx, param, value, f"--config {file}: {key}")
    ctx.default_map = {**found, **(ctx.default_map or {})}


def _checked(ctx: click.Context, param: click.Parameter, value: Any, where: str) -> Any:
    """Return an option's value in a file; UsageError if it is not of the option's type."""
    many = param.multiple or param.nargs != 1
    values = value if many and isinstance(value, list) else [value]
    for one in values:
        is_flag = isinstance(param.type, click.types.BoolParamType)
        if isinstance(one, list | dict) or isinstance(one, bool) != is_flag:
            raise click.UsageError(f"{where}: {'true or false' if is_flag else 'one value'}, not {one!r}", ctx)
        try:
            made = param.type.convert(one, param, ctx)
        except click.BadParameter as error:
            raise click.UsageError(f"{where}: {error.message}", ctx) from error
        if isinstance(one, float) and made != one and not isinstance(made, str):
            raise click.UsageError(f"{where}: a whole number, not {one!r}", ctx)
    return tuple(values) if many else value
