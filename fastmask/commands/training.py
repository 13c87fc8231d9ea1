"""The commands that train and compare models, and the one that does all of it."""

from __future__ import annotations

import click

from ..core.config import EvaluateConfig
from ..core.config_train import FinetuneConfig, MaskerConfig, PretrainConfig
from ..core.options import options_of
from ..report.screen import console_unless, make_console, say_loading
from .group import command


@command("Train a classifier on labelled texts.")
@options_of(FinetuneConfig)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no summary.")
def finetune(quiet, **options):
    """Train a sequence classifier on labelled TRAIN files: .jsonl, .csv, .tsv or .parquet, also .gz."""
    say_loading(quiet)
    from ..train.finetune import finetune as run

    run(FinetuneConfig(**options))


@command("Train a masker, which masks a large corpus quickly.")
@options_of(MaskerConfig)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no summary.")
def train_masker(quiet, **options):
    """Train a token classifier on finished SHARDS to mask as they are masked; for score --method masker."""
    say_loading(quiet)
    from ..train.masker import train_masker as run

    run(MaskerConfig(**options))


@command("Train a masked-language model on SHARDS.", resumes=True)
@options_of(PretrainConfig)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no summary.")
def pretrain(quiet, **options):
    """Train a masked-language model on SHARDS, directories of fastmask score.

    The same command resumes a run that was stopped. Several processes train together under
    torchrun --nproc-per-node N -m fastmask pretrain ...
    """
    say_loading(quiet)
    from ..train.pretrain import pretrain as run

    run(PretrainConfig(**options), console_unless(quiet))


@command("Compare fine-tuned models over seeds.")
@options_of(EvaluateConfig)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def evaluate(quiet, **options):
    """Compare arms over seeds: means, paired intervals, a paired test, and what so many seeds could have shown."""
    say_loading(quiet)
    from ..experiment.arms import evaluate as run
    from ..report.comparison import tables
    from ..train.evaluate import statements

    report = run(EvaluateConfig(**options))
    console = make_console()
    console.print(tables(report))
    for line in statements(report):
        console.print(line)


@command("Do the whole experiment of a recipe, and compare.", resumes=True)
@click.argument("recipe")
@click.option("--dry-run", is_flag=True, help="Show the steps and what is complete, and stop.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Steps done at a time, each in a process with its share of the cores and, of several GPUs, one.",
)
@click.option("--overwrite", is_flag=True, help="Make again what was made from other settings or inputs.")
@click.option("-q", "--quiet", is_flag=True, help="Show neither plan nor progress, only the result.")
def run(recipe, dry_run, jobs, overwrite, quiet):
    """Do the experiment of RECIPE, a TOML file: fine-tune, mask, pre-train on selective and on random masks, compare.

    A step whose output is complete for this configuration is skipped; the same command resumes a run that was stopped.
    """
    from ..experiment.curve import curve_lines
    from ..experiment.run import Run
    from ..report.comparison import tables
    from ..report.terminal import plan_table, work_lines
    from ..report.verdict import verdict

    steps, console = Run(recipe, overwrite), make_console()
    if dry_run or not quiet:
        console.print(plan_table(steps.plan()))
    if dry_run:
        return
    with steps:
        report = steps.run(console_unless(quiet), jobs)
    console.print(tables(report))
    for line in (*work_lines(report), "", *verdict(report), *curve_lines(report), ""):
        console.print(line)
    for kind, path in steps.results().items():
        console.print(f"{kind}: {path}", soft_wrap=True)
