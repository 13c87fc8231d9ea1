"""The commands. Everything heavy is imported inside them, so that ``--help`` is instant; only this file prints."""

from __future__ import annotations

import gc
import signal
import sys
import time
from dataclasses import fields

import click

from . import __version__
from .core.config import EvaluateConfig, ExportConfig, RemaskConfig, ScoreConfig
from .core.config_engine import EngineConfig, Part
from .core.config_train import FinetuneConfig, MaskerConfig, PretrainConfig
from .core.errors import FastmaskError
from .core.options import options_of
from .core.words import counted
from .report.commands import SETTINGS, Commands, command, leave, settings_file
from .report.screen import console_unless, lines_unless, make_console, open_doors, say, shown


@click.group(cls=Commands, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="fastmask")
def cli():
    """Choose the tokens to mask in task-adaptive pre-training, and train on them."""


@command(cli, "Show how one TEXT is scored and masked.")
@click.argument("text")
@options_of(ScoreConfig, "model", "method", "threshold", "mask_rate", "unit", "language", "segment", "stop_words",
            "keep_punctuation", "max_length", "precision", "words", "vectors", "background", "anchors")  # fmt: skip
def explain(text, **options):
    """Score TEXT and show its tokens by importance, the masked ones marked. Nothing is written."""
    from .core.startup import start_numba
    from .report.highlight import surfaces
    from .report.progress import Meter
    from .report.terminal import sentence_table, sentence_text
    from .scoring.api import records_of
    from .scoring.scorer import Scorer

    start_numba()
    console = make_console()
    scorer = Scorer(ScoreConfig(**options), meter=Meter(say=lines_unless(False)))
    records = list(records_of([text], scorer))
    if not records:
        raise FastmaskError("TEXT: there is no token in it")
    large = scorer.method.large_is_important
    for record in records:
        words = surfaces(record.text, record.spans)
        console.print(sentence_text(words, record.importance, record.mask_index, large_is_important=large))
        if record.prob is not None and record.predicted is not None:
            console.print(f"class {shown(scorer.files.class_names[record.predicted])}, P = {record.prob:.4f}")
        console.print(sentence_table(words, record.importance, record.mask_index))
    if reading := scorer.method.reading(scorer.config):
        console.print(reading)


