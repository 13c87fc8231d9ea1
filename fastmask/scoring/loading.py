"""From a model's files to the engine that scores with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.config import ScoreConfig
from ..core.errors import ModelError
from ..models.directory import ModelFiles
from ..models.lengths import longest_input
from ..models.pieces import never_masked
from .policy import stop_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .engine import Engine


def load_engine(
    config: ScoreConfig,
    files: ModelFiles,
    tokenizer: PreTrainedTokenizerBase,
    is_aspect: bool,
    progress: Callable[[float, int], None],
) -> Engine:
    """The engine of a configuration that names one device.

    Args:
        files, tokenizer: the model's.
        is_aspect: whether the corpus holds (aspect, text) pairs; the masker reads their texts alone.
        progress: as for ``Engine``.

    Raises:
        ModelError, FastmaskError: the model cannot be loaded or does not fit the configuration.
    """
    from ..models.template import model_template
    from ..models.weights import load_weights
    from .engine import Engine
    from .masker import MaskerEngine

    is_masker = config.method == "masker"
    model, model_config = load_weights(files, is_masker)
    template = model_template(model_config, tokenizer, files.name, is_aspect and not is_masker)
    longest = longest_input(model, model_config, tokenizer, files.name, config.max_length)
    if longest < config.max_length:
        raise ModelError(f"--max-length {config.max_length}: {files.name} takes at most {longest} tokens")
    unmaskable = never_masked(tokenizer, stop_words(config.stop_words))
    return (MaskerEngine if is_masker else Engine)(model, template, config, unmaskable, progress)
