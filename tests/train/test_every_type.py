"""Models of all types go through every command; those without a packed forward train by their own, to the same loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import fastmask, refusal, write_jsonl
from pretrain_samples import largest_difference, log_of
from tiny_models import TEXTS, tiny_model

from fastmask.core.config_train import PretrainConfig
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.mlm_model import MaskedLoss, Part, fit_own_forward, has_tied_decoder, load_masked_lm
from fastmask.models.template import model_template
from fastmask.models.trainable import pack
from fastmask.train import run_directory
from fastmask.train.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("one_thread")
PACKED = ("xlm-roberta", "camembert")
PADDED = ("albert", "deberta-v2", "gte", "mpnet")
ALIKE = ("fnet",)
"""What padding would change."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Labelled texts, a corpus, and its masks by a classifier whose tokenizer all models of ``tiny_models`` have."""
    root = tmp_path_factory.mktemp("files")
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(TEXTS)]
    write_jsonl(root / "train.jsonl", [*rows, {"text": " ".join(TEXTS), "label": 1}])
    write_jsonl(root / "test.jsonl", rows[:6])
    (root / "corpus.txt").write_text("".join(f"{text[: 60 - 3 * n]}\n" for n, text in enumerate(TEXTS)), "utf-8")
    classifier = tiny_model(root / "bert", "bert", "SequenceClassification")
    done("score", root / "corpus.txt", "--model", classifier, "-o", root / "masks", "--threshold", 0.001,
         "--mask-rate", 0.3, "--max-length", 40, "--stop-words", "none")  # fmt: skip
    return root


def done(*arguments) -> str:
    """What a command said that went well."""
    result = fastmask(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stderr


@pytest.mark.parametrize("kind", PACKED + PADDED + ALIKE)
def test_every_command(kind, files, tmp_path):
    shape = {} if kind == "fnet" else {"max_position_embeddings": 50}
    start, data, masks = (
        tiny_model(tmp_path / "start", kind, "MaskedLM", **shape),
        files / "train.jsonl",
        files / "masks",
    )
    model, short = tmp_path / "model", ("--epochs", 1, "--batch-size", 8)
    said = {}
    said["finetune"] = done("finetune", data, "--init", start, "-o", model, *short)
    done("score", files / "corpus.txt", "--model", model, "-o", tmp_path / "scored")
    assert "film" in fastmask("explain", "the film was great", "--model", model).stdout
    masker = tmp_path / "masker"
    said["train-masker"] = done("train-masker", masks, "--init", model, "-o", masker, *short, "--dev-share", 0.2)
    done("score", files / "corpus.txt", "--model", masker, "--method", "masker", "-o", tmp_path / "tagged",
         "--max-length", 40)  # fmt: skip
    steps = ("--max-steps", 2, "--batch-size", 1, "--pack")
    said["pretrain"] = done("pretrain", masks, "--eval", masks, "--init", start, "-o", tmp_path / "pre", *steps)
    assert load_masked_lm(resolve_model(str(tmp_path / "pre")))[1] == []
    done("finetune", data, "--init", tmp_path / "pre", "--new-head", "-o", tmp_path / "again", *short)
    said["evaluate"] = done("evaluate", "--arm", f"one={model}", "--arm", f"two={tmp_path / 'again'}", "--test",
                            files / "test.jsonl")  # fmt: skip
    # 50 rows of positions, the first one or two of which are not used by most; FNet has 64, and DeBERTa's are relative
    longest = {"fnet": 64, "albert": 50, "gte": 50, "mpnet": 48, "deberta-v2": 256}.get(kind, 49)
    if longest < 256:
        assert f"inputs are cut at {longest} tokens" in said["finetune"]
        assert f"inputs are cut at {longest} tokens" in said["pretrain"]
    how = {PACKED: None, PADDED: "padded through its own forward", ALIKE: "inputs of one length at a time"}
    expected = next(words for kinds, words in how.items() if kind in kinds)
    lines = [line for line in said["pretrain"].splitlines() if f"a model of type {kind} runs" in line]
    assert len(lines) == (expected is not None) and all(expected in line for line in lines)
    for command in ("finetune", "train-masker"):
        assert said[command].count(f"a model of type {kind} runs through its own forward") == len(lines)


def own_loss(model, sequences, at) -> torch.Tensor:
    """The mean loss by transformers' forward of one sequence at a time, so that nothing is padded; id 4 is the mask."""
    losses = []
    for sequence, places in zip(sequences, at, strict=True):
        ids = torch.tensor(sequence)[None]
        labels, ids[0, places] = ids[0, places], 4
        losses.append(
            torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, places], labels, reduction="sum")
        )
    return torch.stack(losses).sum() / sum(map(len, at))


