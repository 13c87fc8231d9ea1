"""How a fuzz case ends: done, refused in one clean line, or a finding, which has a kind."""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

LONGEST_LINE = 2100
"""Characters that a terminal is given of one fault at most: those of ``screen.one_line``, and who says it."""
DONE, REFUSED = "done", "refused"

Case = Callable[..., None]
"""Given a generator, an empty folder and what is good to begin with: writes something there and reads it."""


class Outcome(NamedTuple):
    """How a case ended.

    Attributes:
        kind: DONE, REFUSED, or what went wrong and where.
        detail: the line, or the end of a traceback.
    """

    kind: str
    detail: str = ""

    @property
    def is_finding(self) -> bool:
        """Return whether something must be mended."""
        return self.kind not in (DONE, REFUSED)


class Refused(Exception):
    """A command has told a fault as it should be told; the message is what it said."""


class Unclean(Exception):
    """A command printed what it must not."""


def attempt(case: Case, rng: Random, folder: Path, world) -> Outcome:
    """Return how a case ends in this process."""
    from fastmask.core.errors import FastmaskError

    # a file, as the commands' own streams are files
    printed = (folder.parent / "said").open("w+", errors="backslashreplace")
    try:
        with printed, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            case(rng, folder, world)
            printed.seek(0)
            said = printed.read(500)
    except FastmaskError as error:
        return _refused(_told(error), error)
    except Refused as error:
        return Outcome(REFUSED, str(error)[:500])
    except Unclean as error:
        return Outcome(f"unclean: {str(error).partition(':')[0]}", str(error)[:2000])
    except BaseException as error:  # a panic of Rust's is no Exception
        place = place_of(error)
        return Outcome(f"{type(error).__name__} in {place}", "".join(traceback.format_exception(error))[-2000:])
    return Outcome("printed", said) if said else Outcome(DONE)


def _told(error: Exception) -> str:
    """Return what the command prints of an error."""
    from fastmask.core.errors import line_of
    from fastmask.report import screen

    with contextlib.redirect_stderr(io.StringIO()) as printed:
        screen.say(f"fastmask: error: {line_of(error)}")
    return printed.getvalue()


def _refused(line: str, error: Exception) -> Outcome:
    if fault := line_fault(line):
        return Outcome(f"{fault} in {place_of(error)}", line[:2000])
    return Outcome(REFUSED, line[:500])


def line_fault(line: str) -> str | None:
    """Say what is wrong with the line that tells a fault; None where it is one, clean and short."""
    if not line.endswith("\n") or not line[:-1].isprintable():
        return "raw line"
    if "(unexpected; " in line:
        return "unexpected"
    return "long line" if len(line) > LONGEST_LINE else None


def place_of(error: BaseException) -> str:
    """Return the innermost function of fastmask's own on the way to an error, else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/fastmask/" in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].name}" if own else "?"


def command(*arguments) -> None:
    """Run a command in this process.

    Raises:
        Refused: it failed as it should.
        Unclean: what it prints is not as it should be.
    """
    from click.testing import CliRunner

    from fastmask.cli import cli

    result = CliRunner().invoke(cli, [str(one) for one in arguments], prog_name="fastmask")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if not all(line.isprintable() for line in result.output.split("\n")):
        raise Unclean(f"raw output of {arguments[0]}: {result.output!a}")
    if result.exit_code and result.stderr and (fault := line_fault(result.stderr)):
        raise Unclean(f"{fault} of {arguments[0]}: {result.stderr!a}")
    if max(map(len, result.output.split("\n"))) > LONGEST_LINE:
        raise Unclean(f"long line of {arguments[0]}: {result.output[:500]!a}")
    if result.exit_code:
        raise Refused(result.stderr or result.stdout)
