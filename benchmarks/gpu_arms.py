"""What the GPU suite compares on whole jobs: models of random weights, fastmask's engine, and padded batches."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import baselines
import bench_encoder as encoder
import gpu_text
import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig, ModernBertConfig

from fastmask.core.config import ScoreConfig
from fastmask.core.records import EncodedSentences, ScoredSentences
from fastmask.scoring.engine import Engine, score_certain
from fastmask.scoring.method import load_method

SHAPES: dict[str, dict[str, float]] = {
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                  "initializer_range": 0.03},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
               "initializer_range": 0.05},
    "modernbert-base": {"hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12,
                        "intermediate_size": 1152, "initializer_range": 0.02},
    "toy": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512,
            "initializer_range": 0.05},
    "modernbert-toy": {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 96,
                       "initializer_range": 0.05},
}  # fmt: skip
"""Weights are drawn wide enough that what a text says reaches [CLS]; with the usual 0.02 next to nothing does."""
SPREAD = 3.0
"""Standard deviation of the log-odds that the classifier is scaled to: a fine-tuned one's."""
IMPORTANT = 0.15, 0.45
"""Share of important tokens between which a model of random weights makes a fair job."""
SEEDS = range(5)
SPECIAL = 101, 102, 0
THRESHOLD = 0.05
MAX_LENGTH = 128
ROOM = MAX_LENGTH - 2
TIE = 1e-5  # a float32 probability so near the threshold may fall on either side
AT_ONCE = 4096  # sentences in lockstep from which the hf arms make batches of rows of like length


@dataclass(frozen=True, slots=True)
class Place:
    """Where whole jobs run.

    Attributes:
        device, kernels: as for ``ScoreConfig``; timed: whether clocks are read at all.
    """

    device: str
    kernels: str
    timed: bool

    def run(self, work: Callable[[], object]) -> tuple[object, float | None]:
        """The result of ``work`` and its seconds, until the device is done; None where nothing is timed."""
        self._wait()
        start = time.perf_counter()
        result = work()
        self._wait()
        return result, time.perf_counter() - start if self.timed else None

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def forget_peak(self) -> None:
        """Let ``peak_mb`` count from here."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_mb(self) -> float | None:
        """The most memory that tensors held on the device."""
        return torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else None

    def engine(self, model, method: str, **options) -> Engine:
        """An engine for plain text in BERT's vocabulary, without stop words."""
        here = {"device": self.device, "kernels": self.kernels, "model": "random weights"} | options
        config = ScoreConfig(method=method, threshold=THRESHOLD, max_length=MAX_LENGTH, stop_words="none", **here)
        return Engine(load_method(config), model, gpu_text.TEMPLATE, config, np.zeros((2, gpu_text.VOCABULARY), bool))


def config_of(shape: str) -> BertConfig | ModernBertConfig:
    """A shape's configuration, in BERT's vocabulary."""
    start, end, pad = SPECIAL
    special = {
        "pad_token_id": pad,
        "bos_token_id": start,
        "cls_token_id": start,
        "eos_token_id": end,
        "sep_token_id": end,
    }
    kind = ModernBertConfig if shape.startswith("modernbert") else BertConfig
    return kind(**SHAPES[shape], **special, vocab_size=gpu_text.VOCABULARY, num_labels=2)


def random_filler(shape: str):
    """A float32 masked-language model with random weights, on the CPU."""
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(config_of(shape)).float().eval()


def random_model(shape: str, seed: int, place: Place, sample: EncodedSentences):
    """A float32 classifier with random weights on the CPU, its classes about even and SPREAD apart on ``sample``."""
    torch.manual_seed(seed)
    kind = AutoModelForSequenceClassification
    model = kind.from_config(config_of(shape), attn_implementation="sdpa").float().eval()
    rows = [ids.tolist() for ids in baselines.rows_of(sample)]
    classify = baselines.PaddedClassifier(copy.deepcopy(model).to(place.device), SPECIAL, 64, None, 1)
    p = classify([row[:end] for row in rows for end in (1, 2, 4, 8, 16, len(row))])
    z = np.log(p[:, 1] / p[:, 0])
    centre = torch.tensor([z.mean() / 2, -z.mean() / 2], dtype=torch.float32)
    with torch.no_grad():
        model.classifier.bias.add_(centre)
        for parameter in model.classifier.parameters():
            parameter.mul_(SPREAD / z.std())
    return model


