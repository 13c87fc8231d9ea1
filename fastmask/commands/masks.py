"""The commands that choose masks. Everything heavy is imported inside them, so that ``--help`` is instant."""

from __future__ import annotations

import time
from dataclasses import fields

import click

from ..core.config import ScoreConfig
from ..core.config_engine import EngineConfig, Part
from ..core.errors import FastmaskError
from ..core.options import options_of
from ..core.words import counted
from ..report.screen import console_unless, make_console, say, shown
from .group import command, settings_file


@command("Show how one TEXT is scored and masked.")
@click.argument("text")
@options_of(ScoreConfig, "model", "method", "threshold", "mask_rate", "unit", "language", "segment", "stop_words",
            "keep_punctuation", "max_length", "precision", "words", "vectors", "background", "anchors")  # fmt: skip
def explain(text, **options):
    """Score TEXT and show its tokens by importance, the masked ones marked. Nothing is written."""
    from ..core.startup import start_numba
    from ..report.highlight import surfaces
    from ..report.progress import Meter
    from ..report.terminal import sentence_table, sentence_text
    from ..scoring.api import records_of
    from ..scoring.scorer import Scorer

    start_numba()
    console = make_console()
    scorer = Scorer(ScoreConfig(**options), meter=Meter(make_console(stderr=True)))
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


@command("Choose the masks of CORPUS, and write them as shards.", resumes=True)
@click.argument("corpus", nargs=-1, required=True)
@click.option("-o", "--out", help="Directory of the shards; without it x.masks for x.txt, where you are.")
@options_of(ScoreConfig)
@settings_file
@options_of(EngineConfig)
@click.option("--control", help="Directory of a random twin: the same sentences with as many masks each.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it was made with another configuration.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no summary.")
def score(corpus, out, control, overwrite, quiet, **options):
    """Score CORPUS files into a directory of shards.

    CORPUS: .txt (a document a line), .jsonl, .csv, .tsv, .parquet or .arrow, each also .gz or .zst; folders of them,
    patterns, URLs (s3://...), or - for lines on standard input.
    The same command resumes a run that was stopped.
    """
    from ..core.startup import start_numba
    from ..pipeline import score_corpus, score_part
    from ..report.progress import Meter
    from ..report.terminal import totals_line
    from ..scoring.method import label_warnings
    from ..text.inputs import default_out

    start_numba()
    engine = EngineConfig(**{field.name: options.pop(field.name) for field in fields(EngineConfig)})
    engine.check(control=control, overwrite=overwrite)
    meter = Meter(console_unless(quiet), unsaid := default_out(corpus) if out is None else None)
    out = unsaid if out is None else out
    began = time.monotonic()
    if engine.part is not None:
        part = Part.read(engine.part)
        made = score_part(corpus, out, ScoreConfig(**options), part=part, mixed=engine.mixed, meter=meter)
        if not quiet and not made["is_finished"]:
            say(f"{out}: part {part} is made, {made['shards']:,} of {counted(made['of'], 'shard')}, "
               f"{counted(made['rows'], 'document')}, "
                f"in {time.monotonic() - began:,.0f} s; fastmask finish completes it when all parts are")  # fmt: skip
        return
    manifest = score_corpus(corpus, out, ScoreConfig(**options), overwrite=overwrite, meter=meter, control=control,
                            engine=engine)  # fmt: skip
    if not quiet:
        say(totals_line(out, manifest, time.monotonic() - began))
    for line in label_warnings(out, manifest):
        say(f"warning: {line}")


@command("Plan a run that several machines are to make.", resumes=True)
@click.argument("corpus", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="Directory of the shards.")
@options_of(ScoreConfig)
@settings_file
@click.option("-q", "--quiet", is_flag=True, help="Show no summary.")
def plan(corpus, out, quiet, **options):
    """Plan what score makes of CORPUS, without a shard: hash it, find where shards begin, measure error bounds.

    score makes a plan itself where there is none; score --part K/N of many machines then waits for the first of them.
    """
    from ..core.startup import start_numba
    from ..pipeline import plan_corpus

    start_numba()
    made = plan_corpus(corpus, out, ScoreConfig(**options))
    if made and not quiet:
        say(f"{out}: planned, {counted(len(made['places']), 'shard')} of {counted(made['rows'], 'document')}")


@command("Complete a directory whose parts are made.", resumes=True)
@click.argument("out")
@click.option("--mixed", is_flag=True, help="Let this machine differ from the one that made the plan.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no summary.")
def finish(out, mixed, quiet):
    """Complete OUT when all parts of score --part are made; name the parts to run again if some are not."""
    from ..core.startup import start_numba
    from ..pipeline import finish_parts
    from ..report.progress import Meter
    from ..report.terminal import totals_line
    from ..scoring.method import label_warnings

    start_numba()
    manifest = finish_parts(out, mixed=mixed, meter=Meter(console_unless(quiet)))
    if not quiet:
        say(totals_line(out, manifest))
    for line in label_warnings(out, manifest):
        say(f"warning: {line}")
