"""The commands. Everything heavy is imported inside them, so that ``--help`` is instant; only this file prints."""

from __future__ import annotations

import functools
import signal
import sys
import time

import click

from . import __version__
from .config import CONFIGS, KERNELS, METHODS, PRECISIONS, TRAINED_DTYPES, FinetuneConfig, ScoreConfig
from .config_masker import HELP as MASKER_HELP
from .config_masker import MaskerConfig
from .errors import FastmaskError
from .options import options_of

SCORE_HELP = {
    "model": "Classifier, or masker: a directory or a hub id; without it the embedded English sentiment classifier.",
    "method": "How importance is measured.",
    "threshold": "d of the paper's rule: a smaller drop in P(class) marks a token as important.",
    "mask_rate": "At most max(1, int(RATE * n)) masks in a sentence of n tokens; 0.15 for masker and random.",
    "like": "For --method random: a shard directory whose number of masks per sentence is copied.",
    "stop_words": "Never masked: english, none, or a file with one word a line.",
    "segment": "sentence: documents are cut into sentences; line: each is one sentence.",
    "text_field": "Column or key of the text.",
    "label_field": "Column or key of the label; where it is absent the classifier's own answer is the class.",
    "max_length": "Longest classifier input in tokens.",
    "precision": "Precision of the first pass; masks do not depend on it.",
    "certify": "Recheck doubtful decisions at higher precision.",
    "device": "auto, cpu, cuda or cuda:N; several, such as cuda:0,cuda:1, score shards side by side.",
    "kernels": "Back end of the forward pass.",
    "batch_tokens": "Token budget of one forward batch; 0 is what suits the model.",
    "shard_rows": "Documents a shard.",
    "encoding": "Encoding of text inputs.",
    "on_error": "What to do about a bad row.",
    "seed": "Of the random method and the audit sample.",
    "threads": "Scoring threads; 0 is one per core.",
}
_CHOICES = {
    "method": METHODS,
    "precision": PRECISIONS,
    "kernels": KERNELS,
    "segment": ("sentence", "line"),
    "on_error": ("fail", "skip"),
}
_SPECIAL = {name: {"type": click.Choice(values)} for name, values in _CHOICES.items()}
_SPECIAL["certify"] = {"flag": "--certify/--no-certify"}
score_options = options_of(ScoreConfig, SCORE_HELP, **_SPECIAL)
FINETUNE_HELP = {
    "dev": "Labelled file that chooses the best epoch; may be repeated.",
    "test": "Labelled file that is only measured, at the end; may be repeated.",
    "init": "Model to start from: a directory or a hub id.",
    "config": "Train a new model of this shape, with a vocabulary learned from the texts.",
    "classes": "Class name, once for each class in index order.",
    "vocab_size": "Wordpieces to learn, with --config.",
    "epochs": "Passes over the training data.",
    "batch_size": "Texts a step.",
    "lr": "Peak learning rate of AdamW.",
    "warmup": "Share of the steps that warm up; the rest decays linearly.",
    "weight_decay": "Of AdamW.",
    "max_length": "Longest input in tokens.",
    "teacher": "Larger classifier with the same classes, to learn from.",
    "distill": "File whose texts, and random spans of them, the teacher labels; may be repeated.",
    "spans": "Random spans of each of those texts.",
    "average": "Decay of a running mean of the weights, which is what is saved; 0 is off.",
    "token_dropout": "Share of tokens that are read as [MASK] in training.",
    "dtype": "Of the saved weights.",
    **{name: SCORE_HELP[name] for name in ("text_field", "label_field", "encoding", "on_error")},
    "device": "auto, cpu or cuda.",
    "seed": "Of everything that is random.",
    "overwrite": "Replace OUT.",
}
finetune_options = options_of(
    FinetuneConfig,
    FINETUNE_HELP,
    config={"type": click.Choice(tuple(CONFIGS))},
    dtype={"type": click.Choice(TRAINED_DTYPES)},
    on_error=_SPECIAL["on_error"],
)
masker_options = options_of(MaskerConfig, MASKER_HELP, dtype={"type": click.Choice(TRAINED_DTYPES)})
MODEL_FIELDS = ("model", "method", "threshold", "mask_rate", "stop_words", "max_length", "precision")
explain_options = options_of(ScoreConfig, {name: SCORE_HELP[name] for name in MODEL_FIELDS}, **_SPECIAL)


def _console(stderr: bool = False):
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def _say(line: str) -> None:
    click.echo(line, err=True)


