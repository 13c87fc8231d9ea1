"""BERT, and what it shares with those that took its blocks over."""

from __future__ import annotations

from types import MappingProxyType

from ..family import Family, Names

LAYER = MappingProxyType(
    {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
        "output_norm": "output.LayerNorm",
    }
)
ROWS_ALONE = "attention.output"


class Bert(Family):
    """A pooler of tanh under the classifier."""

    names = Names("bert", "encoder.layer", LAYER, "bert.pooler.dense", "tanh", "classifier", ("cls.",))
    rows_alone = ROWS_ALONE

    def class_logits(self, model, first):
        """See ``Family.class_logits``."""
        return model.classifier(model.dropout(model.bert.pooler(first[:, None])))

    def vocabulary_logits(self, model, hidden):
        """See ``Family.vocabulary_logits``."""
        return model.cls(hidden)


FAMILY = Bert()
