"""The errors that reach a user: one line each, naming the file, line and field at fault."""

from __future__ import annotations

from typing import Any

MOST_OF_A_SOURCE, MOST_OF_A_FIELD, MOST_OF_A_REASON = 500, 300, 1000


def shortened(text: str, most: int) -> str:
    """Return a text of at most ``most`` characters: both its ends, with … between them where it is longer."""
    end = (most - 1) // 3
    return text if len(text) <= most else f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


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
        name, reason = shortened(source, MOST_OF_A_SOURCE), shortened(reason, MOST_OF_A_REASON)
        where = name if line is None else f"{name}:{line}"
        what = reason if field is None else f'field "{shortened(field, MOST_OF_A_FIELD)}": {reason}'
        super().__init__(" ".join(f"{where}: {what}".split()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.line, self.field, self.reason)


class Unreadable(InputError):
    """The file, not one of its rows, is at fault: ``--on-error skip`` cannot skip it."""


class OutputError(FastmaskError):
    """An output directory that cannot be written, is damaged, or belongs to another configuration."""


class DamageError(OutputError):
    """A file of a finished result that is not as it was written.

    Args:
        file: its path.
        reason: what is wrong, in a few words.
    """

    def __init__(self, file: str, reason: str):
        self.file, self.reason = file, reason
        super().__init__(f"{file}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.reason)


class ModelError(FastmaskError):
    """A model directory that cannot be loaded, or does not fit the task."""


def first_line(error: Exception) -> str:
    """Return the first line of an error, shortened."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return shortened(" ".join(line.split()), 160)


def line_of(error: Exception) -> str:
    """Return what the commands say of an error: one line."""
    if isinstance(error, FastmaskError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError) or "not enough memory" in str(error) or "out of memory" in str(error):
        return "the memory is not enough for this; smaller batches or shorter texts need less"
    if "Too many open files" in str(error):  # of whatever type libraries make it
        return f"more files are open than the system lets (ulimit -n): {first_line(error)}"
    if isinstance(error, RecursionError):
        return "something in a file is nested too deep"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} (unexpected; --debug shows where)"