def part_of(sequences, at) -> Part:
    corrupted = [np.where(np.isin(np.arange(len(s)), places), 4, s) for s, places in zip(sequences, at, strict=True)]
    packed = pack(corrupted, [np.zeros(len(s), np.int64) for s in sequences], is_typed=False)
    places = np.concatenate([a + start for a, start in zip(at, packed.cu_seqlens.tolist(), strict=False)])
    return Part(packed, torch.tensor(places), torch.tensor(np.concatenate(sequences)[places]))


@pytest.mark.parametrize("kind", [*PADDED, *ALIKE, "eurobert", "longformer", "mobilebert", "bart", "perceiver"])
def test_loss_and_gradients_are_the_models_own(kind, tmp_path):
    """MobileBERT's decoder is no module, BART's is another stack, Perceiver answers in more places than it is asked."""
    files = resolve_model(tiny_model(tmp_path, kind, "MaskedLM"))
    tokenizer, (model, missing) = load_tokenizer(files), load_masked_lm(files)
    assert not missing
    template = model_template(model.config, tokenizer, files.name, is_pair=False)
    pads, dtype = fit_own_forward(model, template, 40, files.name, "cpu", [torch.float32])
    assert pads == (kind not in (*ALIKE, "mobilebert")) and dtype == torch.float32
    rng, lengths = np.random.default_rng(0), (33, 31, 28, 9, 9, 8, 7, 3)
    sequences = [rng.integers(5, 75, length) for length in lengths]
    at = [np.sort(rng.permutation(n)[: max(1, n // 3)]) for n in lengths]
    model.eval()  # without dropout
    own_loss(model, sequences, at).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    expected = own_loss(model, sequences, at).item()
    model.zero_grad()
    loss = MaskedLoss(model, torch.float32, pads)(part_of(sequences, at)) / sum(map(len, at))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=2e-6)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(gradients)
    largest = max(gradient.abs().max().item() for gradient in gradients.values() if gradient.numel())
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=2e-6 * largest, msg=name)


def config_of(files, out, init, **changes) -> PretrainConfig:
    options = {"batch_size": 8, "max_steps": 6, "save_every": 2, "lr": 1e-3, "precision": "float32", "max_length": 60}
    return PretrainConfig((str(files / "masks"),), str(out), init, **options | changes)


@pytest.mark.parametrize("kind", ["luke", "big_bird"])
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(kind, files, tmp_path, monkeypatch, said):
    """Luke has weights that the loss does not use; BigBird is another model after its first short sequence."""
    start = tiny_model(tmp_path / "start", kind, "MaskedLM")
    pretrain(config_of(files, tmp_path / "whole", start))
    config = config_of(files, tmp_path / "out", start)
    with monkeypatch.context() as patch:
        patch.setattr(run_directory.Log, "write", lambda self, **line: 1 / 0 if line["step"] == 5 else None)
        with pytest.raises(ZeroDivisionError):
            pretrain(config)
    pretrain(config)
    assert "resumes after step 4" in said.messages
    assert largest_difference(config.out, tmp_path / "whole") == 0.0 < largest_difference(config.out, start)


def test_two_processes_take_the_steps_of_one(files, tmp_path):
    """In several parts, which is no other step either."""
    start = tiny_model(tmp_path / "start", "luke", "MaskedLM")
    config = json.loads((Path(start) / "config.json").read_text())
    config |= {name: 0.0 for name in config if name.endswith("dropout_prob")}
    (Path(start) / "config.json").write_text(json.dumps(config))
    held_out = (str(files / "masks"),)
    alone = pretrain(config_of(files, tmp_path / "alone", start, max_steps=2, eval=held_out))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fastmask",
               "pretrain", files / "masks", "--eval", files / "masks", "--init", start, "-o", tmp_path / "two",
               "--batch-size", "8", "--max-steps", "2", "--save-every", "2", "--lr", "1e-3", "--precision", "float32",
               "--max-length", "60", "--part-tokens", "60"]  # fmt: skip
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("a model of type luke runs padded") == 1
    assert largest_difference(tmp_path / "two", tmp_path / "alone") < 1e-4
    losses = [[line["loss"] for line in log_of(tmp_path / out) if "loss" in line] for out in ("two", "alone")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    two = json.loads((tmp_path / "two" / "pretrain.json").read_text())
    assert two["held_out"][-1]["loss"] == pytest.approx(alone["held_out"][-1]["loss"], rel=1e-5)


def test_the_head_that_debertas_files_hold_is_taken(tmp_path):
    """There are two kinds, and a hub's configuration does not say which."""
    start = tiny_model(tmp_path / "start", "deberta-v2", "MaskedLM", legacy=False)
    config = json.loads((Path(start) / "config.json").read_text())
    assert config.pop("legacy") is False
    (Path(start) / "config.json").write_text(json.dumps(config))
    model, missing = load_masked_lm(resolve_model(start))
    assert missing == [] and model.lm_predictions.lm_head.dense.weight.std() > 0.05
    assert has_tied_decoder(load_masked_lm(resolve_model(tiny_model(tmp_path / "bare", "deberta-v2", "")))[0])


def test_new_biases_are_zero(tmp_path, monkeypatch):
    """transformers leaves those of a few heads as the memory was."""
    bare, empty = tiny_model(tmp_path, "fnet", ""), torch.empty_like

    def used_memory(*arguments, **options):
        tensor = empty(*arguments, **options)
        return tensor.fill_(7.0) if tensor.is_floating_point() and tensor.device.type == "cpu" else tensor

    monkeypatch.setattr(torch, "empty_like", used_memory)
    model, missing = load_masked_lm(resolve_model(bare))
    assert "cls.predictions.bias" in missing and not model.cls.predictions.bias.any()


def test_a_precision_that_a_model_cannot_be_trained_in(files, tmp_path, monkeypatch, said):
    start = tiny_model(tmp_path / "start", "deberta", "MaskedLM")
    monkeypatch.setattr("fastmask.train.pretrain_plan.product_dtype", lambda precision, device: torch.bfloat16)
    result = pretrain(config_of(files, tmp_path / "out", start, max_steps=1, precision="auto"))
    assert result["products"] == "float32" and "it cannot be trained in bfloat16: float32 is used" in said.messages
    message = refusal(fastmask("pretrain", files / "masks", "--init", start, "-o", tmp_path / "no", "--batch-size", 8,
                               "--max-length", 60, "--precision", "bfloat16"))  # fmt: skip
    assert f"{start}: cannot be trained in bfloat16: " in message


@pytest.mark.parametrize(("kind", "command", "said"), [
    ("reformer", "finetune", "a model of type reformer cannot be run: If training, sequence length 15 has to be a"),
    ("gpt2", "pretrain", "transformers knows no masked-language model of type gpt2"),
    ("bart", "train-masker", "transformers knows no token classifier of type bart"),
    ("neomme", "finetune", "transformers knows no classifier of type neomme"),
])  # fmt: skip
def test_what_a_type_cannot_do(kind, command, said, files, tmp_path):
    start = tiny_model(tmp_path / "start", kind, "")
    data = files / ("train.jsonl" if command == "finetune" else "masks")
    assert said in refusal(fastmask(command, data, "--init", start, "-o", tmp_path / "out", "-q"))


def test_an_encoder_that_is_not_whole_is_refused(files, tmp_path):
    """A funnel's classifier has no decoder layers: they would be noise in front of a new head."""
    start = tiny_model(tmp_path / "start", "funnel", "SequenceClassification")
    message = refusal(fastmask("pretrain", files / "masks", "--init", start, "-o", tmp_path / "out"))
    assert f"{start}: its weights lack funnel.decoder.layers" in message
