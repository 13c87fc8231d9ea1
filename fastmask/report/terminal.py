"""Shards and records as rich renderables. Readable at 80 columns, when piped, and without colour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from ..core.words import counted
from .highlight import Numbers, Places, strengths_of
from .screen import clean, one_line, shown

if TYPE_CHECKING:
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

FAINTEST = 0.15
"""Strength (0 to 1) below which a token gets no colour."""
MESSAGES_SHOWN = 5
MOST_WORDS = 20
"""Words of each run that the other does not mask."""


def summary(manifest: dict, certified: str) -> Group:
    """Return what a finished shard directory holds as a table.

    Args:
        manifest: of ``schema.build_manifest``.
        certified: what its certificate says, in words.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    facts = _counts(manifest["totals"], empty_rows(manifest)), _settings(manifest), [("certified", certified)]
    for name, value in chain(*facts):
        table.add_row(shown(name), Text(shown(value)))
    skipped = manifest["skipped"]
    table.add_row("skipped", counted(skipped["count"], "document"))
    first = skipped["messages"][:MESSAGES_SHOWN]
    more = ["..."] if skipped["count"] > len(first) > 0 else []
    return Group(table, *(Text(f"  {one_line(message)}") for message in [*first, *more]))


def totals_line(out: str, manifest: dict, seconds: float | None = None) -> str:
    """Return one line about a finished shard directory, and how long it took if that is given."""
    total, skipped = manifest["totals"], manifest["skipped"]["count"]
    line = f"{out}: {counted(total['rows'], 'sentence')}, {counted(total['tokens'], 'token')}, "
    line += f"{total['masked']:,} masked ({_share(total['masked'], total['tokens'])})"
    line += "" if seconds is None else f" in {seconds:,.0f} s"
    empty = empty_rows(manifest)
    line += f"; {counted(empty, 'row')} without text left out" if empty else ""
    return line + (f"; {counted(skipped, 'row')} skipped" if skipped else "")


def empty_rows(manifest: dict) -> int:
    """Return how many rows have no token; 0 where an earlier version did not count them."""
    return sum(entry.get("empty", 0) for entry in manifest["shards"])


def plan_table(planned: Sequence) -> Table:
    """Return a table of the steps of a recipe's run (``ledger.Planned``) and their states."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("", "step", "command", "state"):
        table.add_column(title, style="bold" if title == "step" else None, overflow="fold", no_wrap=title == "command")
    for number, one in enumerate(planned, 1):
        state = "; ".join(filter(None, (one.state, one.reason)))
        table.add_row(str(number), Text(shown(one.step.name)), one.step.command, Text(one_line(state)))
    return table


def work_lines(report: dict) -> Iterator[str]:
    """Yield what each method and its control were pre-trained on, from the report of a recipe's run."""
    for method, work in report["pretraining"].items():
        runs = f"{work['runs']} pre-training runs" if work["runs"] > 1 else "pre-training"
        if work["every_step_equal"]:
            yield f"{method} and its control, {runs} each: {_work(work['control'])}, as many of each in every step"
        elif work["equal"] == "expected":
            expected = f"{work['selective']['expected_masked']:,.0f}"
            yield (f"{method} and its control, {runs} each: {_work(work['selective'])} against "
                   f"{_work(work['control'])}; masks are drawn, {expected} expected in each")  # fmt: skip
        elif work["equal"] == "total":
            yield f"{method} and its control, {runs} each: {_work(work['control'])}, the same in all, not in every step"
        else:
            yield (f"{method} and its control, {runs} each, did NOT the same work: {_work(work['selective'])} "
                   f"against {_work(work['control'])}")  # fmt: skip
        if len(work["made_on"]) > 1:
            yield f"{method} and its control were NOT made alike: {'; '.join(work['made_on'])}"


def _work(figures: dict) -> str:
    return ", ".join(f"{figures[name]:,} {name}" for name in ("steps", "tokens", "masked"))


def _counts(totals: dict, empty: int) -> Iterator[tuple[str, str]]:
    yield "documents", f"{totals['documents']:,}" + (f" ({empty:,} of them without text)" if empty else "")
    yield "sentences", f"{totals['rows']:,} ({totals['scored']:,} scored)"
    yield "tokens", f"{totals['tokens']:,}"
    yield "masked", f"{totals['masked']:,} ({_share(totals['masked'], totals['tokens'])} of the tokens)"
    yield "shards", f"{totals['shards']:,} ({counted(totals['bytes'], 'byte')})"


