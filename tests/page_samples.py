"""Finished directories for the tests of pages: words, masks and classes that a test names."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from shard_samples import FIELDS, IDENTITY, build, open_run
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.tokenizer import tokenizer_record

SPECIAL = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
SHAPE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
HOSTILE = ["<script>alert(1)</script>", "<img/src=x/onerror=alert(2)>", "\"'><b>", "{{7*7}}", "&amp;",
           "\u202egnp.exe\u202c", "\x1b[31m", "</style>", "</title>",
           "javascript:alert(3)", "é\u0301" * 40, "مرحبا", "W" * 4000]  # fmt: skip
"""Words that a page must show as they are, or clean."""


def toy_model(path: Path, words, classes=("bad", "good")) -> str:
    """Save a classifier whose tokens are words between spaces, ids from 5 on."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL.values(), *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: k for k, name in enumerate(classes)}}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **SHAPE, **names)
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def write_sentences(out: Path, model: str, sentences, masked, importance=None, *, shards=1, word=None, **known) -> str:
    """Write sentences, lists of words as ``toy_model`` was given them by number, into a finished directory.

    Args:
        masked: positions of each; importance: values of each, None where it is not scored.
        word: of each token, else one a token; known: label, predicted, prob of each, and options of the run.
    """
    arrays = {name: known.pop(name) for name in ("label", "predicted", "prob") if name in known}
    files = resolve_model(model)
    identity = IDENTITY | {"tokenizer": tokenizer_record(files, load_tokenizer(files)), **known.pop("identity", {})}
    per = -(-len(sentences) // shards)
    with open_run(out, identity=identity, **known) as run:
        for index in range(shards):
            part = slice(index * per, (index + 1) * per)
            values = [[0.0] * len(s) for s in sentences] if importance is None else importance
            one = build([len(s) for s in sentences[part]], masked[part], first_row=part.start,
                        scored=[v is not None for v in values[part]],
                        **{name: array[part] for name, array in arrays.items()})  # fmt: skip
            ids = np.array([5 + w for s in sentences[part] for w in s], np.int32)
            flat = np.array([x for s, v in zip(sentences[part], values[part], strict=True)
                             for x in (v or [0.0] * len(s))], np.float32)  # fmt: skip
            words = [range(len(s)) for s in sentences[part]] if word is None else word[part]
            numbers = [k for one in words for k in one]
            own = replace(one.sentences, input_ids=ids, word=np.array(numbers, np.int32))
            run.write_shard(index, replace(one, sentences=own, importance=flat))
        run.finish(FIELDS | {"classes": list(files.class_names)})
    return str(out)


VOID = {"meta", "link", "rect", "line", "circle", "polyline", "br"}
KNOWN = VOID | set(re.findall(r"\w+", """
    html head title style body a header h1 h2 h3 p span strong dl div dt dd small nav ul ol li main section mark
    table caption thead tbody tr th td svg text details summary footer bdi i"""))  # fmt: skip


class Page(HTMLParser):
    """Elements, texts and attributes of a page; each that is opened must be closed."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.texts, self.attributes, self.open, self.ids = set(), [], [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts += [] if self.open[-1:] == ["style"] else [data]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())
