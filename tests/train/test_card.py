"""The card beside every trained model: its header, its numbers, the same bytes again, and that data stays text."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from pretrain_samples import SHAPE, save_model
from train_samples import toy_file
from transformers import AutoModelForMaskedLM, BertConfig

from fastmask import __version__, score_corpus
from fastmask.core.config import ScoreConfig
from fastmask.core.config_train import FinetuneConfig, MaskerConfig, PretrainConfig
from fastmask.models.directory import resolve_model
from fastmask.train.card import command_of, model_card
from fastmask.train.finetune import finetune
from fastmask.train.masker import train_masker
from fastmask.train.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("one_thread")
RENDER = MarkdownIt("commonmark", {"html": True}).enable("table").render


def card_of(out) -> str:
    return (Path(out) / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def files(tmp_path_factory, mr_tiny):
    root = tmp_path_factory.mktemp("files")
    toy_file(root / "train.jsonl", 40, 0)
    score_corpus([str(root / "train.jsonl")], str(root / "masks"),
                 ScoreConfig(model=mr_tiny, method="prefix"))  # fmt: skip
    torch.manual_seed(0)
    save_model(root / "model", AutoModelForMaskedLM.from_config(BertConfig(**{**SHAPE, "vocab_size": 8192})), mr_tiny)
    return root


def test_a_classifier_has_a_card_that_the_hub_reads(files, tmp_path):
    name = toy_file(tmp_path / "dev.jsonl", 20, 1)
    config = FinetuneConfig((str(files / "train.jsonl"),), str(tmp_path / "a"), (name,), config="small", epochs=1,
                            vocab_size=100, classes=("no|<b>", "yes*"))  # fmt: skip
    metrics = finetune(config)
    card = card_of(config.out)
    header = ModelCard(card).data.to_dict()
    assert header == {"library_name": "transformers", "pipeline_tag": "text-classification",
                      "tags": ["fastmask", "selective-masking"]}  # fmt: skip
    page = RENDER(card.split("---\n", 2)[2])
    assert f"<td>{metrics['dev'][name]['accuracy']:.4f}</td>" in page and "<td>no|&lt;b&gt;, yes*</td>" in page
    assert f"<td>{name}</td>" in page and f"fastmask {__version__}" in page and "a new model" in page
    assert f"<td>{metrics['parameters']:,}</td>" in page
    finetune(replace(config, out=str(tmp_path / "b")))
    assert card_of(tmp_path / "b") == card


def test_a_masker_names_what_it_was_made_from(files, tmp_path, mr_tiny):
    config = MaskerConfig((str(files / "masks"),), str(tmp_path / "masker"), init=mr_tiny, epochs=1)
    metrics = train_masker(config)
    card = card_of(config.out)
    assert yaml.safe_load(card.split("---\n")[1])["pipeline_tag"] == "token-classification"
    assert resolve_model(mr_tiny).weights_sha256 in card and "base_model" not in card
    assert f"| {metrics['dev']['f1']:.4f} |" in card


def test_a_run_that_was_killed_ends_with_the_same_card(files, tmp_path, said):
    config = PretrainConfig((str(files / "masks"),), str(tmp_path / "a"), str(files / "model"), batch_size=8,
                            max_steps=4, save_every=2, precision="float32", eval=(str(files / "masks"),))  # fmt: skip
    result = pretrain(config)
    card = card_of(config.out)
    assert yaml.safe_load(card.split("---\n")[1])["pipeline_tag"] == "fill-mask"
    assert result["shards"] in card and f"{result['held_out'][-1]['loss']:.4f}" in card
    assert "--max-steps 4" in card and str(tmp_path) not in card
    again = replace(config, out=str(tmp_path / "b"))

    def stop(line: str) -> None:
        if line.startswith("step 4"):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fastmask.train.pretrain.log.info", stop)
        pretrain(again)
    assert not (tmp_path / "b" / "README.md").exists()
    pretrain(again)
    assert "resumes after step 2" in said.messages and card_of(again.out) == card


def test_the_base_is_named_to_the_hub_only_if_it_has_it(mr_tiny):
    base = replace(resolve_model(mr_tiny), name="google/bert", is_local=False)
    config = FinetuneConfig(("x.jsonl",), "out", init="google/bert")
    header = yaml.safe_load(model_card(config, base, {}, "metrics.json").split("---\n")[1])
    assert header["base_model"] == "google/bert"
    embedded = model_card(replace(config, init=None, config="small"), resolve_model(None), {}, "metrics.json")
    assert "base_model" not in embedded


HOSTILE = ["<script>alert(1)</script>", "a|b\n| c |\n\n# d", "[x](javascript:alert(1))", "**b** _c_ `d` ~e~ &amp; \\",
           "![i](http://x/y)", "```\n</code>", "---\nlicense: mit\n---", "\x1b[31m",
           "http://x.example <http://y>"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_comes_from_data_stays_text(text, mr_tiny):
    config = FinetuneConfig((text,), "out", dev=(text,), init=text)
    base = replace(resolve_model(mr_tiny), name=text)
    card = model_card(config, base, {"classes": [text, "b"], "dev": {text: {"rows": 3}}}, "metrics.json")
    head, body = card.split("\n---\n", 1)
    assert sorted(yaml.safe_load(head)) == ["library_name", "pipeline_tag", "tags"]
    shown = "".join(char if char.isprintable() else "\ufffd" for char in text)
    names, kinds = [], []
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body):
        kinds += [token.type, *(child.type for child in token.children or ())]
        names += ["".join(child.content for child in token.children or ())]
    assert not {"html_block", "html_inline", "link_open", "image", "strong_open", "em_open", "s_open"} & {*kinds}
    assert kinds.count("heading_open") == 5 and kinds.count("table_open") == 2 and kinds.count("fence") == 1
    assert names.count(shown) == 2 and f"{shown}, b" in names and f"dev: {shown}: rows" in names


def test_the_command_has_what_is_not_the_default():
    config = FinetuneConfig(("a b.jsonl", "c"), "/home/me/out", dev=("d", "e"), init="m", new_head=True, overwrite=True)
    assert command_of("finetune", config) == (
        "fastmask finetune 'a b.jsonl' c --dev d --dev e --init m --new-head -o OUT"
    )
    config = PretrainConfig(("s",), "out", "m", max_steps=5, save_every=7, lr=1e-3)
    assert command_of("pretrain", config) == "fastmask pretrain s --init m --max-steps 5 --lr 0.001 -o OUT"
    assert command_of("train-masker", MaskerConfig(("s",), "o", init="m")) == "fastmask train-masker s --init m -o OUT"
