"""A recipe file: TOML -> settings of a whole run, each key and type checked against the configurations."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields
from difflib import get_close_matches
from typing import Any

from ..core.config import EvaluateConfig, ScoreConfig
from ..core.config_train import FinetuneConfig, MaskerConfig, PretrainConfig, kept_fault
from ..core.errors import FastmaskError, InputError
from ..core.languages import ENGLISH
from ..core.plain import read_regular
from ..models.weights import MASKER
from ..text.streams import STDIN
from .choices import TRAINING, Choice, check_name

PAPER_SEEDS = (13, 43, 83, 181, 271, 347, 433, 659, 727, 859)


@dataclass(frozen=True, slots=True)
class General:
    """The keys above the first section.

    Attributes:
        out: directory of the run.
        init: the model of general pre-training, a directory or a hub id.
        methods: how the in-domain text is masked; each has an arm of its own, and all but random ones one for their
            control.
        language: of all texts, where a section does not name another.
        seeds: of fine-tuning, one run an arm each.
        pretrain_each_seed: pre-train anew for each of them, with that seed, so that the comparison covers the chance
            in pre-training, too; otherwise once an arm, as the paper does.
        curve: shares of the steps of pre-training after which arms are fine-tuned and compared, too.
    """

    out: str
    init: str
    methods: tuple[str, ...] = ("masker",)
    language: str = ENGLISH
    seeds: tuple[int, ...] = PAPER_SEEDS
    pretrain_each_seed: bool = False
    curve: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """``[task]``: labelled files and how they are read; the options of ``fastmask finetune`` of these names."""

    train: tuple[str, ...]
    test: str
    dev: tuple[str, ...] = ()
    text_field: str = "text"
    label_field: str = "label"
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True)
class InDomain:
    """``[in-domain]``: the unlabelled text to pre-train on."""

    corpus: tuple[str, ...]


_READING = {"text_field", "label_field", "encoding"}
_GIVEN = {"out", "init", "overwrite"}
# Section -> its configuration, and the fields that a recipe may not set: the run gives them, or has no use for them.
_SECTIONS = {
    "task": (TaskFiles, set()),
    "in-domain": (InDomain, set()),
    "finetune": (
        FinetuneConfig,
        {"train", "dev", "test", "config", "new_head", "vocab_size", "seed", *_READING, *_GIVEN},
    ),
    "score": (ScoreConfig, {"like", *_READING}),
    "train-masker": (MaskerConfig, {"shards", "out", "overwrite"}),
    "mask": (ScoreConfig, {"method", "model", "like"}),
    "pretrain": (PretrainConfig, {"shards", "keep", *_GIVEN}),
    "evaluate": (EvaluateConfig, {"arms", "test", "json", "picture", "max_length", *_READING}),
}


METHODS = "methods"
"""A list of names at the top, or a section with a table for each."""
_LIST, _TABLE = (re.compile(rf"^\s*{start}", re.MULTILINE) for start in (rf"{METHODS}\s*=", rf"\[\s*{METHODS}\s*[.\]]"))
_NOT_OF_A_METHOD = {"method", "like"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe as read.

    Attributes:
        source: its file.
        general, task, in_domain: its settings.
        options: section -> keyword arguments of its configuration.
        choices: the methods of ``general``, with options.
    """

    source: str
    general: General
    task: TaskFiles
    in_domain: InDomain
    options: dict[str, dict[str, Any]]
    choices: tuple[Choice, ...]


def read_recipe(path: str) -> Recipe:
    """Read and check a recipe; paths in it are relative to the current directory, as on the command line.

    Raises:
        InputError: the file cannot be read or is not TOML.
        FastmaskError: a section or key that is not known, is missing, or has a value of another type.
    """
    table = _parsed(path)
    own: dict[str, Any] = {}
    if isinstance(table.get(METHODS), dict):
        own, table[METHODS] = table[METHODS], list(table[METHODS])
    sections = {name: table.pop(name) for name in list(table) if isinstance(table[name], dict)}
    for name in sections:
        if name not in _SECTIONS:
            raise FastmaskError(f"{path}: [{name}]: unknown section{_meant(name, _SECTIONS)}")
    general = General(**_checked(path, General, table))
    options = {name: _checked(f"{path}: [{name}]", configuration, sections.get(name, {}), given)
               for name, (configuration, given) in _SECTIONS.items()}  # fmt: skip
    _check_general(path, general)
    choices = tuple(_choice(path, name, own.get(name, {})) for name in general.methods)
    if "train-masker" in sections and not any(choice.method.task == MASKER for choice in choices):
        raise FastmaskError(f"{path}: [train-masker]: is of no use without masker in methods")
    if STDIN in options["in-domain"]["corpus"]:
        raise FastmaskError(f"{path}: [in-domain]: corpus: standard input cannot be read again; name a file")
    task, in_domain = TaskFiles(**options.pop("task")), InDomain(**options.pop("in-domain"))
    if general.pretrain_each_seed and "seed" in options["pretrain"]:
        raise FastmaskError(f"{path}: [pretrain] seed: pretrain-each-seed gives it")
    return Recipe(path, general, task, in_domain, options, choices)


