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
    "modernbert": "modernbert",
}
"""``model_type`` of a configuration -> file in ``families/``."""


@dataclass(frozen=True, slots=True)
class Names:
    """How a family names its weights in a file.

    Attributes:
        base: in front of every name but the head's.
        layers: of the list of blocks, below ``base``.
        layer: of a block's parts, by the fields of the block's class in ``family_weights``.
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
    """An encoder, of BERT's kind unless its file says otherwise. A subclass is one file in ``families/``.

    The file names an instance ``FAMILY``.


    Attributes:
        names: of its weights.
        kind: of its blocks: "post_norm" is BERT's, "pre_norm" ModernBERT's.
        has_types: whether it has token types.
        rows_alone: name, within a block, of the module that is given attention's output and the block's input; from
            there on each row is computed by itself. None: there is no such module.
        skips_padding: whether positions count from the padding id + 1, past padding ids that stand in the text.
        activation_field, inner_field: of its configuration: the activation between the feed-forward layers, and the
            size there.
    """

    names: Names
    kind = "post_norm"
    has_types = True
    rows_alone: str | None = None
    skips_padding = False
    activation_field = "hidden_act"
    inner_field = "intermediate_size"

    def packing_fault(self, config: PretrainedConfig) -> str | None:
        """Return the field that keeps the family's own modules from packed rows; None where none does."""
        if getattr(config, "position_embedding_type", None) not in ("absolute", None):
            return "position_embedding_type"
        unusable = self.skips_padding and (config.pad_token_id is None or config.pad_token_id < -1)
        return "pad_token_id" if unusable else None

    def fault(self, config: PretrainedConfig) -> str | None:
        """Return the field that keeps a model which runs packed off the encoders for scoring; None where none does."""
        return None

    def attention(self, config: PretrainedConfig) -> list[tuple[int | None, float]]:
        """Return each block's window, None for a whole sequence, and base of the rotary angles, where it has some."""
        raise NotImplementedError

    def rows_read(self, model: torch.nn.Module, bounds: torch.Tensor) -> torch.Tensor | None:
        """Return the rows int64 [B] whose last states a sequence classifier reads; None for ``pooled`` of all rows.

        Args:
            model: a sequence classifier.
            bounds: int64 [B + 1], where each sequence begins; the last is T.
        """
        return bounds[:-1]

    def pooled(self, hidden: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """Return what a sequence classifier reads [B, H] of last states [T, H]; bounds as ``rows_read`` has them."""
        raise NotImplementedError

    def class_logits(self, model: torch.nn.Module, pooled: torch.Tensor) -> torch.Tensor:
        """Return a sequence classifier's logits [B, C] of ``pooled`` [B, H], with dropout."""
        return model.classifier(pooled[:, None])

    def token_logits(self, model: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Return a token classifier's logits [T, C] of last states [T, H], with dropout."""
        return model.classifier(model.dropout(hidden))

    def vocabulary_logits(self, model: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Return a masked-language model's logits [M, V] of last states [M, H]."""
        raise NotImplementedError


def family_of(config: PretrainedConfig) -> Family:
    """Return the family of a model by its configuration, whose type is one of FAMILIES."""
    return import_module(f".families.{FAMILIES[config.model_type]}", __package__).FAMILY
