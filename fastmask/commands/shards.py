"""The commands that take finished shards: look, check, choose again, translate, write for others, upload."""

from __future__ import annotations

import json

import click

from ..core.config import ExportConfig, RemaskConfig, demand
from ..core.options import options_of
from ..core.words import counted
from ..report.screen import console_unless, make_console, say
from .group import command, leave


@command("Show what a directory of shards holds.")
@click.argument("out")
@click.option("--rows", default=0, show_default=True, help="Number of sentences to show with their masks.")
@click.option("--top", default=0, show_default=True, help="Number of words to show, those masked most often.")
@click.option("--by-class", is_flag=True, help="Count the words of --top class by class.")
@click.option("--compare", help="Show only how far another directory of the same sentences agrees.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables, for programs.")
def inspect(out, rows, top, by_class, compare, as_json):
    """Show what is in a finished shard directory."""
    from ..scoring.inspecting import agreement_facts, facts
    from ..scoring.inspecting import inspect as show

    demand(not (compare and (rows or top)), "--compare", "not together with --rows or --top")
    demand(bool(top) or not by_class, "--by-class", "give --top N, too")
    for flag, number in (("--rows", rows), ("--top", top)):
        demand(number >= 0, f"{flag} {number}", "0 or more")
    if as_json:
        found = agreement_facts(out, compare) if compare else facts(out, rows, top, by_class)
        say(json.dumps(found, allow_nan=False), err=False)
        return
    show(make_console(), out, rows, compare, top, by_class)


@command("Write a page about a directory of shards.")
@click.argument("out")
@click.option("-o", "--page", default="report.html", show_default=True, help="File of the page.")
@click.option("--compare", help="Another directory of the same sentences; the page says how far its masks agree.")
@click.option("-q", "--quiet", is_flag=True, help="Show no summary.")
def report(out, page, compare, quiet):
    """Write a page about a finished shard directory: its masks, importances and sentences in one HTML file."""
    from ..scoring.overview import write_overview

    write_overview(out, page, compare)
    if not quiet:
        say(f"{page}: a page about {out}; open it in a browser")


@command("Check that a directory of shards is whole.")
@click.argument("out")
@click.option("--repair", is_flag=True, help="Make damaged shards again from the inputs.")
def verify(out, repair):
    """Check hashes, counts and schema of a finished shard directory; exit 1 and name what is damaged."""
    from ..shards.verify import verify as find_damage

    if repair:
        from ..pipeline import repair as make_again

        for name in make_again(out):
            say(f"{name}: made again, identical", err=False)
    damaged = find_damage(out)
    for damage in damaged:
        say(f"{damage.file}: {damage.reason}", err=False)
    if damaged:
        leave(1)
    say(f"{out}: ok", err=False)


@command("Choose other masks from the scores of SHARDS.", resumes=True)
@options_of(RemaskConfig)
@click.option("-q", "--quiet", is_flag=True, help="Show no summary.")
def remask(quiet, **options):
    """Choose other masks from the scores of SHARDS, as score would with these options.

    The model of SHARDS is asked where the scores do not tell the masks, and nowhere else. What is not given is as
    SHARDS have it. The same command resumes a run that was stopped.
    """
    from ..core.startup import start_numba
    from ..report.progress import Meter
    from ..report.terminal import totals_line
    from ..scoring.remask import remask_shards

    start_numba()
    manifest, in_doubt = remask_shards(RemaskConfig(**options), Meter(console_unless(quiet)))
    if in_doubt:
        say(f"warning: {options['out']}: score might choose other masks in {counted(in_doubt, 'sentence')}")
    if not quiet:
        say(totals_line(options["out"], manifest))


@command("Translate the masks of SHARDS to another tokenizer.", resumes=True)
@click.argument("shards")
@click.option("--tokenizer", required=True, help="Model whose tokenizer it is: a directory or a hub id.")
@click.option("-o", "--out", required=True, help="Directory of the new shards.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it was made from something else.")
@click.option("-q", "--quiet", is_flag=True, help="Show no summary.")
def remap(shards, tokenizer, out, overwrite, quiet):
    """Write the masks of SHARDS in the tokens of another model, to pre-train that one.

    The texts are read again; every token that shares a character with a masked one is masked. The same
    command resumes a run that was stopped.
    """
    from ..data.remapped import remap_shards
    from ..report.terminal import totals_line

    manifest = remap_shards(shards, tokenizer, out, overwrite)
    if not quiet:
        say(totals_line(out, manifest))


@command("Write SHARDS as another trainer's files.")
@options_of(ExportConfig)
@click.option("-q", "--quiet", is_flag=True, help="Show no summary.")
def export(quiet, **options):
    """Write the training sequences of SHARDS, corrupted once, for another trainer."""
    from ..data.exporting import export_shards

    written = export_shards(ExportConfig(**options))
    if not quiet:
        line = f"{options['out']}: {counted(written['sequences'], 'sequence')}, {written['masked']:,} masked, "
        line += f"in {counted(written['files'], 'file')}"
        line += f", tokens of {written['tokenizer']}"
        dropped = written["dropped"]
        say(line + (f"; {counted(dropped, 'mask')} past --max-predictions left out" if dropped else ""))


@command("Upload shards or a trained model to the Hugging Face hub.")
@click.argument("out")
@click.argument("repo_id")
@click.option("--private", is_flag=True, help="Make a new repository private.")
def push(out, repo_id, private):
    """Upload OUT, a finished directory of shards or a trained model, as REPO_ID (owner/name), with a card."""
    from huggingface_hub import HfApi

    from ..scoring.pushing import push as upload

    upload(out, repo_id, private=private, api=HfApi())
