"""``fastmask pretrain``: masked-language-model training on shards, unpadded, resumed exactly, on several processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..ahead import run_ahead
from ..config_train import BATCH_SIZE, EPOCHS, PretrainConfig
from ..corruption import ordinary_ids
from ..errors import FastmaskError, ModelError
from ..lengths import longest_input
from ..models import ModelFiles, load_tokenizer, quiet_transformers, resolve_model
from ..stream import TrainingStream
from ..tokenizer import check_tokenizer, tokenizer_hash, vocabulary
from .loop import Diverged, linear_schedule, make_optimizer, seed_everything, train
from .mlm_batches import AHEAD, Batch, Builder, Part, batches_of, held_out_parts
from .prepare import choose_device
from .progress import Progress
from .ranks import Ranks, start_ranks
from .state import LOG, Log, TrainingRun, restore, training_tensors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Say = Callable[[str], None]
UNSETTLING = ("out", "overwrite", "save_every")
"""Options that leave the result as it is."""


def pretrain(config: PretrainConfig, report: Say, show: Say | None = None) -> dict:
    """Trains, or goes on where a run that was killed had its last checkpoint, and leaves the model in ``config.out``.

    On one CPU with one number of threads, a run that was killed and given again ends with the same bits as one that
    was not. Under ``torchrun`` each process calls this; their shares of each step are disjoint, and gradients are
    means over the step's masked tokens, not over processes.

    Args:
        config: what to train.
        report: receives one line at a time.
        show: receives live lines, each in the place of the one before; None where there is no terminal.

    Returns:
        What ``OUT/pretrain.json`` holds.

    Raises:
        ModelError: ``init`` cannot be loaded, or its tokenizer is not the shards'.
        OutputError: shards that are not finished or are damaged; ``out`` is taken or cannot be written.
        FastmaskError: anything else in the options, too few masks, or a loss that is not finite.
    """
    ranks = start_ranks(choose_device(config.device))
    first = ranks.rank == 0
    try:
        with quiet_transformers():
            plan = _plan(config, ranks, report if first else _nothing)
            with TrainingRun(config.out, plan.header, config.overwrite) if first else nullcontext() as run:
                return _Training(plan, run, show if first else None).run()
    finally:
        ranks.stop()


def _nothing(line: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run works on, all built from one PretrainConfig.

    Attributes:
        ranks: this process among those that train together.
        model: as ``init`` has it, on the CPU, packing enabled.
        tokenizer: the model's.
        stream: the training data, sequences without a mask left out.
        held_out: the data of ``eval``; None without.
        builder: makes parts of sequences of both.
        steps: optimizer steps of the whole run.
        dtype: of the matrix products.
        header: what decides the result, JSON-ready.
        say: shows one line.
    """

    config: PretrainConfig
    ranks: Ranks
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    stream: TrainingStream
    held_out: TrainingStream | None
    builder: Builder
    steps: int
    dtype: torch.dtype
    header: dict
    say: Say


def _plan(config: PretrainConfig, ranks: Ranks, say: Say) -> Plan:
    from fastmask_kernels import processor

    from .mlm_model import load_masked_lm, product_dtype

    seed_everything(config.seed)
    files = resolve_model(config.init)
    tokenizer = load_tokenizer(files)
    model, missing = load_masked_lm(files)
    if missing:
        say(f"{files.name} has no masked-language-model head: a new one, tied to its word embeddings, is trained")
    max_length = longest_input(model, model.config, tokenizer, files.name, config.max_length)
    if max_length < config.max_length:
        say(f"sequences have at most {max_length} tokens, all that the model has positions for")
    join = {"max_length": max_length, "pack": config.pack}
    stream = _open(config.shards, config.seed, join, files, tokenizer, ranks)
    held_out = _open(config.eval, config.seed, join, files, tokenizer, ranks) if config.eval else None
    dtype = product_dtype(config.precision, ranks.device)
    ordinary = ordinary_ids(*vocabulary(tokenizer))
    if remark := processor.remark(config.precision, ranks.device):
        say(remark)
    builder = Builder(config.seed, _mask_id(stream, files), ordinary, config.part_tokens, ranks.device)
    steps = _steps(config, stream, ranks)
    say(f"{len(stream):,} sequences with masks; {steps:,} steps, {ranks.world} x {ranks.device}, "
        f"{str(dtype).removeprefix('torch.')} matrix products")  # fmt: skip
    header = _header(config, ranks, files, tokenizer, stream, held_out, dtype)
    return Plan(config, ranks, model, tokenizer, stream, held_out, builder, steps, dtype, header, say)


