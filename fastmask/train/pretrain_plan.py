"""From a PretrainConfig to a model, its training data, and all that a run of ``pretrain`` decides before it starts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from fastmask_kernels import processor

from .. import __version__
from ..core.config import demand, shares_of
from ..core.config_train import BATCH_SIZE, EPOCHS, UNSETTLING, PretrainConfig, rates_of
from ..core.errors import FastmaskError, ModelError
from ..core.locked import VERSION
from ..core.words import counted
from ..data.corruption import ordinary_ids
from ..data.stream import TrainingStream
from ..models.directory import ModelFiles, load_tokenizer, resolve_model
from ..models.lengths import fitting_length
from ..models.mlm_model import fit_own_forward, has_tied_decoder, load_masked_lm, product_dtype
from ..models.template import model_template
from ..models.tokenizer import check_tokenizer, tokenizer_hash, vocabulary
from ..models.trainable import own_forward_remark, runs_packed
from .loop import seed_everything
from .mlm_batches import Builder
from .ranks import Ranks
from .run_directory import EXPECTED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The model, data and settings of a run, all built from one PretrainConfig.

    Attributes:
        ranks: this process among those that train together.
        model: as ``init`` has it, on the CPU, packing enabled.
        tokenizer: the model's.
        stream: the training data, sequences without a mask left out.
        held_out: the data of ``eval``; None without.
        builder: makes parts of sequences of both.
        scale: from a step to what sampling multiplies probabilities by.
        steps: optimizer steps of the whole run.
        kept: step -> share of the steps, where the model is kept.
        dtype, pads: of MaskedLoss.
        header: what decides the result, JSON-ready.
        base: what training starts from.
    """

    config: PretrainConfig
    ranks: Ranks
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    stream: TrainingStream
    held_out: TrainingStream | None
    builder: Builder
    scale: Callable[[int], float]
    steps: int
    kept: dict[int, float]
    dtype: torch.dtype
    pads: bool
    header: dict
    base: ModelFiles

    def expected(self, tokens: int) -> dict[str, float]:
        """Return how many masks are drawn in the mean in so many tokens of steps; nothing where masks are not drawn."""
        if not self.config.sample:
            return {}
        rates, schedule = self.stream.rates, self.config.mask_schedule
        rate = sum(rates_of(schedule)) / 2 if schedule else rates.mean
        return {EXPECTED: tokens * rates.tokens / self.stream.tokens * rate}


def make_plan(config: PretrainConfig, ranks: Ranks) -> Plan:
    """Load what a run works on and decide what the options leave open; raises what ``pretrain`` raises."""
    seed_everything(config.seed)
    files = resolve_model(config.init)
    tokenizer = load_tokenizer(files)
    model, missing = load_masked_lm(files)
    if missing:
        tied = ", tied to its word embeddings," if has_tied_decoder(model) else ""
        log.info(f"{files.name} has no masked-language-model head: a new one{tied} is trained")
    max_length = fitting_length(model, model.config, tokenizer, files.name, config.max_length)
    config = replace(config, max_length=max_length)
    join = {"max_length": max_length, "pack": config.pack}
    stream = _open(config.shards, config.seed, join | {"sample": config.sample}, files, tokenizer, ranks)
    held_out = _open(config.eval, config.seed, join, files, tokenizer, ranks) if config.eval else None
    template = model_template(model.config, tokenizer, files.name, is_pair=False)
    dtype, pads = _products(config, ranks, model, template, max_length, files.name)
    ordinary = ordinary_ids(*vocabulary(tokenizer))
    drawn = config.part_tokens, ranks.device, template, shares_of(config.corrupt)
    builder = Builder(config.seed, _mask_id(stream, files), ordinary, *drawn)
    steps = _steps(config, stream, ranks)
    log.info(f"{counted(len(stream), 'sequence')} with masks; {counted(steps, 'step')}, {ranks.world} x "
             f"{ranks.device}, {str(dtype).removeprefix('torch.')} matrix products")  # fmt: skip
    scale = _scales(config, stream, steps)
    header = _header(config, ranks, files, tokenizer, stream, held_out, dtype)
    return Plan(config, ranks, model, tokenizer, stream, held_out, builder, scale, steps, _kept(config, steps), dtype,
                pads, header, files)  # fmt: skip


