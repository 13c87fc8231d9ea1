"""``fastmask pretrain``: masked-language-model training on shards, unpadded, resumed exactly, on several processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..core.background import run_ahead
from ..core.config_train import PretrainConfig
from ..core.errors import FastmaskError
from ..core.log import SILENT, at_level
from ..core.memory import freed_memory_kept
from ..core.words import counted
from ..data.stream import TrainingStream
from ..models.device import choose_device
from ..models.directory import quiet_transformers, resolve_model
from ..models.dropout import use_drawn_dropout
from ..models.mlm_model import MaskedLoss, load_masked_lm
from ..report.progress import Progress
from .card import model_card
from .loop import Diverged, linear_schedule, make_optimizer, set_rate, take_step
from .mlm_batches import AHEAD, batches_of, held_out_parts
from .pretrain_plan import Plan, batch_size_of, make_plan
from .ranks import Ranks, start_ranks
from .run_directory import LOG, RESULT, Log, TrainingRun, restore, training_tensors
from .tracking import tracked, tracker_module

if TYPE_CHECKING:
    from rich.console import Console

    from ..models.mlm_model import Part

log = logging.getLogger(__name__)


def pretrain(config: PretrainConfig, console: Console | None = None) -> dict:
    """Train a model into ``config.out``; a run that was killed resumes at its last checkpoint.

    On one CPU with one number of threads, a run that was killed and given again ends with the same bits as one that
    was not. Under ``torchrun`` each process calls this; their shares of each step are disjoint, and gradients are
    means over the step's masked tokens, not over processes.

    Args:
        config: what to train.
        console: see ``progress.Progress``.

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
        if first and config.track:  # before a large model is loaded
            tracker_module(config.track)
        with quiet_transformers(), nullcontext() if first else at_level(SILENT):
            return _pretrain(config, ranks, console if first else None)
    finally:
        ranks.stop()


def _pretrain(config: PretrainConfig, ranks: Ranks, console: Console | None) -> dict:
    """Train on this process's rank; nothing of the model is left in memory at the end, as ``Ranks.stop`` wants it."""
    plan = make_plan(config, ranks)
    with TrainingRun(config.out, plan.header, config.overwrite) if ranks.rank == 0 else nullcontext() as run:
        return _train(plan, run, console)


