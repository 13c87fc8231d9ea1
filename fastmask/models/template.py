"""The special tokens a model expects around its input, if any, read off its own tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Encoding, Tokenizer

from ..core.errors import ModelError
from ..core.panics import panics_told
from .family_rules import takes_types
from .packing import Template

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Words of the vocabulary that are tried where the tokenizer makes nothing of a letter.
TRIED = 100
WORDS = 8


def model_template(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str, is_pair: bool) -> Template:
    """Return the template of what a model is given: ``template_of``, without token types where it is given none.

    Raises:
        ModelError: as there, or the tokenizer gives a token type that the model does not have.
    """
    mask = -1 if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    template = replace(template_of(tokenizer.backend_tokenizer, name, is_pair), mask=mask)
    if not takes_types(config, tokenizer):
        return template.without_types()
    known, largest = getattr(config, "type_vocab_size", None), max([template.content_type, *template.types.tolist()])
    if known and largest >= known:
        raise ModelError(f"{name}: the tokenizer gives the token type {largest}, and the model has {known}, from 0 on")
    return template


def template_of(tokenizer: Tokenizer, name: str, is_pair: bool) -> Template:
    """Return the template for single texts, or for (aspect, text) pairs.

    Args:
        tokenizer: the model's, with its post-processor.
        name: the model's name, for messages.
        is_pair: whether variants are pairs.

    Raises:
        ModelError: the tokenizer puts the parts of its input in some other order.
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    # a tokenizer saved after training with padding would put that into every variant
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoding = _encode(tokenizer, is_pair, name)
    ids, types = np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int32)
    parts = np.array([-1 if part is None else part for part in encoding.sequence_ids])
    context, content = (np.flatnonzero(parts == part) for part in (0, int(is_pair)))
    if not (_is_run(context) and _is_run(content) and (context[-1] < content[0] if is_pair else len(content))):
        what = "an aspect and its text" if is_pair else "a text"
        raise ModelError(f"{name}: the tokenizer does not put special tokens around {what}, but among them")
    if is_pair and types[context[0]] != 0:
        raise ModelError(f"{name}: the tokenizer gives an aspect the token type {types[context[0]]}; 0 is known here")
    pieces = ids[: context[0]], ids[context[-1] + 1 : content[0]], ids[content[-1] + 1 :]
    return Template(
        *pieces, int(types[content[0]]), types[parts < 0], words=_ordinary_ids(tokenizer, ids[parts < 0], name)
    )


def _ordinary_ids(tokenizer: Tokenizer, around: np.ndarray, name: str) -> np.ndarray:
    """Return different tokens that are neither special nor ``around`` a text, int32 [1..WORDS]."""
    special = [index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    special += around.tolist()
    with panics_told(name):
        encoded = tokenizer.encode_batch(_words(tokenizer), add_special_tokens=False)
    found = dict.fromkeys(token for one in encoded for token in one.ids if token not in special)
    return np.array([*found][:WORDS] or [0], np.int32)


def _words(tokenizer: Tokenizer) -> list[str]:
    """Return a letter, and entries from all parts of the vocabulary."""
    ids = np.linspace(0, tokenizer.get_vocab_size() - 1, TRIED).astype(int).tolist()
    return ["a", *filter(None, map(tokenizer.id_to_token, ids))]


def _encode(tokenizer: Tokenizer, is_pair: bool, name: str) -> Encoding:
    """Encode a word, or two, as the tokenizer does for its model."""
    words = _words(tokenizer)
    with panics_told(name):
        word = next((word for word in words if tokenizer.encode(word, add_special_tokens=False).ids), "a")
        return tokenizer.encode(word, word) if is_pair else tokenizer.encode(word)


def _is_run(index: np.ndarray) -> bool:
    """Return whether there are such indices, and nothing stands between them."""
    return len(index) > 0 and index[-1] - index[0] + 1 == len(index)
