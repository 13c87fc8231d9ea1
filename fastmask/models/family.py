"""What an encoder family is made of; the rest of the package knows families by this alone. See ``families/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

FAMILIES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
    "electra": "electra",
}
"""``model_type`` of a configuration -> file in ``families/``."""


@dataclass(frozen=True, slots=True)
class Names:
    """How a family names its weights in a file.

    Attributes:
        base: in front of every name but the head's.
        layers: of the list of blocks, below ``base``; layer: of a block's parts, by LayerWeights' fields.
        dense, head_activation, classifier: the head of a sequence classifier; full names.
        vocabulary: how the names of a masked-language model's head begin.
    """

    base: str
    layers: str
    layer: Mapping[str, str]
    dense: str
    head_activation: str
    classifier: str
    vocabulary: tuple[str, ...]


class Family:
    """A post-norm encoder of BERT's kind. A subclass is one file in ``families/``, which names an instance ``FAMILY``.

    Attributes:
        names: of its weights.
        has_types: whether it has token types.
        skips_padding: whether positions count from the padding id + 1, past padding ids that stand in the text.
        activation_field, inner_field: of its configuration: the activation between the feed-forward layers, and the
            size there.
    """

    names: Names
    has_types = True
    skips_padding = False
    activation_field = "hidden_act"
    inner_field = "intermediate_size"

    def class_logits(self, model: torch.nn.Module, first: torch.Tensor) -> torch.Tensor:
        """Return a sequence classifier's logits [B, C] of the last states of first tokens [B, H], with dropout."""
        return model.classifier(first[:, None])

    def vocabulary_logits(self, model: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Return a masked-language model's logits [M, V] of last states [M, H]."""
        raise NotImplementedError


def family_of(config: PretrainedConfig) -> Family:
    """Return the family of a model by its configuration, whose type is one of FAMILIES."""
    return import_module(f".families.{FAMILIES[config.model_type]}", __package__).FAMILY
