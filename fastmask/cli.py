"""The commands. Everything heavy is imported inside them, so that ``--help`` is instant; only this file prints."""

from __future__ import annotations

import functools
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from . import __version__
from .core.config import EvaluateConfig, ExportConfig, RemaskConfig, ScoreConfig
from .core.config_train import FinetuneConfig, MaskerConfig, PretrainConfig
from .core.errors import FastmaskError, line_of
from .core.options import options_of
from .report.screen import make_console, one_line, open_doors, say, say_traceback

MAY_BE_EMPTY = ("text", "text_field", "label_field")
RESUMABLE = ("score", "remap", "remask", "pretrain", "run")


def _lines(quiet: bool) -> Callable[[str], None]:
    """Return what shows lines of progress."""
    return (lambda line: None) if quiet else say


def _console(quiet: bool):
    """Return where a bar of progress is drawn; None for nowhere."""
    return None if quiet else make_console(stderr=True)


def command(function):
    """Make a function a command: it gets ``--debug``, and an error is one line instead of a traceback."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def run(*args, debug: bool, **kwargs):
        try:
            _check_given(kwargs)
            return function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            again = "; the same command resumes it" if function.__name__ in RESUMABLE else ""
            say(f"fastmask: stopped{again}")
            _leave(130)
        except BrokenPipeError:
            sys.stdout = None
            _leave(1)
        except Exception as error:
            if debug:
                say_traceback(error)
            else:
                say(f"fastmask: error: {line_of(error)}")
            _leave(1)

    return cli.command(name=function.__name__.rstrip("_").replace("_", "-"))(run)


def _check_given(values: dict) -> None:
    """Raise FastmaskError for an empty name; a column's may be empty, and a text to explain is looked at there."""
    ctx = click.get_current_context()
    for param in ctx.command.params:
        value = values.get(param.name)
        if "" in (value if isinstance(value, tuple) else (value,)) and param.name not in MAY_BE_EMPTY:
            raise FastmaskError(f"{param.get_error_hint(ctx)}: is empty")


def _leave(code: int) -> None:
    raise click.exceptions.Exit(code)


class Commands(click.Group):
    """The group of commands; what click says of an argument is cleaned and shortened, too."""

    def make_context(self, *args, **extra):
        """See click."""
        with _clean_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx):
        """See click."""
        with _clean_errors():
            return super().invoke(ctx)


@contextmanager
def _clean_errors() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        error.message = one_line(error.message)  # type: ignore[misc]  # click calls it final
        raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fastmask")
def cli():
    """Score how much each token matters to a task, and write mask-index shards for masked-language-model training."""


