"""What spaCy's tokenizers cut off at both ends of a run: the same in less time, and the full stops that they forget."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.tokenizer import Tokenizer

# No pattern of a suffix is wider, but for those of a run of dots and, in Greek, of these characters.
_WIDEST_SUFFIX = 32
_GREEK = "".join(map(chr, range(0x386, 0x3CF)))
_RUNS = {"el": f".0123456789-'&mg{_GREEK}"}
# In Indonesian and Malay a tag anywhere in a run counts as its beginning: the one prefix that does.
_ANYWHERE = dict.fromkeys(("id", "ms"), re.compile("<a([^>]+)>"))
# Full stops that the rules of their own language leave on the word before, so that no sentence would end there.
_LEFT_ON_WORDS = {
    "hy": r"(?<=[\u0531-\u0588])\u0589",
    "gu": r"(?<=[\u0a81-\u0aff])\.",
    "ml": r"(?<=[\u0d01-\u0d7f])\.",
    "sa": r"(?<=[\u0901-\u097f])\u0965",
}


def change_affixes(tokenizer: Tokenizer, language: str) -> None:
    """Make a spaCy tokenizer find affixes without searching a whole run for each, and the stops in _LEFT_ON_WORDS."""
    # every alternative of the prefixes but those in _ANYWHERE begins with ^, every one of the suffixes ends with $
    prefixes, suffixes = tokenizer.prefix_search.__self__, tokenizer.suffix_search.__self__
    tag, runs, stop = _ANYWHERE.get(language), _RUNS.get(language, "."), _LEFT_ON_WORDS.get(language)
    if stop:
        suffixes = re.compile(f"{suffixes.pattern}|{stop}$")

    def prefix_search(run: str) -> re.Match[str] | None:
        # beyond the last > each < would be tried in vain
        return prefixes.match(run) or (tag.search(run, 0, run.rfind(">") + 1) if tag else None)

    def suffix_search(run: str) -> re.Match[str] | None:
        start = 0 if len(run) < _WIDEST_SUFFIX else max(0, len(run.rstrip(runs)) - _WIDEST_SUFFIX)
        return suffixes.search(run, start)

    tokenizer.prefix_search = prefix_search if tag else prefixes.match
    tokenizer.suffix_search = suffix_search
