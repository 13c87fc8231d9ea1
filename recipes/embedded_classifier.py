"""Make fastmask's embedded classifier (see fastmask/assets/MODEL_CARD.md).

    OMP_NUM_THREADS=1 python recipes/embedded_classifier.py DATA TEACHER OUT

DATA holds mr/ and yelp/ with train.jsonl and test.jsonl, and mr/dev.jsonl; TEACHER is a larger classifier. A small BERT
learns from the labels, and from the teacher's answers on MR's sentences and on random spans of them: what a larger
classifier says about parts of a sentence tells which words matter (Hinton et al. 2015, section 2; Tang et al. 2019,
arXiv 1903.12136, section 3.2). What is saved is a running mean of its weights.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from fastmask_kernels import processor
from transformers import PreTrainedTokenizerBase

from fastmask.core.config_train import FinetuneConfig
from fastmask.core.directories import claim
from fastmask.core.errors import ModelError
from fastmask.core.labels import Classes
from fastmask.models.directory import ModelFiles, load_tokenizer, quiet_transformers, resolve_model
from fastmask.models.trainable import class_logits, enable_packing
from fastmask.models.weights import load_classifier
from fastmask.text.documents import read_documents
from fastmask.train.checkpoint import save_model
from fastmask.train.epochs import torch_dtype
from fastmask.train.examples import Examples, Row, encode_rows, labelled_rows
from fastmask.train.finetune import measure
from fastmask.train.loop import linear_schedule, make_optimizer, seed_everything, set_rate, shuffled_batches, take_step
from fastmask.train.predict import logits_of, pack_rows
from fastmask.train.prepare import Task, new_classifier
from fastmask.train.reading import reading_of
from fastmask.train.vocabulary import PREFIX

log = logging.getLogger("fastmask.recipes")
CLASSES = ("negative", "positive")
TEMPERATURE = 2.0
SPANS, SHORTEST_SPAN = 8, 2  # random spans of each sentence, and words of one
TOKEN_DROPOUT = 0.15  # probability that a token is read as [MASK] in training
AVERAGE = 0.998  # share of the running mean that a step keeps


def settings(data: Path, out: str) -> FinetuneConfig:
    """Return what is trained, as ``fastmask finetune`` would be told."""
    train, test = (tuple(str(data / task / f"{split}.jsonl") for task in ("mr", "yelp")) for split in ("train", "test"))
    return FinetuneConfig(
        train=train, dev=(str(data / "mr" / "dev.jsonl"),), test=test, out=out, 
        config="small", classes=CLASSES, epochs=1, batch_size=64, lr=1e-3, dtype="float16", device="cpu",
    )  # fmt: skip


def make(config: FinetuneConfig, distill: Sequence[str], teacher: str) -> dict:
    """Train, save the model in ``config.out`` with ``metrics.json``, and return those metrics.

    Args:
        config: one epoch, from scratch.
        distill: files whose texts, and random spans of them, the teacher labels.
        teacher: a classifier of ``config.classes``.
    """
    with claim(config.out, config.overwrite) as out, quiet_transformers():
        rng = seed_everything(config.seed)
        hard = list(labelled_rows(read_documents(config.train)))
        soft = with_spans([document.text for document in read_documents(distill)], SPANS, rng)
        task, logits = _task(config, hard, soft, load_teacher(teacher, config.max_length))
        loss = _train(config, task, _model_step(task, torch.from_numpy(logits)), rng)
        metrics = {
            "config": asdict(config),
            "distill": {"teacher": teacher, "files": list(distill), "temperature": TEMPERATURE, "spans": SPANS,
                        "token_dropout": TOKEN_DROPOUT, "average": AVERAGE},
            "classes": list(task.class_names),
            "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
            "train_rows": len(task.train), "train_tokens": int(task.train.lengths.sum()), "train_loss": loss,
            "dev": measure(task, task.dev), "test": measure(task, task.test),
        }  # fmt: skip
        save_model(task.model, task.tokenizer, out, torch_dtype(config.dtype), {"metrics.json": metrics},
                   config.overwrite)  # fmt: skip
    for path, figures in {**metrics["dev"], **metrics["test"]}.items():
        log.info(f"{path}: accuracy {figures['accuracy']:.4f}, macro F1 {figures['macro_f1']:.4f}")
    return metrics


def with_spans(texts: Sequence[str], spans: int, rng: np.random.Generator) -> list[str]:
    """Return the texts, and ``spans`` random runs of two or more words of each; none of them twice."""
    found = dict.fromkeys(texts)
    for text in texts:
        words = text.split()
        for _ in range(spans if len(words) > SHORTEST_SPAN else 0):
            length = int(rng.integers(SHORTEST_SPAN, len(words) + 1))
            start = int(rng.integers(0, len(words) - length + 1))
            found[" ".join(words[start : start + length])] = None
    return list(found)


def _unlabelled(texts: Sequence[str]) -> list[Row]:
    return [
        Row(text, None, 0, "spans", number) for number, text in enumerate(texts, 1)
    ]  # 0: some label has to be there


def _task(config: FinetuneConfig, hard: list[Row], soft: list[str], teacher: Teacher) -> tuple[Task, np.ndarray]:
    """Return the new model with its data, and the teacher's logits, float32 [rows, classes], 0 for ``hard``."""
    model, tokenizer = new_classifier(config, [*(row.text for row in hard), *soft], config.classes)
    model.get_input_embeddings().weight.data = teacher_embeddings(teacher, tokenizer, model.config.hidden_size)
    max_length, is_typed = reading_of(model, tokenizer, "the new model", config.max_length, False)

    def encoded(rows: list[Row]) -> Examples:
        return encode_rows(tokenizer, rows, Classes(config.classes), max_length, is_typed)

    files = {path: encoded(list(labelled_rows(read_documents((path,))))) for path in (*config.dev, *config.test)}
    examples = encoded(hard + _unlabelled(soft))
    labels = np.where(np.arange(len(examples)) < len(hard), examples.labels, -1)
    log.info(f"{teacher.files.name} labels {len(soft)} texts and spans")
    logits = np.zeros((len(examples), len(config.classes)), np.float32)
    logits[len(hard) :] = teacher_logits(teacher, soft, config.classes)
    dev, test = ({path: files[path] for path in paths} for paths in (config.dev, config.test))
    parts = replace(examples, labels=labels), dev, test
    task = Task(enable_packing(model), tokenizer, config.classes, *parts, "cpu", config)
    return task, logits


