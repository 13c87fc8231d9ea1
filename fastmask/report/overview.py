"""What a page tells about a finished directory; ``scoring/overview.py`` counts it, ``page.py`` draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from .highlight import Sentence

LEAST_USES = 8
"""Uses of a word below which its share of masks says nothing."""
PLACES = 40
"""Positions that are counted one by one; those from there on are counted together."""


class Word(NamedTuple):
    """A word: how often it is in the corpus and has a masked token; its tokens and masked ones, of all uses."""

    text: str
    uses: int
    masked: int
    tokens: int
    masks: int


class Bin(NamedTuple):
    """Tokens with an importance from ``low`` to ``high``; None where there is no end."""

    low: float | None
    high: float | None
    tokens: int
    masked: int


class Group(NamedTuple):
    """The sentences of one class; ``right`` of those with a label are classified as it says."""

    name: str
    sentences: int
    tokens: int
    masked: int
    labelled: int
    right: int


class Place(NamedTuple):
    """The tokens at one position of their sentences, or from it on."""

    position: int
    tokens: int
    masked: int


@dataclass(frozen=True, slots=True)
class Compared:
    """How far another directory agrees: its name, ``scoring.agreement.Agreement``, words that one alone masks."""

    name: str
    found: Any
    only: tuple[list[tuple[str, int]], list[tuple[str, int]]]


@dataclass(frozen=True, slots=True)
class Overview:
    """The numbers of a directory, and some of its sentences.

    Attributes:
        name: the directory.
        manifest: its manifest; sound_certificate: whether its certificate has the types that the cascade writes.
        large_is_important: whether a large importance is an important token's.
        threshold: of the method; None where it has none. reading: how to read importances, a sentence.
        by_word: whether the shards tell words; else each token stands for one.
        masked_sentences: sentences with a mask.
        shares: sentences without a mask, and with a share of masked tokens of more than 0 to 1/20, 1/20 to 2/20, ...
        importance: a histogram, empty where nothing has an importance; not_finite: tokens that are not in it.
        most: the words that are masked most often; above: those that are masked more often than others are.
        words: different words; forgotten: whether there were too many to count them all.
        classes: by class, most sentences first; classes_told: whether there are classes.
        places: by position.
        samples: sentences to show, by what they have in common.
        compared: agreement with another directory.
    """

    name: str
    manifest: dict[str, Any]
    sound_certificate: bool
    large_is_important: bool
    threshold: float | None
    reading: str
    by_word: bool
    masked_sentences: int
    shares: list[int]
    importance: list[Bin]
    not_finite: int
    most: list[Word]
    above: list[Word]
    words: int
    forgotten: bool
    classes: list[Group]
    places: list[Place]
    samples: dict[str, list[Sentence]]
    compared: Compared | None = None
