"""The plan: what every shard of a run is a function of besides its rows. It is written once, before the first one."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from ..core.durable import os_errors_named, write_atomically
from ..core.errors import OutputError
from ..core.locked import differences
from ..core.plain import Json, parse_json, read_regular
from ..core.urls import Url
from .manifest import are_error_bounds, type_fault, whole_fault
from .schema import PLAN, PLANNED
from .statistics import statistics_fault

PLAN_KEYS = ("error_bounds", "rows", "places", "statistics", "asked_with")
"""What a plan has besides its header."""
_KINDS: Json = {"rows": (int, type(None)), "places": [[int]], "asked_with": {"*": (str, type(None))}}
_PLANNED_KINDS: Json = {"stamps": {"*": [int]}, "made_with": dict}


def header_in(plan: Json) -> Json:
    """Return the header of a run, as ``schema.make_header`` made it, from its plan."""
    return {key: value for key, value in plan.items() if key not in PLAN_KEYS}


def write_plan(out: Path | Url, plan: Json) -> Json:
    """Write a plan, with a hash of it, and return it.

    In a store, where nothing keeps out another process that plans the same run, the first plan is the one of both: then
    that is returned.

    Raises:
        OutputError: it cannot be written, or another run has been planned there meanwhile.
    """
    data = json_file({**plan, "sha256": _digest(plan)})
    with os_errors_named(out):
        if not isinstance(out, Url):
            write_atomically(out / PLAN, data)
            return plan
        try:
            (out / PLAN).create(data)
        except FileExistsError:
            there = read_plan(out)
            if there is None or differences(header_in(there), header_in(plan)):
                raise OutputError(f"{out}: another fastmask run is writing here") from None
            return there
    return plan


def read_plan(out: Path | Url) -> Json | None:
    """Return the plan in a directory; None where there is none, or a damaged one."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        plan: Json = parse_json(read_regular(out / PLAN), finite=True)
        if plan.pop("sha256") != _digest(plan):
            return None
        places = plan.get("places") or []
        sound = are_error_bounds(plan.get("error_bounds")) and not type_fault({**plan, "places": places}, _KINDS)
        sound = sound and all(len(place) == 4 for place in places)
        return plan if sound and not statistics_fault(out, plan) else None
    return None


def write_planned(out: Path | Url, stamps: Json, made_with: Json) -> None:
    """Write what parts of a run ask of the plan's making: what tells inputs from changed ones, and the machine.

    It is removed when the run is finished.
    """
    with os_errors_named(out):
        write_atomically(out / PLANNED, json_file({"stamps": stamps, "made_with": made_with}))


def read_planned(out: Path | Url) -> Json:
    """Return what ``write_planned`` wrote; both are empty where it is not there, or damaged."""
    with suppress(OSError, ValueError):
        planned: Any = parse_json(read_regular(out / PLANNED), finite=True)
        if not whole_fault(planned, _PLANNED_KINDS):
            return cast(Json, planned)
    return {"stamps": {}, "made_with": {}}


def json_file(content: Json) -> bytes:
    """Return a JSON file that is easy to read."""
    return json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"


def _digest(plan: Json) -> str:
    """Return what tells a plan from one that was damaged: every shard is a function of its numbers."""
    return hashlib.sha256(json_file(plan)).hexdigest()
