"""The files that inputs mean: a name may be a pattern, a directory or a data set saved by ``datasets``."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..core.errors import Unreadable
from ..core.plain import parse_json, read_regular
from ..core.urls import Url, is_url, path_of
from .streams import STDIN, SUFFIXES, format_of

SAVED, SPLITS = "state.json", "dataset_dict.json"
"""What ``save_to_disk`` of ``datasets`` writes: into the directory of a data set, of a dictionary of some."""


Choose = Callable[[list[str]], list[str]]
"""Names of files -> those of them that are inputs."""


def input_files(paths: Sequence[str], choose: Choose = list) -> list[str]:
    """Return the files of inputs in the order in which they are read; files are what they are themselves.

    A pattern and a directory give theirs by name; a directory all that is below it but names that begin with "." or
    "_", and one that ``datasets`` saved its own, in its order.

    Args:
        paths: of files, patterns, directories.
        choose: takes from what a pattern or a directory gives what is no input.

    Raises:
        Unreadable: there is none, or a directory has one of an unknown format.
    """
    return [file for path in paths for file in _files_of(path, choose)]


def _files_of(path: str, choose: Choose) -> list[str]:
    if path == STDIN:
        return [path]
    place = path_of(path)
    try:
        if is_pattern(path):
            found = place.files(path) if isinstance(place, Url) else sorted(_regular(glob.glob(path, recursive=True)))
            return choose(found) or _none(path, "no file has such a name")
        if not (is_url(path) and format_of(path)[0] in SUFFIXES) and place.is_dir():
            return _in_directory(path, place, choose)  # a store is not asked about what is a file by its name
    except OSError as error:
        raise Unreadable(path, None, None, f"cannot be read: {error.strerror}") from error
    return [path if isinstance(place, Url) else str(place)]


def is_pattern(path: str) -> bool:
    """Return whether a name has a character of patterns and is no file's; a web server may be asked with ?."""
    marked = any(mark in path for mark in ("*[" if path.startswith("http") else "*?["))
    return marked and not path_of(path).exists()


def _regular(names: Sequence[str]) -> list[str]:
    return [name for name in names if not os.path.isdir(name)]


def _none(path: str, reason: str) -> list[str]:
    raise Unreadable(path, None, None, reason)


def _in_directory(path: str, place: Path | Url, choose: Choose) -> list[str]:
    if (place / SPLITS).exists():
        names = ", ".join(map(str, _json(place / SPLITS).get("splits", [])))
        return _none(path, f"holds several data sets: {names}; name one of them, as {place}/NAME")
    if (place / SAVED).exists():
        saved = [str(place / str(one["filename"])) for one in _json(place / SAVED)["_data_files"]]
        return saved or _none(path, "is a data set without rows")
    found = place.files() if isinstance(place, Url) else sorted(_walked(place))
    shown = [name for name in choose(found) if not _is_hidden(name[len(str(place)) :])]
    for name in shown:
        if format_of(name)[0] not in SUFFIXES:
            reason = f"unknown format in a folder; a pattern chooses its files, as {place}/*.jsonl"
            return _none(name, reason)
    return shown or _none(path, "is a folder without files")


def _walked(folder: Path) -> list[str]:
    return [os.path.join(base, name) for base, _, names in os.walk(folder) for name in names]


def _is_hidden(name: str) -> bool:
    return any(part[:1] in (".", "_") for part in name.split("/"))


def _json(place: Path | Url) -> dict:
    try:
        found = parse_json(read_regular(place))
        if isinstance(found, dict) and all("filename" in one for one in found.get("_data_files", [])):
            return found
    except (AttributeError, TypeError, ValueError):
        pass
    raise Unreadable(str(place), None, None, "is not what datasets writes")