def _open(shards: tuple[str, ...], seed: int, join: dict, files: ModelFiles, tokenizer, ranks: Ranks) -> TrainingStream:
    """Raises ModelError when the shards have another vocabulary, FastmaskError when nothing is masked in them."""
    stream = TrainingStream(shards, **join, seed=seed, masked_only=True, rank=ranks.rank, world=ranks.world)
    check_tokenizer(shards[0], stream.tokenizer, tokenizer, files.name)
    if not len(stream):
        raise FastmaskError(f"{', '.join(shards)}: no token is masked; there is nothing to learn from")
    return stream


def _mask_id(stream: TrainingStream, files: ModelFiles) -> int:
    mask = stream.tokenizer["special_ids"]["mask"]
    if mask is None:
        raise ModelError(f"{files.name}: the tokenizer has no mask token")
    return mask


def _steps(config: PretrainConfig, stream: TrainingStream, ranks: Ranks) -> int:
    """Steps of the run.

    Raises:
        FastmaskError: a step cannot be divided among the processes, or is larger than the data.
    """
    size = _batch_size(config)
    if size and size % ranks.world:
        raise FastmaskError(f"--batch-size {size}: cannot be divided among {ranks.world} processes")
    if size and len(stream) < size:
        raise FastmaskError(f"{', '.join(config.shards)}: {len(stream):,} sequences have masks, "
                            f"fewer than a step's {size:,} (--batch-size)")  # fmt: skip
    if not size and stream.tokens < config.batch_tokens:
        raise FastmaskError(f"{', '.join(config.shards)}: {stream.tokens:,} tokens in sequences with masks, "
                            f"fewer than a step's {config.batch_tokens:,} (--batch-tokens)")  # fmt: skip
    if config.max_steps is not None:
        return config.max_steps
    of_epoch, of_step = (len(stream), size) if size else (stream.tokens, config.batch_tokens)
    return -(-of_epoch * (config.epochs or EPOCHS) // of_step)


def _batch_size(config: PretrainConfig) -> int | None:
    return BATCH_SIZE if config.batch_size is None and config.batch_tokens is None else config.batch_size


def _header(config, ranks, files, tokenizer, stream, held_out, dtype) -> dict:
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    return {
        "config": {name: value for name, value in settings.items() if name not in UNSETTLING},
        "weights_sha256": files.weights_sha256,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "shards": stream.state_dict()["stream"]["shards"],
        "held_out_shards": held_out and held_out.state_dict()["stream"]["shards"],
        "processes": ranks.world,
        "device": ranks.device.partition(":")[0],
        "products": str(dtype).removeprefix("torch."),
    }


class _Training:
    """A run of a plan. ``run`` is its directory, None on all ranks but the first, which alone writes."""

    def __init__(self, plan: Plan, run: TrainingRun | None, show: Say | None):
        self.plan, self.directory, self.show = plan, run, show
        self.ranks, self.config = plan.ranks, plan.config
        # after how many steps the model stands, and what it has seen until then, over all ranks
        self.counts = {"step": 0, "tokens": 0, "masked": 0}
        self.held_out: list[dict] = []
        self.batch: Batch | None = None

    def run(self) -> dict:
        """Trains to the end; returns the result."""
        done = self.directory and (self.directory.result, self.directory.last)
        result, checkpoint = self.ranks.gather(done)[0]
        if result is not None:
            self.plan.say(f"{self.config.out} is complete for this configuration; nothing to do")
            return result
        self._prepare(checkpoint)
        if self.directory is None:
            return self._train(None)
        with Log(self.directory.path / LOG, self.counts["step"]) as log:
            result = self._train(log)
        self.directory.finish(self.model, self.plan.tokenizer, result)
        self.plan.say(f"{self.config.out}: {result['step']:,} steps, {result['tokens']:,} tokens, "
                      f"{result['masked']:,} masked, {result['tokens_per_second']:,} tokens/s")  # fmt: skip
        return result

    def _prepare(self, checkpoint: Path | None) -> None:
        import torch

        from .mlm_model import MaskedLoss, load_masked_lm

        model = self.plan.model if checkpoint is None else load_masked_lm(resolve_model(str(checkpoint)))[0]
        self.model = model.to(self.ranks.device).train()
        self.measured = MaskedLoss(self.model, self.plan.dtype)
        self.trained = self.ranks.wrap(self.measured)
        self.optimizer = make_optimizer(self.model, self.config.lr, self.config.weight_decay)
        # dropout differs between ranks
        torch.manual_seed(self.config.seed + self.ranks.rank)
        if checkpoint is not None:
            saved = restore(checkpoint, self.model, self.optimizer, self.ranks)
            self.plan.stream.load_state_dict(saved["streams"][self.ranks.rank])
            self.counts, self.held_out = saved["counts"], saved["held_out"]
            self.plan.say(f"goes on after step {self.counts['step']:,}")

    def _train(self, log: Log | None) -> dict:
        plan, first = self.plan, self.counts["step"]
        progress = Progress(plan.steps, first, plan.say, self.show)
        shares = (value and max(1, value // self.ranks.world)
                  for value in (_batch_size(self.config), self.config.batch_tokens))  # fmt: skip
        schedule = linear_schedule(plan.steps, self.config.warmup)
        with closing(run_ahead(batches_of(plan.stream, plan.builder, *shares), AHEAD)) as batches:
            steps = train(self._loss, islice(batches, plan.steps - first), self.optimizer, schedule, first, self._parts,
                          self.ranks)  # fmt: skip
            for step, loss in self._kept(steps):
                self._count(step, loss, log, progress)
                if (step + 1) % self.config.save_every == 0 or step + 1 == plan.steps:
                    self._checkpoint(log)
        figures = {**self.counts, "held_out": self.held_out, "tokens_per_second": round(progress.rate)}
        return {**plan.header, **figures}

    def _parts(self, batch: Batch) -> list[tuple[Part, float]]:
        """The parts, each with the factor that makes the step's loss the mean over all ranks' masked tokens."""
        self.batch = batch
        self.tokens, self.masked = self.ranks.total([batch.tokens, batch.masked])
        # DDP takes the mean over ranks, whose masked tokens may differ in number
        return [(part, self.ranks.world / self.masked) for part in batch.parts]

    def _loss(self, share: tuple[Part, float]) -> torch.Tensor:
        part, factor = share
        return self.trained(part) * factor

    def _kept(self, steps: Iterator[tuple[int, float]]) -> Iterator[tuple[int, float]]:
        """The steps; when training diverges, the error says which checkpoint is there."""
        try:
            for step, loss in steps:
                if self.directory is not None:
                    self.directory.confirm()
                yield step, loss
        except Diverged as error:
            if self.directory is None:
                raise
            self.directory.discard_unconfirmed()
            raise FastmaskError(f"{error}; {self.directory.last_good()}") from error

    def _count(self, step: int, loss: float, log: Log | None, progress: Progress) -> None:
        self.counts = {"step": step + 1, "tokens": self.counts["tokens"] + self.tokens,
                       "masked": self.counts["masked"] + self.masked}  # fmt: skip
        progress.update(step, loss, self.tokens)
        if log is not None:
            rate = self.optimizer.param_groups[0]["lr"]
            log.write(step=step + 1, loss=loss, lr=rate, tokens=self.tokens, masked=self.masked,
                      tokens_per_second=round(progress.rate))  # fmt: skip

    def _checkpoint(self, log: Log | None) -> None:
        step = self.counts["step"]
        if self.plan.held_out is not None:
            loss = self._held_out_loss()
            if not math.isfinite(loss):
                last = f"; {self.directory.last_good()}" if self.directory else ""
                raise FastmaskError(f"training diverged: the held-out loss is {loss} after step {step}; "
                                    f"try a lower --lr{last}")  # fmt: skip
            self.held_out.append({"step": step, "loss": loss})
            self.plan.say(f"step {step:,} of {self.plan.steps:,}: held-out loss {loss:.4f}")
            if log is not None:
                log.write(step=step, held_out_loss=loss)
        tensors = training_tensors(self.model, self.optimizer, self.ranks)
        streams = self.ranks.gather(self.batch.position)
        if self.directory is not None:
            log.sync()
            document = {"counts": self.counts, "streams": streams, "held_out": self.held_out}
            self.directory.save(step, self.model, self.plan.tokenizer, tensors, document)

    def _held_out_loss(self) -> float:
        """Mean cross-entropy of the held-out masked tokens, over all ranks, without dropout."""
        import torch

        self.model.eval()
        losses, masked = torch.zeros((), dtype=torch.float64, device=self.ranks.device), 0
        with torch.inference_mode():
            for part in held_out_parts(self.plan.held_out, self.plan.builder):
                losses += self.measured(part)
                masked += len(part.labels)
        self.model.train()
        return self.ranks.mean(losses).item() * self.ranks.world / self.ranks.total([masked])[0]
