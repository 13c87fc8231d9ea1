"""Loading: from a model's files to the engine that scores with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.config import ScoreConfig
from ..core.errors import ModelError
from ..models.directory import ModelFiles
from ..models.lengths import fitting_length
from ..models.template import model_template
from ..models.weights import MASKED_LM, MASKER, load_trained, load_weights
from .engine import Engine
from .method import Method, Progress, never_masked

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ..models.family_weights import FamilyWeights


def load_engine(
    method: Method,
    config: ScoreConfig,
    files: ModelFiles,
    tokenizer: PreTrainedTokenizerBase,
    is_aspect: bool,
    progress: Progress,
) -> Engine:
    """Return the engine of a method and a configuration, which is the engine's with the length that the model takes.

    Args:
        files, tokenizer: the model's.
        is_aspect: whether the corpus holds (aspect, text) pairs.
        progress: see ``method.Progress``.

    Raises:
        ModelError, FastmaskError: the model cannot be loaded or does not fit the configuration.
    """
    model: FamilyWeights | nn.Module
    if method.encoder:
        model = load_trained(files, method.task)
        model_config = model.config
    else:
        model, model_config = load_weights(files, method.task == MASKER)
    template = model_template(model_config, tokenizer, files.name, is_aspect and method.reads_units)
    if method.task == MASKED_LM and template.mask < 0:
        raise ModelError(f"{files.name}: its tokenizer has no mask token")
    longest = fitting_length(model, model_config, tokenizer, files.name, config.max_length)
    config = replace(config, max_length=longest)
    return Engine(method, model, template, config, never_masked(config, tokenizer), progress)
