"""How a model that is trained or measured reads its texts: the rules of scoring, for every family."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ..core.errors import ModelError
from ..models.family_rules import fast_path_fault
from ..models.lengths import fitting_length
from ..models.template import model_template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def reading_of(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    wanted: int,
    is_pair: bool,
) -> tuple[int, bool]:
    """Return the longest input in tokens, see ``lengths.fitting_length``, and whether the model is given token types.

    Args:
        model: on the CPU; not written to.
        tokenizer, name: the model's.
        wanted: how long an input is to be, as the configuration has it.
        is_pair: whether inputs are pairs.

    Raises:
        ModelError: the model takes less than is wanted, it or the tokenizer is not made for such inputs, or its answers
            depend on what else is asked.
    """
    longest = fitting_length(model, model.config, tokenizer, name, wanted)
    template = model_template(model.config, tokenizer, name, is_pair)
    if fast_path_fault(model.config):
        from ..models.generic import GenericEncoder
        from ..models.probe import unsteady

        encoder = GenericEncoder(copy.deepcopy(model), "float32", typed=template.typed)
        if fault := unsteady(encoder, template, longest):
            raise ModelError(f"{name}: cannot be trained or measured: {fault}")
    return longest, template.typed
