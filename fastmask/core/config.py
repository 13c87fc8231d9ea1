"""Settings of the commands: frozen, checked when made, written whole into the manifest.

A field says with ``option`` everything there is to say about it: its default, its help text, the values it may have.
The command line is made from the fields (``options``), and so are the keys of a recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from math import inf
from typing import Any

from .errors import FastmaskError
from .labels import LABEL_FIELD
from .languages import ENGLISH, language_fault, missing_package
from .urls import is_url

BY_METHOD = "Options of single methods"
READING = "Reading text"
RUNNING = "Speed and precision"
MASKS, BOOTSTRAP = "Masks of the training sequences", "Intervals"
CONTROL = "random"
"""The method of controls."""
METHODS = {
    "greedy": "greedy",
    "prefix": "prefix",
    "leave-one-out": "leave_one_out",
    "masker": "masker",
    "gradient": "gradient",
    "entropy": "entropy",
    "log-odds": "log_odds",
    "word-list": "word_list",
    "difference": "difference",
    CONTROL: "random",
}
"""Ways to choose masks: name -> file in ``scoring/methods/``."""
EXPORT_FORMATS = {"nvidia-hdf5": "nvidia_hdf5", "jsonl": "jsonl", "mds": "mds"}
"""Formats of training sequences: name -> file in ``data/export/``."""
# The masker's rate (paper section 2.4), where a method always has a cap and none is given.
DEFAULT_RATE = 0.15
MAX_TEXT_MB = 64
SPECIAL_OPTIONS: dict[str, Any] = {
    "like": None, "words": None, "mask_function": None, "vectors": None, "background": (), "anchors": None,
    "labelled": (),
}  # fmt: skip
"""Fields of ScoreConfig that belong to some methods alone, and what they are where they are not given."""
MASK_FUNCTIONS = ("step", "linear", "exponential")
SENTIMENT = "sentiment"
"""The value of ``--words`` that is not a file: the list in the package."""
WORD_LISTS = ("language", "english", "none")
"""The values of ``--stop-words`` that are not a file."""

SHARES = (0.8, 0.1, 0.1)
"""What becomes of masked tokens: [MASK], a random token, no change."""


class Unsaid(int):
    """The default of an option that gives way where a model cannot take it; the same number, given, is refused."""


Check = Callable[[Any], str]
"""Returns what is wrong with a value, in words; "" if nothing is."""


def option(
    default: Any,
    help: str,
    *,
    choices: Collection[str] = (),
    check: Check | None = None,
    flag: str = "",
    group: str = "",
) -> Any:
    """Return a dataclass field that is also an option of the command line.

    Args:
        default: its default; MISSING if it must be given.
        help: the text that ``--help`` shows.
        choices: the values it may have, if they can be listed.
        check: otherwise what else is demanded of a value (of each, where the field is a tuple); None always passes.
        flag: its declaration on the command line, if that is not ``--name``; in capitals, a positional argument.
        group: the heading under which ``--help`` lists it.
    """
    check = one_of(choices) if choices else check
    metadata = {"help": help, "choices": choices, "check": check, "flag": flag, "group": group}
    return field(default=default, metadata=metadata)


def required(help: str, **more: Any) -> Any:
    """Return an ``option`` that must be given."""
    return option(MISSING, help, **more)


def shared(configuration: type, name: str, default: Any = None) -> Any:
    """Return the same option as another configuration has, if need be with another default; ``...`` is None."""
    (other,) = (one for one in fields(configuration) if one.name == name)
    new = other.default if default is None else None if default is ... else default
    return field(default=new, metadata=other.metadata)


def one_of(choices: Collection[str]) -> Check:
    """Return the check that a value is one of a few."""
    return lambda value: "" if value in choices else f"choose one of {', '.join(choices)}"


def on_disk(out: str) -> str:
    """Return what is wrong with a directory for a command that cannot write to a store."""
    return "score, remap and remask write to a store; write this to a disk and copy it" if is_url(out) else ""


def at_least(low: int) -> Check:
    """Return the check of a whole number that a signed integer of 64 bits holds."""
    return lambda value: "" if low <= value < 2**63 else f"{low} to 2**63 - 1"


def within(low: float, high: float, what: str, *, ends: str = "[]") -> Check:
    """Return the check that a number lies in an interval; ``ends`` writes it as mathematics does: (] is open below."""

    def check(value: float) -> str:
        inside = low <= value <= high and (ends[0] == "[" or value > low) and (ends[1] == "]" or value < high)
        return "" if inside else what

    return check


not_negative = within(0, inf, "at least 0, and finite", ends="[)")
above_zero = within(0, inf, "above 0, and finite", ends="()")


def shares_of(text: str, between: str = ",") -> tuple[float, ...]:
    """Return the numbers of a text with commas, or what else is between them; none where a part is not a number."""
    try:
        return tuple(float(part) for part in text.split(between))
    except ValueError:
        return ()


def shares_fault(shares: Sequence[float]) -> str:
    """Return what is wrong with the shares of corruption, in words; "" if nothing is."""
    fine = len(shares) == 3 and all(0 <= share <= 1 for share in shares) and abs(sum(shares) - 1) < 1e-6
    return "" if fine else "three numbers from 0 on whose sum is 1: [MASK], random, unchanged"


def demand(ok: bool, what: str, reason: str) -> None:
    """Raise FastmaskError, ``what: reason``, unless ``ok``."""
    if not ok:
        raise FastmaskError(f"{what}: {reason}")


def flag_of(option: Field[Any]) -> str:
    """Return a field's name on the command line."""
    return option.metadata["flag"].split()[-1] if option.metadata["flag"] else f"--{option.name.replace('_', '-')}"


