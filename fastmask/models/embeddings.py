"""A model's input embeddings, read by name from its files without making the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ModelError, first_line
from .directory import ModelFiles, weight_files
from .tokenizer import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How the names of input embeddings end, in all families of transformers' encoders.
NAMES = (
    "word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight", "wte.weight", "word_embedding.weight",
    "shared.weight",
)  # fmt: skip


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
        self._special = np.array(special, np.int64)

    def of(self, offsets: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which words have a vector, bool [W], and all vectors, float64 [W, D]; zeros where there is none.

        A word without a piece or with a special one, as the unknown one, has none.

        Args:
            offsets: int64 [W + 1], of the words' pieces in ids int [T].
        """
        first, lengths = offsets[:-1], np.diff(offsets)
        special = np.add.reduceat(np.append(np.isin(ids, self._special), 0), first)
        has_one = (lengths > 0) & (special == 0)
        vectors = np.zeros((len(lengths), self._table.shape[1]))
        for k in range(lengths[has_one].max(initial=0)):
            longer = np.flatnonzero(has_one & (lengths > k))
            vectors[longer] += self._table[ids[first[longer] + k]]
        return has_one, vectors / np.maximum(lengths, 1)[:, None]
