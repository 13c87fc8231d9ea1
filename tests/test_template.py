"""Special tokens are read off the tokenizer, whatever state it was saved in."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from fastmask.errors import ModelError
from fastmask.template import template_of

DATA = Path(__file__).parent / "data"


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


def test_without_special_tokens():
    tokenizer = saved("mr-tiny")
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    with pytest.raises(ModelError, match="m: the tokenizer does not put special tokens around texts"):
        template_of(tokenizer, "m", False)
