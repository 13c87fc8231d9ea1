"""What fastmask is compared with: the greedy rule by padded batches of the Hugging Face model, and Captum."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import bench_encoder as encoder
import harness
import numpy as np
import torch

from fastmask.core.records import EncodedSentences
from fastmask.models.directory import load_tokenizer, resolve_model


@dataclass(frozen=True, slots=True)
class Task:
    """What every arm is given; the sentences are plain text."""

    model: str
    sentences: EncodedSentences
    warm_up: EncodedSentences
    threads: int
    threshold: float = 0.05
    max_length: int = 128

    def first(self, count: int, labelled: bool = True) -> Task:
        """The task on its first ``count`` sentences (all for 0)."""
        chosen = np.arange(min(count or len(self.sentences), len(self.sentences)))
        parts = (encoder.sentences_at(shard, at, labelled) for shard, at in
                 ((self.sentences, chosen), (self.warm_up, np.arange(len(self.warm_up)))))  # fmt: skip
        return Task(self.model, *parts, self.threads, self.threshold, self.max_length)


@dataclass(slots=True)
class Progress:
    """One sentence on its way through the greedy rule, in plain Python.

    Attributes:
        ids: its tokens; label: given class, -1 for the classifier's own.
        cursor: the token to be decided, -1 while the whole sentence is.
        kept: tokens in the buffer; important: positions left out of it.
        right: whether it is scored at all.
        full: P(y|s); tokens: real tokens sent to the classifier, special ones included.
    """

    number: int
    ids: list[int]
    label: int
    cursor: int = -1
    kept: list[int] = field(default_factory=list)
    important: list[int] = field(default_factory=list)
    right: bool = False
    full: float = 0.0
    tokens: int = 0

    def variant(self) -> list[int]:
        """What the classifier is asked next."""
        return self.ids if self.cursor < 0 else [*self.kept, self.ids[self.cursor]]

    def take(self, probabilities: np.ndarray, threshold: float) -> bool:
        """Move on by the answer float64 [C]; whether the sentence is finished."""
        if self.cursor < 0:
            predicted = int(probabilities.argmax())
            self.label = predicted if self.label < 0 else self.label
            self.right, self.full = predicted == self.label, probabilities[self.label]
        elif self.full - probabilities[self.label] < threshold:
            self.important.append(self.cursor)
        else:
            self.kept.append(self.ids[self.cursor])
        self.cursor += 1
        return not self.right or self.cursor == len(self.ids)


Classify = Callable[[list[list[int]]], np.ndarray]
"""Rows of content tokens to class probabilities float64 [rows, C]."""


def greedy(
    sentences: EncodedSentences, classify: Classify, threshold: float, room: int, at_once: int
) -> list[Progress]:
    """The authors' rule on variants cut to ``room`` tokens, ``at_once`` sentences in lockstep.

    A finished sentence is replaced by the longest that waits, so that batches stay full to the end.
    """
    lengths = np.diff(sentences.offsets)
    waiting = [
        Progress(n, sentences.input_ids[sentences.offsets[n] : sentences.offsets[n + 1]].tolist(), sentences.label[n])
        for n in np.argsort(lengths, kind="stable").tolist()
    ]
    active: list[Progress] = []
    finished: list[Progress] = []
    while waiting or active:
        while waiting and len(active) < at_once:
            active.append(waiting.pop())
        variants = [one.variant()[:room] for one in active]
        done = [one.take(p, threshold) for one, p in zip(active, classify(variants), strict=True)]
        for one, variant in zip(active, variants, strict=True):
            one.tokens += len(variant) + 2
        finished += [one for one, over in zip(active, done, strict=True) if over]
        active = [one for one, over in zip(active, done, strict=True) if not over]
    return sorted(finished, key=lambda one: one.number)


class PaddedClassifier:
    """The Hugging Face model as it is, on its own device and in its own dtype, on batches of ``batch`` rows.

    Cores are used in the way that a trial finds faster: a batch a core, or one batch on all cores after the other. On a
    GPU batches are queued one after the other, and waited for together.

    Args:
        model: an ``AutoModelForSequenceClassification``, SDPA attention, eval mode.
        special: ids of the start, end and padding tokens.
        pad_to: length of every batch; None pads to the longest row, after sorting rows by length.
    """

    def __init__(self, model, special: tuple[int, int, int], batch: int, pad_to: int | None, threads: int):
        self.model, self.batch, self.pad_to, self.threads = model, batch, pad_to, threads
        self.start, self.end, self.pad = special
        self.each = map

    def __call__(self, variants: list[list[int]]) -> np.ndarray:
        """See ``Classify``."""
        order = range(len(variants)) if self.pad_to else sorted(range(len(variants)), key=lambda v: len(variants[v]))
        parts = [order[at : at + self.batch] for at in range(0, len(order), self.batch)]
        found = torch.cat(list(self.each(self._batch, ([variants[v] for v in part] for part in parts)))).cpu().numpy()
        out = np.empty_like(found)
        out[list(order)] = found
        return out

    def choose(self, rows: list[np.ndarray]) -> str:
        """Try both ways on batches of ``rows`` and keep the faster; its name."""
        batch = [rows[n % len(rows)][: self.pad_to and self.pad_to - 2].tolist() for n in range(self.batch)]
        self.each, name = faster_way(self._batch, [batch] * (2 * self.threads), self.threads)
        return name

    @torch.inference_mode()
    def _batch(self, variants: list[list[int]]) -> torch.Tensor:
        rows = [[self.start, *variant, self.end] for variant in variants]
        lengths = np.array([*map(len, rows)])
        inside = np.arange(self.pad_to or lengths.max()) < lengths[:, None]
        ids = np.full(inside.shape, self.pad)
        ids[inside] = np.fromiter(chain.from_iterable(rows), np.int64)
        ids, mask = (torch.from_numpy(v).to(self.model.device) for v in (ids, inside.astype(np.int64)))
        return torch.softmax(self.model(input_ids=ids, attention_mask=mask).logits.double(), -1)


def hugging_face(task: Task):
    """The float32 model, the tokenizer's start, end and padding ids, and the table of stop words."""
    torch.set_num_threads(task.threads)
    model, _, stop_tokens = encoder.load_parts(task.model)
    tokenizer = load_tokenizer(resolve_model(task.model))
    special = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    return model, special, stop_tokens


