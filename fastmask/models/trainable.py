"""Unpadded, differentiable forward pass: a batch is one row of T real tokens, and only attention ever pads.

transformers lets a program register its own attention function. The one here gets the sequence boundaries
through the model's keyword arguments, so the model's own modules, dropout and parameters do all the rest on
``[1, T, hidden]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ModelError, first_line
from .family import family_of
from .family_rules import first_position, packing_fault
from .packed_attention import Group, groups_of, packed_attention

if TYPE_CHECKING:
    import torch

ATTENTION = "fastmask_packed"


@dataclass(frozen=True, slots=True)
class PackedTensors:
    """B sequences with T tokens in all, the longest of L tokens, end to end. All tensors int64.

    Attributes:
        input_ids, token_type_ids, position_ids: [T]; positions count from 0 in each sequence.
        cu_seqlens: [B + 1], where each sequence starts; the last is T.
        padded_index: [B, L], token of each padded place; past a sequence's end, its first token.
        real: bool [B, L], the places that hold a token.
        is_typed: whether other families are given the token types.
        groups: of all sequences, in order.
    """

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    padded_index: torch.Tensor
    real: torch.Tensor
    is_typed: bool
    groups: tuple[Group, ...]


def pack(
    sequences: Sequence[np.ndarray], token_types: Sequence[np.ndarray], device: str = "cpu", is_typed: bool = True
) -> PackedTensors:
    """Pack B sequences of ids (int [n_i], special tokens included, n_i >= 1) and their token types.

    On the CPU attention is faster when sequences of similar length are neighbours.
    """
    import torch

    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    column = np.arange(lengths.max(), dtype=np.int64)
    real = column[None, :] < lengths[:, None]
    index = starts[:-1, None] + np.where(real, column[None, :], 0)

    def tensor(array):
        return torch.from_numpy(array).to(device)

    return PackedTensors(
        input_ids=tensor(np.concatenate(sequences).astype(np.int64)),
        token_type_ids=tensor(np.concatenate(token_types).astype(np.int64)),
        position_ids=tensor(np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)),
        cu_seqlens=tensor(starts),
        padded_index=tensor(index),
        real=tensor(real),
        is_typed=is_typed,
        groups=groups_of(lengths, device),
    )


def runs_packed(model: torch.nn.Module) -> bool:
    """Return whether the model is of a family whose forward pass is known to be exact on packed input."""
    return not packing_fault(model.config)


def own_forward_remark(model: torch.nn.Module, pads: bool) -> str:
    """Return what is said of a model that does not run packed; ``pads`` as MaskedLoss has it."""
    how = "padded through its own forward" if pads else "through its own forward, inputs of one length at a time"
    return f"a model of type {model.config.model_type} runs {how}: slower"


def enable_packing(model: torch.nn.Module) -> torch.nn.Module:
    """Give a model of a packed family the packed attention; others come back unchanged."""
    if runs_packed(model):
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, packed_attention)
        model.set_attn_implementation(ATTENTION)
    return model


def hidden_states(encoder: torch.nn.Module, batch: PackedTensors, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Return the last states of a packed-family encoder (``model.base_model``) after ``enable_packing``.

    Args:
        encoder: the encoder.
        batch: what it is given.
        rows: int64 [M], the tokens whose states are wanted: most of the last block's work is done for these alone.

    Returns:
        [T, hidden], or [M, hidden].
    """
    if rows is None:
        return _all_states(encoder, batch)
    module, own = _last_rows_alone(encoder), get_ident()
    if module is None:
        return _all_states(encoder, batch).index_select(0, rows)

    def choose(_, states):
        # other threads may be inside the same module
        return tuple(each.index_select(1, rows) for each in states) if get_ident() == own else None

    hook = module.register_forward_pre_hook(choose)
    try:
        return _all_states(encoder, batch)
    finally:
        hook.remove()


def _last_rows_alone(encoder: torch.nn.Module) -> torch.nn.Module | None:
    """Return the last block's module from which on rows are computed by themselves, if it can be given some of them."""
    family, config = family_of(encoder.config), encoder.config
    chunked = getattr(config, "chunk_size_feed_forward", 0)  # needs a multiple of rows
    if family.rows_alone is None or not config.num_hidden_layers or chunked:
        return None
    block = encoder.get_submodule(family.names.layers)[-1]
    # one with checkpoints is computed again for its gradients, when nothing chooses rows any more
    return None if getattr(block, "gradient_checkpointing", False) else block.get_submodule(family.rows_alone)


def _all_states(encoder: torch.nn.Module, batch: PackedTensors) -> torch.Tensor:
    positions = _position_ids(batch, first_position(encoder.config))
    arguments = {"input_ids": batch.input_ids[None], "position_ids": positions[None]}
    if family_of(encoder.config).has_types:
        arguments["token_type_ids"] = batch.token_type_ids[None]
    return encoder(**arguments, packing=batch, return_dict=True).last_hidden_state[0]


def _position_ids(batch: PackedTensors, first: int) -> torch.Tensor:
    """Return position ids, int64 [T], by the rule of ``family_rules.position_ids``, without waiting for the device."""
    if first == 0:
        return batch.position_ids
    skipped = batch.input_ids == first - 1
    before = skipped.cumsum(0)
    start = batch.cu_seqlens[:-1].repeat_interleave(batch.cu_seqlens.diff(), output_size=len(skipped))
    places = batch.position_ids - before + before[start] - skipped[start].long()
    return (places + first).masked_fill(skipped, first - 1)


def class_logits(model: torch.nn.Module, batch: PackedTensors) -> torch.Tensor:
    """Return logits [B, classes] of a sequence classifier, with a graph when gradients are on.

    Models that do not run packed go through their own forward pass.
    """
    if not runs_packed(model):
        return own_logits(model, batch)
    family = family_of(model.config)
    rows = family.rows_read(model, batch.cu_seqlens)
    hidden = hidden_states(model.base_model, batch, rows)
    return family.class_logits(model, family.pooled(hidden, batch.cu_seqlens) if rows is None else hidden)


def token_logits(model: torch.nn.Module, batch: PackedTensors) -> torch.Tensor:
    """Return logits [T, 2] of every token by a token classifier, as ``class_logits`` does."""
    if not runs_packed(model):
        return own_logits(model, batch)
    return family_of(model.config).token_logits(model, hidden_states(model.base_model, batch))


def own_logits(model: torch.nn.Module, batch: PackedTensors) -> torch.Tensor:
    """Return logits [B, C], or [T, C] of a token classifier, by the model's own forward pass.

    Raises:
        ModelError: it does not take such inputs.
    """
    import torch

    from .generic import forward_alike

    types, bounds = batch.token_type_ids if batch.is_typed else None, batch.cu_seqlens.cpu().numpy()
    try:
        places, logits = zip(*forward_alike(model, batch.input_ids, types, bounds), strict=True)
    except Exception as error:  # each family its own
        raise ModelError(f"a model of type {model.config.model_type} cannot be run: {first_line(error)}") from error
    order = torch.from_numpy(np.argsort(np.concatenate(places))).to(batch.input_ids.device)
    return torch.cat(logits)[order]
