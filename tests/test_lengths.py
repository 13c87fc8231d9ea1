"""Whole runs with families that are not known here: inputs as long as the model takes, answers as AutoTokenizer's."""

import numpy as np
import pytest
import torch
from any_family import AROUND, FAMILIES, NO_PAD, NOTHING, UNSET, XLNET, Family, alone
from helpers import fastmask, refusal, rows_of, write_jsonl
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from fastmask.errors import ModelError
from fastmask.family_rules import most_tokens
from fastmask.lengths import longest_input
from fastmask.train.packed import class_logits, pack

pytestmark = pytest.mark.usefixtures("one_thread")
SPECIAL = ["<pad>", "<s>", "</s>", "<cls>", "<unk>"]
WORDS = ["a", "the", "film", "plot", "is", "was", "good", "bad", "dull", "fine", "one", "of", "it", "and", "so"]


def tokenizer_of(single: str, **options) -> PreTrainedTokenizerFast:
    """Words and special tokens by the template ``single``; ids are those of any_family."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(token, vocabulary[token]) for token in SPECIAL]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **options)


def saved(folder, model, tokenizer) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


RUNS = {
    "gpt2": (Family("gpt2", NOTHING, NO_PAD), "$A", {}),
    "t5": (next(family for family in FAMILIES if family.name == "t5"), "$A </s>", {}),
    "xlnet": (Family("xlnet", XLNET, {"max_position_embeddings": UNSET}), "$A </s> <cls>:2",
              {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}),
    "xlnet-untyped": (Family("xlnet", XLNET, {"max_position_embeddings": UNSET}), "$A </s> <cls>:2", {}),
    "bert-decoder": (Family("bert", AROUND, {"is_decoder": True}), "<s> $A </s>", {}),
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_scores_are_those_of_the_models_own_tokenizer_and_forward(run, tmp_path):
    family, single, options = RUNS[run]
    model = saved(tmp_path / "model", family.model(), tokenizer_of(single, **options))
    lines = ["the plot is dull", "a fine film and so good it is", "bad"]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": line} for line in lines])
    common = ("--model", model, "--max-length", 40, "--stop-words", "none", "--segment", "line")
    done = fastmask("score", corpus, "-o", tmp_path / "out", *common, "--method", "prefix")
    assert done.exit_code == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(model)
    exact = AutoModelForSequenceClassification.from_pretrained(model).double().eval()

    def by_hand(text: str) -> np.ndarray:
        with torch.inference_mode():
            return torch.softmax(exact(**tokenizer(text, return_tensors="pt")).logits[0], -1).numpy()

    for line, row in zip(lines, rows_of(tmp_path / "out"), strict=True):
        words, label = line.split(), int(by_hand(line).argmax())
        steps = [by_hand(" ".join(words[: n + 1]))[label] for n in range(len(words))]
        assert row["predicted"] == label
        np.testing.assert_allclose(row["prob"] - np.array(row["importance"]), steps, atol=2e-5)


@pytest.mark.parametrize(("family", "longest"), [
    (Family("roberta", AROUND, {"pad_token_id": 3}), 60),
    (Family("xlm-roberta", AROUND), 63),
    (Family("xlm-roberta-xl", AROUND, {"pad_token_id": 3}), 60),
    (Family("mpnet", AROUND), 63),  # whose padding is always 1, which stands in front here and is not counted
    (Family("longformer", AROUND, {"pad_token_id": 3, "attention_window": 8}), 60),
    (Family("bart", AROUND, {"decoder_start_token_id": 2}), 64),
    (Family("gpt2", NOTHING, NO_PAD), 64),
    (Family("llama", NOTHING, NO_PAD), 64),
    (Family("llama", NOTHING, NO_PAD | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4,
                                                            "original_max_position_embeddings": 32}}), 32),
    (Family("deberta-v2", AROUND, {"relative_attention": True, "position_biased_input": False}), 100),
    (next(family for family in FAMILIES if family.name == "t5"), 100),
    (Family("xlnet", XLNET, {"max_position_embeddings": UNSET}), 100),
], ids=lambda value: getattr(value, "name", value))  # fmt: skip
def test_the_longest_input_is_what_the_model_takes(family, longest):
    model, tokenizer = family.model(), tokenizer_of("<s> $A </s>" if family.template is not NOTHING else "$A")
    assert longest_input(model, model.config, tokenizer, "m", 100) == longest
    assert longest_input(model, model.config, tokenizer, "m", 20) == 20
    ids = torch.tensor([[1, *[6] * (longest - 2), 2]])
    with torch.inference_mode():
        assert model(ids).logits.isfinite().all()
    if most_tokens(model.config) not in (None, longest):
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.cat([ids[:, :1], ids], dim=1).where(torch.arange(longest + 1) != 1, 6))


def test_no_room_for_a_text():
    model = Family("roberta", AROUND, {"pad_token_id": 1, "max_position_embeddings": 4}).model()
    with pytest.raises(ModelError, match="m: takes at most 2 tokens, which leaves no room for a text"):
        longest_input(model, model.config, tokenizer_of("<s> $A </s>"), "m", 100)


LONG = " ".join(WORDS * 20)


def test_every_command_has_the_same_longest_input(tmp_path):
    family = Family("xlm-roberta", AROUND, {"pad_token_id": 0, "num_labels": 2})
    model = saved(tmp_path / "model", family.model(), tokenizer_of("<s> $A </s>", pad_token="<pad>", eos_token="</s>"))
    train = write_jsonl(tmp_path / "train.jsonl", [{"text": LONG, "label": n % 2} for n in range(4)])
    long = ("--max-length", 512)
    line = refusal(fastmask("score", train, "-o", tmp_path / "out", "--model", model, *long))
    assert line.endswith("takes at most 63 tokens")
    assert refusal(fastmask("explain", LONG, "--model", model, *long)).endswith("takes at most 63 tokens")
    done = fastmask("finetune", train, "--init", model, "-o", tmp_path / "tuned", "--epochs", 1, *long)
    assert done.exit_code == 0 and "inputs are cut at 63 tokens" in done.stderr + done.stdout, done.stderr
    again = fastmask("evaluate", "--arm", f"a={tmp_path / 'tuned'}", "--test", train, *long)
    assert again.exit_code == 0, again.stderr
    assert fastmask("score", train, "-o", tmp_path / "out", "--model", model, "--max-length", 63).exit_code == 0


@pytest.mark.parametrize("family", [Family("gpt2", NOTHING, NO_PAD), Family("fnet", AROUND)], ids=lambda one: one.name)
def test_training_sees_what_scoring_sees(family):
    """Texts of several lengths together, of families that cannot be told what is padding."""
    model, texts = family.model(), [[7, 8, 9], [6], [9, 8, 7, 6, 5]]
    exact = [alone(model, family.template, text) for text in texts]
    whole = [np.concatenate([family.template.prefix, text, family.template.suffix]).astype(np.int32) for text in texts]
    with torch.inference_mode():
        found = class_logits(model, pack(whole, [np.zeros(len(one), np.int32) for one in whole]))
    np.testing.assert_allclose(torch.softmax(found, -1).numpy(), exact, atol=1e-5)