def _products(config, ranks, model, template, max_length: int, name: str) -> tuple[torch.dtype, bool]:
    """Return the two settings of MaskedLoss, and log where the model or the processor is slow."""
    dtype = product_dtype(config.precision, ranks.device)
    if remark := processor.remark(config.precision, ranks.device):
        log.info(remark)
    if runs_packed(model):
        return dtype, True
    dtypes = [dtype, torch.float32] if config.precision == "auto" else [dtype]
    pads, able = fit_own_forward(model, template, max_length, name, ranks.device, dtypes)
    log.info(own_forward_remark(model, pads))
    if able != dtype:
        log.info(f"it cannot be trained in {str(dtype).removeprefix('torch.')}: float32 is used")
    return able, pads


def _open(shards: tuple[str, ...], seed: int, join: dict, files: ModelFiles, tokenizer, ranks: Ranks) -> TrainingStream:
    """Open shards; ModelError if they have another vocabulary, FastmaskError if nothing is masked in them."""
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
    """Return the number of steps of the run.

    Raises:
        FastmaskError: a step cannot be divided among the processes, or is larger than the data.
    """
    size = batch_size_of(config)
    if size and size % ranks.world:
        raise FastmaskError(f"--batch-size {size}: cannot be divided among {ranks.world} processes")
    if size and len(stream) < size:
        raise FastmaskError(f"{', '.join(config.shards)}: {counted(len(stream), 'sequence')} with masks, "
                            f"fewer than a step's {size:,} (--batch-size)")  # fmt: skip
    of_tokens = config.batch_tokens or 0
    if not size and stream.tokens < of_tokens:
        raise FastmaskError(f"{', '.join(config.shards)}: {counted(stream.tokens, 'token')} in sequences with masks, "
                            f"fewer than a step's {of_tokens:,} (--batch-tokens)")  # fmt: skip
    if config.max_steps is not None:
        return config.max_steps
    of_epoch, of_step = (len(stream), size) if size else (stream.tokens, of_tokens)
    return -(-of_epoch * (config.epochs or EPOCHS) // of_step)


def _kept(config: PretrainConfig, steps: int) -> dict[int, float]:
    """Return the steps after which the model is kept, and the share of the steps that each is."""
    shares = shares_of(config.keep) if config.keep else ()
    kept = {round(share * steps): share for share in shares}
    demand(len(kept) == len(shares) and not {0, steps} & kept.keys(), f"--keep {config.keep}",
           f"there are only {counted(steps, 'step')}")  # fmt: skip
    return kept


def _scales(config: PretrainConfig, stream: TrainingStream, steps: int) -> Callable[[int], float]:
    """Return what multiplies the probabilities in a step, and log how many tokens are masked.

    Raises:
        FastmaskError: the schedule wants more tokens masked than may be.
    """
    if not config.sample:
        return lambda step: 1.0
    if config.mask_schedule is None:
        log.info(f"masks are drawn anew in each epoch, {100 * stream.rates.mean:.1f} % of the tokens in the mean")
        return lambda step: 1.0
    first, last = rates_of(config.mask_schedule)
    most = stream.rates.most
    demand(max(first, last) <= most, f"--mask-schedule {config.mask_schedule}",
           f"only {most:.4f} of the tokens have a mask_prob above 0")  # fmt: skip
    return lambda step: stream.rates.scale(first + (last - first) * step / max(1, steps - 1))


def batch_size_of(config: PretrainConfig) -> int | None:
    """Return the sequences of a step, None where a step is of so many tokens."""
    return BATCH_SIZE if config.batch_size is None and config.batch_tokens is None else config.batch_size


def _header(config, ranks, files, tokenizer, stream, held_out, dtype) -> dict:
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    unsettling = UNSETTLING if config.keep else (*UNSETTLING, "keep")  # runs of before have none
    return {
        VERSION: __version__,
        "config": {name: value for name, value in settings.items() if name not in unsettling},
        "weights_sha256": files.weights_sha256,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "shards": stream.state_dict()["stream"]["shards"],
        "held_out_shards": held_out and held_out.state_dict()["stream"]["shards"],
        "processes": ranks.world,
        "device": ranks.device.partition(":")[0],
        "products": str(dtype).removeprefix("torch."),
    }