def _train(config: FinetuneConfig, task: Task, loss_of: Callable, rng: np.random.Generator) -> float:
    """Train one epoch, leave the running mean of the weights, rounded to ``config.dtype``, and return the mean loss."""
    model, total = task.model.train(), 0.0
    parameters = [parameter.detach() for parameter in model.parameters()]
    mean = [parameter.clone() for parameter in parameters]
    batches = shuffled_batches(task.train.lengths, config.batch_size, rng)
    optimizer = make_optimizer(model, config.lr, config.weight_decay)
    factor = linear_schedule(len(batches), config.warmup)
    for number, rows in enumerate(batches):
        set_rate(optimizer, config.lr * factor(number))
        loss = loss_of(rows)
        loss.backward()
        total += take_step(optimizer, loss.detach(), number) * len(rows)
        take_in(mean, parameters, number)
    for parameter, value in zip(parameters, mean, strict=True):
        parameter.copy_(value.to(torch_dtype(config.dtype)))
    return total / len(task.train)


def take_in(mean: list[torch.Tensor], weights: list[torch.Tensor], step: int) -> None:
    """Update the exponential mean of the weights after a step, counted from 0 (Polyak and Juditsky 1992).

    The first steps keep less of it, so that the initial weights are soon forgotten.
    """
    torch._foreach_lerp_(mean, weights, 1.0 - min(AVERAGE, (2 + step) / (11 + step)))