def fair_model(shape: str, place: Place, sample: EncodedSentences) -> tuple[torch.nn.Module, dict]:
    """The model of the first seed by which greedy finds a fair share of the sample important, and what was tried."""
    tried = {}
    for seed in SEEDS if place.timed else SEEDS[:1]:
        model = random_model(shape, seed, place, sample)
        scored, _ = score_certain(place.engine(model, "greedy", certify=False), sample)
        tried[seed] = share = important_share(scored)
        if IMPORTANT[0] <= share <= IMPORTANT[1]:
            break
    fair = IMPORTANT[0] <= share <= IMPORTANT[1]
    made = f"random weights, classifier centred and scaled to a spread of {SPREAD} in log-odds, first fair seed"
    return model, {"shape": shape, **SHAPES[shape], "made": made, "important_by_seed": tried, "fair": fair}


def important_share(scored: ScoredSentences) -> float:
    """Share of the scored sentences' tokens that are masked."""
    return len(scored.mask_index) / max(1, int(np.diff(scored.sentences.offsets)[scored.scored].sum()))


def variants_of(method: str, ids: list[int], masked: set[int]) -> list[tuple[int, ...]]:
    """The content of every variant that a method asks about for a scored sentence, the whole sentence first.

    Of ``gradient`` that is all; ``entropy`` asks about nothing else, and each time hides another token.
    """
    found, kept = [tuple(ids[:ROOM])], []
    for position, token in enumerate(ids):
        if method == "greedy":
            found.append((*kept, token)[:ROOM])
            kept += [] if position in masked else [token]
        elif method == "prefix":
            found.append(tuple(ids[: position + 1][:ROOM]))
        elif method == "entropy":
            found.append(tuple(ids[:ROOM]))
        elif method == "leave-one-out":
            found.append((*ids[:position], *ids[position + 1 :])[:ROOM])
    return found[1:] if method == "entropy" else found


def work_of(method: str, scored: ScoredSentences) -> dict[str, int]:
    """Real tokens and variants that the method asks about, special tokens included, and the distinct ones' own."""
    tokens = variants = 0
    distinct = set()
    for ids, masked, asked in zip(baselines.rows_of(scored.sentences), masks_of(scored), scored.scored, strict=True):
        found = variants_of(method, ids.tolist(), set(masked))[: None if asked else 1]
        tokens, variants = tokens + sum(map(len, found)) + 2 * len(found), variants + len(found)
        distinct.update(found)
    return {
        "real_tokens": tokens, "variants": variants, "distinct_variants": len(distinct),
        "distinct_tokens": sum(map(len, distinct)) + 2 * len(distinct),
    }  # fmt: skip


def masks_of(scored: ScoredSentences) -> list[list[int]]:
    """Masked positions of each sentence."""
    return [scored.mask_index[a:b].tolist() for a, b in pairwise(scored.mask_offsets.tolist())]


def fastmask_job(model, method: str, place: Place, jobs: tuple[EncodedSentences, EncodedSentences], repeats: int):
    """The engine on ``jobs``: the warm-up's sentences, and those that count.

    Returns:
        what it did and, if timed, how fast: ``repeats`` runs of an engine made before the clock starts, calibration,
        rechecks and audit inside; the scores; and the error bounds that it ended with.
    """
    found, scored, bounds = repeated(lambda: place.engine(model, method), method, place, jobs, repeats)
    flops = encoder.shape_of(model).flops(found["distinct_tokens"], found["distinct_variants"])
    return found | {"useful_flops": flops}, scored, bounds


def repeated(engine_of: Callable[[], Engine], method: str, place: Place, jobs, repeats: int):
    """See ``fastmask_job``; ``engine_of`` makes an engine."""
    warm_up, sentences = jobs
    score_certain(engine_of(), warm_up)
    gc.collect()
    seconds, peaks = [], []
    for _ in range(repeats):
        engine = engine_of()
        place.forget_peak()
        (scored, bounds), took = place.run(partial(score_certain, engine, sentences, None))
        seconds.append(took)
        peaks.append(place.peak_mb())
        described = engine.describe()
        del engine
        gc.collect()
    certificate = scored.certificate
    found = {
        "method": method, "sentences": len(sentences), "engine": described, "important_share": important_share(scored),
        **work_of(method, scored), "certificate": certificate,
        "rechecked_share_by_level": rechecked_shares(certificate), "peak_mb": peaks,
    }  # fmt: skip
    return found | rates(found, seconds), scored, bounds


def rechecked_shares(certificate: dict) -> dict[str, float]:
    """Share of decisions that were taken again, by the precision that they were taken again at."""
    decisions = max(1, certificate.get("decisions", 0))
    return {level: count / decisions for level, count in certificate.get("rechecked", {}).items()}


