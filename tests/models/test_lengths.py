"""Whole runs with families that are not known here: inputs as long as the model takes, answers as AutoTokenizer's."""

import json

import numpy as np
import pytest
import torch
from any_family import AROUND, EOS, FAMILIES, NO_PAD, NOTHING, UNSET, XLNET, Family, alone
from helpers import fastmask, refusal, rows_of, write_jsonl
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from fastmask import score
from fastmask.core.errors import ModelError
from fastmask.core.labels import Classes
from fastmask.models.family_rules import most_tokens, takes_types
from fastmask.models.lengths import longest_input
from fastmask.models.trainable import class_logits, enable_packing, pack
from fastmask.train.examples import Row, encode_rows
from fastmask.train.predict import pack_rows

pytestmark = pytest.mark.usefixtures("one_thread")
SPECIAL = ["<pad>", "<s>", "</s>", "<cls>", "<unk>"]
WORDS = ["a", "the", "film", "plot", "is", "was", "good", "bad", "dull", "fine", "one", "of", "it", "and", "so"]


SPECIAL_AND_WORDS = [*SPECIAL, *WORDS]


def tokenizer_of(single: str, pair: str | None = None, **options) -> PreTrainedTokenizerFast:
    """Words and special tokens by the template ``single``; ids are those of any_family."""
    vocabulary = {token: number for number, token in enumerate(SPECIAL_AND_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(token, vocabulary[token]) for token in SPECIAL]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
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
    masks, tuned = tmp_path / "masks", tmp_path / "tuned"
    commands = [
        ("score", train, "--model", model, "--threshold", 1, "--stop-words", "none", "-o", masks),
        ("explain", LONG, "--model", model),
        ("finetune", train, "--init", model, "-o", tuned, "--epochs", 1),
        ("train-masker", masks, "--init", model, "-o", tmp_path / "masker", "--epochs", 1),
        ("evaluate", "--arm", f"a={tuned}", "--test", train),
    ]
    for command in commands:
        # the default is more than it takes, too, but only what is asked for is refused
        for length in (64, 128, 256):
            line = refusal(fastmask(*command, "--max-length", length))
            assert f"--max-length {length}: " in line and line.endswith("takes at most 63 tokens")
        done = fastmask(*command)
        assert done.exit_code == 0 and done.stderr.count("inputs are cut at 63 tokens") == 1, done.stderr
    for path in (masks / "_plan.json", masks / "_manifest.json", tuned / "metrics.json"):
        assert json.loads(path.read_text())["config"]["max_length"] == 63
    again = fastmask(*commands[0])
    assert again.exit_code == 0 and "nothing to do" in again.stderr
    assert fastmask(*commands[0], "--max-length", 63).exit_code == 0
    (record,) = score([LONG], model)
    assert len(record.tokens) > 63


OTHERS = [
    Family("flaubert", AROUND), Family("yoso", AROUND), Family("bert", AROUND, {"is_decoder": True}),
    Family("openai-gpt", NOTHING, NO_PAD), Family("ctrl", NOTHING, NO_PAD | {"dff": 24}),
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES + OTHERS, ids=lambda one: one.name)
def test_training_sees_what_scoring_sees(family):
    """Texts of several lengths together, with ends among the words: most families cannot be padded on the right."""
    model, special = family.model(), family.template
    texts = [[7, 8, 9], [6], [9, 8, EOS, 6, 5], [9, 8, 7, 6, EOS], [9, EOS, EOS]]
    exact = [alone(model, special, text) for text in texts]
    whole = [np.concatenate([special.prefix, text, special.suffix]).astype(np.int32) for text in texts]
    types = [np.insert(special.types, len(special.prefix), np.zeros(len(text), np.int32)) for text in texts]
    found = torch.softmax(class_logits(enable_packing(model), pack(whole, types, is_typed=special.typed)), -1)
    np.testing.assert_allclose(found.detach().numpy(), exact, atol=1e-5)
    found[:, 0].sum().backward()


def test_a_text_without_a_token_where_none_stands_around_it(tmp_path):
    model = saved(tmp_path / "model", Family("gpt2", NOTHING, NO_PAD | {"num_labels": 2}).model(), tokenizer_of("$A"))
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "the film", "label": 0}, {"text": " ", "label": 1}])
    for command in (("evaluate", "--arm", f"a={model}", "--test", rows), ("finetune", rows, "--init", model, "-o",
                                                                          tmp_path / "out")):  # fmt: skip
        result = fastmask(*command, "--max-length", 40)  # finetune has said by then how such a model runs
        assert result.exit_code == 1
        assert f"error: {rows}:2: there is no token in the text" in result.stderr.splitlines()[-1]


