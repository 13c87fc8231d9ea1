"""What each token adds to a decoded text, also where a long sentence is decoded in blocks."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fastmask.scoring.api import CONTEXT, DECODED, added_texts

TEXT = "Good 🙂 films, même après \u0928\u092e\u0938\u094d\u0924\u0947 and 映画 too; can't stop. "


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["good films and too"], trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("kind", ["byte-level", "wordpiece"])
def test_they_are_the_whole_text_in_order(kind, mr_tiny):
    tokenizer = byte_level() if kind == "byte-level" else AutoTokenizer.from_pretrained(mr_tiny)
    ids = tokenizer(TEXT * 40, add_special_tokens=False)["input_ids"]
    assert len(ids) > 5 * DECODED
    found = added_texts(tokenizer, ids)
    assert len(found) == len(ids) and "".join(found) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert added_texts(tokenizer, []) == []


def test_a_long_sentence_is_decoded_in_blocks():
    lengths = []

    class Counted:
        name_or_path = "m"

        def decode(self, ids, **_):
            lengths.append(len(ids))
            return "a" * len(ids)

    assert added_texts(Counted(), list(range(20_000))) == ["a"] * 20_000
    assert max(lengths) <= DECODED + CONTEXT
