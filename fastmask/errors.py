"""The errors that reach a user: one line each, naming the file, line and field at fault."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager


class FastmaskError(Exception):
    """Anything a user can cause or mend. ``str(error)`` is the one line that the command prints."""


class InputError(FastmaskError):
    """Bad input at a known place.

    Args:
        source: file name, or ``<stdin>``.
        line: line number counted from 1, or row number for Parquet; None when the whole file is at fault.
        field: the column or JSON key at fault; None when there is none.
        reason: what is wrong, in a few words.
    """

    def __init__(self, source: str, line: int | None, field: str | None, reason: str):
        self.source, self.line, self.field, self.reason = source, line, field, reason
        where = source if line is None else f"{source}:{line}"
        what = reason if field is None else f'field "{field}": {reason}'
        super().__init__(" ".join(f"{where}: {what}".split()))

    def __reduce__(self):
        return type(self), (self.source, self.line, self.field, self.reason)


class Unreadable(InputError):
    """The file, not one of its rows, is at fault: ``--on-error skip`` cannot go on."""


class OutputError(FastmaskError):
    """An output directory that cannot be written, is damaged, or belongs to another configuration."""


class ModelError(FastmaskError):
    """A model directory that cannot be loaded, or does not fit the task."""


@contextmanager
def panics_told() -> Iterator[None]:
    """Make a ModelError of what the tokenizers library raises where its own code fails, which is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"the model's tokenizer cannot take a text: {reason}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error, shortened."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return textwrap.shorten(line, 160, placeholder="...")
