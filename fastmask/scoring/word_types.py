"""The types of words, by which some methods go.

A word is what the tokenizer takes for one (column ``word``); its type is the decoded text of its pieces, without regard
to case or to marks around it (``text.words.word_form``). A word with a special token or with an unknown one has no
text, and no score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba as nb
import numpy as np
from fastmask_kernels.splitmix import mix

from ..core.arrays import JIT
from ..core.memo import Memo
from ..core.panics import panics_told
from ..models.tokenizer import vocabulary
from ..text.words import word_form
from .policy import Items

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_WRITINGS = 1 << 20
"""Runs of pieces whose word type is remembered."""
UNKNOWN, NO_TEXT = -1, -2
"""What stands for the type of a word that is not counted, and of one that has none."""


@nb.njit(**JIT)
def word_keys(input_ids: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return a hash of each word's token ids, uint64 [I]."""
    keys = np.empty(len(starts), np.uint64)
    for k in range(len(starts)):
        key = np.uint64(ends[k] - starts[k])
        for at in range(starts[k], ends[k]):
            key = mix(key, input_ids[at])
        keys[k] = key
    return keys


class WordTypes:
    """Finds the word type of each word: its number in ``index``, or UNKNOWN or NO_TEXT.

    Args:
        tokenizer: of the tokens.
        index: the types by text; new ones are added if it ``grows``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, index: dict[str, int], grows: bool):
        self.index, self.grows, self._name = index, grows, tokenizer.name_or_path
        self._backend = tokenizer.backend_tokenizer
        self._special = np.array(vocabulary(tokenizer)[1], np.int32)
        self.forget()

    def forget(self) -> None:
        """Forget which pieces write which type; ``index`` may have been changed."""
        self._memo, self._type = Memo(), np.empty(0, np.int64)

    def renumber(self, index: dict[str, int]) -> None:
        """Go over to other numbers of the types; no new ones are added from now on."""
        new = np.array([*(index.get(text, UNKNOWN) for text in self.index), NO_TEXT, UNKNOWN])
        self._type = new[self._type]  # the last two are found by themselves
        self.index, self.grows = index, False

    def of(self, words: Items, input_ids: np.ndarray) -> np.ndarray:
        """Return the type of each of W words, int64 [W]."""
        if self._memo.used > MOST_WRITINGS:
            self.forget()
        ends, known = np.append(words.starts[1:], len(input_ids)), self._memo.used
        slots = self._memo.slots(word_keys(input_ids, words.starts, ends))
        fresh = np.flatnonzero(slots >= known)
        if len(fresh):
            first = fresh[np.unique(slots[fresh], return_index=True)[1]]  # in the order of the new slots
            self._type = np.append(self._type, self._new(words.starts[first], ends[first], input_ids))
        found: np.ndarray = self._type[slots]
        return found

    def _new(self, starts: np.ndarray, ends: np.ndarray, input_ids: np.ndarray) -> np.ndarray:
        pieces = [input_ids[start:end] for start, end in zip(starts, ends, strict=True)]
        with panics_told(self._name):
            texts = self._backend.decode_batch([one.tolist() for one in pieces], skip_special_tokens=False)
        special = np.isin(np.concatenate(pieces), self._special)
        owner = np.repeat(np.arange(len(pieces)), [len(one) for one in pieces])
        is_special = np.bincount(owner[special], minlength=len(pieces)) > 0
        forms = ("" if bad else word_form(text) for bad, text in zip(is_special, texts, strict=True))
        return np.fromiter((self._number(form) for form in forms), np.int64, len(pieces))

    def _number(self, form: str) -> int:
        if not form or "\ufffd" in form:
            return NO_TEXT
        return self.index.setdefault(form, len(self.index)) if self.grows else self.index.get(form, UNKNOWN)
