"""What a model's configuration says of the answers: which path may run it, and how its positions count."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from .family import FAMILIES, family_of

ACTIVATIONS = MappingProxyType(
    {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
)
"""transformers' name of an activation -> that of its kernel."""
_OFF = ("is_decoder", "add_cross_attention", "is_heterogeneous", "pruned_heads", "quantization_config")
"""Fields that turn something on which neither the packed encoders nor packed training do."""


def packing_fault(config) -> str | None:
    """Return the field that keeps a fast family's own modules from packed rows; None where they give the same answers.

    Args:
        config: a transformers configuration.
    """
    if config.model_type not in FAMILIES:
        return "model_type"
    if on := next((name for name in _OFF if getattr(config, name, None)), None):
        return on
    return family_of(config).packing_fault(config)


def fast_path_fault(config) -> str | None:
    """Return the field that keeps a model off the packed encoders; None where they do exactly what its family does."""
    fault = packing_fault(config)
    if fault:
        return fault
    if activation_of(config) not in ACTIVATIONS:
        return family_of(config).activation_field
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"):
        if type(getattr(config, name)) is not int:
            return name
    if config.hidden_size % config.num_attention_heads:
        return "num_attention_heads"
    return "num_hidden_layers" if config.num_hidden_layers < 1 else family_of(config).fault(config)


def activation_of(config) -> str:
    """Return transformers' name of the activation between the feed-forward layers of a fast family."""
    return getattr(config, family_of(config).activation_field)


def first_position(config) -> int:
    """Return the position id of a fast family's first token."""
    return config.pad_token_id + 1 if family_of(config).skips_padding else 0


def most_tokens(config) -> int | None:
    """Return the longest input in tokens that a configuration allows, None where it names no limit.

    Of a fast family that is what the model takes; other families may take less.
    """
    rows = getattr(config, "max_position_embeddings", None)
    if getattr(config, "position_biased_input", True) is False or not isinstance(rows, int) or rows <= 0:
        return None  # positions are relative
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        # past this their angles change with the longest input so far
        rows = min(rows, rope.get("original_max_position_embeddings") or rows)
    return rows if fast_path_fault(config) else rows - first_position(config)


def takes_types(config, tokenizer) -> bool:
    """Return whether token types are given to a model: where it has several, or where its tokenizer lists them."""
    return (getattr(config, "type_vocab_size", None) or 0) > 1 or "token_type_ids" in tokenizer.model_input_names


def position_ids(ids: np.ndarray, cu_seqlens: np.ndarray, first: int) -> np.ndarray:
    """Return the position ids int32 [T] of packed sequences, counted from ``first`` in each.

    Where ``first`` is not 0 the id before it is padding: it is not counted, and has its own id for a position.

    Args:
        ids: int32 [T].
        cu_seqlens: int32 [B + 1].
    """
    starts, lengths = cu_seqlens[:-1], np.diff(cu_seqlens)
    skipped = ids == first - 1
    if first == 0 or not skipped.any():
        places = np.arange(len(ids), dtype=np.int32) - np.repeat(starts, lengths)
        return (places + first).astype(np.int32)
    counted = np.concatenate([[0], np.cumsum(~skipped)])
    places = counted[1:] - np.repeat(counted[starts], lengths)
    return np.where(skipped, first - 1, places + first - 1).astype(np.int32)
