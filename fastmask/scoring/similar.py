"""How near words are to some few others: cosines of their vectors, from a file or of a model's input embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..core.arrays import offsets_of
from ..core.config import ScoreConfig
from ..core.errors import InputError
from ..models.directory import resolve_model
from ..models.embeddings import WordEmbeddings
from ..text.tokens import TextEncoder
from ..text.vectors import WordVectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 512
"""Words whose vectors are held: few enough that they stay near the processor."""
_BEFORE = "a "
"""What a word is written after, so that it has the pieces of one inside a sentence."""
_ONE_THREAD, _LEAST_ROWS = 1 << 18, 8
"""Multiplications that OpenBLAS leaves to one thread, and the rows of which it is worth to have so few."""
_DIGITS = 6
"""Of a cosine: what more there is depends on how a processor adds."""


class Vectors(Protocol):
    """Where the vectors of words come from; ``name`` is that of the file or model."""

    name: str

    def of(self, words: Mapping[str, int], encoder: TextEncoder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers int64 [n] of words that have a vector, and these, float64 [n, D]. Args: of the model's."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what they are made of, for the manifest."""
        ...


class FileVectors:
    """Vectors of a file, see ``WordVectors``."""

    def __init__(self, path: str):
        self._file, self.name = WordVectors(path), path

    def of(self, words: Mapping[str, int], encoder: TextEncoder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See ``Vectors.of``."""
        return self._file.of(words)

    def identity(self) -> dict[str, Any]:
        """See ``Vectors.identity``."""
        return {"vectors_sha256": self._file.sha256}


class ModelVectors:
    """Means of a model's input embeddings over a word's pieces; they are read when they are first asked for."""

    def __init__(self, model: str | None, tokenizer: PreTrainedTokenizerBase):
        self._files, self._tokenizer = resolve_model(model), tokenizer
        self.name = self._files.name

    def of(self, words: Mapping[str, int], encoder: TextEncoder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See ``Vectors.of``."""
        embeddings = WordEmbeddings(self._files, self._tokenizer)
        texts, numbers = list(words), np.fromiter(words.values(), np.int64, len(words))
        offsets, ids = word_pieces(texts, encoder)
        for start in range(0, len(texts), _BATCH):
            bounds = offsets[start : start + _BATCH + 1]
            has_one, rows = embeddings.of(bounds - bounds[0], ids[bounds[0] : bounds[-1]])
            yield numbers[start : start + _BATCH][has_one], rows[has_one]

    def identity(self) -> dict[str, Any]:
        """See ``Vectors.identity``."""
        return {"embeddings_sha256": self._files.weights_sha256}


def vectors_of(config: ScoreConfig, tokenizer: PreTrainedTokenizerBase) -> Vectors:
    """Return the vectors that a configuration names: those of a file, or the model's own."""
    return ModelVectors(config.model, tokenizer) if config.vectors is None else FileVectors(config.vectors)


def word_pieces(words: Sequence[str], encoder: TextEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Return the pieces of words as they are written inside a sentence: offsets int64 [W + 1] and ids int32 [T]."""
    tokens = encoder.tokenize([_BEFORE + word for word in words])
    is_word = tokens.end >= len(_BEFORE)
    return offsets_of(is_word)[tokens.offsets], tokens.ids[is_word]


def largest_cosines(
    words: Sequence[str], others: Sequence[str], what: str, vectors: Vectors, encoder: TextEncoder
) -> np.ndarray:
    """Return the largest cosine of each word to one of others, float64 [W]; NaN where a vector is missing.

    A word that is one of the others has 1, with a vector or without.

    Args:
        what: the others are, for the error.
        encoder: of the model's tokenizer.

    Raises:
        InputError, ModelError: vectors cannot be read, or none of the others has one.
    """
    found = np.full(len(words), np.nan)
    targets = [units for _, units in _directions(vectors.of(_numbered(others), encoder))]
    if not targets:
        raise InputError(vectors.name, None, None, f"has a vector for none of {what}")
    ends = np.concatenate(targets).T
    for at, units in _directions(vectors.of(_numbered(words), encoder)):
        found[at] = np.clip(np.round(_product(units, ends).max(axis=1), _DIGITS), -1.0, 1.0)
    same = set(others)
    found[[number for number, word in enumerate(words) if word in same]] = 1.0
    return found


def _product(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return rows @ columns, of few columns in parts so small that OpenBLAS does not wake its threads for them.

    These wait for each other longer than they work, and then spin.
    """
    few = _ONE_THREAD // columns.size
    few = few if few >= _LEAST_ROWS else len(rows)
    return np.concatenate([rows[at : at + few] @ columns for at in range(0, len(rows), few)])


def _numbered(words: Sequence[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def _directions(vectors: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield numbers int64 [n] of words whose vectors are not zero, and these at length 1, float64 [n, D]."""
    for at, rows in vectors:
        length = np.linalg.norm(rows, axis=1)
        if (has_one := length > 0).any():
            yield at[has_one], rows[has_one] / length[has_one, None]
