"""The rule of methods that rank by a number for each token, in plain Python, and small sentences to try it on."""

import numpy as np
from encoder_samples import VOCABULARY

from fastmask.core.config import ScoreConfig
from fastmask.models.packing import Template
from fastmask.scoring.engine import Engine
from fastmask.scoring.method import load_method

# special tokens that no family takes for padding
CLS, SEP, MASK, FIRST_ID = 5, 6, 7, 8
NOTHING = np.empty(0, np.int32)
WORDS = np.arange(FIRST_ID, FIRST_ID + 4, dtype=np.int32)
AROUND = np.array([CLS], np.int32), NOTHING, np.array([SEP], np.int32)
TEXT_TEMPLATE = Template(*AROUND, 0, words=WORDS, mask=MASK)
STOP = np.zeros(VOCABULARY, bool)
STOP[10:40] = True


def rule(importance, words, stop=STOP, rate=0.15) -> list[int]:
    """At most max(1, int(rate * n)) of a sentence's tokens that are no stop words, the largest importance first."""
    found = [i for i in range(len(importance)) if not stop[words[i]]]
    found.sort(key=lambda i: (-round(importance[i], 9), i))
    return sorted(found[: max(1, int(rate * len(words) + 1e-9))])


def sentences_of(count=40, longest=20, seed=0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_ID, VOCABULARY, n).tolist() for n in rng.integers(1, longest, count)]


def engine_of(method, model, template=TEXT_TEMPLATE, stop=STOP, calibration=24, **options) -> Engine:
    config = ScoreConfig(**{"model": "m", "method": method, "device": "cpu", "threads": 1} | options)
    return Engine(load_method(config), model, template, config, np.tile(stop, (2, 1)), calibration=calibration)
