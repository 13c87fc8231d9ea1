"""RoBERTa, XLM-RoBERTa and CamemBERT: positions begin after the padding id."""

from __future__ import annotations

from ..family import Family, Names
from .bert import LAYER, ROWS_ALONE


class Roberta(Family):
    """A dense layer of tanh inside the classifier."""

    names = Names("roberta", "encoder.layer", LAYER, "classifier.dense", "tanh", "classifier.out_proj", ("lm_head.",))
    rows_alone = ROWS_ALONE
    skips_padding = True

    def vocabulary_logits(self, model, hidden):
        """See ``Family.vocabulary_logits``."""
        return model.lm_head(hidden)


FAMILY = Roberta()