def rows_of(sentences: EncodedSentences) -> list[np.ndarray]:
    """Each sentence's tokens int32 [n]."""
    return np.split(sentences.input_ids, sentences.offsets[1:-1])


def faster_way(work: Callable, items: list, threads: int) -> tuple[Callable, str]:
    """The faster ``map`` of work over such items, tried on them after a warm-up, and its name."""
    if threads == 1:
        return map, "one core"
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    ways = {"all cores on one": map, "one a core": pool.map}
    seconds = {}
    for name, way in [*ways.items()] * 2:
        seconds[name] = harness.measured(lambda way=way: list(way(work, items)))[1]["seconds"]
    best = min(seconds, key=seconds.get)
    return ways[best], best


def padded_arm(task: Task, batch: int, at_once: int, pad_to: int | None) -> dict:
    """The greedy rule by padded batches; sentences a second, masks, memory."""
    model, special, stop_tokens = hugging_face(task)
    classify = PaddedClassifier(model, special, batch, pad_to, task.threads)
    way = classify.choose(rows_of(task.warm_up))
    rule = partial(greedy, classify=classify, threshold=task.threshold, room=task.max_length - 2, at_once=at_once)
    done, cost = harness.measured(lambda: rule(task.sentences))
    masks = [[i for i in one.important if not stop_tokens[0, one.ids[i]]] for one in done]
    return cost | {"cores_used_as": way, "masks": masks, "real_tokens": sum(one.tokens for one in done)}


def captum_arm(task: Task, perturbations_per_eval: int = 32) -> dict:
    """Captum's FeatureAblation, token by token, a sentence a call; [MASK] stands in for the ablated token.

    As many rows as leave-one-out has, one token longer each. What is attributed, class 0, does not change the cost.
    """
    from captum.attr import FeatureAblation

    model, (start, end, _), _ = hugging_face(task)
    mask = load_tokenizer(resolve_model(task.model)).mask_token_id

    def forward(content: torch.Tensor) -> torch.Tensor:
        ends = torch.full((len(content), 1), start), torch.full((len(content), 1), end)
        return torch.softmax(model(input_ids=torch.cat([ends[0], content, ends[1]], 1)).logits, -1)

    @torch.inference_mode()
    def attribute(ids: np.ndarray) -> None:
        content = torch.from_numpy(ids[: task.max_length - 2].astype(np.int64))[None]
        FeatureAblation(forward).attribute(content, mask, target=0, perturbations_per_eval=perturbations_per_eval)

    each, way = faster_way(attribute, rows_of(task.warm_up)[: 4 * task.threads], task.threads)
    return harness.measured(lambda: list(each(attribute, rows_of(task.sentences))))[1] | {"cores_used_as": way}
