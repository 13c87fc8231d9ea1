"""A model's input embeddings, read by name from its files without making the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ModelError, first_line
from ..core.panics import panics_told
from .directory import ModelFiles, weight_files
from .tokenizer import vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# How the names of input embeddings end, in all families of transformers' encoders.
NAMES = (
    "word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight", "wte.weight", "word_embedding.weight",
    "shared.weight",
)  # fmt: skip
_BEFORE = "a "
"""What a word is written after, so that it has the pieces of one inside a sentence."""


def input_embeddings(files: ModelFiles) -> np.ndarray:
    """Return the vectors of a model's vocabulary, float [V, D] in a type of numpy's.

    Raises:
        ModelError: they cannot be read, or have a name that is not known.
    """
    import safetensors

    try:
        for path in weight_files(files.dir):
            with safetensors.safe_open(path, framework="numpy") as file:
                for name in sorted(file.keys()):
                    if name.endswith(NAMES) and len(file.get_slice(name).get_shape()) == 2:
                        found = file.get_slice(name)
                        return _bfloat16(path, name) if found.get_dtype() == "BF16" else file.get_tensor(name)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"{files.name}: its input embeddings cannot be read: {first_line(error)}") from error
    raise ModelError(f"{files.name}: its input embeddings are not known by name; --vectors takes a file of others")


def _bfloat16(path, name: str) -> np.ndarray:
    """Read a tensor that numpy has no type for."""
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        found: np.ndarray = file.get_tensor(name).float().numpy()
        return found


class WordEmbeddings:
    """Vectors of words from the input embeddings of a model: the mean over a word's pieces.

    Args:
        files, tokenizer: the model's.

    Raises:
        ModelError: as ``input_embeddings``, or the tokenizer has ids without one.
    """

    def __init__(self, files: ModelFiles, tokenizer: PreTrainedTokenizerBase):
        self._table = input_embeddings(files)
        size, special = vocabulary(tokenizer)
        if len(self._table) < size:
            raise ModelError(f"{files.name}: has {len(self._table)} input embeddings for {size} ids")
        self._name = files.name
        self._special, self._backend = np.array(special, np.int64), tokenizer.backend_tokenizer

    def of(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return which words have a vector, bool [W], and all vectors, float64 [W, D]; zeros where there is none.

        A word that the tokenizer cannot write has none.
        """
        with panics_told(self._name):
            pieces = _pieces(self._backend, words)
        ids = np.array([index for one in pieces for index in one], np.int64)
        lengths = np.array([len(one) for one in pieces], np.int64)
        word = np.repeat(np.arange(len(words)), lengths)
        unknown = np.bincount(word[np.isin(ids, self._special)], minlength=len(words)) > 0
        has_one = (lengths > 0) & ~unknown
        vectors = np.zeros((len(words), self._table.shape[1]))
        if len(ids):
            starts = (np.cumsum(lengths) - lengths)[lengths > 0]
            sums = np.add.reduceat(self._table[ids].astype(np.float64), starts)
            vectors[lengths > 0] = sums / lengths[lengths > 0, None]
        vectors[~has_one] = 0.0
        return has_one, vectors


def _pieces(backend: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Return the ids of each word as it is written inside a sentence."""
    encoded = backend.encode_batch([_BEFORE + word for word in words], add_special_tokens=False)
    after = len(_BEFORE) - 1
    return [[index for index, span in zip(one.ids, one.offsets, strict=True) if span[1] > after] for one in encoded]
