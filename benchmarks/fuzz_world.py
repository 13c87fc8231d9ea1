"""What fuzz cases begin with: a tiny classifier, tokenizers of three kinds, a corpus, its shards, a training run."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from unittest import mock

SENTENCES = (
    "A fine film, and not a bad one. The end is good.",
    "Bad.",
    "I like the film! It is good.",
    "the",
    "fine bad",
)
CHARS = "abcdefghijklmnopqrstuvwxyz.,!?"
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *CHARS,
    *(f"##{char}" for char in CHARS),
    "good",
    "bad",
    "film",
    "the",
]
OPTIONS = {"max_length": 32, "threads": 1, "device": "cpu", "segment": "line"}


class World(NamedTuple):
    """What is good to begin with: a classifier, a corpus, the corpus's shards by it, and a training run, stopped."""

    model: Path
    corpus: Path
    shards: Path
    training: Path

    @classmethod
    def make(cls, folder: Path) -> World:
        """Make it in a folder."""
        world = cls(make_model(folder / "model"), folder / "corpus.txt", folder / "shards", folder / "training")
        world.corpus.write_text("\n".join([*SENTENCES, SENTENCES[0]]) + "\n")
        world.score(world.shards)
        world.stop_training()
        return world

    @classmethod
    def ready(cls, folder: Path) -> World:
        """Make it, and have everything imported and compiled, on one thread, so that forked processes are quick."""
        import torch

        import fastmask.experiment.run
        import fastmask.report.comparison  # noqa: F401

        torch.set_num_threads(1)
        folder.mkdir()
        world = cls.make(folder)
        world.score(folder / "like", method="random", like=str(world.shards))
        world.train(Path(shutil.copytree(world.training, folder / "trained")))
        return world

    def score(self, out: Path, overwrite: bool = False, **options) -> None:
        """Score the corpus, three documents a shard."""
        from fastmask.core.config import ScoreConfig
        from fastmask.pipeline import score_corpus

        config = ScoreConfig(model=str(self.model), shard_rows=3, **OPTIONS, **options)
        score_corpus((str(self.corpus),), str(out), config, overwrite=overwrite)

    def train(self, out: Path) -> None:
        """Train on the shards, from where a run in ``out`` was stopped."""
        from fastmask.core.config_train import PretrainConfig
        from fastmask.train.pretrain import pretrain

        steps = {"max_steps": 3, "save_every": 1, "batch_size": 2, "max_length": 16, "precision": "float32"}
        config = PretrainConfig(shards=(str(self.shards),), out=str(out), init=str(self.model), device="cpu", **steps)
        pretrain(config)

    def stop_training(self) -> None:
        """Train up to the end, and stop there, with a checkpoint left."""
        from fastmask.train.run_directory import TrainingRun

        with mock.patch.object(TrainingRun, "finish", side_effect=KeyboardInterrupt), suppress(KeyboardInterrupt):
            self.train(self.training)


def make_model(folder: Path) -> Path:
    """Write a tiny classifier."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from fastmask.models.directory import quiet_transformers

    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=64, id2label={0: "negative", 1: "positive"}, **shape
    )
    with quiet_transformers():
        BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(word_piece()))
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("cls", "sep", "mask", "pad", "unk")}
    own = {"tokenizer_class": "BertTokenizer", "model_max_length": 64, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    return folder


def _tokenizer(model: dict, normalizer, pre_tokenizer, decoder) -> dict:
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    around = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]  # fmt: skip
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    tokens = {name: {"id": name, "ids": [WORDS.index(name)], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": index, "content": word, **special} for index, word in enumerate(WORDS[:5])],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "TemplateProcessing", "single": around, "pair": around + second,
                           "special_tokens": tokens},
        "decoder": decoder, "model": model,
    }  # fmt: skip


def word_piece() -> dict:
    """Return a tokenizer as BERT has it."""
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                  "lowercase": True}  # fmt: skip
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": {word: index for index, word in enumerate(WORDS)}}  # fmt: skip
    return _tokenizer(
        model, normalizer, {"type": "BertPreTokenizer"}, {"type": "WordPiece", "prefix": "##", "cleanup": True}
    )


def byte_level() -> dict:
    """Return a tokenizer as RoBERTa has it."""
    vocab = {word: index for index, word in enumerate([*WORDS[:5], *CHARS, "Ġ", "th", "the", "Ġthe", "go"])}
    model = {"type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
             "merges": [["t", "h"], ["th", "e"], ["Ġ", "the"], ["g", "o"]]}  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return _tokenizer(model, {"type": "NFC"}, level, level)


def unigram() -> dict:
    """Return a tokenizer as sentencepiece makes it."""
    vocab = [[word, -float(index)] for index, word in enumerate([*WORDS[:5], "▁", *CHARS, "▁the", "▁film"])]
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
             {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}, {"type": "NFKC"}]  # fmt: skip
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    model = {"type": "Unigram", "unk_id": 1, "vocab": vocab, "byte_fallback": False}
    return _tokenizer(model, {"type": "Sequence", "normalizers": steps}, space, space)
