"""From a label in a file to the index of a class: one rule for every format and every command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from numbers import Real
from typing import Any

from .errors import InputError

LABEL_FIELD = "label"
"""The label's column where no other is named: text that lacks it is unlabelled."""
NO_LABEL = -1
"""The class index of unlabelled text; GLUE and ``datasets`` write it where there is no label."""
NUMBERS_ARE_NAMES = "fastmask_numbers_are_names"
"""The key of a model's configuration for ``Classes.numbers_are_names``."""
Label = str | int | None
"""A label as read: text, a number from a format that has numbers, or nothing."""

_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{0,20})?([eE][+-]?\d{1,3})?", re.ASCII)
_MAX_INDEX = 2**31 - 1
_CLASSES_SHOWN = 12
_CHARS_SHOWN = 60


def read_label(value: Any) -> Label:
    """Return a value of a file as a label; nothing at all, null and NaN are no label.

    Whole numbers are numbers, also as 1.0, which is what pandas makes of 1 in a column with gaps. A boolean is the
    text "true" or "false", and other numbers are text, too: they may be names, but no index.

    Raises:
        TypeError: it is neither text, nor a number, nor a boolean, nor nothing.
    """
    value = value.item() if getattr(value, "shape", None) == () else value  # a NumPy scalar
    if isinstance(value, str):
        return None if value.strip().casefold() in ("", "nan") else value.strip()
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return value
    if isinstance(value, Real | Decimal):
        return int(value) if float(value).is_integer() else str(value)  # type: ignore[arg-type]
    raise TypeError(type(value).__name__)


def whole_number(label: Label) -> int | None:
    """Return the whole number that a label is or that its text stands for, None for any other."""
    if not isinstance(label, str):
        return label
    if not _NUMBER.fullmatch(label):
        return None
    return int(float(label)) if float(label).is_integer() else None


def is_fraction(label: Label) -> bool:
    """Return whether a label is a number that cannot be an index, such as 1.5."""
    return isinstance(label, str) and _NUMBER.fullmatch(label) is not None and whole_number(label) is None


@dataclass(frozen=True)
class Classes:
    """The classes that labels are looked up in.

    Attributes:
        names: in index order.
        numbers_are_names: the names were taken from labels that are numbers, so that a number can only be a name.
        keep_others: a number that is no class is kept as it is, and any other label dropped, instead of refused.
        drop_none: with ``keep_others``, refuse what would be dropped.
    """

    names: tuple[str, ...] = ()
    numbers_are_names: bool = False
    keep_others: bool = False
    drop_none: bool = False

    def index(self, label: Label, source: str, line: int, field: str) -> int:
        """Return the index of a label's class, NO_LABEL where there is none.

        Names come first, then names without regard to case where that leaves one, then indices; but where all names are
        numbers, and one the index of another class, no number is an index.

        Args:
            source, line, field: where the label stands, for the error.

        Raises:
            InputError: it is no class, or a number (not text) that is the name of one class and the index of another.
        """
        found = self._find(label)
        number = whole_number(label)
        is_kept = self.keep_others and number is not None and 0 <= number <= _MAX_INDEX
        if found is None and not is_kept and (self.drop_none or not self.keep_others):
            raise InputError(source, line, field, f'label "{_cut(label)}" is not one of the classes: {self._known()}')
        if found is None:
            return number if is_kept and number is not None else NO_LABEL
        # text is read as a name, so that only a number can be meant either way
        certain = self.numbers_are_names or self.keep_others
        if isinstance(label, int) and not certain and self._is_index(label) and label != found:
            reason = f'{label} is the name of class {found} and the index of class "{self.names[label]}"'
            raise InputError(source, line, field, f'{reason}; the text "{label}" is the name')
        return found

    def has(self, label: Label) -> bool:
        """Return whether a label is a class's, or none at all."""
        return self._find(label) is not None

    def _find(self, label: Label) -> int | None:
        """Return the index of a label's class, NO_LABEL where there is none, None where it is no class's."""
        if label is None:
            return NO_LABEL
        named, number = self._named(label), whole_number(label)
        if named is not None:
            return named
        if number == NO_LABEL:
            return NO_LABEL
        numbers_are_names = self.numbers_are_names or self._has_ambiguous_names
        return number if self._is_index(number) and not numbers_are_names else None

    def _named(self, label: str | int) -> int | None:
        """Return the class of that name; 1 and 1.0 are one name unless both are."""
        text, number = str(label), whole_number(label)
        if text in self.names:
            return self.names.index(text)
        if number is not None:
            alike = [index for index, other in enumerate(self._numbers) if other == number]
        else:
            alike = [index for index, name in enumerate(self.names) if name.casefold() == text.casefold()]
        return alike[0] if len(alike) == 1 else None

    def _is_index(self, number: int | None) -> bool:
        return number is not None and 0 <= number < len(self.names)

    @cached_property
    def _numbers(self) -> list[int | None]:
        return [whole_number(name) for name in self.names]

    @cached_property
    def _has_ambiguous_names(self) -> bool:
        conflict = any(self._is_index(number) and number != index for index, number in enumerate(self._numbers))
        return conflict and None not in self._numbers

    def _known(self) -> str:
        shown = ", ".join(self.names[:_CLASSES_SHOWN])
        more = len(self.names) - _CLASSES_SHOWN
        return f"{shown} and {more} more" if more > 0 else shown


def _cut(label: Label) -> str:
    return text if len(text := str(label)) <= _CHARS_SHOWN else f"{text[:_CHARS_SHOWN]}..."


ANY_CLASSES = Classes(keep_others=True)
