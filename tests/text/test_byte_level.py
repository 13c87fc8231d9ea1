"""A classifier with a byte-level vocabulary, from text to training sequence and screen."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import fastmask, rows_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

from fastmask import TrainingStream, score_corpus
from fastmask.core.config import ScoreConfig
from fastmask.train.checkpoint import save_model

TEXTS = ["A great film. Dull, not funny! The café ☕ is great.", "Not a film [SEP] it is </s> coffee. It was great."]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS[:1] * 3, trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=alphabet, special_tokens=special, show_progress=False))  # fmt: skip
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", **names)
    torch.manual_seed(0)
    shape = RobertaConfig(vocab_size=len(fast), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
                          intermediate_size=32, max_position_embeddings=140, type_vocab_size=1)  # fmt: skip
    return str(save_model(RobertaForSequenceClassification(shape), fast, tmp_path_factory.mktemp("m") / "roberta",
                          torch.float32))  # fmt: skip


@pytest.fixture(scope="module")
def masks(roberta, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    (folder / "corpus.txt").write_text("\n".join(TEXTS) + "\n")
    score_corpus([folder / "corpus.txt"], folder / "out", ScoreConfig(model=roberta, method="prefix", threshold=1.0))
    return folder / "out"


def test_a_training_sequence_is_the_document_to_the_tokenizer(roberta, masks):
    expected = [tuple(ids) for ids in AutoTokenizer.from_pretrained(roberta)(TEXTS)["input_ids"]]
    stream = TrainingStream([masks], max_length=128, seed=0)
    found = {tuple(example.input_ids.tolist()) for example in stream.epoch(0)}
    assert found == set(expected)


def test_masked_are_all_but_stop_words_and_special_tokens(roberta, masks):
    tokenizer, sentences = AutoTokenizer.from_pretrained(roberta), rows_of(masks)
    for row in sentences:
        text = TEXTS[row["row"]]
        spans = np.column_stack([row["char_start"], row["char_end"]])
        words = {text[start:end] for start, end in spans[row["mask_index"]]}
        assert not words & {"A", "not", "The", "is", "Not", "It", "was", "</s>"}
    assert len(sentences) == 5 and tokenizer.eos_token_id in sentences[3]["input_ids"]


def squeezed(shown: str) -> str:
    return re.sub(r"[\[\]\s]", "", shown)


def test_the_screen_reads_as_the_text_does(roberta, masks):
    explained, inspected = fastmask("explain", TEXTS[0], "--model", roberta), fastmask("inspect", masks, "--rows", 9)
    for result in (explained, inspected):
        assert result.exit_code == 0 and not set("ĠÃ\ufffd") & set(result.stdout)
        for sentence in ("A great film.", "Dull, not funny!", "The café ☕ is great."):
            assert squeezed(sentence) in squeezed(result.stdout)
