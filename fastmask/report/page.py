"""The page about a finished directory: one file without scripts, which loads nothing."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

from .. import __version__
from ..core.durable import os_errors_named, write_atomically
from ..core.errors import FastmaskError
from ..core.plain import Json, check_regular
from ..core.words import counted
from .certificate import levels, settings, statements
from .charts import importance_chart, places_chart, shares_chart
from .highlight import Sentence, environment
from .overview import LEAST_USES, PLACES, Overview
from .terminal import empty_rows

GENERATOR = '<meta name="generator" content="fastmask'
"""What is in the head of each page, so that no other file is replaced."""
HEAD_BYTES = 4096
MOST_CLASSES = 30
MOST_FACTS = 40
LOOK = 4
"""Sentences of the first look."""


def write_page(source: str, path: Path) -> None:
    """Write a page to a file, in place of another page.

    Raises:
        FastmaskError: it cannot be written, or another file is there.
    """
    check_replaceable(path)
    with os_errors_named(path):
        write_atomically(path, source.encode("utf-8", "replace"))


def check_replaceable(path: Path) -> None:
    """Raise FastmaskError if something is there that is no page of ours."""
    if path.is_dir():
        raise FastmaskError(f"{path}: is a directory; name a file")
    if path.exists():
        with os_errors_named(path):
            check_regular(path)
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        if GENERATOR.encode() not in head:
            raise FastmaskError(f"{path}: is there, and is no page of fastmask; name another file by -o")


def page(overview: Overview) -> str:
    """Return the page as HTML."""
    o = overview
    values = head(f"What is masked in {short(o.name)}", "sentence.css") | {"o": o}
    return environment().get_template("page.html").render(values | _texts(o) | _charts(o) | _overlap(o) | _run(o))


def head(title: str, *styles: str) -> Json:
    """Return what ``head.html`` shows: the title, and the styles with the hash that the page's policy lets through."""
    from markupsafe import Markup

    style = "".join(environment().get_template(name).render() for name in ("page.css", *styles))
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return {"title": title, "version": __version__, "style": Markup(style), "style_hash": digest}


def short(name: str) -> str:
    """Return the last part of a path."""
    return Path(name).resolve().name or name


def _texts(o: Overview) -> Json:
    """Return names, headings, and how importances are to be read."""
    sections = {"look": "A first look", "words": f"Masked {_unit(o)}s", "charts": "How much, and where",
                "compared": "Comparison", "sentences": "Sentences", "made": "How they were made",
                "skipped": "Skipped rows"}  # fmt: skip
    absent = {"look": not o.samples["any"], "sentences": not o.samples["any"], "words": not o.most,
              "compared": o.compared is None}  # fmt: skip
    contents = [(name, title) for name, title in sections.items() if not absent.get(name)]
    return {
        "short_name": short(o.name),
        "unit": _unit(o),
        "contents": contents,
        "look": _look(o),
        "least_uses": LEAST_USES,
        "last_place": PLACES + 1,
    }


def _unit(o: Overview) -> str:
    return "word" if o.by_word else "token"


def _look(o: Overview) -> list[Sentence]:
    """Return some of the random sentences, if possible of a length that shows something, with a mask and scored."""

    def rank(one: Sentence) -> tuple[bool, bool]:
        return not 6 <= one.length <= 40, one.masks == 0

    return sorted(o.samples["any"], key=rank)[:LOOK]


def _charts(o: Overview) -> Json:
    """Return the charts; nothing where there is nothing to draw."""
    both = [o.importance and importance_chart(o.importance, o.threshold, masked=masked) for masked in (False, True)]
    return {
        "shares_chart": shares_chart(o.shares),
        "places_chart": o.places and places_chart(o.places),
        "importance_charts": both,
        "most_classes": MOST_CLASSES,
        "tallest": max((one.masked / max(1, one.tokens) for one in o.classes), default=0),
        "told_right": any(one.labelled for one in o.classes),
    }


def _overlap(o: Overview) -> Json:
    """Return the masks of two directories, in both and in one, and the words of one; nothing without another one."""
    if o.compared is None:
        return {}
    (first, second, both), names = o.compared.found.masks, (short(o.name), short(o.compared.name))
    overlap = [("both", both), (f"only {names[0]}", first - both), (f"only {names[1]}", second - both)]
    return {"overlap": overlap, "either": first + second - both, "only": list(zip(names, o.compared.only, strict=True))}


def _run(o: Overview) -> Json:
    """Return what there is to say about the run."""
    manifest, certificate = o.manifest, o.manifest["certificate"]
    model, empty = (manifest["model"] or {}).get("name"), empty_rows(manifest)
    return {
        "config": manifest["config"],
        "totals": manifest["totals"],
        "skipped": manifest["skipped"],
        "without_text": empty and f"{counted(empty, 'row')} without text",
        "model": model and short(str(model)),
        "origin": list(_origin(manifest)),
        "statements": list(statements(certificate, manifest["config"])) if o.sound_certificate else [],
        "levels": levels(certificate) if o.sound_certificate else [],
        "settings": settings(manifest["config"]),
        "facts": list(_facts(manifest))[:MOST_FACTS],
    }


def _origin(manifest: Json) -> Iterator[str]:
    """Yield what was made of a run since."""
    if "remasked" in manifest:
        yield "Chosen again from the scores of another run, by fastmask remask."
    if "remapped" in manifest:
        yield f"Written in the tokens of another model by fastmask remap: {manifest['tokenizer'].get('name')}."


def _facts(manifest: Json) -> Iterator[tuple[str, str]]:
    yield "fastmask", str(manifest["fastmask_version"])
    for name, entry in (("model", manifest["model"] or {}), ("tokenizer", manifest["tokenizer"])):
        yield from ((f"{name} {key}".replace("_", " "), str(value)) for key, value in entry.items()
                    if isinstance(value, str))  # fmt: skip
    inputs = manifest["inputs"]
    for one in inputs[:10]:
        size = one.get("bytes")
        yield "input", f"{one.get('name')}" + (f", {size:,} bytes" if size is not None else "")
    if len(inputs) > 10:
        yield "input", f"and {len(inputs) - 10:,} more files"
    yield from ((str(key), str(value)) for key, value in manifest["environment"].items())
