"""The languages that spaCy has rules for, found without importing it, which takes a second."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

ENGLISH = "en"
PACKAGES = {"ko": ("natto", "natto-py"), "th": ("pythainlp", "pythainlp"), "vi": ("pyvi", "pyvi")}
"""Languages whose tokenizer in spaCy needs another package -> its module, and what pip calls it."""


def language_directory() -> Path:
    """Return spaCy's directory of languages, each of which has one in it."""
    package = find_spec("spacy")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "lang"


def language_fault(language: str) -> str:
    """Return what is wrong with the code of a language, in words; "" if spaCy has its rules."""
    if language == ENGLISH:
        return ""
    known = sorted(file.parent.name for file in language_directory().glob("*/__init__.py"))
    return "" if language in known else f"choose one of {', '.join(known)}"


def missing_package(language: str) -> str:
    """Return what pip calls the package that splitting texts of a language needs and that is not there; "" if none."""
    module, package = PACKAGES.get(language, ("", ""))
    return package if module and find_spec(module) is None else ""
