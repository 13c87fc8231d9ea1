"""Classifiers of many families: scores and masks are those of the model's own forward, one variant at a time."""

import copy

import numpy as np
import pytest
import torch
from any_family import (
    AFTER,
    AROUND,
    BEFORE,
    EOS,
    FAMILIES,
    FIRST_WORD,
    NOTHING,
    PAD,
    VOCABULARY,
    Family,
    alone,
)
from helpers import encoded, masks_of

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError
from fastmask.scoring.engine import Engine, score_certain
from fastmask.scoring.method import load_method

pytestmark = pytest.mark.usefixtures("one_thread")
THRESHOLD = 0.05
WORDS = np.random.default_rng(3).integers(FIRST_WORD, VOCABULARY, 40).tolist()
SENTENCES = [WORDS[:9], WORDS[9:13], [*WORDS[13:16], EOS, *WORDS[16:18]], [PAD, *WORDS[18:21], PAD], [WORDS[21]]]
"""With ends and padding among the words, and one of a single word."""
ONLY_FLOAT32 = ("mixtral",)


def engine_of(model, template, calibration=160, **options) -> Engine:
    options = {"precision": "float32", "max_length": 40, "threads": 1, "threshold": THRESHOLD} | options
    config = ScoreConfig(**options)
    nothing = np.zeros((2, VOCABULARY), bool)
    return Engine(load_method(config), model, template, config, nothing, calibration=calibration)


def greedy(probability, words) -> tuple[list[float], list[int]]:
    """P(y | s' w) of each word, and the important ones: the paper's rule, as it stands there."""
    full, buffer, steps, important = probability(words), [], [], []
    for position, word in enumerate(words):
        steps.append(probability([*buffer, word]))
        if full - steps[-1] < THRESHOLD:
            important.append(position)
        else:
            buffer.append(word)
    return steps, important


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_greedy_is_the_models_own_forward(family):
    model = family.model()
    exact = copy.deepcopy(model).to(torch.float32 if family.name in ONLY_FLOAT32 else torch.float64)
    engine = engine_of(model, family.template)
    assert engine.levels[-1] == ("float32" if family.name in ONLY_FLOAT32 else "float64")
    found, _ = score_certain(engine, encoded(SENTENCES))
    step = found.prob[np.repeat(np.arange(len(SENTENCES)), [len(s) for s in SENTENCES])] - found.importance
    expected = []
    for words in SENTENCES:
        target = int(alone(exact, family.template, words).argmax())
        expected.append(greedy(lambda text, y=target: alone(exact, family.template, text)[y], words))
    np.testing.assert_allclose(step, np.concatenate([steps for steps, _ in expected]), atol=2e-5)
    assert masks_of(found) == [important for _, important in expected]


def test_a_text_left_without_a_token_is_not_asked_about():
    """Leave-one-out of one word, with nothing around it: no model says anything of that."""
    model = Family("gpt2", NOTHING, {"pad_token_id": None}).model()
    found, _ = score_certain(engine_of(model, NOTHING, method="leave-one-out"), encoded([[7], [8, 9]]))
    assert found.scored.tolist() == [False, True]
    both = alone(model.double(), NOTHING, [8, 9])
    left = [alone(model, NOTHING, [9]), alone(model, NOTHING, [8])]
    np.testing.assert_allclose(found.importance[1:], [(both - one)[both.argmax()] for one in left], atol=1e-5)
    with_end, _ = score_certain(engine_of(Family("t5", AFTER, {"decoder_start_token_id": PAD}).model(), AFTER,
                            method="leave-one-out"), encoded([[7]]))  # fmt: skip
    assert with_end.scored.all()


def test_a_model_that_remembers_is_refused():
    """BigBird's sparse attention is given up for good at the first short text; where no text is long it never runs."""
    family = Family("big_bird", AROUND, {"block_size": 2, "num_random_blocks": 1})
    with pytest.raises(FastmaskError, match="cannot be scored with: asked the same again it gives another answer"):
        engine_of(family.model(), AROUND)
    engine_of(family.model(), AROUND, max_length=12)


def test_a_model_that_draws_is_refused():
    sizes = {
        "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [8, 8], "attn_layers": ["lsh"], "num_buckets": 2,
        "attention_head_size": 8, "feed_forward_size": 24, "lsh_attn_chunk_length": 4, "is_decoder": False,
    }  # fmt: skip
    with pytest.raises(FastmaskError, match="gives another answer"):
        engine_of(Family("reformer", AROUND, sizes).model(), AROUND)


class Mixer(torch.nn.Module):
    """A classifier whose answers depend on the texts beside them."""

    def __init__(self):
        super().__init__()
        self.config = Family("gpt2", NOTHING).config()
        self.table = torch.nn.Embedding(VOCABULARY, 3)

    def forward(self, input_ids, return_dict=True):
        logits = self.table(input_ids).mean(dim=(0, 1), keepdim=True)
        return type("Output", (), {"logits": logits.expand(len(input_ids), 1, 3)[:, 0]})


def test_a_model_that_mixes_texts_is_refused():
    with pytest.raises(FastmaskError, match="a text's answer depends on the texts beside it"):
        engine_of(Mixer(), BEFORE)


def test_precisions_that_a_model_cannot_run_in():
    model = Family("mixtral", BEFORE, {"pad_token_id": None, "num_local_experts": 2}).model()
    engine = engine_of(model, BEFORE)
    assert engine.levels == ("float32",) and engine.describe()["highest_precision"] == "float32"
    assert engine.backend.remark.startswith("the model cannot run in float64")
    fnet = Family("fnet", AROUND).model()
    with pytest.raises(FastmaskError, match=r"--precision bfloat16: the model cannot run in bfloat16: .*; use auto"):
        engine_of(fnet, AROUND, precision="bfloat16")
    assert engine_of(fnet, AROUND, precision="auto").levels == ("float32", "float64")
    assert "highest_precision" not in engine_of(fnet, AROUND).describe()


def test_two_levels_that_end_at_float32():
    """bfloat16 is calibrated and decides what it can; the rest is float32's."""
    family = Family("mixtral", BEFORE, {"pad_token_id": None, "num_local_experts": 2})
    model = family.model()
    engine = engine_of(model, BEFORE, calibration=4, precision="bfloat16")
    assert engine.levels == ("bfloat16", "float32")
    found, bounds = score_certain(engine, encoded(SENTENCES))
    assert bounds.levels == engine.levels
    assert masks_of(found) == masks_of(score_certain(engine_of(model, BEFORE), encoded(SENTENCES))[0])
