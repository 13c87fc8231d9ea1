"""ModernBERT, and mmBERT, which is one with another tokenizer."""

from __future__ import annotations

from types import MappingProxyType

from ..family import Family, Names

LAYER = MappingProxyType(
    {
        "attention_norm": "attn_norm",
        "qkv": "attn.Wqkv",
        "attention_output": "attn.Wo",
        "feed_forward_norm": "mlp_norm",
        "gated": "mlp.Wi",
        "output": "mlp.Wo",
    }
)
LOCAL, GLOBAL = "sliding_attention", "full_attention"
HEAD_ACTIVATIONS = ("gelu", "relu", "tanh")


class ModernBert(Family):
    """A dense layer, an activation and a norm before the classifier of sequences, of tokens and of the vocabulary."""

    names = Names("model", "layers", LAYER, "head.dense", "", "classifier", ("head.", "decoder."))
    kind = "pre_norm"
    has_types = False
    activation_field = "hidden_activation"

    def packing_fault(self, config):
        """See ``Family.packing_fault``; mmBERT has a ``position_embedding_type``, which nothing reads."""
        return None

    def fault(self, config):
        """See ``Family.fault``."""
        if config.classifier_activation not in HEAD_ACTIVATIONS:
            return "classifier_activation"
        if config.classifier_pooling not in ("cls", "mean"):
            return "classifier_pooling"
        kinds = {*config.layer_types}
        if not kinds <= {LOCAL, GLOBAL} or len(config.layer_types) != config.num_hidden_layers:
            return "layer_types"
        if not all(_is_plain(config.rope_parameters[kind]) for kind in kinds):
            return "rope_parameters"
        if type(config.local_attention) is not int or config.local_attention < 0:
            return "local_attention"
        size, rest = divmod(config.hidden_size, 2 * config.num_attention_heads)
        return "head_dim" if rest or getattr(config, "head_dim", None) not in (None, 2 * size) else None

    def attention(self, config):
        """See ``Family.attention``."""
        window = {LOCAL: config.local_attention // 2, GLOBAL: None}
        return [(window[kind], float(config.rope_parameters[kind]["rope_theta"])) for kind in config.layer_types]

    def rows_read(self, model, bounds):
        """See ``Family.rows_read``."""
        return None if model.config.classifier_pooling == "mean" else super().rows_read(model, bounds)

    def pooled(self, hidden, bounds):
        """See ``Family.pooled``."""
        import torch

        lengths = bounds.diff()
        number = torch.arange(len(lengths), device=bounds.device)
        number = number.repeat_interleave(lengths, output_size=len(hidden))
        sums = hidden.new_zeros(len(lengths), hidden.shape[1]).index_add(0, number, hidden)
        return sums / lengths[:, None]

    def class_logits(self, model, pooled):
        """See ``Family.class_logits``."""
        return model.classifier(model.drop(model.head(pooled)))

    token_logits = class_logits

    def vocabulary_logits(self, model, hidden):
        """See ``Family.vocabulary_logits``."""
        return model.decoder(model.head(hidden))


def _is_plain(rotary: dict) -> bool:
    """Return whether angles follow from a base alone."""
    theta = rotary.get("rope_theta")
    return rotary.get("rope_type", "default") == "default" and isinstance(theta, int | float) and theta > 0


FAMILY = ModernBert()
