"""Pieces of texts and how often they are there: against Counter, and their tokens against those of whole texts."""

from collections import Counter

import pytest
from any_tokenizer import MAKERS

from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.text.repeated import RepeatedPieces

TEXTS = ["a film  a ", "", " ", "great film a great", "Straße a\nb ❤ c", "not_great . It !", "9 to 5 ", " to"]


def counts(tokenizer, *parts) -> dict[str, int]:
    counted = RepeatedPieces(tokenizer)
    for part in parts:
        counted.add(part)
    assert counted.characters == sum(map(len, counted.pieces))
    return dict(zip(counted.pieces, counted.times.tolist(), strict=True))


def test_pieces_between_spaces(mr_tiny):
    expected = Counter(piece for text in TEXTS for piece in text.split(" ") if piece)
    backend = load_tokenizer(resolve_model(mr_tiny)).backend_tokenizer
    assert counts(backend, TEXTS[:5], [], TEXTS[5:]) == expected
    assert counts(backend, [" ".join(TEXTS)] * 5_000) == {piece: 5_000 * n for piece, n in expected.items()}


@pytest.mark.parametrize("kind", MAKERS)
def test_tokens_of_pieces_are_those_of_the_texts(kind):
    tokenizer = MAKERS[kind]()
    pieces = counts(tokenizer, TEXTS)
    whole = Counter(index for text in TEXTS for index in tokenizer.encode(text, add_special_tokens=False).ids)
    ours = Counter()
    for piece, times in pieces.items():
        for index in tokenizer.encode(piece, add_special_tokens=False).ids:
            ours[index] += times
    assert ours == whole
    assert (" film" in pieces) == (kind not in ("unsplit", "llama"))