def _model_step(task: Task, teacher: torch.Tensor) -> Callable[[np.ndarray], torch.Tensor]:
    labels, special = torch.from_numpy(task.train.labels), torch.tensor(task.tokenizer.all_special_ids)

    def step(rows: np.ndarray) -> torch.Tensor:
        batch = pack_rows(task.train, rows, task.device)
        ids = batch.input_ids  # [T]
        dropped = (torch.rand(ids.shape) < TOKEN_DROPOUT) & ~torch.isin(ids, special)
        batch = replace(batch, input_ids=ids.masked_fill(dropped, task.tokenizer.mask_token_id))
        return mixed_loss(class_logits(task.model, batch), labels[rows], teacher[rows])

    return step


def mixed_loss(logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean over rows of cross-entropy where there is a label, else of T^2 KL(teacher || model).

    Args:
        logits, teacher: float [B, classes]; the teacher's rows beside a label are not looked at.
        labels: int64 [B], -1 where there is none.
    """
    from torch.nn import functional

    hard = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    wanted, got = ((z / TEMPERATURE).log_softmax(-1) for z in (teacher, logits))
    divergence = functional.kl_div(got, wanted, log_target=True, reduction="none").sum(-1)
    soft = TEMPERATURE**2 * divergence.masked_fill(labels >= 0, 0.0).sum()
    return (hard + soft) / len(labels)


@dataclass(frozen=True, slots=True)
class Teacher:
    """A trained classifier, packing enabled, what belongs to it, and how it reads."""

    files: ModelFiles
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    is_typed: bool


def load_teacher(name: str, max_length: int) -> Teacher:
    """Return the classifier ``name``, in bfloat16 where that is fast: its answers need no more."""
    files = resolve_model(name)
    dtype = torch.bfloat16 if processor.has_fast_bfloat16() else torch.float32
    model, tokenizer = load_classifier(files, dtype), load_tokenizer(files)
    longest, is_typed = reading_of(model, tokenizer, files.name, max_length, False)
    return Teacher(files, enable_packing(model), tokenizer, longest, is_typed)


def teacher_logits(teacher: Teacher, texts: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Return what the teacher says: logits float32 [N, classes], in the order of ``class_names``.

    Raises:
        ModelError: the teacher has other classes.
    """
    given = teacher.files.class_names
    if sorted(given) != sorted(class_names):
        theirs, ours = ", ".join(given), ", ".join(class_names)
        raise ModelError(f"{teacher.files.name}: its classes are {theirs}, here they are {ours}")
    rows, classes = _unlabelled(texts), teacher.files.classes
    examples = encode_rows(teacher.tokenizer, rows, classes, teacher.max_length, teacher.is_typed)
    return logits_of(teacher.model, examples)[:, [given.index(name) for name in class_names]]


def teacher_embeddings(teacher: Teacher, tokenizer: PreTrainedTokenizerBase, width: int) -> torch.Tensor:
    """Return a start for another vocabulary's word embeddings: the teacher's, cut to their first principal components.

    A piece that the teacher does not have gets the mean over the pieces it would split it into.

    Returns:
        float32 [len(tokenizer), width]; columns past the teacher's own width are 0.
    """
    table = teacher.model.get_input_embeddings().weight.detach().float()
    known = teacher.tokenizer.get_vocab()
    rows = torch.zeros(len(tokenizer), table.shape[1])
    for piece, index in tokenizer.get_vocab().items():
        if piece in known:
            rows[index] = table[known[piece]]
        elif parts := teacher.tokenizer(piece.removeprefix(PREFIX), add_special_tokens=False)["input_ids"]:
            rows[index] = table[parts].mean(0)
    rows -= rows.mean(0)
    directions = torch.linalg.svd(rows, full_matrices=False).Vh[:width]
    start = rows @ directions.T
    return torch.nn.functional.pad(start, (0, width - start.shape[1]))


def main(data: str, teacher: str, out: str) -> None:
    """Make the classifier from the command line's arguments."""
    logging.basicConfig(level="INFO", format="%(message)s")
    config = settings(Path(data), out)
    make(config, config.train[:1], teacher)


if __name__ == "__main__":
    main(*sys.argv[1:])