def test_a_model_that_remembers_is_not_trained_or_measured(tmp_path):
    """BigBird's sparse attention is given up for good at the first short text."""
    family = Family("big_bird", AROUND, {"block_size": 2, "num_random_blocks": 1, "num_labels": 2})
    model = saved(tmp_path / "model", family.model(), tokenizer_of("<s> $A </s>", pad_token="<pad>"))
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": LONG, "label": 0}, {"text": "bad", "label": 1}])
    for command in (("evaluate", "--arm", f"a={model}", "--test", rows), ("finetune", rows, "--init", model, "-o",
                                                                          tmp_path / "out")):  # fmt: skip
        line = refusal(fastmask(*command, "--max-length", 40))
        assert line.endswith("cannot be trained or measured: asked the same again it gives another answer")
    assert fastmask("evaluate", "--arm", f"a={model}", "--test", rows, "--max-length", 12).exit_code == 0


def test_feed_forward_in_chunks_takes_any_length(tmp_path):
    """Chunks give no other answer, and the saved model still names them."""
    family = Family("roformer", AROUND, {"chunk_size_feed_forward": 4, "num_labels": 2})
    plain = Family("roformer", AROUND, {"num_labels": 2}).model()
    tokenizer = tokenizer_of("<s> $A </s>", pad_token="<pad>", eos_token="</s>")
    model = saved(tmp_path / "model", family.model(), tokenizer)
    texts = ["the plot is dull", "a fine film and so good it is", "bad"]
    train = write_jsonl(tmp_path / "train.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(texts)])
    done = fastmask("finetune", train, "--init", model, "-o", tmp_path / "tuned", "--epochs", 1, "--max-length", 40)
    assert done.exit_code == 0, done.stderr
    assert AutoConfig.from_pretrained(tmp_path / "tuned").chunk_size_feed_forward == 4
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in texts])
    scored = fastmask("score", corpus, "-o", tmp_path / "out", "--model", model, "--max-length", 40)
    assert scored.exit_code == 0, scored.stderr
    for text, row in zip(texts, rows_of(tmp_path / "out"), strict=True):
        ids = [SPECIAL_AND_WORDS.index(word) for word in text.split()]
        assert row["prob"] == pytest.approx(alone(plain, AROUND, ids)[row["predicted"]], abs=1e-5)


@pytest.mark.parametrize(("name", "single"), [("xlnet", "$A </s> <cls>:2"), ("gpt2", "$A")])
def test_new_heads_on_an_encoder_of_any_family(name, single, tmp_path):
    """XLNet's head begins with a summary, and GPT-2's last layer has no bias as a classifier of texts."""
    family = next(family for family in FAMILIES if family.name == name)
    bare = saved(tmp_path / "bare", AutoModel.from_config(family.config()), tokenizer_of(single))
    train = write_jsonl(tmp_path / "train.jsonl", [{"text": "good film" if n % 2 else "bad", "label": n % 2}
                                                   for n in range(8)])  # fmt: skip
    common = ("--epochs", 1, "--max-length", 20)
    for out, head in (("tuned", False), ("drawn", True)):
        done = fastmask("finetune", train, "--init", bare, "-o", tmp_path / out, *common, *["--new-head"] * head)
        assert done.exit_code == 0, done.stderr
        assert ("the classification head is new" in done.stderr) is not head  # said where nobody asked for it
    texts, masks = write_jsonl(tmp_path / "texts.jsonl", [{"text": "good film"}, {"text": "bad"}]), tmp_path / "masks"
    scored = fastmask("score", texts, "-o", masks, "--model", tmp_path / "tuned", "--method", "prefix", "--threshold",
                      0.9, "--stop-words", "none", "--max-length", 20)  # fmt: skip
    assert scored.exit_code == 0, scored.stderr
    learned = fastmask("train-masker", masks, "--init", bare, "-o", tmp_path / "masker", *common)
    assert learned.exit_code == 0, learned.stderr


