"""Special tokens are read off the tokenizer, whatever state it was saved in."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from fastmask.core.errors import ModelError
from fastmask.models.template import template_of

DATA = Path(__file__).parents[1] / "data"


def saved(model: str) -> Tokenizer:
    return Tokenizer.from_file(str(DATA / model / "tokenizer.json"))


def parts(template) -> tuple:
    return template.prefix.tolist(), template.middle.tolist(), template.suffix.tolist(), template.content_type


def test_single_and_pair():
    tokenizer = saved("restaurant-tiny")
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    assert parts(template_of(tokenizer, "m", False)) == ([cls], [], [sep], 0)
    assert parts(template_of(tokenizer, "m", True)) == ([cls], [sep], [sep], 1)


def test_padding_and_truncation_that_were_saved_are_no_part_of_it():
    tokenizer, plain = saved("mr-tiny"), template_of(saved("mr-tiny"), "m", False)
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(2)
    assert parts(template_of(tokenizer, "m", False)) == parts(plain)
    assert tokenizer.padding is not None  # the caller's own is left as it is


@pytest.mark.parametrize(("single", "pair", "expected"), [
    ("$A", "$A $B:1", [([], [], [], 0), ([], [], [], 1)]),
    ("[CLS] $A", "[CLS] $A [SEP] $B:1", [([2], [], [], 0), ([2], [3], [], 1)]),
    ("$A [SEP]", "$A $B [SEP]", [([], [], [3], 0), ([], [], [3], 0)]),
])  # fmt: skip
def test_special_tokens_that_are_not_on_both_sides(single, pair, expected):
    tokenizer = saved("mr-tiny")
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=special)
    assert [parts(template_of(tokenizer, "m", is_pair)) for is_pair in (False, True)] == expected


def test_types_of_special_tokens():
    """As XLNet's tokenizer has them."""
    tokenizer = saved("mr-tiny")
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2", pair="$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2", special_tokens=special
    )
    single, pair = (template_of(tokenizer, "m", is_pair) for is_pair in (False, True))
    assert (parts(single), single.types.tolist()) == (([], [], [3, 2], 0), [0, 2])
    assert (parts(pair), pair.types.tolist()) == (([], [3], [3, 2], 1), [0, 1, 2])
    assert (pair.without_types().types.tolist(), pair.without_types().content_type) == ([0, 0, 0], 0)


@pytest.mark.parametrize("pair", ["$B [SEP] $A", "[SEP] $B:1 $A"])
def test_an_aspect_behind_its_text(pair):
    tokenizer = saved("mr-tiny")
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="$A", pair=pair, special_tokens=special)
    with pytest.raises(ModelError, match="m: the tokenizer does not put special tokens around an aspect and its text"):
        template_of(tokenizer, "m", True)