def _train(plan: Plan, run: TrainingRun | None, console: Console | None) -> dict:
    """Train from the last checkpoint, or from the start, to the end, and return the result.

    ``run`` is the directory, None on all ranks but the first, which alone writes.
    """
    config, ranks = plan.config, plan.ranks
    result, checkpoint = ranks.gather(run and (run.result, run.last))[0]
    if result is not None:
        log.info(f"{config.out} is complete for this configuration; nothing to do")
        return result
    state = _state(plan, checkpoint)
    trained = ranks.wrap(state.masked_loss)
    factor = linear_schedule(plan.steps, config.warmup)
    scales = (plan.scale(step) for step in range(state.step, plan.steps))
    size, most = (value and max(1, value // ranks.world) for value in (batch_size_of(config), config.batch_tokens))
    ahead = batches_of(plan.stream, plan.builder, size, most, scales)
    with (_history(plan, run, state.step) if run else nullcontext() as history, freed_memory_kept(),
          Progress("steps", plan.steps, state.step, console) as progress,
          closing(run_ahead(ahead, AHEAD)) as batches):  # fmt: skip
        for step in range(state.step, plan.steps):
            batch = next(batches)  # this rank's sequences, in parts of T tokens of which M are masked
            tokens, masked = ranks.total([batch.tokens, batch.masked])
            rate = config.lr * factor(step)
            set_rate(state.optimizer, rate)
            # the mean over all masked tokens: DDP's is over ranks, which may have more or fewer of them; sampling may
            # leave a step without any
            loss = _backward(trained, batch.parts, ranks.world / max(1, masked), ranks)
            try:
                value = take_step(state.optimizer, loss, step, ranks)
            except Diverged as error:
                if run:
                    raise run.diverged(error) from error
                raise
            state.count(tokens, masked)
            progress.update(step + 1, tokens, value)
            if run and history:
                run.confirm()
                history.write(step=step + 1, loss=value, lr=rate, tokens=tokens, masked=masked,
                              tokens_per_second=round(progress.rate))  # fmt: skip
            if run and (share := plan.kept.get(step + 1)):
                run.keep(share, state.model, plan.tokenizer)
            if (step + 1) % config.save_every == 0 or step + 1 == plan.steps:
                _measure(plan, state, run, history)
                _save(plan, state, run, history, batch.position)
    result = {**plan.header, **state.counts, **plan.expected(state.counts["tokens"]), "held_out": state.held_out,
              "tokens_per_second": round(progress.rate)}  # fmt: skip
    if run:
        run.finish(state.model, plan.tokenizer, result, model_card(config, plan.base, result, RESULT))
        log.info(f"{config.out}: {counted(result['step'], 'step')}, {counted(result['tokens'], 'token')}, "
                 f"{result['masked']:,} masked, {result['tokens_per_second']:,} tokens/s")  # fmt: skip
    return result


@contextmanager
def _history(plan: Plan, run: TrainingRun, steps: int) -> Iterator[Log]:
    """Open the log, which is also sent to a tracker where one is wanted."""
    title, settings = Path(plan.config.out).resolve().name, plan.header["config"]
    with tracked(plan.config.track, run.path, title, settings) as send, Log(run.path / LOG, steps, send) as history:
        yield history


def _backward(trained: torch.nn.Module, parts: Sequence[Part], scale: float, ranks: Ranks) -> torch.Tensor:
    """Add up the gradients of a step's parts, their losses times ``scale``; return the sum of these, float32 []."""
    losses = []
    for number, part in enumerate(parts, 1):
        with ranks.exchanging(number == len(parts)):
            loss = trained(part) * scale  # []
            loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


@dataclass(slots=True)
class _State:
    """What a checkpoint holds.

    Attributes:
        model, optimizer: after ``step`` steps.
        masked_loss: the model, from a part of a batch to the sum of its masked tokens' losses.
        counts: steps taken, and real tokens and masked tokens seen in them, over all ranks.
        held_out: step and loss of each measurement.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    masked_loss: MaskedLoss
    counts: dict[str, int]
    held_out: list[dict]

    @property
    def step(self) -> int:
        """Return the number of steps taken."""
        return self.counts["step"]

    def count(self, tokens: int, masked: int) -> None:
        """Add a step."""
        for name, more in (("step", 1), ("tokens", tokens), ("masked", masked)):
            self.counts[name] += more


def _state(plan: Plan, checkpoint: Path | None) -> _State:
    """Return what training starts from: the checkpoint, to which the stream is set too, or the model as it is."""
    ranks, config = plan.ranks, plan.config
    model = plan.model
    if checkpoint is not None:
        model.load_state_dict(load_masked_lm(resolve_model(str(checkpoint)))[0].state_dict())
    model = use_drawn_dropout(model).to(ranks.device).train()
    optimizer = make_optimizer(model, config.lr, config.weight_decay)
    state = _State(
        model, optimizer, MaskedLoss(model, plan.dtype, plan.pads), {"step": 0, "tokens": 0, "masked": 0}, []
    )
    torch.manual_seed(config.seed + ranks.rank)  # dropout differs between ranks
    if checkpoint is not None:
        saved = restore(checkpoint, model, optimizer, ranks)
        plan.stream.load_state_dict(saved["streams"][ranks.rank])
        state.counts, state.held_out = saved["counts"], saved["held_out"]
        log.info(f"resumes after step {state.step:,}")
    return state


def _save(plan: Plan, state: _State, run: TrainingRun | None, history: Log | None, position: dict) -> None:
    """Write a checkpoint; all ranks give their random state and their position in the stream."""
    tensors = training_tensors(state.model, state.optimizer, plan.ranks)
    streams = plan.ranks.gather(position)
    if run and history:
        history.sync()
        document = {"counts": state.counts, "streams": streams, "held_out": state.held_out}
        run.save(state.step, state.model, plan.tokenizer, tensors, document)


def _measure(plan: Plan, state: _State, run: TrainingRun | None, history: Log | None) -> None:
    """Measure the held-out loss, if there is held-out data.

    Raises:
        FastmaskError: it is not finite.
    """
    if plan.held_out is None:
        return
    loss, step = _held_out_loss(plan, plan.held_out, state), state.step
    if not math.isfinite(loss):
        last = f"; {run.last_good()}" if run else ""
        raise FastmaskError(f"training diverged: the held-out loss is {loss} after step {step}; try a lower --lr{last}")
    state.held_out.append({"step": step, "loss": loss})
    log.info(f"step {step:,} of {plan.steps:,}: held-out loss {loss:.4f}")
    if history:
        history.write(step=step, held_out_loss=loss)


def _held_out_loss(plan: Plan, stream: TrainingStream, state: _State) -> float:
    """Return the mean cross-entropy of the held-out masked tokens, over all ranks, without dropout."""
    state.model.eval()
    losses, masked = torch.zeros((), dtype=torch.float64, device=plan.ranks.device), 0
    with torch.inference_mode():
        for part in held_out_parts(stream, plan.builder):
            losses += state.masked_loss(part)
            masked += len(part.labels)
    state.model.train()
    return plan.ranks.mean(losses).item() * plan.ranks.world / plan.ranks.total([masked])[0]
