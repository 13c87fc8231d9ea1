"""Parameters drawn anew: as the model's own class draws them, and nothing else is touched."""

import pytest
import torch
from any_family import AROUND, FAMILIES, Family
from transformers import AutoModelForSequenceClassification

from fastmask.models.weights import is_head, redrawn

pytestmark = pytest.mark.usefixtures("one_thread")
FAST = [Family(name, AROUND) for name in ("bert", "roberta", "distilbert", "electra")]


@pytest.mark.parametrize("family", FAST + FAMILIES, ids=lambda family: family.name)
def test_a_new_head(family):
    model = family.model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=3.0)  # no new parameter is like that
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = {name for name, _ in model.named_parameters() if is_head(model, name)}
    torch.manual_seed(0)
    fresh = AutoModelForSequenceClassification.from_config(model.config).state_dict()
    drawn = redrawn(model, names, seed=1).state_dict()
    assert names and drawn.keys() == old.keys()
    for name, tensor in drawn.items():
        if name not in names:
            assert torch.equal(tensor, old[name]), name
        elif fresh[name].std() == 0:  # a bias of zeros, or a norm's scale of ones
            assert torch.equal(tensor, fresh[name]), name
        else:
            assert not torch.equal(tensor, fresh[name]) and abs(tensor.mean()) < 1, name
            assert tensor.std().item() == pytest.approx(fresh[name].std().item(), rel=0.6), name


def test_a_seed_draws_one_head():
    heads = []
    for seed in (1, 1, 2):
        model = FAST[0].model()
        heads.append(redrawn(model, ["classifier.weight"], seed).classifier.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
