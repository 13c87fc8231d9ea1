"""The special tokens a model expects around its input, read off its own tokenizer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer

from .errors import ModelError
from .variants import Template


def template_of(tokenizer: Tokenizer, name: str, is_pair: bool) -> Template:
    """The template for single texts, or for (aspect, text) pairs.

    Args:
        tokenizer: the model's, with its post-processor.
        name: the model's name, for messages.
        is_pair: whether variants are pairs.

    Raises:
        ModelError: the tokenizer adds no token in front (there is nothing to classify by), or splits its special tokens
            some other way.
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    # a tokenizer saved after training with padding would put that into every variant
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoding = tokenizer.encode("a", "a") if is_pair else tokenizer.encode("a")
    parts = [-1 if part is None else part for part in encoding.sequence_ids]
    runs = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(parts)]
    shape = [parts[start] for start in runs[:-1]]
    if shape != ([-1, 0, -1, 1, -1] if is_pair else [-1, 0, -1]):
        raise ModelError(f"{name}: the tokenizer does not put special tokens around {'pairs' if is_pair else 'texts'}")
    pieces = [np.array(encoding.ids[a:b], np.int32) for a, b in pairwise(runs)]
    if not is_pair:
        return Template(pieces[0], np.empty(0, np.int32), pieces[2], 0)
    return Template(pieces[0], pieces[2], pieces[4], int(encoding.type_ids[runs[3]]))
