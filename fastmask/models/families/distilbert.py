"""DistilBERT: no token types, and names of its own."""

from __future__ import annotations

from types import MappingProxyType

from ..family import Family, Names

LAYER = MappingProxyType(
    {
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "intermediate": "ffn.lin1",
        "output": "ffn.lin2",
        "output_norm": "output_layer_norm",
    }
)


class DistilBert(Family):
    """A dense layer of relu under the classifier."""

    names = Names("distilbert", "transformer.layer", LAYER, "pre_classifier", "relu", "classifier", ("vocab_",))
    has_types = False
    activation_field = "activation"
    inner_field = "hidden_dim"

    def class_logits(self, model, first):
        """See ``Family.class_logits``."""
        return model.classifier(model.dropout(model.pre_classifier(first).relu()))

    def vocabulary_logits(self, model, hidden):
        """See ``Family.vocabulary_logits``."""
        transformed = model.activation(model.vocab_transform(hidden))
        return model.vocab_projector(model.vocab_layer_norm(transformed))


FAMILY = DistilBert()
