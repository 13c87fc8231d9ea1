"""What a finished run of pre-training tells: the work and the loss of its steps, and where it was made."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import OutputError
from ..core.plain import parse_json, read_regular
from ..shards.manifest import NUMBER, type_fault, whole_fault
from .run_directory import EXPECTED, LOG, RESULT, read_document


def work_of(run: Path) -> list[tuple[int, int]]:
    """Return (tokens, masked tokens) of every step in a run's log.

    Raises:
        OutputError: the log cannot be read.
    """
    return [(line["tokens"], line["masked"]) for line in _steps(run, {"tokens": int, "masked": int})]


def losses_of(run: Path) -> list[float]:
    """Return the loss of every step in a run's log.

    Raises:
        OutputError: the log cannot be read.
    """
    return [float(line["loss"]) for line in _steps(run, {"tokens": int, "loss": NUMBER})]


def _steps(run: Path, kind: dict) -> list[dict]:
    """Return the lines of a run's log that tell of a step, which have the fields of a kind."""
    try:
        lines = [parse_json(line) for line in read_regular(run / LOG).splitlines()]
        found = [line for line in lines if "tokens" in line]
        if fault := whole_fault(found, [kind]):
            raise ValueError(fault)
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{run / LOG}: cannot be read: {error}") from error


def expected_masks(run: Path) -> float | None:
    """Return how many masks the probabilities of a finished run give in the mean; None where masks are not drawn."""
    result = read_document(run / RESULT, {})
    if EXPECTED not in result:
        return None
    if fault := type_fault(result, {EXPECTED: NUMBER}):
        raise OutputError(f"{run / RESULT}: is damaged: {fault}")
    return float(result[EXPECTED])


def made_on(run: Path) -> str:
    """Return the devices and the precision of a finished run, in words."""
    result = read_document(run / RESULT, {"processes": int, "device": str, "products": str})
    return f"{result['processes']} x {result['device']}, {result['products']} matrix products"
