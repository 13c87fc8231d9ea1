"""Where each encoder family keeps its weights: BERT, RoBERTa, DistilBERT and ELECTRA in one common shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .family_rules import ACTIVATIONS, activation_of, fast_path_fault, first_position


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One transformer block. Matrices are [out, in]; H hidden, F feed-forward size."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.LayerNorm
    intermediate: nn.Linear
    output: nn.Linear
    output_norm: nn.LayerNorm


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
    embedding_norm: nn.LayerNorm
    projection: nn.Linear | None
    layers: tuple[LayerWeights, ...]
    heads: int
    activation: str
    head: nn.Linear | None
    head_activation: str | None
    classifier: nn.Linear


def classifies_tokens(model: nn.Module) -> bool:
    """Whether a model is an ``AutoModelForTokenClassification`` one."""
    return type(model).__name__.endswith("ForTokenClassification")


def _head(model, dense: str, activation: str, classifier: str = "classifier") -> tuple:
    """Dense layer, activation and classifier of a sequence classifier, by their names; of tokens: the last alone."""
    if classifies_tokens(model):
        return None, None, model.classifier
    return model.get_submodule(dense), activation, model.get_submodule(classifier)


def _bert_layer(layer) -> LayerWeights:
    attention = layer.attention
    return LayerWeights(
        attention.self.query,
        attention.self.key,
        attention.self.value,
        attention.output.dense,
        attention.output.LayerNorm,
        layer.intermediate.dense,
        layer.output.dense,
        layer.output.LayerNorm,
    )


def _distilbert_layer(layer) -> LayerWeights:
    attention, ffn = layer.attention, layer.ffn
    return LayerWeights(
        attention.q_lin,
        attention.k_lin,
        attention.v_lin,
        attention.out_lin,
        layer.sa_layer_norm,
        ffn.lin1,
        ffn.lin2,
        layer.output_layer_norm,
    )


def _bert_like(model, base, head, head_activation, classifier) -> FamilyWeights:
    embeddings, config = base.embeddings, model.config
    return FamilyWeights(
        word=embeddings.word_embeddings.weight,
        position=embeddings.position_embeddings.weight,
        token_type=embeddings.token_type_embeddings.weight,
        position_offset=first_position(config),
        embedding_norm=embeddings.LayerNorm,
        projection=getattr(base, "embeddings_project", None),
        layers=tuple(_bert_layer(layer) for layer in base.encoder.layer),
        heads=config.num_attention_heads,
        activation=ACTIVATIONS[activation_of(config)],
        head=head,
        head_activation=head_activation,
        classifier=classifier,
    )


def _bert(model) -> FamilyWeights:
    return _bert_like(model, model.bert, *_head(model, "bert.pooler.dense", "tanh"))


def _roberta(model) -> FamilyWeights:
    return _bert_like(model, model.roberta, *_head(model, "classifier.dense", "tanh", "classifier.out_proj"))


def _electra(model) -> FamilyWeights:
    return _bert_like(model, model.electra, *_head(model, "classifier.dense", "gelu", "classifier.out_proj"))


def _distilbert(model) -> FamilyWeights:
    base, config = model.distilbert, model.config
    word = base.embeddings.word_embeddings.weight
    head, head_activation, classifier = _head(model, "pre_classifier", "relu")
    return FamilyWeights(
        word=word,
        position=base.embeddings.position_embeddings.weight,
        token_type=torch.zeros(1, word.shape[1], dtype=word.dtype),
        position_offset=0,
        embedding_norm=base.embeddings.LayerNorm,
        projection=None,
        layers=tuple(_distilbert_layer(layer) for layer in base.transformer.layer),
        heads=config.n_heads,
        activation=ACTIVATIONS[activation_of(config)],
        head=head,
        head_activation=head_activation,
        classifier=classifier,
    )


FAMILIES = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "distilbert": _distilbert,
    "electra": _electra,
}


def family_weights(model: nn.Module) -> FamilyWeights | None:
    """The common shape of a sequence or token classifier of transformers, or None where the packed encoders do not do
    all that its configuration asks for."""
    return None if fast_path_fault(model.config) else FAMILIES[model.config.model_type](model)