def aspects(tokenizer, is_typed: bool, max_length: int = 40, *rows: tuple[str, str]):
    rows = [Row(text, aspect, 0, "f", 1) for aspect, text in rows or [("plot", "the film is good")]]
    return encode_rows(tokenizer, rows, Classes(("a", "b")), max_length, is_typed)


def test_types_are_given_to_those_that_take_them():
    """As scoring does: GPT-2's are words' embeddings, and pairs have a 1 among them."""
    tokenizer = tokenizer_of("$A", pair="$A $B:1")
    assert aspects(tokenizer, True).token_types[0].tolist() == [0, 1, 1, 1, 1]
    assert aspects(tokenizer, False).token_types[0].tolist() == [0] * 5
    model = Family("gpt2", NOTHING, NO_PAD).model()
    assert not takes_types(model.config, tokenizer)
    found = class_logits(model, pack_rows(aspects(tokenizer, False), np.array([0]), "cpu"))
    ids = [SPECIAL_AND_WORDS.index(word) for word in ["plot", "the", "film", "is", "good"]]
    np.testing.assert_allclose(torch.softmax(found, -1)[0].detach(), alone(model, NOTHING, ids), atol=1e-6)
    named = tokenizer_of("$A", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    assert takes_types(model.config, named)
    row = encode_rows(named, [Row("the film", None, 0, "f", 1)], Classes(("a", "b")), 40, True)
    theirs = model(**named("the film", return_tensors="pt")).logits
    torch.testing.assert_close(class_logits(model, pack_rows(row, np.array([0]), "cpu")), theirs)


def test_token_types_that_a_model_does_not_have(tmp_path):
    """The second part of a pair has type 1; transformers' own forward ends in an IndexError."""
    family = Family("electra", AROUND, {"type_vocab_size": 1, "num_labels": 2})
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = tokenizer_of("<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", model_input_names=names)
    model = saved(tmp_path / "model", family.model(), tokenizer)
    pair = {"text": "the film is good", "aspects": [{"term": "film", "polarity": "LABEL_0"}]}
    pairs, texts = write_jsonl(tmp_path / "pairs.jsonl", [pair] * 2), write_jsonl(tmp_path / "t.jsonl", [{"text": "a"}])
    common = ("--max-length", 20)
    for command in (("score", pairs, "--model", model, "-o", tmp_path / "out"), ("evaluate", "--arm", f"a={model}",
                    "--test", pairs), ("finetune", pairs, "--init", model, "-o", tmp_path / "tuned")):  # fmt: skip
        line = refusal(fastmask(*command, *common))
        assert line.endswith("the tokenizer gives the token type 1, and the model has 1, from 0 on")
    assert fastmask("score", texts, "--model", model, "-o", tmp_path / "texts", *common).exit_code == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_training_cuts_where_scoring_cuts(side):
    """The end of the text, then of the aspect, whatever side a tokenizer's configuration names."""
    tokenizer = tokenizer_of("<s> $A </s>", pair="<s> $A </s> $B </s>", truncation_side=side)
    rows = [("plot of the film", "it is"), ("plot", "it is good and fine"), ("a b c d e f g", "it")]
    words = [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in aspects(tokenizer, True, 8, *rows).input_ids]
    assert words[:2] == ["<s> plot of the film </s> it </s>", "<s> plot </s> it is good and </s>"]
    assert words[2] == "<s> a <unk> <unk> <unk> <unk> </s> </s>"
    alone_ = encode_rows(tokenizer, [Row("the plot is dull", None, 0, "f", 1)], Classes(("a", "b")), 4, True)
    assert tokenizer.convert_ids_to_tokens(alone_.input_ids[0].tolist()) == ["<s>", "the", "plot", "</s>"]
