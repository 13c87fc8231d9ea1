"""The longest input that a model takes: one rule for every command."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING

import numpy as np

from ..core.config import Unsaid
from ..core.errors import ModelError, first_line
from .family_rules import fast_path_fault, most_tokens
from .template import template_of

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def fitting_length(
    model: torch.nn.Module,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    wanted: int,
) -> int:
    """Return ``--max-length`` as a command takes it; see ``longest_input``.

    Args:
        wanted: the option. A default that is more than the model takes is cut, which is logged.

    Raises:
        ModelError: it was given, and is more than the model takes; or the model takes no text at all.
    """
    longest = longest_input(model, config, tokenizer, name, wanted)
    if longest < wanted and not isinstance(wanted, Unsaid):
        raise ModelError(f"--max-length {wanted}: {name} takes at most {longest} tokens")
    if longest < wanted:
        log.info(f"inputs are cut at {longest} tokens, all that {name} takes")
    return int(longest)


def longest_input(
    model: torch.nn.Module, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str, wanted: int
) -> int:
    """Return the longest input in tokens, special ones included, that a classifier takes, or ``wanted`` if less.

    What the configuration says is only trusted of families that are known here: others count their positions from an
    offset, or have none to run out of, and are asked.

    Args:
        model: on the CPU; not written to, and not looked at in families that are known here.
        config, tokenizer, name: the model's.
        wanted: how long an input is to be.

    Raises:
        ModelError: it takes no text at all.
    """
    allowed = most_tokens(config)
    most = wanted if allowed is None else min(wanted, allowed)
    template = template_of(tokenizer.backend_tokenizer, name, False)
    around = len(template.prefix) + len(template.suffix)
    if most <= around:
        raise ModelError(f"{name}: takes at most {most} tokens, which leaves no room for a text")
    if not fast_path_fault(config):
        return most

    # families that skip padding take more of it
    words = template.words[template.words != config.get_text_config().pad_token_id]

    def fault(length: int) -> str | None:
        return _fault(model, template.around(np.resize(words, length - around))[0])

    if not fault(most):
        return most
    low, high = around, most  # the longest that is taken is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fault(middle) else (middle, high)
    if low == around:
        raise ModelError(f"{name}: cannot be run on a text: {fault(most)}")
    return low


def _fault(model: torch.nn.Module, ids: np.ndarray) -> str | None:
    """Return what a model says to an input, int32 [N], that it does not take."""
    import torch

    given = torch.from_numpy(ids).long()[None].to(model.device)
    masked = "attention_mask" in inspect.signature(model.forward).parameters
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(given, return_dict=True, **({"attention_mask": torch.ones_like(given)} if masked else {}))
    except Exception as error:  # IndexError, ValueError, RuntimeError: each family its own
        return first_line(error)
    finally:
        model.train(training)
    return None
