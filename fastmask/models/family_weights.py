"""The weights of the encoder families, whatever they call them, in one common shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .family import Family, family_of
from .family_rules import ACTIVATIONS, activation_of, fast_path_fault, first_position

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Linear(NamedTuple):
    """A linear layer: weight [out, in], bias [out]."""

    weight: torch.Tensor
    bias: torch.Tensor


class LayerNorm(NamedTuple):
    """A layer norm over the last dimension: weight [H], bias [H]."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One transformer block. Matrices are [out, in]; H hidden, F feed-forward size."""

    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: LayerNorm
    intermediate: Linear
    output: Linear
    output_norm: LayerNorm


@dataclass(frozen=True, slots=True)
class FamilyWeights:
    """A post-norm encoder with a classification head on its first token, or on every one.

    Attributes:
        word, position, token_type: float tables [*, E]; ``token_type`` is one zero row where the family has none.
        position_offset: position id of the first token; see ``family_rules.position_ids``.
        embedding_norm: layer norm after the sum of the three.
        projection: E -> H, or None where E = H.
        head: the dense layer before the classifier of a sequence, None in front of the classifier of every token.
        head_activation: "tanh", "relu" or "gelu"; None without a dense layer.
        activation: one of ACTIVATIONS' values.
    """

    word: torch.Tensor
    position: torch.Tensor
    token_type: torch.Tensor
    position_offset: int
    embedding_norm: LayerNorm
    projection: Linear | None
    layers: tuple[LayerWeights, ...]
    heads: int
    activation: str
    head: Linear | None
    head_activation: str | None
    classifier: Linear

    def to(self, device: str) -> FamilyWeights:
        """Return the same weights on a device."""
        return _to(self, device)


def _to(value, device: str):
    """Move every tensor in a value made of these classes."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, FamilyWeights | LayerWeights):
        return replace(value, **{field.name: _to(getattr(value, field.name), device) for field in fields(value)})
    if isinstance(value, Linear | LayerNorm):
        return type(value)(*(_to(part, device) for part in value))
    return tuple(_to(part, device) for part in value) if isinstance(value, tuple) else value


class _Reader:
    """Weights by name, each checked for the shape that the configuration gives it.

    Raises (from its methods):
        KeyError: there is no such weight, or it has another shape.
    """

    def __init__(self, family: Family, config: PretrainedConfig, tensors: Mapping[str, torch.Tensor]):
        self.names, self.config, self.tensors = family.names, config, tensors
        self.eps = getattr(config, "layer_norm_eps", 1e-12)  # DistilBERT's is fixed

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """Return a weight by its full name."""
        found = self.tensors[name].detach()
        if found.shape != shape:
            raise KeyError(name)
        return found

    def table(self, name: str, rows: int, width: int) -> torch.Tensor:
        """Return an embedding table [rows, width]."""
        return self.tensor(f"{self.names.base}.embeddings.{name}.weight", rows, width)

    def linear(self, name: str, outputs: int, inputs: int) -> Linear:
        """Return a linear layer."""
        return Linear(self.tensor(f"{name}.weight", outputs, inputs), self.tensor(f"{name}.bias", outputs))

    def norm(self, name: str, width: int) -> LayerNorm:
        """Return a layer norm."""
        return LayerNorm(self.tensor(f"{name}.weight", width), self.tensor(f"{name}.bias", width), self.eps)

    def layer(self, index: int, hidden: int, inner: int) -> LayerWeights:
        """Return one transformer block."""
        outputs, inputs = {"intermediate": inner}, {"output": inner}
        parts: dict[str, Any] = {}
        for part, name in self.names.layer.items():
            path = f"{self.names.base}.{self.names.layers}.{index}.{name}"
            if part.endswith("norm"):
                parts[part] = self.norm(path, hidden)
            else:
                parts[part] = self.linear(path, outputs.get(part, hidden), inputs.get(part, hidden))
        return LayerWeights(**parts)


def read_family(
    config: PretrainedConfig, tensors: Mapping[str, torch.Tensor], classifies_tokens: bool
) -> FamilyWeights | None:
    """Return a classifier's weights in the common shape, or None where the packed encoders do not do all of it.

    Args:
        config: the model's.
        tensors: the weights by name, as ``model.safetensors`` has them; each is asked for once and kept in its dtype.
        classifies_tokens: whether it is a token classifier.

    Raises:
        KeyError: a weight is missing, or has another shape than the configuration says.
    """
    if fast_path_fault(config):
        return None
    family = family_of(config)
    names, read = family.names, _Reader(family, config, tensors)
    hidden, inner = config.hidden_size, getattr(config, family.inner_field)
    width = getattr(config, "embedding_size", hidden)
    word = read.table("word_embeddings", config.vocab_size, width)
    if family.has_types:
        types = read.table("token_type_embeddings", config.type_vocab_size, width)
    else:
        types = word.new_zeros(1, width)
    classes = config.num_labels
    dense = None if classifies_tokens else read.linear(names.dense, hidden, hidden)
    classifier = "classifier" if classifies_tokens else names.classifier
    return FamilyWeights(
        word=word,
        position=read.table("position_embeddings", config.max_position_embeddings, width),
        token_type=types,
        position_offset=first_position(config),
        embedding_norm=read.norm(f"{names.base}.embeddings.LayerNorm", width),
        projection=None if width == hidden else read.linear(f"{names.base}.embeddings_project", hidden, width),
        layers=tuple(read.layer(index, hidden, inner) for index in range(config.num_hidden_layers)),
        heads=config.num_attention_heads,
        activation=ACTIVATIONS[activation_of(config)],
        head=dense,
        head_activation=None if classifies_tokens else names.head_activation,
        classifier=read.linear(classifier, classes, hidden),
    )


def family_weights(model: torch.nn.Module) -> FamilyWeights | None:
    """Return the weights of a module in the common shape, or None where the packed encoders do not do all of it."""
    classifies_tokens = type(model).__name__.endswith("ForTokenClassification")
    return read_family(model.config, model.state_dict(), classifies_tokens)