@command(cli, "Choose the masks of CORPUS, and write them as shards.", resumes=True)
@click.argument("corpus", nargs=-1, required=True)
@click.option("-o", "--out", help="Directory of the shards; without it x.masks for x.txt, where you are.")
@options_of(ScoreConfig)
@settings_file
@options_of(EngineConfig)
@click.option("--control", help="Directory of a random twin: the same sentences with as many masks each.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it was made with another configuration.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def score(corpus, out, control, overwrite, quiet, **options):
    """Score CORPUS files into a directory of shards.

    CORPUS: .txt (a document a line), .jsonl, .csv, .tsv, .parquet or .arrow, each also .gz or .zst; folders of them,
    patterns, URLs (s3://...), or - for lines on standard input.
    The same command resumes a run that was stopped.
    """
    from .core.startup import start_numba
    from .pipeline import score_corpus, score_part
    from .report.progress import Meter
    from .report.terminal import totals_line
    from .scoring.method import label_warnings
    from .text.inputs import default_out

    start_numba()
    engine = EngineConfig(**{field.name: options.pop(field.name) for field in fields(EngineConfig)})
    engine.check(control=control, overwrite=overwrite)
    meter = Meter(console_unless(quiet), lines_unless(quiet), unsaid := default_out(corpus) if out is None else None)
    out = unsaid if out is None else out
    began = time.monotonic()
    if engine.part is not None:
        part = Part.read(engine.part)
        made = score_part(corpus, out, ScoreConfig(**options), part=part, mixed=engine.mixed, meter=meter)
        if not quiet:
            say(f"{out}: part {part} is made, {made['shards']:,} of {counted(made['of'], 'shard')}, "
               f"{counted(made['rows'], 'document')}, "
                f"in {time.monotonic() - began:,.0f} s; fastmask finish completes it when all parts are")  # fmt: skip
        return
    manifest = score_corpus(corpus, out, ScoreConfig(**options), overwrite=overwrite, meter=meter, control=control,
                            engine=engine)  # fmt: skip
    if not quiet:
        say(f"{totals_line(out, manifest)} in {time.monotonic() - began:,.0f} s")
    for line in label_warnings(out, manifest):
        say(line)


@command(cli, "Plan a run that several machines are to make.", resumes=True)
@click.argument("corpus", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="Directory of the shards.")
@options_of(ScoreConfig)
@settings_file
@click.option("-q", "--quiet", is_flag=True, help="No last line.")
def plan(corpus, out, quiet, **options):
    """Plan what score makes of CORPUS, without a shard: hash it, find where shards begin, measure error bounds.

    score makes a plan itself where there is none; score --part K/N of many machines then waits for the first of them.
    """
    from .core.startup import start_numba
    from .pipeline import plan_corpus
    from .report.progress import Meter

    start_numba()
    made = plan_corpus(corpus, out, ScoreConfig(**options), meter=Meter(None, lines_unless(quiet)))
    if made and not quiet:
        say(f"{out}: planned, {counted(len(made['places']), 'shard')} of {counted(made['rows'], 'document')}")


@command(cli, "Complete a directory whose parts are made.", resumes=True)
@click.argument("out")
@click.option("--mixed", is_flag=True, help="Let this machine differ from the one that made the plan.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def finish(out, mixed, quiet):
    """Complete OUT when all parts of score --part are made; name the parts to run again if some are not."""
    from .core.startup import start_numba
    from .pipeline import finish_parts
    from .report.progress import Meter
    from .report.terminal import totals_line
    from .scoring.method import label_warnings

    start_numba()
    manifest = finish_parts(out, mixed=mixed, meter=Meter(console_unless(quiet), lines_unless(quiet)))
    if not quiet:
        say(totals_line(out, manifest))
    for line in label_warnings(out, manifest):
        say(line)


@command(cli, "Show what a directory of shards holds.")
@click.argument("out")
@click.option("--rows", default=0, show_default=True, help="Also show the first so many sentences and their masks.")
@click.option("--compare", help="Instead: how far another directory, of the same sentences, agrees with it.")
def inspect(out, rows, compare):
    """Show what is in a finished shard directory."""
    from .scoring.inspecting import inspect as show

    show(make_console(), out, rows, compare)


@command(cli, "Write a page about a directory of shards.")
@click.argument("out")
@click.option("-o", "--page", default="report.html", show_default=True, help="File of the page.")
@click.option("--compare", help="Another directory of the same sentences: how far its masks agree.")
@click.option("-q", "--quiet", is_flag=True, help="No last line.")
def report(out, page, compare, quiet):
    """Write a page about a finished shard directory: its masks, importances and sentences in one HTML file."""
    from .scoring.overview import write_overview

    write_overview(out, page, compare)
    if not quiet:
        say(f"{page}: a page about {out}; open it in a browser")


@command(cli, "Check that a directory of shards is whole.")
@click.argument("out")
@click.option("--repair", is_flag=True, help="Make damaged shards again from the inputs.")
def verify(out, repair):
    """Check hashes, counts and schema of a finished shard directory; exit 1 and name what is damaged."""
    from .shards.verify import verify as find_damage

    if repair:
        from .pipeline import repair as make_again

        for name in make_again(out):
            say(f"{name}: made again, identical", err=False)
    damaged = find_damage(out)
    for damage in damaged:
        say(f"{damage.file}: {damage.reason}", err=False)
    if damaged:
        leave(1)
    say(f"{out}: ok", err=False)


@command(cli, "Choose other masks from the scores of SHARDS.", resumes=True)
@options_of(RemaskConfig)
@click.option("-q", "--quiet", is_flag=True, help="No last line.")
def remask(quiet, **options):
    """Choose other masks from the scores of SHARDS, as score would with these options.

    The model of SHARDS is asked where the scores do not tell the masks, and nowhere else. What is not given is as
    SHARDS have it. The same command resumes a run that was stopped.
    """
    from .core.startup import start_numba
    from .report.progress import Meter
    from .report.terminal import totals_line
    from .scoring.remask import remask_shards

    start_numba()
    manifest, in_doubt = remask_shards(RemaskConfig(**options), Meter(console_unless(quiet), lines_unless(quiet)))
    if in_doubt:
        say(f"warning: {options['out']}: score might choose other masks in {counted(in_doubt, 'sentence')}")
    if not quiet:
        say(totals_line(options["out"], manifest))


@command(cli, "Translate the masks of SHARDS to another tokenizer.", resumes=True)
@click.argument("shards")
@click.option("--tokenizer", required=True, help="Model whose tokenizer it is: a directory or a hub id.")
@click.option("-o", "--out", required=True, help="Directory of the new shards.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it was made from something else.")
@click.option("-q", "--quiet", is_flag=True, help="No last line.")
def remap(shards, tokenizer, out, overwrite, quiet):
    """Write the masks of SHARDS in the tokens of another model, to pre-train that one.

    The texts are read again; every token that shares a character with a masked one is masked. The same
    command resumes a run that was stopped.
    """
    from .data.remapped import remap_shards
    from .report.terminal import totals_line

    manifest = remap_shards(shards, tokenizer, out, overwrite)
    if not quiet:
        say(totals_line(out, manifest))


@command(cli, "Write SHARDS as another trainer's files.")
@options_of(ExportConfig)
@click.option("-q", "--quiet", is_flag=True, help="No last line.")
def export(quiet, **options):
    """Write the training sequences of SHARDS, corrupted once, for another trainer."""
    from .data.exporting import export_shards

    written = export_shards(ExportConfig(**options))
    if not quiet:
        line = f"{options['out']}: {counted(written['sequences'], 'sequence')}, {written['masked']:,} masked, "
        line += f"in {counted(written['files'], 'file')}"
        line += f", tokens of {written['tokenizer']}"
        dropped = written["dropped"]
        say(line + (f"; {counted(dropped, 'mask')} past --max-predictions left out" if dropped else ""))


@command(cli, "Upload shards or a trained model to the Hugging Face hub.")
@click.argument("out")
@click.argument("repo_id")
@click.option("--private", is_flag=True, help="Make a new repository private.")
def push(out, repo_id, private):
    """Upload OUT, a finished directory of shards or a trained model, as REPO_ID (owner/name), with a card."""
    from huggingface_hub import HfApi

    from .scoring.pushing import push as upload

    upload(out, repo_id, private=private, api=HfApi(), say=say)


@command(cli, "Train a classifier on labelled texts.")
@options_of(FinetuneConfig)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def finetune(quiet, **options):
    """Train a sequence classifier on labelled TRAIN files: .jsonl, .csv, .tsv or .parquet, also .gz."""
    from .train.finetune import finetune as run

    run(FinetuneConfig(**options), lines_unless(quiet))


@command(cli, "Train a masker, which masks a large corpus quickly.")
@options_of(MaskerConfig)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train_masker(quiet, **options):
    """Train a token classifier on finished SHARDS to mask as they are masked; for score --method masker."""
    from .train.masker import train_masker as run

    run(MaskerConfig(**options), lines_unless(quiet))


@command(cli, "Train a masked-language model on SHARDS.", resumes=True)
@options_of(PretrainConfig)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def pretrain(quiet, **options):
    """Train a masked-language model on SHARDS, directories of fastmask score.

    The same command resumes a run that was stopped. Several processes train together under
    torchrun --nproc-per-node N -m fastmask pretrain ...
    """
    from .train.pretrain import pretrain as run

    run(PretrainConfig(**options), lines_unless(quiet), console_unless(quiet))


@command(cli, "Compare fine-tuned models over seeds.")
@options_of(EvaluateConfig)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def evaluate(quiet, **options):
    """Compare arms over seeds: means, paired intervals, a paired test, and what so many seeds could have shown."""
    from .experiment.arms import evaluate as run
    from .report.comparison import tables
    from .train.evaluate import statements

    report = run(EvaluateConfig(**options), lines_unless(quiet))
    console = make_console()
    console.print(tables(report))
    for line in statements(report):
        console.print(line)


@command(cli, "Do all of it, and compare, as RECIPE.toml says.", resumes=True)
@click.argument("recipe")
@click.option("--dry-run", is_flag=True, help="Show the steps and what is complete, and stop.")
@click.option("--overwrite", is_flag=True, help="Make again what was made from other settings or inputs.")
@click.option("-q", "--quiet", is_flag=True, help="No plan and no progress.")
def run(recipe, dry_run, overwrite, quiet):
    """Do all three stages as RECIPE.toml says, for selective and for random masks, and compare them.

    A step whose output is complete for this configuration is skipped; the same command resumes a run that was stopped.
    """
    from .experiment.run import Run
    from .report.comparison import tables
    from .report.terminal import plan_table, work_lines
    from .train.evaluate import statements

    steps, console = Run(recipe, overwrite), make_console()
    if dry_run or not quiet:
        console.print(plan_table(steps.plan()))
    if dry_run:
        return
    with steps:
        report = steps.run(lines_unless(quiet), console_unless(quiet))
    console.print(tables(report))
    for line in (*work_lines(report), *statements(report)):
        console.print(line)


def main() -> None:
    """Entry point of the ``fastmask`` command."""
    from .core.startup import open_closed_streams, set_waiting

    open_closed_streams()
    open_doors()
    set_waiting()
    # Imports make objects by the hundred thousand, none of them garbage: looking for some takes a tenth of the start.
    gc.set_threshold(100_000)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cli(prog_name="fastmask")