def _choice(path: str, name: str, table: Any) -> Choice:
    """Return a way to mask, with the options of its table."""
    where = f"{path}: [{METHODS}.{name}]"
    if not isinstance(table, dict):
        raise FastmaskError(f"{path}: [{METHODS}]: {name}: {table!r} is not a table of options")
    choice = Choice(name)
    given = _NOT_OF_A_METHOD | choice.rate.keys() | ({"model"} if choice.method.task == MASKER else set())
    allowed = [one for one in fields(ScoreConfig) if one.name not in given]
    allowed += [one for one in fields(PretrainConfig) if one.name in TRAINING]
    values = _values(where, allowed, table, given)
    scoring, training = ({key: value for key, value in values.items() if (key in TRAINING) == trains}
                         for trains in (False, True))  # fmt: skip
    return Choice(name, scoring, training)


def _parsed(path: str) -> dict:
    text = ""
    try:
        text = read_regular(path).decode("utf-8")
        return tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, None, None, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:  # TOML's own, or a number of more digits than Python reads
        if _LIST.search(text) and _TABLE.search(text):
            raise InputError(path, None, None, f"is not TOML: {METHODS} cannot be a list and have tables; instead of "
                             f"the list, write a table for each, [{METHODS}.greedy]") from error  # fmt: skip
        raise InputError(path, None, None, f"is not TOML: {error}") from error
    except RecursionError:
        raise InputError(path, None, None, "is not TOML that can be read: it is nested too deep") from None


def _check_general(path: str, general: General) -> None:
    for key, values in (("methods", general.methods), ("seeds", general.seeds)):
        if not values or len(set(values)) != len(values):
            raise FastmaskError(f"{path}: {key}: name at least one, each once")
    for name in general.methods:
        check_name(f"{path}: {METHODS}", name)
    if fault := general.curve and kept_fault(general.curve):
        raise FastmaskError(f"{path}: curve: {fault}")
    if min(general.seeds) < 0:
        raise FastmaskError(f"{path}: seeds: at least 0")


def _checked(where: str, configuration: type, table: dict, given: frozenset | set = frozenset()) -> dict[str, Any]:
    """Return the table's values as keyword arguments of the configuration, without the fields that are ``given``."""
    known = [field for field in fields(configuration) if field.name not in given]
    values = _values(where, known, table, given)
    if configuration in (General, TaskFiles, InDomain):
        for field in known:
            if field.default is MISSING and field.name not in values:
                raise FastmaskError(f"{where}: {field.name}: is missing")
    return values


def _values(where: str, allowed: Sequence[Field], table: dict, given: frozenset | set) -> dict[str, Any]:
    """Return the table's values by the names of the fields that are ``allowed``, each of its field's type."""
    known, values = {field.name: field for field in allowed}, {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known or name in values:
            raise FastmaskError(f"{where}: {key}: " + ("set twice" if name in values else _unknown(name, known, given)))
        values[name] = _typed(f"{where}: {key}", str(known[name].type), value)
    return values


def _unknown(name: str, known: dict, given: frozenset | set) -> str:
    if name in given:
        return "is not for a recipe to set here"
    return f"unknown key{_meant(name, known)}"


def _meant(name: str, known) -> str:
    near = get_close_matches(name, known, 1)
    return f"; did you mean {near[0].replace('_', '-')}?" if near else ""


def _typed(where: str, annotation: str, value):
    """Return the value as the field's type holds it: whole numbers as floats, one string as a tuple of one."""
    kind, _, rest = annotation.partition(" | ")[0].partition("[")
    if kind == "tuple":
        values = value if isinstance(value, list) else [value]
        return tuple(_typed(where, rest.partition(",")[0], one) for one in values)
    if kind == "float" and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value).__name__ != kind:
        kinds = {"int": "a whole number", "float": "a number", "str": "a text in quotes", "bool": "true or false"}
        raise FastmaskError(f"{where}: {value!r} is not {kinds[kind]}")
    if value == "":
        raise FastmaskError(f"{where}: is empty")
    if isinstance(value, str) and "\0" in value:
        raise FastmaskError(f"{where}: has a null character, which no name can have")
    return value
