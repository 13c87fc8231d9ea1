"""The one way to the terminal: what a text, a label or a name holds cannot steer it."""

from __future__ import annotations

import click


def clean(text: str) -> str:
    """Return the text with a replacement character for each control or format character, line breaks included."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def say(line: str, err: bool = True) -> None:
    """Print one plain line."""
    click.echo(clean(line), err=err)


def show_live(line: str) -> None:
    """Print a line on standard error in the place of the one before."""
    click.echo(f"\r{clean(line)}\x1b[K\r", nl=False, err=True)


def make_console(stderr: bool = False):
    """Return a console of rich that takes strings as they are, without markup, and cleans all that it is given."""
    from rich.console import Console
    from rich.segment import Segment

    class CleanConsole(Console):
        def render(self, renderable, options=None):
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else "\n".join(map(clean, text.split("\n"))), style, control)

    return CleanConsole(stderr=stderr, highlight=False, soft_wrap=False, markup=False, emoji=False)
