"""ELECTRA: embeddings may be narrower than the blocks."""

from __future__ import annotations

from ..family import Family, Names
from .bert import LAYER, ROWS_ALONE


class Electra(Family):
    """A dense layer of gelu inside the classifier."""

    names = Names("electra", "encoder.layer", LAYER, "classifier.dense", "gelu", "classifier.out_proj", ("generator_",))
    rows_alone = ROWS_ALONE

    def vocabulary_logits(self, model, hidden):
        """See ``Family.vocabulary_logits``."""
        return model.generator_lm_head(model.generator_predictions(hidden))


FAMILY = Electra()
