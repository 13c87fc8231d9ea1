"""Where a long text may be cut, so that little of it is tokenized at a time and the tokens stay those of the whole."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from string import ascii_letters, digits
from typing import TYPE_CHECKING, NamedTuple

from .sentences import CLOSING

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.normalizers import Normalizer

_PIECE = 1 << 16  # characters
_BETWEEN_WORDS = re.compile(r"(?<=[^\W_]) (?=[^\W_])")
_ANY_SPACE = re.compile(" ")
_SPACE_INSIDE = re.compile(r"\S\s")

_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer", "Precompiled", "Nmt"}
_LOCAL_PRE_TOKENIZERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits"}
_AT_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace"}


class Cuts(NamedTuple):
    """Where texts are cut for a tokenizer.

    Attributes:
        least: a text of no more characters is not cut.
        most: no piece has more; where there is no good place before, it ends after whitespace or a closing mark, and
            where there is none of these, anywhere.
    """

    least: int
    most: int
    any_space: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer, any_space: bool = False, piece: int = _PIECE) -> Cuts:
        """Return the cuts for a tokenizer.

        Where the tokens on both sides of a space between two words do not depend on each other, pieces are of some
        ``piece`` characters. Where it is not known that they do not, they are much longer, so that few texts are cut.

        Args:
            any_space: whether each space is such a place.
        """
        if any_space:
            return cls(piece, 2 * piece, True)
        return cls(piece if is_local(tokenizer) else 2 * piece, 4 * piece, False)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the spans of the pieces of a text, one after the other; a space between two is the second one's."""
        start = 0
        while len(text) - start > self.least:
            end = self._end(text, start)
            if end is None:
                break
            yield start, end
            start = end
        yield start, len(text)

    def _end(self, text: str, start: int) -> int | None:
        """Return where the piece that begins at ``start`` ends; None where no cut is needed."""
        last = start + self.most
        pattern = _ANY_SPACE if self.any_space else _BETWEEN_WORDS
        places = (found.start() for found in pattern.finditer(text, start + self.least, last))
        place = next((at for at in places if self.any_space or _is_plain(text[at - 1] + text[at + 1])), None)
        if place is not None or len(text) <= last:
            return place
        half = start + self.most // 2
        return next((at for at in range(last, half, -1) if text[at - 1].isspace() or text[at - 1] in CLOSING), last)


def _is_plain(letters: str) -> bool:
    """Return whether normalizers leave two letters letters, whatever is beyond the space beside them."""
    # the letter of Malayalam makes one grapheme with a space, as some beyond 16 bits do
    return unicodedata.is_normalized("NFKC", letters) and max(letters) < "\U00010000" and "\u0d4e" not in letters


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether the pieces of a text between spaces can be tokenized one by one: BERT's scheme."""
    from tokenizers import models, normalizers, pre_tokenizers

    normalizer = tokenizer.normalizer
    return (
        isinstance(tokenizer.model, models.WordPiece)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(normalizer, normalizers.BertNormalizer | None)
        and not any(_sees_spaces(token, normalizer) for token in tokenizer.get_added_tokens_decoder().values())
    )


def _sees_spaces(token: AddedToken, normalizer: Normalizer | None) -> bool:
    """Return whether what is beyond a space may decide that an added token is found."""
    normal = normalizer.normalize_str(token.content) if token.normalized and normalizer else ""
    return token.lstrip or token.rstrip or token.single_word or any(map(str.isspace, token.content + normal))


def is_local(tokenizer: Tokenizer) -> bool:
    """Return whether a space between words parts the text: the ids and offsets on each side are those it has alone.

    So it is where the normalizer looks no further than at a letter and its marks, the pre-tokenizer has a word begin at
    such a space, and no added token goes across it. The models work word by word.
    """
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    return (
        pre_tokenizer is not None
        and (normalizer is None or all(map(_is_local_normalizer, _parts(normalizer, "normalizers"))))
        and all(map(_is_local_pre_tokenizer, parts := _parts(pre_tokenizer, "pretokenizers")))
        and any(part["type"] in _AT_SPACES for part in parts)
        and not getattr(tokenizer.model, "dropout", None)
        and _keeps_words(normalizer)
        and not any(_goes_across(token, normalizer) for token in tokenizer.get_added_tokens_decoder().values())
    )


def _parts(component, key: str) -> list[dict]:
    """Return the settings of a normalizer or pre-tokenizer, of each one where it is a sequence."""
    setting = json.loads(component.__getstate__())
    parts, out = [setting], []
    while parts:
        part = parts.pop()
        if part["type"] == "Sequence":
            parts += part[key]
        else:
            out.append(part)
    return out


def _is_local_normalizer(part: dict) -> bool:
    kind, pattern = part["type"], part.get("pattern", {})
    if kind == "Replace":
        return " " not in pattern.get("String", " ") or pattern.get("Regex") == " {2,}"
    return kind in _LOCAL_NORMALIZERS or (kind == "Strip" and not part["strip_left"])


def _is_local_pre_tokenizer(part: dict) -> bool:
    kind = part["type"]
    at_spaces = {"ByteLevel": part.get("use_regex", True), "Metaspace": part.get("split", True)}
    return kind in _LOCAL_PRE_TOKENIZERS or at_spaces.get(kind, False)


def _keeps_words(normalizer: Normalizer | None) -> bool:
    """Return whether words of one letter stay words, each between two spaces."""
    letters = ascii_letters + digits
    words = normalizer.normalize_str(" ".join(letters)).split(" ") if normalizer else letters
    return len(words) == len(letters) and all(words)


def _goes_across(token: AddedToken, normalizer: Normalizer | None) -> bool:
    """Return whether an added token may hold a space and what is before it."""
    forms = [token.content]
    if token.normalized and normalizer:
        forms.append(normalizer.normalize_str(token.content))
    return any(_SPACE_INSIDE.search(form) or (token.rstrip and form[-1:].isalnum()) for form in forms)
