"""Unpadded, differentiable forward pass: a batch is one row of T real tokens, and only attention ever pads.

transformers lets a program register its own attention function. The one here gets the sequence boundaries
through the model's keyword arguments, so the model's own modules, dropout and parameters do all the rest on
``[1, T, hidden]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ModelError, first_line
from .family import family_of
from .family_rules import first_position, packing_fault

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
        places: [T], the place of each token in [B, L] laid end to end.
        is_padded: whether some place holds none.
        is_typed: whether other families are given the token types.
        runs: (sequences, tokens of each) of neighbours of one length, in order, where attention is to take each run
            by itself; empty where padding is cheaper.
    """

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    padded_index: torch.Tensor
    real: torch.Tensor
    places: torch.Tensor
    is_padded: bool
    is_typed: bool
    runs: tuple[tuple[int, int], ...]


def pack(
    sequences: Sequence[np.ndarray], token_types: Sequence[np.ndarray], device: str = "cpu", is_typed: bool = True
) -> PackedTensors:
    """Pack B sequences of ids (int [n_i], special tokens included, n_i >= 1) and their token types.

    On the CPU attention is faster when sequences of one length are neighbours.
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
        places=tensor(np.flatnonzero(real)),
        is_padded=not real.all(),
        is_typed=is_typed,
        runs=_runs(lengths) if device == "cpu" else (),
    )


def _runs(lengths: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return runs of equal lengths, int64 [B]; none where they are too short to be worth their calls."""
    ends = np.flatnonzero(np.diff(lengths, append=0)) + 1
    counts = np.diff(ends, prepend=0)
    return tuple(zip(counts.tolist(), lengths[ends - 1].tolist(), strict=True)) if 2 * len(ends) <= len(lengths) else ()


def packed_attention(
    module, query, key, value, attention_mask, scaling, dropout=0.0, *, packing, sliding_window=None, **_
):
    """Return the attention inside each sequence of a packed batch, as transformers calls attention functions.

    Args:
        module: the attention module that calls; unused.
        query, key, value: [1, heads, T, D].
        attention_mask: None; the packing alone says what sees what.
        scaling: factor of the scores.
        dropout: probability, 0 outside training.
        packing: the PackedTensors.
        sliding_window: a token sees those that are less than so many places from it; None for all of its sequence.

    Returns:
        ([1, T, heads, D], None).
    """
    if packing.runs:
        return _attention_by_runs(query, key, value, scaling, dropout, packing.runs, sliding_window), None
    padded = [_padded(states[0].transpose(0, 1), packing).transpose(1, 2) for states in (query, key, value)]
    length = packing.real.shape[1]
    mask = packing.real[:, None, None, :] if packing.is_padded else None
    near = _near(length, sliding_window, query.device)
    if near is not None:  # past a sequence's end too a row has to see something: NaN times 0 is NaN
        mask = near if mask is None else near & (mask | ~packing.real[:, None, :, None])
    context = _attend(padded, mask, dropout, scaling)
    return context.transpose(1, 2).flatten(0, 1).index_select(0, packing.places).unsqueeze(0), None


def _attend(states, mask, dropout, scaling) -> torch.Tensor:
    """Return the attention [B, heads, L, D] of padded sequences, or of some of one length, by query, key and value."""
    import torch

    from .dropout import attention_with_dropout, is_drawn

    query, key, value = states
    if query.device.type == "cpu" and is_drawn(dropout):
        return attention_with_dropout(query, key, value, mask, dropout, scaling)
    with _any_shape() if query.is_cuda else nullcontext():
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
        )


def _any_shape() -> AbstractContextManager:
    """Return a context without cuDNN's attention, which is compiled for each new shape: most batches have one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _padded(rows: torch.Tensor, packing: PackedTensors) -> torch.Tensor:
    """Return rows [T, ...] at their places in [B, L, ...], and zeros at others; a GPU is not waited for."""
    shape = packing.real.shape
    empty = rows.new_zeros(shape.numel(), *rows.shape[1:])
    return empty.index_copy_(0, packing.places, rows).unflatten(0, shape)


def _near(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return bool [L, L], which places see which; None where all see all."""
    import torch

    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=device)
    return (place[:, None] - place).abs() < sliding_window


def _attention_by_runs(query, key, value, scaling, dropout, runs, sliding_window) -> torch.Tensor:
    """Return ``packed_attention``, by sequences of one length at a time: nothing is padded, gathered or masked."""
    import torch

    sizes = [count * length for count, length in runs]
    pieces = zip(*(states[0].transpose(0, 1).split(sizes) for states in (query, key, value)), strict=True)
    contexts = []
    for shape, piece in zip(runs, pieces, strict=True):
        batch = [states.unflatten(0, shape).transpose(1, 2) for states in piece]
        mask = _near(shape[1], sliding_window, query.device)
        context = _attend(batch, mask, dropout, scaling)
        contexts.append(context.transpose(1, 2).flatten(0, 1))
    return torch.cat(contexts).unsqueeze(0)


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
