"""Reading whole files: regular ones only, because a FIFO would wait for ever, and JSON of any depth."""

from __future__ import annotations

import errno
import json
import stat
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from .urls import Url, path_of

Json = dict[str, Any]
"""A JSON object: a manifest, a shard's entry in it, a configuration."""


def is_special(path: str | Path | Url) -> bool:
    """Return whether a path is there and neither a regular file nor a directory: a FIFO, a device, a socket."""
    try:
        mode = path_of(path).stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_regular(path: str | Path | Url) -> None:
    """Raise OSError, as for a file that cannot be opened, for a FIFO, a device or a socket."""
    if is_special(path):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))


def read_regular(path: str | Path | Url) -> bytes:
    """Return the content of a regular file; OSError for any other."""
    check_regular(path)
    return path_of(path).read_bytes()


def short_number(value: float) -> str:
    """Return a number in few characters, also a whole one that is too large for a float."""
    return f"{value:.4g}" if abs(value) < 1e300 else f"{Decimal(value):.3e}"


def parse_json(data: str | bytes, *, finite: bool = False) -> Any:
    """Return what a JSON text holds.

    Args:
        finite: refuse NaN and infinities, which fastmask itself never writes.

    Raises:
        ValueError: it is no JSON, or is nested deeper than Python can follow.
    """
    number = _number if finite else None
    try:
        return json.loads(data, parse_constant=number, parse_float=number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _number(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value
