"""Whether a model is as large as its configuration says, looked up in its weight files before anything is built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ModelError
from ..core.plain import short_number

if TYPE_CHECKING:
    import torch

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""

_REPEATED = re.compile(r"(.*_)?layers?|num_.*(blocks|groups|stages|experts)|inner_group_num|block_sizes|depths")
FEW_LAYERS = 128
"""So many may share the weights of one."""
FEW_LABELS = 2**16
"""So many classes are believed before there is a head for them."""
FEW_NUMBERS = 2**27
"""So many may be missing in a file, as those of a new head are."""
_LARGEST_HEADER = 10**8
_COUNTS = re.compile(r"(num|n)_.*|.*_(size|dim)")
_HEADS = re.compile(r"(?!chunk_).*_heads?")


def shapes_of(files: Iterable[Path]) -> Shapes:
    """Read the shapes in the headers of safetensors files; a damaged one has none, and loading says what is wrong."""
    found: Shapes = {}
    for path in files:
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), _LARGEST_HEADER)))
            header.pop("__metadata__", None)
            found |= {name: tuple(map(int, tensor["shape"])) for name, tensor in header.items()}
        except (OSError, ArithmeticError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return found


def check_counts(config: dict, shapes: Shapes, name: str) -> None:
    """Raise ModelError where a configuration has more layers or classes than its weight files can hold, or below none.

    Args:
        config: as config.json has it; what is in it for a part of the model counts, too.
        shapes: of the weights.
        name: the model's.
    """
    labels = max([FEW_LABELS, *(size for shape in shapes.values() for size in shape)])
    for key, value in _numbers(config):
        most = labels if key == "num_labels" else max(FEW_LAYERS, len(shapes)) if _REPEATED.fullmatch(key) else value
        if value > most:
            found = short_number(value)
            raise ModelError(f"{name}: {key} cannot be {found} in config.json, there are not the weights for it")
        if (value < 0 and _COUNTS.fullmatch(key)) or (value <= 0 and _HEADS.fullmatch(key)):
            raise ModelError(f"{name}: {key} cannot be {short_number(value)} in config.json")


def _numbers(config: dict) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a configuration, each with its key, those in lists and parts as well."""
    waiting = list(config.items())
    for key, value in waiting:
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, one) for one in value if not isinstance(one, list)]
        elif isinstance(value, float | int) and not isinstance(value, bool) and value == value:
            yield key, value


def check_numbers(model: torch.nn.Module, shapes: Shapes, name: str) -> None:
    """Raise ModelError where a model, built without memory, has far more numbers in it than its weight files."""
    wanted = sum(tensor.numel() for kind in (model.parameters(), model.buffers()) for tensor in kind)
    stored = sum(map(prod, shapes.values()))
    if wanted > 4 * stored + FEW_NUMBERS:
        raise ModelError(f"{name}: by config.json it has {wanted:,} numbers, its weight files hold {stored:,}")