def agreement(first: str, second: str, found: Any, word_of: Callable[[tuple[int, ...]], str]) -> Group:
    """Return how far two runs agree.

    Args:
        first, second: their names.
        found: of ``scoring.agreement.compare_shards``.
        word_of: from a word's token ids to its text.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    a, b, both = found.masks
    lines = [
        f"A: {shown(first)}, {counted(a, 'mask')}",
        f"B: {shown(second)}, {counted(b, 'mask')}, {both:,} of them where A has one",
        f"overlap (Jaccard): {_number(found.jaccard)} of all masks, {_number(found.sentence_jaccard)} in the mean of "
        f"{counted(found.masked_sentences, 'sentence')} with a mask ({found.sentences:,} in all)",
        f"rank correlation of importances (Spearman): {_number(found.rank_correlation)} of "
        + counted(found.ranked, "token")
        + (f", a sample of {found.scored:,} scored in both" if found.ranked < found.scored else " scored in both"),
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("only A masks", "", "only B masks", ""):
        table.add_column(title, overflow="fold" if title else "ellipsis", justify="left" if title else "right")
    for pair in zip_longest(*(words[:MOST_WORDS] for words in found.only)):
        cells = [cell for one in pair for cell in ((shown(word_of(one[0])), f"{one[1]:,}") if one else ("", ""))]
        table.add_row(*(Text(cell) for cell in cells))
    return Group(*(Text(line) for line in lines), *([table] if table.row_count else []))


def word_table(name: str | None, words: Sequence[Any]) -> Table:
    """Return a table of words (``report.overview.Word``) of a class, None being all: masked, used, which share."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("most masked" if name is None else f"most masked in {shown(name)}", overflow="fold")
    for title in ("masked", "of uses", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in words:
        cells = f"{one.masked:,}", f"{one.uses:,}", _share(one.masked, one.uses)
        table.add_row(Text(shown(one.text)), *cells)
    return table


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _settings(manifest: dict) -> Iterator[tuple[str, str]]:
    config, model = manifest["config"], manifest["model"] or {}
    for name in ("method", "threshold", "mask_rate", "unit", "language", "stop_words"):
        value = config.get(name, "token" if name == "unit" else None)
        yield name.replace("_", " "), "none" if value is None else str(value)
    yield "model", str(model.get("name", "none"))
    # the configuration has what was asked for, which may be "auto"; the environment has what was used
    for name in ("device", "precision"):
        yield name, str(manifest["environment"].get(name, config.get(name)))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0.0%"


def sentence_text(
    words: Sequence[str], importance: Numbers | None, mask_index: Places, *, large_is_important: bool
) -> Text:
    """Return a sentence's text: tokens coloured by importance (stronger is more important), masked ones in [brackets].

    Args:
        words: [n] strings, as ``surfaces`` makes them.
        importance: [n] S(w), or None where the sentence was not scored: no colour then.
        mask_index: masked positions.
        large_is_important: whether a large S(w) is important; else a small one is.
    """
    from rich.text import Text

    text, masked = Text(), set(mask_index)
    strengths = strengths_of(words, importance, large_is_important)
    for position, (word, strength) in enumerate(zip(words, strengths, strict=True)):
        text_of = clean(word.strip())
        if position and word[:1].isspace():
            text.append(" ")
        style = _style(strength, position in masked)
        text.append(f"[{text_of}]" if position in masked else text_of, style=style)
    return text


def _style(strength: float, masked: bool) -> str:
    weight = "bold " if masked else ""
    if strength < FAINTEST:
        return weight.strip()
    # black on white to red: readable whether the terminal is dark or light
    pale = round(225 * (1 - strength)) + 30
    return f"{weight}black on #ff{pale:02x}{pale:02x}"


def masked_scores(
    words: Sequence[str], importance: Numbers | None, mask_index: Places, unscored: str = "not scored"
) -> Padding:
    """Return an indented line: each masked token and its importance, or why there is none.

    Args: see ``sentence_text``; ``unscored`` says that a sentence was not scored, and why.
    """
    from rich.padding import Padding
    from rich.text import Text

    if importance is None:
        line = unscored if len(mask_index) == 0 else "masked without a score"
    else:
        scores = (f"{shown(words[position].strip())} {importance[position]:+.3f}" for position in mask_index)
        line = ", ".join(scores) or "nothing masked"
    return Padding(Text(line, style="dim"), (0, 0, 0, 5))


def sentence_table(words: Sequence[str], importance: Numbers | None, mask_index: Places) -> Table:
    """Return a line per token: position, text, importance ("-" where the sentence was not scored), "masked" or nothing.

    Args: see ``sentence_text``.
    """
    from rich.table import Table
    from rich.text import Text

    table, masked = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0)), set(mask_index)
    table.add_column("", justify="right", style="dim")
    table.add_column("token", overflow="fold")
    table.add_column("importance", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, style="bold")
    scores = ["-"] * len(words) if importance is None else [f"{value:+.4f}" for value in importance]
    for position, (word, score) in enumerate(zip(words, scores, strict=True)):
        table.add_row(str(position), Text(shown(word.strip())), score, "masked" if position in masked else "")
    return table