@command
@click.argument("corpus", nargs=-1, required=True)
@click.option("-o", "--out", help="Directory of the shards; without it x.masks for x.txt, where you are.")
@options_of(ScoreConfig)
@click.option("--control", help="Directory of a random twin: the same sentences with as many masks each.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it was made with another configuration.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def score(corpus, out, control, overwrite, quiet, **options):
    """Score CORPUS files into a directory of shards.

    CORPUS: .txt (a document a line), .jsonl, .csv, .tsv or .parquet, each also .gz, or - for lines on standard input.
    The same command resumes a run that was stopped.
    """
    from .core.startup import start_numba
    from .pipeline import score_corpus
    from .report.progress import Meter
    from .report.terminal import totals_line
    from .scoring.method import label_warnings
    from .text.inputs import default_out

    start_numba()
    meter = Meter(_console(quiet), _lines(quiet), unsaid := default_out(corpus) if out is None else None)
    out = unsaid if out is None else out
    began = time.monotonic()
    manifest = score_corpus(corpus, out, ScoreConfig(**options), overwrite=overwrite, meter=meter, control=control)
    if not quiet:
        say(f"{totals_line(out, manifest)} in {time.monotonic() - began:,.0f} s")
    for line in label_warnings(out, manifest):
        say(line)


@command
@click.argument("text")
@options_of(ScoreConfig, "model", "method", "threshold", "mask_rate", "unit", "language", "segment", "stop_words",
            "keep_punctuation", "max_length", "precision", "words", "vectors", "background", "anchors")  # fmt: skip
def explain(text, **options):
    """Score TEXT and show its tokens by importance, the masked ones marked. Nothing is written."""
    from .core.startup import start_numba
    from .report.terminal import sentence_table, sentence_text, surfaces
    from .scoring.api import score as score_texts
    from .scoring.method import method_named

    start_numba()
    console, found = make_console(), False
    large = method_named(options["method"]).large_is_important
    for record in score_texts([text], **options):
        found = True
        words = surfaces(record.text, record.spans)
        console.print(sentence_text(words, record.importance, record.mask_index, large_is_important=large))
        if record.prob is not None:
            console.print(f"class {record.predicted}, P = {record.prob:.4f}")
        console.print(sentence_table(words, record.importance, record.mask_index))
    if not found:
        raise FastmaskError("TEXT: there is no token in it")


@command
@click.argument("out")
@click.option("--rows", default=0, show_default=True, help="Also show the first so many sentences and their masks.")
@click.option("--compare", help="Instead: how far another directory, of the same sentences, agrees with it.")
def inspect(out, rows, compare):
    """Show what is in a finished shard directory."""
    from .scoring.inspecting import inspect as show

    show(make_console(), out, rows, compare)


@command
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
        _leave(1)
    say(f"{out}: ok", err=False)


@command
@options_of(FinetuneConfig)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def finetune(quiet, **options):
    """Train a sequence classifier on labelled TRAIN files: .jsonl, .csv, .tsv or .parquet, also .gz."""
    from .train.finetune import finetune as run

    run(FinetuneConfig(**options), _lines(quiet))


@command
@options_of(PretrainConfig)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def pretrain(quiet, **options):
    """Train a masked-language model on SHARDS, directories of fastmask score.

    The same command resumes a run that was stopped. Several processes train together under
    torchrun --nproc-per-node N -m fastmask pretrain ...
    """
    from .train.pretrain import pretrain as run

    run(PretrainConfig(**options), _lines(quiet), _console(quiet))


@command
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


@command
@options_of(RemaskConfig)
@click.option("-q", "--quiet", is_flag=True, help="No last line.")
def remask(quiet, **options):
    """Choose other masks from the scores of SHARDS, as score would with these options; no model is asked.

    What is not given is as SHARDS have it. The same command resumes a run that was stopped.
    """
    from .report.terminal import totals_line
    from .scoring.remask import remask_shards

    manifest, in_doubt = remask_shards(RemaskConfig(**options))
    if in_doubt:
        say(f"warning: {options['out']}: score might choose other masks in {in_doubt:,} sentences")
    if not quiet:
        say(totals_line(options["out"], manifest))


@command
@options_of(ExportConfig)
@click.option("-q", "--quiet", is_flag=True, help="No last line.")
def export(quiet, **options):
    """Write the training sequences of SHARDS, corrupted once, for another trainer."""
    from .data.exporting import export_shards

    written = export_shards(ExportConfig(**options))
    if not quiet:
        line = f"{options['out']}: {written['sequences']:,} sequences, {written['masked']:,} masked, "
        line += f"in {written['files']} files"
        line += f", tokens of {written['tokenizer']}"
        dropped = written["dropped"]
        say(line + (f"; {dropped:,} masks past --max-predictions left out" if dropped else ""))


@command
@options_of(EvaluateConfig)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def evaluate(quiet, **options):
    """Compare arms over seeds: means, paired intervals, a paired test, and what so many seeds could have shown."""
    from .experiment.arms import evaluate as run
    from .report.comparison import tables
    from .train.evaluate import statements

    report = run(EvaluateConfig(**options), _lines(quiet))
    console = make_console()
    console.print(tables(report))
    for line in statements(report):
        console.print(line)


@command
@options_of(MaskerConfig)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train_masker(quiet, **options):
    """Train a token classifier on finished SHARDS to mask as they are masked; for score --method masker."""
    from .train.masker import train_masker as run

    run(MaskerConfig(**options), _lines(quiet))


@command
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
        report = steps.run(_lines(quiet), _console(quiet))
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
