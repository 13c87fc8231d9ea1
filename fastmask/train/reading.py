"""How a model that is trained or measured reads its texts: the rules of scoring, for every family."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..family_rules import fast_path_fault, takes_types
from ..lengths import longest_input

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def reading_of(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, name: str, wanted: int) -> tuple[int, bool]:
    """The longest input in tokens, or ``wanted`` if that is less, and whether the model is given token types.

    Args:
        model: on the CPU; not written to.
        tokenizer, name: the model's.
        wanted: how long an input is to be.

    Raises:
        ModelError: the model takes no text at all, or an answer of its depends on what else it is asked.
    """
    longest = longest_input(model, model.config, tokenizer, name, wanted)
    is_typed = takes_types(model.config, tokenizer)
    if fast_path_fault(model.config):
        from ..generic import GenericEncoder
        from ..probe import unsteady
        from ..template import template_of

        encoder = GenericEncoder(copy.deepcopy(model), "float32", typed=is_typed)
        if fault := unsteady(encoder, template_of(tokenizer.backend_tokenizer, name, False), longest):
            raise ModelError(f"{name}: cannot be trained or measured: {fault}")
    return longest, is_typed
