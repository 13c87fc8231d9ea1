"""The words that are never masked: spaCy's list of a language, or a file."""

from __future__ import annotations

from functools import cache
from importlib.util import module_from_spec, spec_from_file_location

from ..core.config import WORD_LISTS
from ..core.errors import InputError
from ..core.languages import ENGLISH, language_directory
from ..core.plain import read_regular


def stop_words(choice: str, language: str = ENGLISH) -> frozenset[str]:
    """Return the words of ``--stop-words``, as spaCy's ``is_stop`` looks them up: in small letters.

    Args:
        choice: "language" is spaCy's list of ``language``, which is empty for a few; "english" the English one whatever
            the language; "none" is empty; else a file, a word a line.

    Raises:
        InputError: the file cannot be read, or a line of it is not one word.
    """
    if choice not in WORD_LISTS:
        return words_in(choice, "stop words")
    return frozenset() if choice == "none" else _spacy_stop_words(ENGLISH if choice == "english" else language)


def words_in(path: str, what: str) -> frozenset[str]:
    """Return the words of a file, a word a line, in small letters.

    Args:
        what: they are, for errors.

    Raises:
        InputError: the file cannot be read, or a line of it is not one word.
    """
    try:
        lines = read_regular(path).removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise InputError(path, None, None, f"cannot read {what}: {error.strerror or error}") from error
    return frozenset(filter(None, (_word(path, number, line, what) for number, line in enumerate(lines, 1))))


def _word(path: str, number: int, line: bytes, what: str) -> str:
    """Return the word of a line, or "" for a blank one."""
    try:
        words = line.decode("utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(path, number, None, f"cannot read {what}: not UTF-8: {error.reason}") from error
    if len(words) > 1 or "\0" in "".join(words):
        raise InputError(path, number, None, f"cannot read {what}: give one word a line")
    return "".join(words).lower()


@cache
def _spacy_stop_words(language: str) -> frozenset[str]:
    """Return the stop words of a language from spaCy's file: importing spaCy takes longer than scoring a short text."""
    file = language_directory() / language / "stop_words.py"
    if not file.exists():
        return frozenset()
    spec = spec_from_file_location("stop_words", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return frozenset(module.STOP_WORDS)