def command(function):
    """``--debug``, and one line instead of a traceback for whatever goes wrong."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def run(*args, debug: bool, **kwargs):
        try:
            return function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            again = "; the same command goes on from here" if function.__name__ == "score" else ""
            _say(f"fastmask: stopped{again}")
            _leave(130)
        except BrokenPipeError:
            sys.stdout = None
            _leave(1)
        except Exception as error:
            if debug:
                raise
            _say(f"fastmask: error: {_one_line(error)}")
            _leave(1)

    return cli.command(name=function.__name__.rstrip("_").replace("_", "-"))(run)


def _one_line(error: Exception) -> str:
    if isinstance(error, FastmaskError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} (unexpected; --debug shows where)"


def _leave(code: int) -> None:
    raise click.exceptions.Exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fastmask")
def cli():
    """Score how much each token matters to a task, and write mask-index shards for masked-language-model training."""


@command
@click.argument("corpus", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="Directory of the shards.")
@score_options
@click.option("--control", help="Directory of a random twin: the same sentences with as many masks each.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it was made with another configuration.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def score(corpus, out, control, overwrite, quiet, **options):
    """Score CORPUS files into a directory of shards.

    CORPUS: .txt (a document a line), .jsonl, .csv, .tsv or .parquet, each also .gz, or - for lines on standard input.
    A run that was stopped goes on when the same command is given again.
    """
    from .pipeline import score_corpus

    meter = None
    if not quiet:
        from .meter import Meter

        meter = Meter(_console(stderr=True), _say)
    began = time.monotonic()
    manifest = score_corpus(corpus, out, ScoreConfig(**options), overwrite=overwrite, meter=meter, control=control)
    if not quiet:
        total, skipped = manifest["totals"], manifest["skipped"]["count"]
        share = total["masked"] / max(1, total["tokens"])
        line = (
            f"{out}: {total['rows']:,} sentences, {total['tokens']:,} tokens, {total['masked']:,} masked ({share:.1%})"
        )
        _say(f"{line} in {time.monotonic() - began:,.0f} s" + (f"; {skipped:,} rows skipped" if skipped else ""))


@command
@click.argument("text")
@explain_options
def explain(text, **options):
    """Score TEXT and show its tokens by importance, the masked ones marked. Nothing is written."""
    from .api import score as score_texts
    from .show import sentence_table, sentence_text

    console, found = _console(), False
    for record in score_texts([text], **options):
        found = True
        console.print(sentence_text(record.tokens, record.importance, record.mask_index, method=options["method"]))
        if record.prob is not None:
            console.print(f"class {record.predicted}, P = {record.prob:.4f}")
        console.print(sentence_table(record.tokens, record.importance, record.mask_index))
    if not found:
        raise FastmaskError("TEXT: there is no token in it")


@command
@click.argument("out")
@click.option("--rows", default=0, show_default=True, help="Also show the first so many sentences and their masks.")
def inspect(out, rows):
    """Show what is in a finished shard directory."""
    from .api import shard_tokens
    from .dataset import open_shards
    from .show import masked_scores, sentence_text, summary

    shards = open_shards(out)
    console = _console()
    console.print(summary(shards.manifest))
    if not rows:
        return
    tokens_of = shard_tokens(shards.manifest)
    for row in shards.head(rows):
        tokens = tokens_of(row["input_ids"])
        method = shards.manifest["config"]["method"]
        console.print(f"\n{row['row']}.{row['sentence']}", style="dim", end="  ")
        console.print(sentence_text(tokens, row["importance"], row["mask_index"], method=method))
        console.print(masked_scores(tokens, row["importance"], row["mask_index"]))


@command
@click.argument("out")
@click.option("--repair", is_flag=True, help="Make damaged shards again from the inputs.")
def verify(out, repair):
    """Check hashes, counts and schema of a finished shard directory; exit 1 and name what is damaged."""
    from .shards import verify as find_damage

    if repair:
        from .pipeline import repair as make_again

        for name in make_again(out):
            click.echo(f"{name}: made again, identical")
    damaged = find_damage(out)
    for damage in damaged:
        click.echo(f"{damage.file}: {damage.reason}")
    if damaged:
        _leave(1)
    click.echo(f"{out}: ok")


@command
@click.argument("train", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="Directory of the model.")
@finetune_options
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def finetune(train, out, quiet, **options):
    """Train a sequence classifier on labelled TRAIN files: .jsonl, .csv, .tsv or .parquet, also .gz."""
    from .train.classify import finetune as run

    run(FinetuneConfig(train=train, out=out, **options), (lambda line: None) if quiet else _say)


@command
@click.argument("shards", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="Directory of the model.")
@masker_options
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train_masker(shards, out, quiet, **options):
    """Train a token classifier on finished SHARDS to mask as they are masked; for score --method masker."""
    from .train.masker import train_masker as run

    run(MaskerConfig(shards=shards, out=out, **options), (lambda line: None) if quiet else _say)


def main() -> None:
    """Entry point of the ``fastmask`` command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cli(prog_name="fastmask")