def rates(found: dict, seconds: list[float | None]) -> dict:
    """Seconds of each run and their median, and by that sentences and real tokens a second; nothing of untimed runs."""
    if None in seconds:
        return {}
    median = float(np.median(seconds))
    return {
        "seconds": seconds,
        "median_seconds": median,
        "sentences_per_second": found["sentences"] / median,
        "real_tokens_per_second": found["real_tokens"] / median,
    }


@dataclass(frozen=True, slots=True)
class Padded:
    """A way of scoring with the Hugging Face model.

    Attributes:
        precision: of the whole model; batches: rows of a batch, the faster of several.
        pad_to: None pads to a batch's longest row; at_once: sentences in lockstep.
    """

    precision: str
    batches: tuple[int, ...]
    pad_to: int | None
    at_once: int


PADDED = {
    "padded": Padded("float32", (32,), MAX_LENGTH, 4 * 32),
    "hf-fp32": Padded("float32", (128, 512, 2048), None, AT_ONCE),
    "hf-fp16": Padded("float16", (128, 512, 2048), None, AT_ONCE),
}
"""``padded`` is the authors' procedure; a few batches are queued at once, so that the device need not wait."""


def padded_job(model, way: Padded, place: Place, jobs: tuple[EncodedSentences, EncodedSentences], budget: float):
    """The greedy rule by a padded way on the first sentences, as many as take about ``budget`` seconds.

    Returns:
        what it did and, if timed, how fast; and each sentence's progress, in order.
    """
    warm_up, sentences = jobs
    on_device = copy.deepcopy(model).to(device=place.device, dtype=encoder.DTYPES[way.precision])
    trial = trial_variants(warm_up, way.at_once if place.timed else 4)
    seconds = {}
    for batch in way.batches:
        classify = baselines.PaddedClassifier(on_device, SPECIAL, batch, way.pad_to, 1)
        classify(trial)
        seconds[batch] = place.run(partial(classify, trial))[1]
    batch = min(seconds, key=seconds.get) if place.timed else way.batches[0]
    classify = baselines.PaddedClassifier(on_device, SPECIAL, batch, way.pad_to, 1)
    count = affordable(sentences, seconds[batch] / len(trial), budget) if place.timed else len(sentences)
    some = encoder.sentences_at(sentences, np.arange(count))
    rule = partial(baselines.greedy, some, classify, THRESHOLD, ROOM, way.at_once)
    done, took = place.run(rule)
    found = {"precision": way.precision, "batch": batch, "pad_to": way.pad_to, "sentences": count,
             "of_sentences": len(sentences), "real_tokens": sum(one.tokens for one in done)}  # fmt: skip
    return found | rates(found, [took]), done


def trial_variants(sentences: EncodedSentences, count: int) -> list[list[int]]:
    """Variants of the lengths that greedy makes: prefixes with every fourth token left out."""
    rows = [ids.tolist() for ids in baselines.rows_of(sentences)]
    rows = [[token for n, token in enumerate(ids[:end]) if n % 4] for ids in rows for end in range(1, len(ids) + 1)]
    return [rows[n % len(rows)] for n in np.random.default_rng(0).permutation(count)]


def affordable(sentences: EncodedSentences, seconds: float, budget: float) -> int:
    """How many of the first sentences take ``budget`` seconds, at ``seconds`` a variant; at least one."""
    ends = np.cumsum(np.diff(sentences.offsets) + 1)
    return max(1, int(np.searchsorted(ends, budget / seconds)))


def compare(scored: ScoredSentences, done: list[baselines.Progress]) -> dict:
    """Masks of the first sentences against fastmask's; one within TIE of the threshold needs no explanation."""
    differing = []
    for n, (ours, theirs) in enumerate(zip(masks_of(scored), (one.important for one in done), strict=False)):
        if ours != theirs:
            first = min(set(ours) ^ set(theirs))
            margin = abs(float(scored.importance[scored.sentences.offsets[n] + first]) - THRESHOLD)
            margin = min(margin, abs(float(scored.prob[n]) - 0.5))  # the class itself may be the tie
            differing.append({"sentence": n, "position": first, "margin": margin, "tie": margin <= TIE})
    unexplained = sum(not one["tie"] for one in differing)
    return {"compared": len(done), "same_masks": len(done) - len(differing), "unexplained": unexplained,
            "differing": sorted(differing, key=lambda one: one["tie"])[:20]}  # fmt: skip
