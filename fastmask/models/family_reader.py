"""Reads the weights of the encoder families by their names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .family import Family, Names, family_of
from .family_rules import ACTIVATIONS, activation_of, fast_path_fault, first_position
from .family_weights import FamilyWeights, LayerNorm, Linear, PostNormLayer, PreNormLayer

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class WeightReader:
    """Weights by name, each checked for the shape that the configuration gives it.

    Raises (from its methods):
        KeyError: there is no such weight, or it has another shape.

    Args:
        names: of the family's weights.
        config: the model's.
        tensors: the weights by name, as ``model.safetensors`` has them; each is asked for once and kept in its dtype.
    """

    def __init__(self, names: Names, config: PretrainedConfig, tensors: Mapping[str, torch.Tensor]):
        self.names, self.config, self.tensors = names, config, tensors

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """Return a weight by its full name."""
        found = self.tensors[name].detach()
        if found.shape != shape:
            raise KeyError(name)
        return found

    def table(self, name: str, rows: int, width: int) -> torch.Tensor:
        """Return an embedding table [rows, width]."""
        return self.tensor(f"{self.names.base}.embeddings.{name}.weight", rows, width)

    def linear(self, name: str, outputs: int, inputs: int, has_bias: bool = True) -> Linear:
        """Return a linear layer."""
        weight = self.tensor(f"{name}.weight", outputs, inputs)
        return Linear(weight, self._bias(name, weight, has_bias))

    def norm(self, name: str, width: int, eps: float, has_bias: bool = True) -> LayerNorm:
        """Return a layer norm."""
        weight = self.tensor(f"{name}.weight", width)
        return LayerNorm(weight, self._bias(name, weight, has_bias), eps)

    def _bias(self, name: str, weight: torch.Tensor, has_bias: bool) -> torch.Tensor:
        rows = len(weight)
        return self.tensor(f"{name}.bias", rows) if has_bias else weight.new_zeros(rows)

    def layer_name(self, index: int, part: str) -> str:
        """Return the full name of a part of a block."""
        return f"{self.names.base}.{self.names.layers}.{index}.{self.names.layer[part]}"


def read_family(
    config: PretrainedConfig, tensors: Mapping[str, torch.Tensor], classifies_tokens: bool
) -> FamilyWeights | None:
    """Return a classifier's weights in the common shape, or None where the packed encoders do not do all of it.

    Args:
        config, tensors: see ``WeightReader``.
        classifies_tokens: whether it is a token classifier.

    Raises:
        KeyError: a weight is missing, or has another shape than the configuration says.
    """
    if fast_path_fault(config):
        return None
    family = family_of(config)
    return READERS[family.kind](family, WeightReader(family.names, config, tensors), classifies_tokens)


def family_weights(model: torch.nn.Module) -> FamilyWeights | None:
    """Return the weights of a module in the common shape, or None where the packed encoders do not do all of it."""
    classifies_tokens = type(model).__name__.endswith("ForTokenClassification")
    return read_family(model.config, model.state_dict(), classifies_tokens)


def read_post_norm(family: Family, read: WeightReader, classifies_tokens: bool) -> FamilyWeights:
    """Return a classifier's weights; raises KeyError as the reader does."""
    config, names = read.config, read.names
    hidden, eps = config.hidden_size, _eps(config)
    width = getattr(config, "embedding_size", hidden)
    word = read.table("word_embeddings", config.vocab_size, width)
    if family.has_types:
        types = read.table("token_type_embeddings", config.type_vocab_size, width)
    else:
        types = word.new_zeros(1, width)
    dense = None if classifies_tokens else read.linear(names.dense, hidden, hidden)
    classifier = "classifier" if classifies_tokens else names.classifier
    inner = getattr(config, family.inner_field)
    return FamilyWeights(
        word=word,
        position=read.table("position_embeddings", config.max_position_embeddings, width),
        token_type=types,
        position_offset=first_position(config),
        longest=config.max_position_embeddings - first_position(config),
        embedding_norm=read.norm(f"{names.base}.embeddings.LayerNorm", width, eps),
        projection=None if width == hidden else read.linear(f"{names.base}.embeddings_project", hidden, width),
        layers=tuple(_read_layer(read, index, hidden, inner) for index in range(config.num_hidden_layers)),
        final_norm=None,
        heads=config.num_attention_heads,
        activation=ACTIVATIONS[activation_of(config)],
        pooling="none" if classifies_tokens else "first",
        head=dense,
        head_activation=None if classifies_tokens else names.head_activation,
        head_norm=None,
        classifier=read.linear(classifier, config.num_labels, hidden),
    )


def _eps(config) -> float:
    return getattr(config, "layer_norm_eps", 1e-12)  # DistilBERT's is fixed


def _read_layer(read: WeightReader, index: int, hidden: int, inner: int) -> PostNormLayer:
    outputs, inputs = {"intermediate": inner}, {"output": inner}
    parts: dict[str, Any] = {}
    for part in read.names.layer:
        path = read.layer_name(index, part)
        if part.endswith("norm"):
            parts[part] = read.norm(path, hidden, _eps(read.config))
        else:
            parts[part] = read.linear(path, outputs.get(part, hidden), inputs.get(part, hidden))
    return PostNormLayer(**parts)


def read_pre_norm(family: Family, read: WeightReader, classifies_tokens: bool) -> FamilyWeights:
    """Return a classifier's weights; raises KeyError as the reader does."""
    config, names, hidden = read.config, read.names, read.config.hidden_size
    word = read.table("tok_embeddings", config.vocab_size, hidden)
    nothing = word.new_zeros(1, hidden)

    def norm(name: str) -> LayerNorm:
        return read.norm(name, hidden, config.norm_eps, config.norm_bias)

    def layer(index: int, window: int | None, theta: float) -> PreNormLayer:
        name, inner = partial(read.layer_name, index), config.intermediate_size
        return PreNormLayer(
            attention_norm=norm(name("attention_norm")) if index else None,
            qkv=read.linear(name("qkv"), 3 * hidden, hidden, config.attention_bias),
            attention_output=read.linear(name("attention_output"), hidden, hidden, config.attention_bias),
            window=window,
            theta=theta,
            feed_forward_norm=norm(name("feed_forward_norm")),
            gated=read.linear(name("gated"), 2 * inner, hidden, config.mlp_bias),
            output=read.linear(name("output"), hidden, inner, config.mlp_bias),
        )

    return FamilyWeights(
        word=word,
        position=nothing,
        token_type=nothing,
        position_offset=0,
        longest=config.max_position_embeddings,
        embedding_norm=norm(f"{names.base}.embeddings.norm"),
        projection=None,
        layers=tuple(layer(index, *one) for index, one in enumerate(family.attention(config))),
        final_norm=norm(f"{names.base}.final_norm"),
        heads=config.num_attention_heads,
        activation=ACTIVATIONS[activation_of(config)],
        pooling="none" if classifies_tokens else "mean" if config.classifier_pooling == "mean" else "first",
        head=read.linear(names.dense, hidden, hidden, config.classifier_bias),
        head_activation=config.classifier_activation,
        head_norm=norm("head.norm"),
        classifier=read.linear(names.classifier, config.num_labels, hidden),
    )


READERS = {"post_norm": read_post_norm, "pre_norm": read_pre_norm}
"""``Family.kind`` -> the function that reads such weights."""
