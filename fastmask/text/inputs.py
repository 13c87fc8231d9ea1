"""The inputs of a run: standard input made seekable, the default output, how many rows to expect."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..core.config import ScoreConfig
from ..core.errors import FastmaskError, InputError
from .documents import read_documents
from .files import base_name
from .listing import is_pattern
from .streams import STDIN, standard_input_is_file

_CHUNK = 1 << 22


@contextmanager
def seekable_standard_input(paths: Sequence[str]) -> Iterator[None]:
    """Make standard input a regular file inside a ``with``, if it is one of ``paths``: a pipe is copied to one.

    Its content can then be compared when a run is resumed, like that of any other input.
    """
    if STDIN not in paths or not _has_descriptor() or standard_input_is_file():
        yield
        return
    original = os.dup(0)
    with _spool() as spool:
        try:
            with open(0, "rb", closefd=False) as pipe:
                shutil.copyfileobj(pipe, spool, _CHUNK)
            spool.flush()
        except OSError as error:
            place = f"{tempfile.gettempdir()} (TMPDIR names another place)"
            raise InputError("<stdin>", None, None, f"cannot be copied to {place}: {error.strerror}") from error
        spool.seek(0)
        os.dup2(spool.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(original, 0)
            os.close(original)


def _spool():
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise InputError("<stdin>", None, None, f"cannot be copied to a file: {error.strerror}; set TMPDIR") from error


def _has_descriptor() -> bool:
    try:
        return sys.stdin.fileno() == 0
    except (AttributeError, OSError, ValueError):
        return False


def default_out(paths: Sequence[str]) -> str:
    """Return the default directory of the shards: x.masks, in the current directory, for data/x.jsonl.gz.

    Raises:
        FastmaskError: there are several inputs, or standard input, which has no name.
    """
    if len(paths) > 1 or STDIN in paths or is_pattern(paths[0]):
        what = "standard input" if paths[0] == STDIN else f"{len(paths)} inputs" if len(paths) > 1 else paths[0]
        raise FastmaskError(f"{what}: name the directory of the shards by -o DIR")
    return f"{base_name(paths[0])}.masks"


def is_aspect_corpus(paths: Sequence[str], config: ScoreConfig) -> bool:
    """Return whether the first document has aspects; all others must agree with it."""
    files = [path for path in paths if path != STDIN]
    documents = read_documents(
        files,
        text_field=config.text_field,
        label_field=config.corpus_label_field,
        id_field=config.id_field,
        encoding=config.encoding,
        on_error="skip",
        max_text_mb=config.max_text_mb,
    )
    first = next(documents, None) if files else None
    return first is not None and first.aspects is not None