def check_fields(config: Any) -> None:
    """Check each field as its ``option`` says.

    Raises:
        FastmaskError: a value is not allowed; its option is named.
    """
    for one in fields(config):
        value, check = getattr(config, one.name), one.metadata["check"]
        demand(value != () or one.default is not MISSING, flag_of(one), "name at least one")
        for part in value if isinstance(value, tuple) else (value,):
            reason = check(part) if check and part is not None else ""
            demand(not reason, f"{flag_of(one)} {part}", reason)


_DEVICE = re.compile(r"[a-z]+(:(0|[1-9]\d*))?")


def _device(device: str) -> str:
    """Check the name alone; whether there is such a device shows when it is used."""
    if "," in device:
        return "one device; scoring on several is not there yet"
    return "" if _DEVICE.fullmatch(device) else "auto, cpu, cuda or cuda:N"


def _named_path(arm: str) -> str:
    name, equals, path = arm.partition("=")
    return "" if name and equals and path else "give NAME=PATH"


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """The settings of ``fastmask score``."""

    model: str | None = option(None, "Classifier (or masker, for --method masker): a directory or a hub id. Default: "
                               "the English sentiment classifier in the package.")  # fmt: skip
    method: str = option("greedy", "How the importance of a token is measured.", choices=METHODS)
    threshold: float = option(0.05, "Greatest drop in P(class) at which a token is important enough to mask (d in the "
                              "paper).", check=within(-1, 1, "a probability difference, -1 to 1"))  # fmt: skip
    mask_rate: float | None = option(None, "Greatest share of a sentence's tokens to mask. Default: no limit with a "
                                     "threshold, else 0.15.",
                                     check=within(0, 1, "above 0, at most 1", ends="(]"))  # fmt: skip
    unit: str = option("token", "What is masked as a whole, and counted by --mask-rate.", choices=("token", "word"))
    like: str | None = option(None, "Finished shard directory; each sentence gets as many random masks as there "
                              "(random).", group=BY_METHOD)  # fmt: skip
    words: str | None = option(None, "Words of the task: a file with one a line, or sentiment, the English list in the "
                               "package (word-list).", group=BY_METHOD)  # fmt: skip
    mask_function: str | None = option(None, "How mask_prob grows with a word's score; linear if not given "
                                       "(word-list).", choices=MASK_FUNCTIONS, group=BY_METHOD)  # fmt: skip
    vectors: str | None = option(None, "Word vectors as word2vec or GloVe text, also .gz. Default: the model's input "
                                 "embeddings (word-list, difference).", group=BY_METHOD)  # fmt: skip
    background: tuple[str, ...] = option((), "Other text to compare the corpus with; may be repeated (difference).",
                                         group=BY_METHOD)  # fmt: skip
    anchors: int | None = option(None, "Number of words that the others are compared with; 20 if not given "
                                 "(difference).", check=at_least(1), group=BY_METHOD)  # fmt: skip
    labelled: tuple[str, ...] = option((), "Labelled texts whose classes are compared, instead of the corpus's; may be "
                                       "repeated (log-odds).", group=BY_METHOD)  # fmt: skip
    language: str = option(ENGLISH, "Language of the texts (spaCy's code), for sentence ends and stop words.",
                           check=language_fault)  # fmt: skip
    stop_words: str = option("language", "Words that are never masked: the language's list, none, english, or a file "
                             "with one a line.")  # fmt: skip
    keep_punctuation: bool = option(False, "Never mask punctuation.")
    segment: str = option("sentence", "Split documents into sentences, or take a line as one.",
                          choices=("sentence", "line"), group=READING)  # fmt: skip
    text_field: str = option("text", "Column or key of the text.", group=READING)
    label_field: str = option("label", "Column or key of the label.", group=READING)
    id_field: str | None = option(None, "Column or key of your own ids, which shards then have, too.", group=READING)
    max_length: int = option(Unsaid(128), "Longest model input in tokens, special tokens included.", check=at_least(8),
                             group=READING)  # fmt: skip
    precision: str = option("auto", "Precision of the first pass; masks do not depend on it.",
                            choices=("auto", "float32", "float16", "bfloat16"), group=RUNNING)  # fmt: skip
    certify: bool = option(True, "Ask again in higher precision where a decision is in doubt.", group=RUNNING)
    device: str = option("auto", "Device to score on: auto, cpu, cuda or cuda:N.", check=_device, group=RUNNING)
    kernels: str = option("auto", "Implementation of the forward pass.", choices=("auto", "torch", "triton"),
                          group=RUNNING)  # fmt: skip
    batch_tokens: int = option(0, "Tokens in a forward batch; 0 chooses what suits the model.", check=at_least(0),
                               group=RUNNING)  # fmt: skip
    shard_rows: int = option(8192, "Documents in a shard.", check=at_least(1), group=RUNNING)
    encoding: str = option("utf-8", "Encoding of text files.", group=READING)
    on_error: str = option("fail", "Whether a bad row ends the run or is skipped and listed.",
                           choices=("fail", "skip"), group=READING)  # fmt: skip
    max_text_mb: int = option(MAX_TEXT_MB, "Greatest size of a line, cell or row in megabytes; 0 is no limit.",
                              check=at_least(0), group=READING)  # fmt: skip
    seed: int = option(0, "Seed of random masks and of the audit's sample.", check=at_least(0), group=RUNNING)
    threads: int = option(0, "Scoring threads; 0 is one per core.", check=at_least(0), group=RUNNING)

    def __post_init__(self) -> None:
        for name in ("background", "labelled"):  # a list where a manifest is read back
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_fields(self)
        demand(self.like is None or self.mask_rate is None, f"--like {self.like}", "not together with --mask-rate")
        package = missing_package(self.language) if self.segment == "sentence" else ""
        demand(not package, f"--language {self.language}", f"splitting into sentences needs the package {package}; "
               "--segment line does without")  # fmt: skip

    def control_of(self, out: str) -> ScoreConfig:
        """Return the configuration of the random twin of a run into ``out``: the same sentences, as many masks each."""
        changes = {**SPECIAL_OPTIONS, "method": CONTROL, "like": out, "mask_rate": None}
        return replace(self, **changes, label_field=self.corpus_label_field)

    @property
    def corpus_label_field(self) -> str:
        """Return the label's column in the corpus: the usual one where the labels are those of other texts."""
        return LABEL_FIELD if self.labelled else self.label_field

    @property
    def limit_again(self) -> int:
        """Return the ``max_text_mb`` to read a finished run's texts with again: no limit where no row was skipped."""
        return self.max_text_mb if self.on_error == "skip" else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as a JSON-ready dictionary, for the manifest.

        Some settings are in it only where they may change the result of a run, so that older runs can be resumed.
        """
        idle = {"max_text_mb": self.on_error == "fail" or self.max_text_mb == MAX_TEXT_MB}
        idle |= {"labelled": not self.labelled, "id_field": self.id_field is None}
        lists = {"background": list(self.background), "labelled": list(self.labelled)}
        return {name: value for name, value in {**asdict(self), **lists}.items() if not idle.get(name)}


@dataclass(frozen=True, slots=True)
class RemaskConfig:
    """The settings of ``fastmask remask``; None is as the shards have it."""

    shards: str = required("Finished shard directory.", flag="SHARDS")
    out: str = required("Directory of the new shards.", flag="-o --out")
    threshold: float | None = shared(ScoreConfig, "threshold", ...)
    mask_rate: float | None = shared(ScoreConfig, "mask_rate")
    unit: str | None = shared(ScoreConfig, "unit", ...)
    stop_words: str | None = shared(ScoreConfig, "stop_words", ...)
    keep_punctuation: bool | None = shared(ScoreConfig, "keep_punctuation", ...)
    model: str | None = option(None, "Where the model of SHARDS is now, if it has moved: a directory or a hub id.")
    device: str | None = shared(ScoreConfig, "device", ...)
    certify: bool = option(True, "Ask the model where the stored scores leave masks in doubt; --no-certify takes the "
                           "scores as they are.")  # fmt: skip
    overwrite: bool = option(False, "Replace OUT if it was made from something else.")

    def __post_init__(self) -> None:
        check_fields(self)

    def changed(self, scored: ScoreConfig) -> ScoreConfig:
        """Return the configuration of a run that would have made these masks, given that of the shards."""
        names = "threshold", "mask_rate", "unit", "stop_words", "keep_punctuation", "model", "device"
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(scored, **given, certify=scored.certify and self.certify)


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """The settings of ``fastmask export``."""

    shards: str = required("Finished shard directory.", flag="SHARDS")
    out: str = required("Directory to write to.", flag="-o --out", check=on_disk)
    to: str = required("Format: NVIDIA's BERT files (needs h5py), JSON lines, or MosaicML shards.",
                       choices=EXPORT_FORMATS)  # fmt: skip
    max_length: int = option(512, "Tokens of a sequence, special tokens included.", check=at_least(8))
    max_predictions: int = option(80, "Most masks of a sequence; where there are more, so many are drawn at random.",
                                  check=at_least(1), group=MASKS)  # fmt: skip
    corrupt: str = option("0.8,0.1,0.1", "Shares of masked tokens that become [MASK], a random token, and stay as they "
                          "are.", check=lambda text: shares_fault(shares_of(text)), group=MASKS)  # fmt: skip
    sample: bool = option(
        False, "Draw masks by the probabilities (mask_prob) of SHARDS, anew in each epoch.", group=MASKS
    )
    epochs: int = option(1, "How often each sequence is written, corrupted anew each time.", check=at_least(1))
    seed: int = option(0, "Seed of the corruption (which masked tokens become what), and of masks with --sample.",
                       check=at_least(0))  # fmt: skip
    overwrite: bool = option(False, "Replace OUT if it is there.")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """The settings of ``fastmask evaluate``."""

    arms: tuple[str, ...] = required(
        "NAME=PATH of a fine-tuned model, of its answers that a run has kept, or of a file with a predicted class a "
        "line; once for each seed, or once with a pattern (*) in PATH. The first NAME is the first baseline.",
        flag="--arm", check=_named_path)  # fmt: skip
    test: str = required("Labelled file that all models are compared on.")
    json: str | None = option(None, "File to write the report to, as JSON.")
    picture: str | None = option(None, "File to draw the comparison to: .png, .svg or .pdf (needs matplotlib).")
    max_length: int = shared(ScoreConfig, "max_length", Unsaid(256))
    text_field: str = shared(ScoreConfig, "text_field")
    label_field: str = shared(ScoreConfig, "label_field")
    encoding: str = shared(ScoreConfig, "encoding")
    max_text_mb: int = shared(ScoreConfig, "max_text_mb")
    resamples: int = option(10_000, "Draws of the bootstrap.", check=at_least(100), group=BOOTSTRAP)
    seed: int = option(0, "Seed of the bootstrap.", check=at_least(0), group=BOOTSTRAP)

    def __post_init__(self) -> None:
        check_fields(self)
