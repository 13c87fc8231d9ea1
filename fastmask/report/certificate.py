"""A run's configuration and certificate in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple

from ..core.config import ScoreConfig, flag_of


class Level(NamedTuple):
    """A precision: its error bound, the largest error seen in how many comparisons, decisions taken again in it."""

    precision: str
    bound: float | None
    error: float | None
    compared: int | None
    again: int | None


def statements(certificate: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    """Yield what the certificate of a run says, whose fields have the types that the cascade writes."""
    decisions, levels = certificate.get("decisions", 0), list(certificate.get("eps", {}))
    if not decisions or not levels:
        yield "No model decided about these masks, so there is nothing to certify: they follow from text and seed."
        return
    if config.get("certify") is False:
        yield f"Masks are as {levels[0]} gives them: this run was told not to check doubtful decisions (--no-certify)."
    else:
        yield (f"The model answered in {levels[0]} first. An answer nearer to the limit than the error bound of its "
               "precision was asked for again in the next one, so that no mask depends on precision, batch size or "
               "thread count.")  # fmt: skip
    again = certificate.get("rechecked", {})
    often = ", ".join(f"{count:,} ({count / decisions:.2%}) in {name}" for name, count in again.items())
    yield f"{decisions:,} decisions" + (f"; taken again: {often}." if often else ".")
    if audited := certificate.get("audited"):
        changed = certificate.get("flips", 0)
        yield (f"Audit: {audited:,} decisions that were certain were asked again, drawn at random; "
               f"{changed:,} of them came out otherwise.")  # fmt: skip


def in_short(certificate: dict[str, Any], config: dict[str, Any], highest: str | None = None) -> str:
    """Return in a line what the certificate of a run says; see ``statements``.

    Args:
        highest: the precision that decided at last, where the model could not run in float64.
    """
    decisions, bounds = certificate.get("decisions", 0), certificate.get("eps", {})
    if not decisions or not bounds:
        return "no model decided about these masks: they follow from text and seed"
    first = next(iter(bounds))
    if config.get("certify") is False:
        return f"masks are as {first} gives them, doubtful decisions were not checked (--no-certify)"
    again = [f"{count / decisions:.2%} checked again in {name}" for name, count in certificate["rechecked"].items()]
    exact = f"as exact as {highest} is" if highest else "exact"
    line = ", ".join([f"masks are {exact}: {decisions:,} decisions", *again])
    line += f"; error bound {bounds[first]:.2g} in {first}"
    flips, audited = certificate["flips"], certificate["audited"]
    return line + (f"; {flips:,} of {audited:,} checked at random came out otherwise" if flips else "")


def levels(certificate: dict[str, Any]) -> list[Level]:
    """Return the precisions of a run, in the order in which they are asked."""
    columns = [certificate.get(name, {}) for name in ("eps", "max_error", "pairs", "rechecked")]
    names = dict.fromkeys(name for column in columns for name in column)
    return [Level(name, *(column.get(name) for column in columns)) for name in names]


class Setting(NamedTuple):
    """An option of a run: as the command has it, its value, what it means, whether it is another than the default."""

    flag: str
    value: str
    meaning: str
    changed: bool


def settings(config: dict[str, Any]) -> list[Setting]:
    """Return the configuration of a run, as far as it is known to this version; what differs from the default first."""
    known = {one.name: one for one in fields(ScoreConfig)}
    found = []
    for name, value in config.items():
        if name in known:
            option = known[name]
            default = list(option.default) if isinstance(option.default, tuple) else option.default
            found.append(Setting(flag_of(option), _value(value), option.metadata["help"], value != default))
    return sorted(found, key=lambda one: not one.changed)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
