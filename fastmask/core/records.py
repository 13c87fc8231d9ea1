"""The records that flow from stage to stage. Ragged data is one flat array plus ``offsets`` of length N + 1."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

FRAME = 2
"""Special tokens around a sequence that is trained on."""


@dataclass(frozen=True, slots=True)
class Aspect:
    """One aspect of a text and the polarity given for it (a class name, a class index, or "conflict")."""

    term: str
    polarity: str | int


@dataclass(frozen=True, slots=True)
class Document:
    """One input row as read.

    Attributes:
        row: number in reading order over all inputs, from 0.
        text: the document.
        label: as ``labels.read_label`` gives it; None for unlabelled text.
        aspects: the row's aspects, None when it is not an aspect row.
        source: file name for messages.
        line: line (or Parquet row) number in it, from 1.
        id: the user's own, where it is asked for.
    """

    row: int
    text: str
    label: str | int | None
    aspects: tuple[Aspect, ...] | None
    source: str
    line: int
    id: str | None = None


@dataclass(frozen=True, slots=True)
class EncodedSentences:
    """Sentences of a run of documents, in corpus order: N sentences, T tokens, U scoring units.

    A *unit* is one classifier question about a sentence: its text alone, or one (aspect, text) pair. Plain text has
    exactly one unit a sentence; aspect text has one per aspect (none when every aspect was dropped).

    Attributes:
        row: int64 [N], document number.
        sentence: int32 [N], sentence number in its document.
        offsets: int64 [N + 1] into the token arrays.
        input_ids: int32 [T], no special tokens.
        char_start, char_end: int32 [T], each token's span in the document's text.
        word: int32 [T], number of the word that each token belongs to, counted in its sentence from 0.
        label: int32 [N], given class, -1 where there is none (always -1 for aspect text).
        unit_sentence: int32 [U], ascending, the sentence of each unit.
        unit_label: int32 [U], given class of the unit, -1 where there is none.
        context_offsets: int64 [U + 1] into context_ids.
        context_ids: int32 [C], the aspect's tokens; empty for plain text.
        is_aspect: bool, whether the units are (aspect, text) pairs.
        first_row, end_row: the half-open range of document numbers covered, also by documents without a sentence.
        skipped: one message per document left out under ``--on-error skip``.
        id: object [N], the user's own id of each sentence's document, a string; None where it is not asked for.
    """

    row: np.ndarray
    sentence: np.ndarray
    offsets: np.ndarray
    input_ids: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    word: np.ndarray
    label: np.ndarray
    unit_sentence: np.ndarray
    unit_label: np.ndarray
    context_offsets: np.ndarray
    context_ids: np.ndarray
    is_aspect: bool
    first_row: int
    end_row: int
    skipped: tuple[str, ...] = ()
    id: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row)

    def texts_alone(self) -> EncodedSentences:
        """Return the sentences as one unit each, without labels and aspects."""
        n = len(self)
        return replace(
            self,
            unit_sentence=np.arange(n, dtype=np.int32),
            unit_label=np.full(n, -1, np.int32),
            context_offsets=np.zeros(n + 1, np.int64),
            context_ids=np.empty(0, np.int32),
            is_aspect=False,
        )


@dataclass(frozen=True, slots=True)
class ScoredSentences:
    """The decisions for one shard's sentences, row for row as they are written.

    Attributes:
        sentences: the N sentences (T tokens) they belong to.
        predicted: int32 [N], argmax class, -1 where there is none.
        prob: float32 [N], P(y|s), NaN where there is none.
        importance: float32 [T], S(w); meaningful only where ``scored``.
        scored: bool [N], whether the sentence has importances.
        mask_offsets: int64 [N + 1] into mask_index.
        mask_index: int32 [M], masked positions of each sentence, ascending.
        certificate: what the precision cascade did for this shard, JSON-ready.
        mask_prob: float32 [T], the probability to mask each token; None where the method gives none.
    """

    sentences: EncodedSentences
    predicted: np.ndarray
    prob: np.ndarray
    importance: np.ndarray
    scored: np.ndarray
    mask_offsets: np.ndarray
    mask_index: np.ndarray
    certificate: dict[str, Any] = field(default_factory=dict)
    mask_prob: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B variants end to end, T tokens, special tokens included: the input of an encoder.

    Attributes:
        input_ids, token_type_ids: int32 [T].
        cu_seqlens: int32 [B + 1], start of each variant and the end of the last.
        max_seqlen: length of the longest variant.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    cu_seqlens: np.ndarray
    max_seqlen: int

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1
